"""Fetch the pinned wheels, and convert wheels to conda packages."""

from __future__ import annotations

import base64
import configparser
import hashlib
import os
import re
import subprocess
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from packaging.metadata import RawMetadata, parse_email
from packaging.requirements import Requirement
from packaging.specifiers import Specifier, SpecifierSet
from packaging.utils import canonicalize_name, parse_wheel_filename

from lab.packages import PLACEHOLDER, Entry, index_of, write_package
from lab.paths import LabError, fingerprint, scratch_directory
from lab.python_package import Interpreter

REQUIREMENTS = (Path(__file__).with_name("requirements.txt"), Path(__file__).with_name("requirements-older.txt"))
"""The pins, and older versions of a few packages, so that the channel has upgrades to offer."""

_CONDA_SPELLING = {
    name.replace("_", "-"): name
    for name in (
        "importlib_metadata",
        "jupyter_client",
        "jupyter_core",
        "ml_dtypes",
        "opt_einsum",
        "pure_eval",
        "stack_data",
        "typing_extensions",
    )
}
"""Packages that conda's users know with an underscore."""

_SCRIPT = """\
#!{prefix}/bin/python
import sys

from {module} import {name}

if __name__ == "__main__":
    sys.exit({call}())
"""


def download_wheels(cache: Path, interpreter: Interpreter, requirements: Sequence[Path] = REQUIREMENTS) -> list[Path]:
    """The wheels of `requirements` for the interpreter, with the pinned hashes, from where pip is set up to look."""
    parent = cache / "wheels"
    folder = parent / fingerprint(interpreter.short, *requirements)
    if not folder.is_dir():
        with scratch_directory(parent) as scratch:
            with ThreadPoolExecutor(len(requirements)) as pool:
                list(pool.map(lambda file: _pip_download(interpreter, file, scratch / "wheels"), requirements))
            (scratch / "wheels").rename(folder)
    return sorted(folder.glob("*.whl"))


