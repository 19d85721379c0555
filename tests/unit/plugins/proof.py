"""What is in a prefix, told by other means than the code under test, and held against the content of the packages."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import zstandard

from lab.packages import PLACEHOLDER, Entry
from unit.plugins import pip_part

if TYPE_CHECKING:
    from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.locks import Package, Wheel

    from unit.plugins.conftest import Channel, Node

_OURS = {"conda-meta/history", "conda-meta/frozen"}
_OURS |= {f"etc/conda/activate.d/envfleet-pin.{shell}" for shell in ("sh", "fish", "csh")}
_OURS_IN_A_LIBRARY = {"EXTERNALLY-MANAGED", "site-packages/_envfleet_pin.py", "site-packages/zzz-envfleet-pin.pth"}

# What rattler keeps: unpacked packages, and locks for them and for all.
_CACHED = re.compile(r"\.cache\.lock|wheels|\w+-[\w.]+-\w+(\.lock)?")


@dataclass(frozen=True)
class Item:
    """A package of a channel, and what is in it."""

    package: Package
    entries: tuple[Entry, ...]

    def expected(self, prefix: Path) -> dict[str, str]:
        """What it puts into *prefix*, by relative path: the sha256 of a file, or the target of a link behind "->"."""
        return {entry.path: _told(entry, prefix) for entry in self.entries}


@dataclass(frozen=True)
class Part:
    """A wheel, and what is in it."""

    wheel: Wheel
    content: Mapping[str, bytes]  #: by the path in site-packages

    def expected(self) -> dict[str, str]:
        """As Item.expected(), without what pip generates."""
        return {
            f"{pip_part.SITE}/{path}": hashlib.sha256(data).hexdigest()
            for path, data in self.content.items()
            if not path.endswith(".dist-info/RECORD")
        }

    @property
    def generated(self) -> set[str]:
        """What pip generates, by relative path."""
        (record,) = (path for path in self.content if path.endswith(".dist-info/RECORD"))
        info = f"{pip_part.SITE}/{os.path.dirname(record)}"
        return {f"bin/{self.wheel.name}", *(f"{info}/{name}" for name in ("INSTALLER", "RECORD", "REQUESTED"))}


def part(directory: Path, name: str, version: str) -> Part:
    """Write a wheel into *directory*, which a file: URL leads to."""
    path = pip_part.write_wheel(directory, name, version)
    with zipfile.ZipFile(path) as archive:
        content = {member: archive.read(member) for member in archive.namelist()}
    return Part(pip_part.listed(path, directory.as_uri()), content)


def _told(entry: Entry, prefix: Path) -> str:
    if entry.link is not None:
        return f"->{entry.link}"
    return hashlib.sha256(entry.data.replace(PLACEHOLDER.encode(), os.fsencode(prefix))).hexdigest()


def stock(channel: Channel, name: str, version: str, *entries: Entry, build: str = "0") -> Item:
    """Add a package to *channel*; beside *entries* it has a program, data that tell the version, and a link."""
    program = f'#!/bin/sh\necho {name} {version} {build} "$@"\ntest -d {PLACEHOLDER}\n'
    whole = (
        Entry(f"bin/{name}", program.encode(), 0o755),
        Entry(f"bin/{name}-link", link=name),
        Entry(f"share/{name}/data", f"data of {version} {build}\n".encode()),
        *entries,
    )
    return Item(channel.add(name, version, whole, build=build), whole)


def unpacked(channel: Channel, package: Package) -> Item:
    """A package of *channel*, and what its archive has."""
    entries = []
    with zipfile.ZipFile(channel.directory / package.subdir / package.file_name) as archive:
        (name,) = (name for name in archive.namelist() if name.startswith("pkg-"))
        stream = zstandard.ZstdDecompressor().stream_reader(archive.open(name))
        with tarfile.open(fileobj=stream, mode="r|") as members:
            for member in members:
                content = members.extractfile(member) if member.isfile() else None
                data, link = content.read() if content else b"", member.linkname if member.issym() else None
                entries.append(Entry(member.name, data, member.mode, link))
    return Item(package, tuple(entries))


def files(prefix: Path) -> dict[str, str]:
    """Everything in *prefix* but directories, as Item.expected() tells it. Byte code is left out."""
    found = {}
    for folder, folders, names in os.walk(prefix):
        for name in (*names, *(name for name in folders if os.path.islink(os.path.join(folder, name)))):
            path = Path(folder, name)
            if path.is_symlink():
                found[str(path.relative_to(prefix))] = f"->{os.readlink(path)}"
            elif path.parent.name != "__pycache__":
                found[str(path.relative_to(prefix))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def require_exact(prefix: Path, items: Sequence[Item], parts: Sequence[Part] = ()) -> None:
    """Fail unless *prefix* has *items* and *parts*, each record and each file as it must be, and nothing else."""
    found = files(prefix)
    records = {path for path in found if path.startswith("conda-meta/") and path.endswith(".json")}
    assert records == {f"conda-meta/{item.package.record_name}" for item in items}
    expected: dict[str, str] = {}
    for item in items:
        record = json.loads((prefix / "conda-meta" / item.package.record_name).read_text())
        told = {key: record[key] for key in ("name", "version", "build", "subdir", "url", "sha256")}
        assert told == {key: value for key, value in item.package.as_dict().items() if key in told}
        listed = {path["_path"]: path for path in record["paths_data"]["paths"]}
        content = item.expected(prefix)
        assert set(record["files"]) == set(listed) == set(content)
        for path, sum_or_target in content.items():
            if not sum_or_target.startswith("->"):
                assert (listed[path].get("sha256_in_prefix") or listed[path]["sha256"]) == sum_or_target, path
        expected.update(content)
    generated = set()
    for part in parts:
        expected.update(part.expected())
        generated |= part.generated
    rest = {path: value for path, value in found.items() if path not in records}
    assert {path: rest.pop(path, None) for path in expected} == expected
    assert {path for path in rest if not _ours(path)} == generated
    assert rest.keys() >= _OURS


def _ours(path: str) -> bool:
    """Is *path* something that every generation has beside its packages?"""
    library = path.split("/", 2)
    return (
        path in _OURS
        or path.startswith("conda-meta/envfleet.")
        or (library[0] == "lib" and library[1].startswith("python3.") and library[2] in _OURS_IN_A_LIBRARY)
    )


def require_tidy(node: Node, names: Iterable[str], kept: dict[str, set[str]] | None = None) -> None:
    """Fail if anything is left of runs that failed or were killed, in the places of *names* or beside them.

    :param kept: which generations of an environment there must be, if that is known.
    """
    names = sorted(names)
    assert sorted(os.listdir(node.root / "envs")) == names
    assert sorted(os.listdir(node.root / "generations")) == [".lock", *names]
    for name in names:
        home = node.root / "generations" / name
        assert node.link(name).resolve(strict=True).parent == home
        there = set(os.listdir(home))
        if kept is not None:
            assert there == kept[name]
        for generation in there:
            assert (home / generation / "conda-meta/envfleet.manifest").is_file(), generation
            assert not [path for path in files(home / generation) if "/." in f"/{path}"]
    strangers = [name for name in os.listdir(node.pkgs) if not _CACHED.fullmatch(name)]
    assert strangers == [], strangers
