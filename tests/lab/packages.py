"""Write conda packages in the .conda format, and read their index back."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import tarfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

Index = dict[str, Any]

PLACEHOLDER = "/opt/" + ("placehold_" * 25)[:245]
"""Stands for the prefix in the text files of our packages. As long as conda's own."""

TIMESTAMP = 1_700_000_000
"""Seconds since the epoch that every file and index claims, so that equal input gives equal packages."""

_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
_ZSTD_LEVEL = 3


@dataclass(frozen=True)
class Entry:
    """One file of a package, or a symbolic link when `link` names its target."""

    path: str
    data: bytes = b""
    mode: int = 0o644
    link: str | None = None

    @property
    def has_prefix(self) -> bool:
        """Whether an installer must put the prefix into this file."""
        return PLACEHOLDER.encode() in self.data

    @property
    def file_mode(self) -> str:
        """How the prefix is put in: "binary" files keep their length."""
        return "binary" if b"\0" in self.data else "text"


def index_of(name: str, version: str, build: str, depends: Sequence[str], *, noarch: str | None = None) -> Index:
    """The content of info/index.json; `noarch` is "python" or "generic"."""
    index: Index = {"name": name, "version": version, "build": build, "build_number": 0, "depends": list(depends)}
    index["timestamp"] = TIMESTAMP * 1000
    if noarch:
        return index | {"subdir": "noarch", "noarch": noarch}
    return index | {"subdir": "linux-64", "arch": "x86_64", "platform": "linux"}


def digest_of(entries: Iterable[Entry]) -> str:
    """Seven hex digits for a build string, which change with any of the files."""
    digest = hashlib.sha256()
    for entry in sorted(entries, key=lambda entry: entry.path):
        digest.update(f"{entry.path}\0{entry.mode}\0{entry.link}\0{len(entry.data)}\0".encode() + entry.data)
    return digest.hexdigest()[:7]


def read_tree(root: Path) -> list[Entry]:
    """The files and links below `root`."""
    entries = []
    for folder, folders, names in os.walk(root):
        for name in names + [name for name in folders if Path(folder, name).is_symlink()]:
            path = Path(folder, name)
            relative = path.relative_to(root).as_posix()
            if path.is_symlink():
                entries.append(Entry(relative, mode=0o777, link=os.readlink(path)))
            else:
                # What the umask took away from group and others is given back.
                mode = 0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644
                entries.append(Entry(relative, path.read_bytes(), mode))
    return sorted(entries, key=lambda entry: entry.path)


def write_package(
    channel: Path,
    index: Index,
    entries: Iterable[Entry],
    *,
    about: Mapping[str, str] | None = None,
    entry_points: Sequence[str] | None = None,
    binary_prefixes: bool = False,
) -> Path:
    """Write the package into its subdirectory of `channel`, in one step.

    Files that contain `PLACEHOLDER` are registered for replacement. `entry_points` (such as "pip = pip.main:main") are
    for "noarch: python" packages, whose scripts the installer makes. ValueError for a binary file with a prefix, unless
    with `binary_prefixes`: none of the lab's needs one, and padding a binary in place is how prefixes get broken.
    """
    entries = sorted(entries, key=lambda entry: entry.path)
    binary = [entry.path for entry in entries if entry.has_prefix and entry.file_mode == "binary"]
    if binary and not binary_prefixes:
        raise ValueError(f"{index['name']}: binary files with a prefix placeholder: {', '.join(binary)}")
    info = {
        "about.json": _json(about or {}),
        "files": "".join(f"{entry.path}\n" for entry in entries).encode(),
        "index.json": _json(index),
        "paths.json": _json({"paths": [_path(entry) for entry in entries], "paths_version": 1}),
    }
    if prefixed := [entry for entry in entries if entry.has_prefix]:
        lines = (f'"{PLACEHOLDER}" "{entry.file_mode}" "{entry.path}"\n' for entry in prefixed)
        info["has_prefix"] = "".join(lines).encode()
    if entry_points is not None:
        link = {"noarch": {"type": "python", "entry_points": list(entry_points)}, "package_metadata_version": 1}
        info["link.json"] = _json(link)
    name = f"{index['name']}-{index['version']}-{index['build']}"
    parts = {
        "metadata.json": b'{"conda_pkg_format_version": 2}',
        f"pkg-{name}.tar.zst": _tar_zst(entries),
        f"info-{name}.tar.zst": _tar_zst(Entry(f"info/{path}", data) for path, data in sorted(info.items())),
    }
    folder = channel / str(index["subdir"])
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{name}.new"
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for part, data in parts.items():
            archive.writestr(zipfile.ZipInfo(part, _ZIP_TIME), data)
    return temporary.rename(folder / f"{name}.conda")


def read_index(package: Path) -> Index:
    """The info/index.json of a .conda file."""
    with zipfile.ZipFile(package) as archive:
        part = next(name for name in archive.namelist() if name.startswith("info-"))
        stream = zstandard.ZstdDecompressor().stream_reader(archive.open(part))
        with tarfile.open(fileobj=stream, mode="r|") as info:
            for member in info:
                if member.name == "info/index.json" and (content := info.extractfile(member)):
                    index: Index = json.load(content)
                    return index
    raise ValueError(f"{package} has no info/index.json")


def _path(entry: Entry) -> dict[str, Any]:
    path = {"_path": entry.path, "path_type": "hardlink", "size_in_bytes": len(entry.data)}
    path["sha256"] = hashlib.sha256(entry.data).hexdigest()
    if entry.link is not None:
        path["path_type"] = "softlink"
    elif entry.has_prefix:
        path |= {"file_mode": entry.file_mode, "prefix_placeholder": PLACEHOLDER}
    return path


def tar(entries: Iterable[Entry]) -> bytes:
    """A tar archive that depends on nothing but the entries; its files belong to root."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in entries:
            member = tarfile.TarInfo(entry.path)
            member.mtime, member.mode = TIMESTAMP, entry.mode
            if entry.link is not None:
                member.type, member.linkname = tarfile.SYMTYPE, entry.link
                archive.addfile(member)
            else:
                member.size = len(entry.data)
                archive.addfile(member, io.BytesIO(entry.data))
    return buffer.getvalue()


def _tar_zst(entries: Iterable[Entry]) -> bytes:
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(tar(entries))


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()