def _pip_download(interpreter: Interpreter, requirements: Path, folder: Path) -> None:
    command = [
        str(interpreter.executable),
        "-I",
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
    ]
    command += ["--require-hashes", "--requirement", str(requirements), "--dest", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        lines = done.stderr.splitlines()
        errors = [line for line in lines if line.startswith("ERROR")] or lines[-3:]
        raise LabError(f"pip cannot fetch the wheels that {requirements.name} pins: {' '.join(errors)}")


@dataclass(frozen=True)
class Wheel:
    """A wheel and what its metadata says."""

    path: Path

    @cached_property
    def pure(self) -> bool:
        """Whether it fits every Python and machine."""
        return all((tag.abi, tag.platform) == ("none", "any") for tag in parse_wheel_filename(self.path.name)[3])

    @cached_property
    def archive(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(self.path)

    @cached_property
    def dist_info(self) -> str:
        name = next(name for name in self.archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
        return name.partition("/")[0]

    @cached_property
    def metadata(self) -> RawMetadata:
        return parse_email(self.archive.read(f"{self.dist_info}/METADATA"))[0]

    @property
    def license(self) -> str:
        """Its name; some projects put the whole text where the name belongs."""
        name = self.metadata.get("license_expression") or self.metadata.get("license", "")
        return name if name and "\n" not in name and len(name) < 60 else "unknown"

    @property
    def glibc(self) -> str | None:
        """The oldest glibc it runs on, such as "2.17", by its platform tags."""
        platforms = {tag.platform for tag in parse_wheel_filename(self.path.name)[3]}
        minors = [int(found[1]) for one in platforms if (found := re.match(r"manylinux_2_(\d+)_", one))]
        old = {"manylinux1_x86_64": 5, "manylinux2010_x86_64": 12, "manylinux2014_x86_64": 17}
        minors += [old[one] for one in platforms & old.keys()]
        return f"2.{min(minors)}" if minors else None

    @cached_property
    def entry_points(self) -> list[str]:
        """Its console scripts, such as "pip = pip._internal.cli.main:main"."""
        parser = configparser.RawConfigParser(delimiters=("=",))
        parser.optionxform = str  # type: ignore[assignment,method-assign]  # the documented way to keep case
        if f"{self.dist_info}/entry_points.txt" in self.archive.namelist():
            parser.read_string(self.archive.read(f"{self.dist_info}/entry_points.txt").decode())
        found = parser["console_scripts"] if parser.has_section("console_scripts") else {}
        return [f"{name} = {target.split('[')[0].strip()}" for name, target in sorted(found.items())]


def convert(path: Path, channel: Path, interpreter: Interpreter) -> Path:
    """Write the wheel as a conda package into `channel`."""
    wheel = Wheel(path)
    name, version = conda_name(wheel.metadata["name"]), wheel.metadata["version"]
    depends = [python_spec(wheel, interpreter), *dependencies(wheel, interpreter)]
    depends += [f"__glibc >={wheel.glibc}"] if wheel.glibc else []
    about = {"summary": wheel.metadata.get("summary", ""), "home": wheel.metadata.get("home_page", "")}
    site_packages = "site-packages" if wheel.pure else interpreter.site_packages
    entries = list(_entries(wheel, site_packages, interpreter))
    if wheel.pure:
        index = index_of(name, version, "pyh_0", depends, noarch="python")
    else:
        index = index_of(name, version, f"{interpreter.tag}_0", depends)
        entries += [_script(entry_point) for entry_point in wheel.entry_points]
    entries += _records(wheel, entries, site_packages)
    index["license"] = wheel.license
    points = wheel.entry_points if wheel.pure else None
    return write_package(channel, index, entries, about=about, entry_points=points)


def conda_name(name: str) -> str:
    """How conda's users spell the project."""
    normal = canonicalize_name(name)
    return _CONDA_SPELLING.get(normal, normal)


def python_spec(wheel: Wheel, interpreter: Interpreter) -> str:
    """The dependency on python: what the project asks for, or the one minor version of a compiled wheel."""
    if not wheel.pure:
        return f"python >={interpreter.short},<{interpreter.next_short}.0a0"
    return f"python {conda_version(SpecifierSet(wheel.metadata.get('requires_python', '')))}".strip()


def dependencies(wheel: Wheel, interpreter: Interpreter) -> list[str]:
    """What the wheel needs on Linux with this Python, without extras."""
    environment = {
        "extra": "",
        "implementation_name": "cpython",
        "implementation_version": interpreter.version,
        "os_name": "posix",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": interpreter.version,
        "python_version": interpreter.short,
        "sys_platform": "linux",
    }
    wanted = [Requirement(text) for text in wheel.metadata.get("requires_dist", [])]
    here = [one for one in wanted if not one.marker or one.marker.evaluate(environment)]
    return sorted(f"{conda_name(one.name)} {conda_version(one.specifier)}".strip() for one in here)


def conda_version(specifiers: SpecifierSet) -> str:
    """The version part of a conda match specification."""
    return ",".join(sorted(_conda_clause(specifier) for specifier in specifiers))


def _conda_clause(specifier: Specifier) -> str:
    operator, version = specifier.operator, specifier.version
    if operator == "~=":
        return f">={version},{version.rpartition('.')[0]}.*"
    if operator in ("==", "==="):
        return version if version.endswith(".*") else f"=={version}"
    return f"{operator}{version}"


def _entries(wheel: Wheel, site_packages: str, interpreter: Interpreter) -> Iterator[Entry]:
    """The wheel's files where conda wants them, without its RECORD."""
    scripts = "python-scripts" if wheel.pure else "bin"
    headers = f"include/python{interpreter.short}/{canonicalize_name(wheel.metadata['name'])}"
    places = {"scripts": scripts, "headers": headers, "data": ".", "purelib": site_packages, "platlib": site_packages}
    for member in wheel.archive.infolist():
        if member.is_dir() or member.filename == f"{wheel.dist_info}/RECORD":
            continue
        data, mode = wheel.archive.read(member), 0o755 if member.external_attr >> 16 & 0o111 else 0o644
        if not (found := re.fullmatch(r"[^/]+\.data/(\w+)/(.+)", member.filename)):
            yield Entry(f"{site_packages}/{member.filename}", data, mode)
            continue
        scheme, name = found.groups()
        if scheme == "scripts":
            data, mode = re.sub(rb"\A#!pythonw?", f"#!{PLACEHOLDER}/bin/python".encode(), data), 0o755
        yield Entry(os.path.normpath(f"{places[scheme]}/{name}"), data, mode)


def _script(entry_point: str) -> Entry:
    name, target = entry_point.split(" = ")
    module, call = target.split(":")
    text = _SCRIPT.format(prefix=PLACEHOLDER, module=module, name=call.split(".")[0], call=call)
    return Entry(f"bin/{name}", text.encode(), 0o755)


def _records(wheel: Wheel, entries: list[Entry], site_packages: str) -> list[Entry]:
    """The RECORD and INSTALLER by which pip knows the package, and that conda installed it."""
    installer = Entry(f"{site_packages}/{wheel.dist_info}/INSTALLER", b"conda\n")
    kept = [entry for entry in entries if entry.path != installer.path] + [installer]
    rows = [f"{_installed(entry.path, site_packages)},{_record_hash(entry)}" for entry in kept]
    if wheel.pure:
        rows += [f"../../../bin/{entry_point.split(' = ')[0]},," for entry_point in wheel.entry_points]
    record = "".join(f"{row}\n" for row in sorted([*rows, f"{wheel.dist_info}/RECORD,,"]))
    return [installer, Entry(f"{site_packages}/{wheel.dist_info}/RECORD", record.encode())]


def _installed(path: str, site_packages: str) -> str:
    """Where the file of a package will lie, seen from site-packages."""
    if path.startswith(f"{site_packages}/"):
        return path.removeprefix(f"{site_packages}/")
    return "../../../" + re.sub(r"\Apython-scripts/", "bin/", path)


def _record_hash(entry: Entry) -> str:
    if entry.has_prefix:
        return ","
    digest = base64.urlsafe_b64encode(hashlib.sha256(entry.data).digest()).rstrip(b"=").decode()
    return f"sha256={digest},{len(entry.data)}"
