"""Stand-ins for deep learning frameworks and the parts of CUDA they need, and the wheels that go with them.

The real ones are gigabytes of another channel. A stand-in has the name, version, build string and dependencies of the
real package, so that solving, locking and installing are tried for what they are, and says that it has nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lab.packages import Entry, digest_of, index_of, write_package
from lab.python_package import Interpreter

_HERE = Path(__file__).with_name("framework_standins")
_TABLE = _HERE / "packages.yml"
REQUIREMENTS = tuple(sorted(_HERE.glob("requirements-*.txt")))
"""Pins of the real wheels, such as several versions of numpy. A file each, since pip takes one version at a time."""
SOURCES = (Path(__file__), _TABLE, *REQUIREMENTS, *sorted(_HERE.glob("*.py")))
"""What the packages are made from."""
PYTHON = "3.10"
"""The only Python that these versions of the frameworks and of numpy have in common."""

_NOTE = """\
{name} {version} {build}
A stand-in made by the lab of envfleet.gpu_cluster for the package that conda-forge calls so.
It has that package's name, version and dependencies, and none of its content.

depends: {depends}
constrains: {constrains}
"""
_METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: {summary}\n"


@dataclass(frozen=True)
class Standin:
    """A line of the table."""

    name: str
    version: str
    build: str
    """With `*` for the hash."""
    noarch: str | None = None
    depends: Sequence[str] = ()
    constrains: Sequence[str] = ()
    module: str = ""
    """The Python module it brings, if any: a file beside the table."""
    cuda: str = ""
    """The CUDA that the module says it was built with."""

    def entries(self, interpreter: Interpreter) -> Iterator[Entry]:
        """Its files."""
        lists = {"depends": ", ".join(self.depends), "constrains": ", ".join(self.constrains)}
        note = _NOTE.format_map(vars(self) | lists)
        yield Entry(f"share/envfleet-lab/{self.name}.txt", note.encode())
        if self.module:
            source = (_HERE / f"{self.module}.py").read_text()
            summary = source.splitlines()[0].strip('"')
            packages = "site-packages" if self.noarch else interpreter.site_packages
            metadata = _METADATA.format(name=self.module, version=self.version, summary=summary)
            text = source.replace("@VERSION@", self.version).replace("@CUDA@", self.cuda)
            yield Entry(f"{packages}/{self.module}.py", text.encode())
            yield Entry(f"{packages}/{self.module}-{self.version}.dist-info/METADATA", metadata.encode())
            yield Entry(f"{packages}/{self.module}-{self.version}.dist-info/INSTALLER", b"conda\n")


def read_standins() -> list[Standin]:
    """The table."""
    return [Standin(**row) for row in yaml.safe_load(_TABLE.read_text())]


def write_standin(channel: Path, standin: Standin, interpreter: Interpreter) -> Path:
    """Write it as a conda package into `channel`."""
    entries = list(standin.entries(interpreter))
    build = standin.build.replace("*", digest_of(entries))
    index = index_of(standin.name, standin.version, build, standin.depends, noarch=standin.noarch)
    more: dict[str, Any] = {"build_number": int(build.rpartition("_")[2]), "license": "GPL-3.0-or-later"}
    if standin.constrains:
        more["constrains"] = list(standin.constrains)
    about = {"summary": f"A stand-in for {standin.name}, made by the lab of envfleet.gpu_cluster: it has no content"}
    points: list[str] | None = [] if standin.noarch == "python" else None
    return write_package(channel, index | more, entries, about=about, entry_points=points)
