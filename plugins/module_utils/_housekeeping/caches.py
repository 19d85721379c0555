# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Package caches: what of them no environment needs, so that removing it gives room and breaks nothing.

A file that an environment has too, as a hard link, takes no more room for being in the cache, and saves a download:
it stays. A package that some environment has as symbolic links must stay. What is left are copies. When a file was
unpacked or linked into an environment, its inode was changed, and that time tells whether it is needed now and then.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import stat
import typing as t

from .._conda.footprint import Inode, inode_of
from . import ownership

_ARCHIVES = (".conda", ".tar.bz2")
_REMOVING = ".envfleet-removing-"
_SOFT_LINKS = re.compile(r"^\s*(?:allow|always)_softlinks?\s*:\s*(?:true|yes|on)\b", re.MULTILINE | re.IGNORECASE)
_BLOCK = 512


@dataclasses.dataclass(frozen=True)
class Cache:
    """A directory of packages, and the user whose it is."""

    path: str  #: without links
    number: Inode
    uid: int


@dataclasses.dataclass(frozen=True)
class Removable:
    """A package in a cache, unpacked or not, that nobody would miss."""

    cache: Cache
    name: str
    number: int
    bytes: int
    inodes: int

    @property
    def path(self) -> str:
        """Where it is."""
        return os.path.join(self.cache.path, self.name)


def find(path: str, uid: int) -> Cache | None:
    """The cache of user *uid* at *path*, if there is one."""
    real = os.path.realpath(path)
    try:
        info = os.lstat(real)
    except OSError:
        return None
    return Cache(real, inode_of(info), uid) if stat.S_ISDIR(info.st_mode) and info.st_uid == uid else None


def links_softly(home: str) -> bool:
    """Does a user's condarc have conda link softly? Then environments that we do not know of may need the cache."""
    for name in (".condarc", ".conda/.condarc", ".conda/condarc", ".config/conda/.condarc", ".config/conda/condarc"):
        with contextlib.suppress(OSError), ownership.directory(os.path.realpath(home)) as folder:
            where, _slash, last = name.rpartition("/")
            with ownership.below(folder, where or ".") as there:
                if _SOFT_LINKS.search(ownership.read(there, last) or ""):
                    return True
    return False


def removable(cache: Cache, oldest: float, linked: t.Callable[[], t.Collection[str]]) -> list[Removable]:
    """What of *cache* nobody has touched since *oldest*.

    :param linked: tells what symbolic links of environments lead to; asked only where that matters.
    :raises OSError: it cannot be looked at.
    """
    found = []
    with ownership.directory(cache.path) as folder:
        if inode_of(os.fstat(folder)) != cache.number:
            raise FileNotFoundError(cache.path)
        for name in ownership.entries(folder):
            with contextlib.suppress(OSError, RecursionError):
                one = _removable(cache, folder, name, oldest)
                if one:
                    found.append(one)
    unpacked = [one for one in found if not one.name.endswith(_ARCHIVES) and not one.name.startswith(_REMOVING)]
    if unpacked:
        needed = {
            target[len(cache.path) + 1 :].partition("/")[0]
            for target in linked()
            if target.startswith(cache.path + "/")
        }
        found = [one for one in found if one.name not in needed]
    return found


def _removable(cache: Cache, folder: int, name: str, oldest: float) -> Removable | None:
    info = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if name.startswith(_REMOVING):
        return Removable(cache, name, info.st_ino, 0, 0)  # a killed run has left it
    if stat.S_ISREG(info.st_mode):
        if not name.endswith(_ARCHIVES) or info.st_nlink > 1 or _touched(info) >= oldest:
            return None
        return Removable(cache, name, info.st_ino, info.st_blocks * _BLOCK, 1)
    if not stat.S_ISDIR(info.st_mode) or name.startswith("."):
        return None
    with ownership.below(folder, f"{name}/info") as about:
        if "index.json" not in ownership.entries(about):
            return None
    total, inodes = 0, 0
    for one in _inside(folder, name, info.st_dev):
        if one is None or _touched(one) >= oldest or (not stat.S_ISDIR(one.st_mode) and one.st_nlink > 1):
            return None
        total += one.st_blocks * _BLOCK
        inodes += 1
    return Removable(cache, name, info.st_ino, total, inodes)


def _touched(info: os.stat_result) -> float:
    return max(info.st_mtime, info.st_ctime)


def _inside(folder: int, name: str, device: int) -> t.Iterator[os.stat_result | None]:
    """All that is in directory *name*, itself included; None for what is on another file system."""
    with ownership.below(folder, name) as here:
        info = os.fstat(here)
        yield info if info.st_dev == device else None
        for entry in ownership.entries(here):
            info = os.stat(entry, dir_fd=here, follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                yield from _inside(here, entry, device)
            else:
                yield info


def links_of(prefixes: t.Iterable[str]) -> set[str]:
    """What the symbolic links in environments lead to, as absolute paths."""
    found = set()
    pending = list(prefixes)
    while pending:
        directory = pending.pop()
        with contextlib.suppress(OSError), os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                elif entry.is_symlink():
                    target = os.readlink(entry.path)
                    if target.startswith(("/", "..")):
                        # A chain of links may go through the cache, and end there.
                        found.add(os.path.normpath(os.path.join(directory, target)))
                        found.add(os.path.realpath(entry.path))
    return found


def remove(one: Removable) -> None:
    """Remove a package, so that half of it is never there. The caller acts as the owner of the cache.

    :raises OSError: it cannot be removed, or not all of it.
    :raises CondaError: something else is in its place.
    """
    with ownership.directory(one.cache.path) as folder:
        if inode_of(os.fstat(folder)) != one.cache.number:
            raise FileNotFoundError(one.cache.path)
        name = one.name
        if ownership.look_at(folder, name) and not name.startswith(_REMOVING):
            name = f"{_REMOVING}{one.name}"
            ownership.move(folder, one.name, name, one.number)
        ownership.remove(folder, name)
