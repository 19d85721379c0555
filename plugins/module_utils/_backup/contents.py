# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything in a prefix, with the sha256 of each file: what is saved beside it, and what a restore is held against.

A prefix may be a user's, who can change it at any moment, so no link in it is followed and no pipe is waited for.
"""

from __future__ import annotations

import dataclasses
import grp
import hashlib
import json
import os
import pwd
import stat
import typing as t

from .._conda.files import write_file
from .._conda.problems import Problem
from .errors import DamagedError

MANIFEST = "manifest.json"
FORMAT = 1
_KINDS = ((stat.S_ISREG, "file"), (stat.S_ISDIR, "directory"), (stat.S_ISLNK, "link"))
#: What tells that a file is still the same, without reading it.
Signature = tuple[int, ...]
#: The sums of files by path, with the signature that each had then.
Sums = dict[str, tuple[Signature, str]]


@dataclasses.dataclass(frozen=True)
class Entry:
    """What one path of a prefix is."""

    kind: str  #: file, directory, link, or other, which is saved but not compared
    mode: int
    uid: int
    gid: int
    size: int = 0  #: of a file
    mtime: int = 0  #: of a file, in nanoseconds
    content: str = ""  #: sha256 of a file, target of a link
    same_as: str = ""  #: another path in the prefix, where it is the same file


@dataclasses.dataclass(frozen=True)
class Look:
    """A prefix at one moment."""

    entries: dict[str, Entry]  #: by relative path; the prefix itself is ""
    signatures: dict[str, Signature]  #: of the same paths

    def changed_since(self, before: Look) -> list[str]:
        """The paths that are not what they were. A hard link elsewhere, as conda makes them, changes no content."""
        paths = sorted(self.signatures.keys() | before.signatures.keys())
        return [path for path in paths if not _same(before.signatures.get(path), self.signatures.get(path))]

    def sums(self) -> Sums:
        """For the next look."""
        return {
            path: (self.signatures[path], entry.content) for path, entry in self.entries.items() if entry.kind == "file"
        }


def _same(before: Signature | None, after: Signature | None) -> bool:
    if before is None or after is None or before[:-2] != after[:-2]:
        return False
    return before[-1] == after[-1] or before[-2] != after[-2]  # the time of change tells of new links, too


def look(prefix: str, sums: Sums | None = None, read: bool = True) -> Look:
    """Walk over *prefix*, and read what is not in *sums*.

    :param read: False: no file is read, and there are only signatures worth comparing.
    :raises OSError: something cannot be read, or has vanished meanwhile.
    """
    found = Look({}, {})
    top = os.open(prefix, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        info = os.fstat(top)
        _add(found, "", info, _entry("directory", info))
        _walk(top, "", info.st_dev, found, sums or {}, {}, read)
    finally:
        os.close(top)
    return found


def _walk(folder: int, base: str, device: int, found: Look, sums: Sums, inodes: dict[int, str], read: bool) -> None:
    for name in sorted(os.listdir(folder)):
        path = f"{base}{name}"
        info = os.stat(name, dir_fd=folder, follow_symlinks=False)
        kind = next((kind for is_kind, kind in _KINDS if is_kind(info.st_mode)), "other")
        entry = _entry(kind, info)
        if kind == "link":
            entry = dataclasses.replace(entry, content=os.readlink(name, dir_fd=folder))
        elif kind == "file" and read:
            known = sums.get(path)
            same = known is not None and known[0] == _signature(info)
            content = known[1] if known and same else _sum(name, folder, info)
            first = inodes.setdefault(info.st_ino, path) if info.st_nlink > 1 else path
            entry = dataclasses.replace(entry, content=content, same_as="" if first == path else first)
        _add(found, path, info, entry)
        if kind == "directory" and info.st_dev == device:
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            try:
                _walk(inner, f"{path}/", device, found, sums, inodes, read)
            finally:
                os.close(inner)


def _entry(kind: str, info: os.stat_result) -> Entry:
    mode = 0o777 if kind == "link" else stat.S_IMODE(info.st_mode)
    is_file = kind == "file"
    return Entry(
        kind, mode, info.st_uid, info.st_gid, info.st_size if is_file else 0, info.st_mtime_ns if is_file else 0
    )


def _signature(info: os.stat_result) -> Signature:
    is_directory = stat.S_ISDIR(info.st_mode)
    what = (info.st_ino, info.st_mode, info.st_uid, info.st_gid, info.st_size, info.st_mtime_ns)
    return (*what, 0 if is_directory else info.st_nlink, info.st_ctime_ns)


def _add(found: Look, path: str, info: os.stat_result, entry: Entry) -> None:
    found.entries[path] = entry
    found.signatures[path] = _signature(info)


def _sum(name: str, folder: int, info: os.stat_result) -> str:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY, dir_fd=folder)
    with open(descriptor, "rb") as stream:
        if os.fstat(descriptor).st_ino != info.st_ino:
            raise FileNotFoundError(name)  # another one has taken its place
        digest = hashlib.sha256()
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What was saved: of which environment, and all that was in it."""

    key: str
    kind: str  #: shared or private
    name: str
    prefix: str
    owner: str  #: the user whose it is
    identity: str  #: of a generation
    left_out: dict[str, str]  #: which records there are none of, and why
    accounts: dict[str, dict[str, str]]  #: users and groups, as the numbers in the entries were called
    entries: dict[str, Entry]

    def write(self, path: str) -> None:
        """One line for each entry: what differs little from one time to the next takes little room."""
        head = {"format": FORMAT, **{key: value for key, value in vars(self).items() if key != "entries"}}
        lines = [json.dumps(head, sort_keys=True)]
        lines += [json.dumps([name, *dataclasses.astuple(entry)]) for name, entry in self.entries.items()]
        write_file(path, "\n".join(lines) + "\n", 0o600)

    @classmethod
    def read(cls, path: str) -> Manifest:
        """The manifest at *path*.

        :raises DamagedError: there is none that is whole.
        """
        try:
            with open(path, encoding="utf-8") as stream:
                head = json.loads(next(stream))
                if head.pop("format") != FORMAT:
                    raise ValueError("is of another version of this collection")
                rows = [json.loads(line) for line in stream]
            return cls(**head, entries={row[0]: Entry(*row[1:]) for row in rows})
        except (OSError, ValueError, TypeError, KeyError, IndexError, StopIteration) as error:
            raise DamagedError(
                f"env_backup_repository: the manifest of what was saved cannot be read: {error}"
            ) from error

    @property
    def bytes(self) -> int:
        """What its files take."""
        return sum(entry.size for entry in self.entries.values())


