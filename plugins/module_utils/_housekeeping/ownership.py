# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Changes in directories that belong to users, who may put anything there at any moment.

Two things keep root from harm. All of it is done with the rights of the owner, so whatever a path has been made to lead
to, nothing is reached that the owner could not reach without us. And no path is followed: each directory on the way is
opened by itself, no link is taken, and what is found at the end must be the very directory that was looked at before.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
import typing as t

from .._conda.errors import CondaError
from .._conda.footprint import Inode, inode_of

_WAY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LISTED = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def acting_as(uid: int) -> t.Iterator[None]:
    """Have no more rights than user *uid* while the body runs.

    The real and the saved user stay root, so the user can neither signal nor trace this process.

    :raises CondaError: this process may not become that user.
    """
    if uid == os.geteuid():
        yield
        return
    try:
        entry = pwd.getpwuid(uid)
        group, groups = entry.pw_gid, os.getgrouplist(entry.pw_name, entry.pw_gid)
    except KeyError:
        raise CondaError(f"user {uid} is not known on this node") from None
    before = os.getegid(), os.getgroups()
    try:
        os.setgroups(groups)
        os.setegid(group)
        os.seteuid(uid)
    except PermissionError as error:
        _return(before)
        raise CondaError(f"only root may work for user {entry.pw_name}") from error
    try:
        yield
    finally:
        _return(before)


def _return(before: tuple[int, list[int]]) -> None:
    with contextlib.suppress(PermissionError):  # where nothing was changed
        os.seteuid(os.getuid())
        os.setegid(before[0])
        os.setgroups(before[1])


@contextlib.contextmanager
def directory(path: str) -> t.Iterator[int]:
    """A descriptor of the directory at absolute *path*, on the way to which there is no link."""
    here = os.open("/", _WAY)
    try:
        for part in filter(None, path.split("/")):
            there = os.open(part, _WAY, dir_fd=here)
            os.close(here)
            here = there
        yield here
    finally:
        os.close(here)


@contextlib.contextmanager
def below(folder: int, path: str, make: bool = False) -> t.Iterator[int]:
    """A descriptor of directory *path* below the open directory *folder*, on the way to which there is no link."""
    here = os.open(".", _WAY, dir_fd=folder)
    try:
        for part in path.split("/"):
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=here)
            there = os.open(part, _WAY, dir_fd=here)
            os.close(here)
            here = there
        yield here
    finally:
        os.close(here)


def entries(folder: int) -> list[str]:
    """The names in an open directory."""
    listed = os.open(".", _LISTED, dir_fd=folder)
    try:
        return sorted(os.listdir(listed))
    finally:
        os.close(listed)


def look_at(folder: int, name: str) -> Inode | None:
    """Which directory *name* in the open directory *folder* is, if it is one."""
    try:
        info = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return inode_of(info) if stat.S_ISDIR(info.st_mode) else None


def move(folder: int, name: str, new: str, number: int) -> None:
    """Rename directory *name* in the open directory *folder* to *new*, if it is the one with inode *number*.

    :raises CondaError: it is another one by now, or *new* is taken. All is as it was.
    """
    _require(folder, name, number)
    with contextlib.suppress(FileNotFoundError):
        os.stat(new, dir_fd=folder, follow_symlinks=False)
        raise CondaError(f"there is something at {new!r} already")
    os.rename(name, new, src_dir_fd=folder, dst_dir_fd=folder)
    try:
        _require(folder, new, number)
    except CondaError:
        os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)
        raise


def _require(folder: int, name: str, number: int) -> None:
    found = look_at(folder, name)
    if found is None or found[1] != number:
        raise CondaError(f"{name!r} is not the directory that was looked at")


def write(folder: int, name: str, content: str, mode: int = 0o644) -> None:
    """Write a file in the open directory *folder* whole or not at all."""
    temporary = f".{name}.new"  # the same each time, so that what a killed run left there is found
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=folder)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, mode, dir_fd=folder)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(content)
            os.fchmod(stream.fileno(), mode)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
        raise


def read(folder: int, name: str) -> str | None:
    """What is in regular file *name* of the open directory *folder*, or nothing where there is none."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return None
    with os.fdopen(descriptor, encoding="utf-8", errors="replace") as stream:
        return stream.read(1 << 20) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None


def remove(folder: int, name: str) -> None:
    """Remove *name* in the open directory *folder* with all that is below, but nothing of another file system.

    :raises OSError: something cannot be removed, and part of the rest may be gone.
    :raises RecursionError: it is nested too deep.
    """
    info = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if not stat.S_ISDIR(info.st_mode):
        os.unlink(name, dir_fd=folder)
        return
    _empty(folder, name, info.st_dev)
    os.rmdir(name, dir_fd=folder)


def _empty(folder: int, name: str, device: int) -> None:
    here = os.open(name, _WAY, dir_fd=folder)
    try:
        info = os.fstat(here)
        if info.st_dev != device:
            raise OSError(f"{name!r} is on another file system")
        if info.st_mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(name, stat.S_IMODE(info.st_mode) | stat.S_IRWXU, dir_fd=folder)
        listed = os.open(".", _LISTED, dir_fd=here)
        try:
            with os.scandir(listed) as found:
                inside = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
        finally:
            os.close(listed)
        for entry, is_directory in inside:
            if is_directory:
                _empty(here, entry, device)
                os.rmdir(entry, dir_fd=here)
            else:
                os.unlink(entry, dir_fd=here)
    finally:
        os.close(here)
