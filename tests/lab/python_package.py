"""A relocatable `python` conda package, staged from a Python that is on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lab import elf
from lab.packages import PLACEHOLDER, digest_of, index_of, read_tree, write_package
from lab.paths import LabError, fingerprint

WANTED_MINOR = 10
_OTHER_MINORS = (13, 12, 11)
"""Taken where there is no 3.10: those for which the pinned wheels exist, newest first."""

_PROBE = """
import json, platform, sys, sysconfig
print(json.dumps({
    "version": platform.python_version(),
    "prefix": sys.base_prefix,
    "purelib": sysconfig.get_path("purelib", vars={"base": ""}),
    "stdlib": sysconfig.get_path("stdlib"),
    "machine": sysconfig.get_platform(),
}))
"""
_CHECK = """
import bz2, ctypes, hashlib, json, lzma, sqlite3, ssl, sys, zlib
maps = {line.split()[-1] for line in open("/proc/self/maps") if ".so" in line}
print(json.dumps({"version": sys.version, "prefix": sys.prefix, "path": sys.path, "libraries": sorted(maps)}))
"""
_SITE_README = "Packages are installed into this directory.\n"
_TESTS = ("test", "ctypes/test", "distutils/tests", "lib2to3/tests", "sqlite3/test", "unittest/test")
_GRAPHICAL = ("idlelib", "tkinter", "turtledemo")


@dataclass(frozen=True)
class Interpreter:
    """A Python of this machine that can be made into a package."""

    executable: Path
    version: str
    prefix: Path

    @property
    def short(self) -> str:
        """Such as "3.10"."""
        return ".".join(self.version.split(".")[:2])

    @property
    def next_short(self) -> str:
        """The minor version after this one, such as "3.11"."""
        major, minor = self.short.split(".")
        return f"{major}.{int(minor) + 1}"

    @property
    def tag(self) -> str:
        """Such as "py310"."""
        return f"py{self.short.replace('.', '')}"

    @property
    def site_packages(self) -> str:
        """Relative to a prefix."""
        return f"lib/python{self.short}/site-packages"

    @property
    def note(self) -> str | None:
        """Says so when this is not the wanted Python."""
        if self.short == f"3.{WANTED_MINOR}":
            return None
        return f"no relocatable Python 3.{WANTED_MINOR} on this machine: the lab's python is {self.version}"

    @cached_property
    def key(self) -> str:
        """Changes when another Python lies at this place."""
        return fingerprint(str(self.executable), self.version, str(self.executable.stat().st_mtime_ns))


def find_interpreter() -> Interpreter:
    """The Python to build from: the one that $ENVFLEET_LAB_PYTHON names, else a 3.10, else the newest usable one.

    LabError when there is none.
    """
    if named := os.environ.get("ENVFLEET_LAB_PYTHON"):
        if found := _probe(Path(named)):
            return found
        raise LabError(f"ENVFLEET_LAB_PYTHON={named} is no relocatable CPython of linux-x86_64, version 3.10 to 3.13")
    for minor in (WANTED_MINOR, *_OTHER_MINORS):
        for folder in _folders():
            if found := _probe(folder / f"python3.{minor}"):
                return found
    raise LabError(
        "the lab needs a relocatable CPython 3.10 (a distribution's own is not): run `pyenv install 3.10`"
        " or `uv python install 3.10`, or name one in ENVFLEET_LAB_PYTHON"
    )


def _folders() -> Iterator[Path]:
    """Where a Python may lie, without pyenv's shims."""
    home = Path.home()
    pyenv = Path(os.environ.get("PYENV_ROOT") or home / ".pyenv")
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    yield from sorted(pyenv.glob("versions/3.*/bin"), reverse=True)
    yield from sorted(data.glob("uv/python/cpython-3.*/bin"), reverse=True)
    places = [*os.environ.get("PATH", "").split(os.pathsep), "/usr/local/bin", "/usr/bin"]
    yield from (Path(place) for place in places if place and Path(place).name != "shims")


def _probe(candidate: Path) -> Interpreter | None:
    """The interpreter, unless it is missing, broken, or laid out as a distribution's own is."""
    if not os.access(candidate, os.X_OK):
        return None
    try:
        done = subprocess.run([candidate, "-I", "-c", _PROBE], capture_output=True, text=True, timeout=20, check=False)
        facts = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    prefix, short = Path(facts["prefix"]), facts["version"].rpartition(".")[0]
    minors = {f"3.{minor}" for minor in (WANTED_MINOR, *_OTHER_MINORS)}
    found = (facts["purelib"], facts["stdlib"], facts["machine"])
    usual = (f"/lib/python{short}/site-packages", f"{prefix}/lib/python{short}", "linux-x86_64")
    executable = prefix / "bin" / f"python{short}"
    if found != usual or short not in minors or not executable.exists():
        return None
    return Interpreter(executable.resolve(), facts["version"], prefix)