def accounts_of(entries: t.Mapping[str, Entry]) -> dict[str, dict[str, str]]:
    """What the owners of *entries* are called on this node."""
    users: dict[str, str] = {}
    groups: dict[str, str] = {}
    for entry in entries.values():
        if str(entry.uid) not in users:
            try:
                users[str(entry.uid)] = pwd.getpwuid(entry.uid).pw_name
            except KeyError:
                users[str(entry.uid)] = ""
        if str(entry.gid) not in groups:
            try:
                groups[str(entry.gid)] = grp.getgrgid(entry.gid).gr_name
            except KeyError:
                groups[str(entry.gid)] = ""
    return {"users": users, "groups": groups}


def compare(prefix: str, manifest: Manifest, owners: bool = True) -> list[Problem]:
    """In what *prefix* differs from what was saved, by reading every byte.

    :param owners: must files belong to whom they belonged to?
    """
    try:
        found = look(prefix).entries
    except OSError as error:
        return [Problem("missing", prefix, f"cannot be read: {error}")]
    problems = []
    for path, wanted in manifest.entries.items():
        there = found.pop(path, None)
        if wanted.kind == "other":
            continue
        if there is None:
            problems.append(Problem("missing", path or prefix, "was saved, and is not there"))
            continue
        differing = [
            field.name
            for field in dataclasses.fields(Entry)
            if getattr(wanted, field.name) != getattr(there, field.name)
            and (owners or field.name not in ("uid", "gid"))
        ]
        if differing:
            told = ", ".join(f"{name} {getattr(there, name)!r} for {getattr(wanted, name)!r}" for name in differing)
            problems.append(Problem("changed", path or prefix, told))
    problems += [Problem("unexpected", path, "was not saved") for path, one in found.items() if one.kind != "other"]
    return problems
