# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How much disk prefixes take, where most of their files are hard links into each other and into package caches."""

from __future__ import annotations

import dataclasses
import os
import stat
import typing as t

from .problems import Problem

Inode = tuple[int, int]  #: device and number
_BLOCK = 512  # the unit of st_blocks, whatever the file system's own is


def inode_of(info: os.stat_result) -> Inode:
    """What tells whether two paths are the same file."""
    return info.st_dev, info.st_ino


@dataclasses.dataclass
class _Linked:
    """A file that has several names somewhere."""

    size: int
    names: int  #: that it has on the whole file system
    seen: int = 0  #: of those, here


@dataclasses.dataclass
class Footprint:
    """What one prefix, or several together, have on disk."""

    files: int = 0  #: names of all that is no directory
    alone: int = 0  #: directories, and files with one name
    alone_bytes: int = 0
    linked: dict[Inode, _Linked] = dataclasses.field(default_factory=dict)

    def add(self, info: os.stat_result) -> None:
        """One more name."""
        size = info.st_blocks * _BLOCK
        is_directory = stat.S_ISDIR(info.st_mode)
        self.files += not is_directory
        if is_directory or info.st_nlink == 1:
            self.alone += 1
            self.alone_bytes += size
        else:
            self.linked.setdefault(inode_of(info), _Linked(size, info.st_nlink)).seen += 1

    def merge(self, other: Footprint) -> None:
        """What *other* has is here as well."""
        self.files += other.files
        self.alone += other.alone
        self.alone_bytes += other.alone_bytes
        for inode, file in other.linked.items():
            self.linked.setdefault(inode, _Linked(file.size, file.names)).seen += file.seen

    def size(self, counted: t.AbstractSet[Inode]) -> dict[str, int]:
        """Bytes, files and inodes; those of *counted* are not counted again."""
        first = [file.size for inode, file in self.linked.items() if inode not in counted]
        shared = sum(file.size for file in self.linked.values() if file.seen < file.names)
        everything = self.alone_bytes + sum(file.size for file in self.linked.values())
        return {
            "bytes": self.alone_bytes + sum(first),
            "shared_bytes": shared,
            "exclusive_bytes": everything - shared,
            "files": self.files,
            "inodes": self.alone + len(first),
        }


def measure(prefix: str, apart: t.AbstractSet[Inode] = frozenset()) -> tuple[Footprint, list[Problem]]:
    """Walk over *prefix* without entering the directories *apart* or another file system, and name what is unreadable.

    What vanishes meanwhile is not counted. Nothing is opened but directories.
    """
    footprint = Footprint()
    problems = []
    pending = [""]
    try:
        top = os.lstat(prefix)
    except FileNotFoundError:
        return footprint, []
    footprint.add(top)
    while pending:
        directory = pending.pop()
        try:
            with os.scandir(os.path.join(prefix, directory)) as found:
                for entry in found:
                    try:
                        info = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    if stat.S_ISDIR(info.st_mode):
                        if info.st_dev != top.st_dev or inode_of(info) in apart:
                            continue
                        pending.append(f"{directory}{entry.name}/")
                    footprint.add(info)
        except FileNotFoundError:
            continue
        except OSError as error:
            path = os.path.join(prefix, directory).rstrip("/")
            problems.append(Problem("unreadable", path, f"is not measured: {error.strerror}"))
    return footprint, problems