def build_python_package(channel: Path, interpreter: Interpreter, patchelf: elf.Patchelf, scratch: Path) -> Path:
    """Write the `python` package into `channel`; `scratch` is an empty directory for the staging."""
    stage = scratch / "stage"
    glibc = _stage(interpreter, patchelf, stage)
    moved = stage.rename(scratch / "moved")
    _check(interpreter, moved)
    entries = read_tree(moved)
    depends = [f"__glibc >={glibc}"]
    index = index_of("python", interpreter.version, f"h{digest_of(entries)}_0_cpython", depends)
    about = {"summary": f"CPython {interpreter.version} of the machine that built this lab, made relocatable"}
    return write_package(channel, index | {"license": "PSF-2.0"}, entries, about=about)


def _stage(interpreter: Interpreter, patchelf: elf.Patchelf, stage: Path) -> str:
    """Lay the package's files out in `stage`; the glibc they need."""
    prefix, name = interpreter.prefix, f"python{interpreter.short}"
    stdlib = Path("lib") / name
    unwanted = {stdlib / folder for folder in (*_TESTS, *_GRAPHICAL, "site-packages")}

    def skip(folder: str, names: list[str]) -> set[str]:
        here = Path(folder).relative_to(prefix)
        return {
            item
            for item in names
            if item == "__pycache__"
            or item.endswith(".a")
            or here / item in unwanted
            # Modules that no node needs: two bring whole stacks of libraries, the others test the interpreter.
            or (here.name == "lib-dynload" and item.startswith(("_tkinter", "nis", "_test", "_ctypes_test", "xx")))
        }

    shutil.copytree(prefix / stdlib, stage / stdlib, symlinks=True, ignore=skip)
    shutil.copytree(prefix / "include" / name, stage / "include" / name)
    (stage / "bin").mkdir()
    shutil.copy2(interpreter.executable, stage / "bin" / name)
    for alias in ("python", "python3"):
        (stage / "bin" / alias).symlink_to(name)
    for library in (prefix / "lib").glob(f"lib{name}.so*"):
        shutil.copy2(library, stage / "lib" / library.name, follow_symlinks=False)
    (stage / stdlib / "site-packages").mkdir()
    (stage / stdlib / "site-packages" / "README.txt").write_text(_SITE_README)
    _mark_prefix(prefix, stage / stdlib)

    places = {
        stage / "bin" / name: "$ORIGIN/../lib",
        **dict.fromkeys((stage / stdlib / "lib-dynload").glob("*.so"), "$ORIGIN/../.."),
        **{path: "$ORIGIN" for path in (stage / "lib").glob("*.so*") if not path.is_symlink() and elf.is_elf(path)},
    }
    originals = [prefix / path.relative_to(stage) for path in places if path.parent.name != "bin"]
    for soname, source in elf.libraries_to_bundle([interpreter.executable, *originals]).items():
        if not (bundled := stage / "lib" / soname).exists():
            shutil.copyfile(source, bundled)
            places[bundled] = "$ORIGIN"
    for path in places:
        path.chmod(0o755)
    if strip := shutil.which("strip"):
        subprocess.run([strip, "--strip-debug", *places], check=True, capture_output=True, timeout=120)
    for path, place in places.items():
        patchelf.search(path, place)
    return elf.glibc_needed(places)


def _mark_prefix(prefix: Path, stdlib: Path) -> None:
    """Put the placeholder where the build left its prefix in text. The interpreter itself looks where it lies."""
    for path in [*stdlib.glob("_sysconfigdata_*.py"), *stdlib.glob("config-*/*")]:
        data = path.read_bytes()
        if b"\0" not in data:
            path.write_bytes(data.replace(str(prefix).encode(), PLACEHOLDER.encode()))


def _check(interpreter: Interpreter, root: Path) -> None:
    """Run the staged Python: it must find itself where it lies now, and load nothing of the machine but glibc."""
    program = root / "bin" / "python"
    done = subprocess.run(
        [program, "-I", "-B", "-c", _CHECK], capture_output=True, text=True, timeout=60, env={}, check=False
    )
    if done.returncode:
        raise LabError(f"the Python made from {interpreter.executable} does not run: {done.stderr.strip()}")
    facts = json.loads(done.stdout)
    foreign = [path for path in (facts["prefix"], *facts["path"]) if not Path(path).is_relative_to(root)]
    outside = [Path(path) for path in facts["libraries"] if not Path(path).is_relative_to(root)]
    foreign += [str(path) for path in elf.not_from_the_system(outside)]
    if foreign or not facts["version"].startswith(interpreter.version):
        wrong = ", ".join(foreign) or facts["version"]
        raise LabError(f"the Python made from {interpreter.executable} still uses {wrong}")
