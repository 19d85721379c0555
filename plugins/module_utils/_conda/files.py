# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Changes to the file system that are whole or not there: links, files, trees, and the lock around them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import stat
import tempfile
import time
import typing as t

from .errors import CondaError

MOUNTS = "/proc/self/mountinfo"
#: What flock(2) says on a file system that has no such locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
# Mount options with which a lock keeps out the processes of this node alone, by how the name of the file system begins.
_LOCAL_LOCKS = {"nfs": {"nolock", "local_lock=all", "local_lock=flock"}, "lustre": {"localflock"}}


def sync_directory(path: str) -> None:
    """Make the entries of directory *path* survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_link(link: str, target: str) -> None:
    """Point the symbolic link *link* at *target* with one rename(2): readers see the old target or the new one.

    :raises CondaError: *link* is something else than a link, which is left alone.
    """
    if os.path.lexists(link) and not os.path.islink(link):
        raise CondaError(f"{link} exists and is no link of this collection: move it away, then run again")
    temporary = half_made(link)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    os.symlink(target, temporary)
    try:
        os.replace(temporary, link)
    except BaseException:
        os.unlink(temporary)
        raise
    sync_directory(os.path.dirname(link))


def half_made(link: str) -> str:
    """Where replace_link() makes *link* before it moves it.

    The same place each time, for callers hold the lock of exclusive(): so what a killed run left there is found.
    """
    return os.path.join(os.path.dirname(link), f".{os.path.basename(link)}.new")


def write_file(path: str, content: str, mode: int = 0o644) -> None:
    """Write *content* to *path* whole or not at all, and make it survive a power loss."""
    parent = os.path.dirname(path)
    descriptor, temporary = tempfile.mkstemp(dir=parent, prefix=f".{os.path.basename(path)}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
            stream.write(content)
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_directory(parent)


def remove_tree(path: str) -> None:
    """Remove *path* and all below it. A directory nobody may read or write is no obstacle to its owner."""
    if not os.path.lexists(path):
        return
    if os.path.islink(path) or not os.path.isdir(path):
        os.unlink(path)
        return
    _open_directory(path)
    for directory, folders, _files in os.walk(path):
        for name in folders:
            _open_directory(os.path.join(directory, name))
    shutil.rmtree(path)


def _open_directory(path: str) -> None:
    mode = os.lstat(path).st_mode
    if stat.S_ISDIR(mode) and mode & stat.S_IRWXU != stat.S_IRWXU:
        os.chmod(path, stat.S_IMODE(mode) | stat.S_IRWXU)


def require_free_space(path: str, wanted_mb: int, option: str) -> None:
    """Refuse to begin where less than *wanted_mb* MiB are free.

    :raises CondaError: with *option*, the name of the variable that sets the limit.
    """
    free_mb = free_bytes(path) // 2**20
    if free_mb < wanted_mb:
        raise CondaError(
            f"{option}: {free_mb} MiB are free at {path}, {wanted_mb} are wanted: free some space or lower {option}"
        )


def existing_parent(path: str) -> str:
    """The nearest directory at or above *path* that is there."""
    while not os.path.isdir(path):
        path = os.path.dirname(path) or "/"
    return path


def free_bytes(path: str) -> int:
    """Bytes that can still be written where *path* is, or will be."""
    info = os.statvfs(existing_parent(path))
    return info.f_bavail * info.f_frsize


@contextlib.contextmanager
def exclusive(path: str, timeout_seconds: float, option: str, place: str = "", needed: bool = True) -> t.Iterator[None]:
    """Hold the lock file *path* while the body runs, so that no two runs change the same tree.

    The kernel drops the lock with the process: a killed run leaves nothing to clean up.

    :param place: the variable that says where the file is.
    :param needed: False: where the file system has no locks, the body runs all the same.
    :raises CondaError: another run still held it after *timeout_seconds*; *option* names that limit's variable. Or the
        file system has no locks.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise CondaError(f"{path} cannot be opened: {error.strerror}") from error
    try:
        try:
            _acquire(descriptor, path, timeout_seconds, option)
        except OSError as error:
            unlocked = error.errno in _NO_LOCKS
            if needed or not unlocked:
                where = f"{place}: " if place else ""
                way_out = ": its file system must have flock(2): mount NFS without nolock, and Lustre with -o flock"
                text = f"{where}{path} cannot be locked: {error.strerror}"
                raise CondaError(f"{text}{way_out if unlocked else ''}") from error
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: str, timeout_seconds: float, option: str) -> None:
    """Wait for the lock on an open file, and write down whose it is."""
    deadline = time.monotonic() + timeout_seconds
    os.fchmod(descriptor, 0o644)
    os.set_inheritable(descriptor, True)  # for processes.run(keep_lock=True); other children get no files
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "an unknown process"
                raise CondaError(
                    f"another run is changing this node ({holder} holds {path}) and did not end within "
                    f"{timeout_seconds:g} s: wait for it, or raise {option}"
                ) from error
            time.sleep(0.2)
    os.ftruncate(descriptor, 0)
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    os.pwrite(descriptor, f"process {os.getpid()}, since {since}, on {os.uname().nodename}".encode(), 0)


def require_cluster_lock(path: str, option: str, mounts: str = "") -> None:
    """Refuse a directory whose locks other nodes would not see, as some mount options have it.

    :param option: the variable that names it.
    :param mounts: the kernel's table of mounts, if another than that of this process.
    :raises CondaError: with the mount option to take out.
    """
    directory = os.path.join(os.path.realpath(existing_parent(path)), "")
    found: tuple[str, str, set[str]] = ("", "", set())
    with open(mounts or MOUNTS, encoding="utf-8", errors="surrogateescape") as stream:
        for line in stream:
            before, _dash, after = line.partition(" - ")
            # Blanks in a path are written as octal numbers.
            point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), before.split()[4])
            if directory.startswith(os.path.join(point, "")) and len(point) >= len(found[0]):
                kind, _source, options = after.split()[:3]
                found = (point, kind, {*before.split()[5].split(","), *options.split(",")})
    point, kind, options_there = found
    for name, local in _LOCAL_LOCKS.items():
        wrong = sorted(local & options_there) if kind.startswith(name) else []
        if wrong:
            raise CondaError(
                f"{option}: {point} is mounted with {wrong[0]}, so other nodes would not see who is at work there: "
                "mount NFS without nolock and local_lock, and Lustre with -o flock"
            )


def sha256_of(path: str) -> str:
    """The sha256 of a file's content, or an empty string where it cannot be read."""
    try:
        return digest_of(path, "sha256")
    except OSError:
        return ""


def digest_of(path: str, algorithm: str) -> str:
    """The sum of a file's content by *algorithm*, in hexadecimal digits.

    :raises OSError: it cannot be read.
    """
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
