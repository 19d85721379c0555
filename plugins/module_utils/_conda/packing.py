# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Generations in packed form: each is one squashfs image, mounted read-only where its directory would be.

A file system that suffers from many small files then has one large one. Several nodes may have the same images: the
first one packs, and the others mount what they find. An image is never replaced or removed, for what nodes have mounted
must not change, and nobody knows which nodes those are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import glob
import hashlib
import os
import shutil
import typing as t

from . import construction, prefixes
from .errors import CondaError
from .files import exclusive, remove_tree, sync_directory, write_file
from .processes import run

_SUFFIX = ".squashfs"
_TOOL = "mksquashfs"
_COMPRESSION = "lz4"  # a twentieth of the processor time that zstd takes, for an image 1.6 times as large
_MOUNT_OPTIONS = "loop,ro,nosuid,nodev"
_OURS = "x-envfleet"  # an option for programs, which mount(8) does not look at
_OPTION = "conda_envs_images_dir"
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@dataclasses.dataclass(frozen=True)
class Images:
    """Where the images are, and what has them mounted when the node starts."""

    directory: str = ""  #: where they are, in one directory for each name; empty: new generations are directories
    fstab: str = "/etc/fstab"

    def of(self, prefix: str, identity: str) -> str:
        """The image of the generation *prefix* with *identity*.

        Its paths are in its files, so at another path, or for other people, it would be another one.
        """
        code = hashlib.sha256(f"{prefix}\n{identity}".encode("utf-8", "surrogateescape")).hexdigest()[:8]
        return os.path.join(self._home(prefix), f"{os.path.basename(prefix)}.{code}{_SUFFIX}")

    def has(self, prefix: str, identity: str) -> bool:
        """Is there an image of that generation?"""
        return bool(self.directory) and os.path.isfile(self.of(prefix, identity))

    def _home(self, prefix: str) -> str:
        return os.path.join(self.directory, os.path.basename(os.path.dirname(prefix)))

    def require(self, pack: bool) -> None:
        """Refuse what could not be done, before anything is.

        :param pack: is an image to be made, and not only mounted?
        :raises CondaError: with the way out.
        """
        if not self.directory:
            return
        if os.geteuid() != 0:
            raise CondaError(f"{_OPTION}: only root can mount images: run with become, or leave it empty")
        if not os.path.isdir(self.directory):
            raise CondaError(f"{_OPTION}: there is no directory {self.directory}: mount its file system, or make it")
        if pack and not shutil.which(_TOOL, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"):
            raise CondaError(f"{_OPTION}: this node has no {_TOOL} to pack with: install the package squashfs-tools")

    @contextlib.contextmanager
    def packing(self, prefix: str, timeout_seconds: float, option: str) -> t.Iterator[None]:
        """Keep other nodes from building the same generation while the body runs; they wait, and find its image then.

        Where the file system has no locks, they build it too, and all but the first use that one's image.

        :raises CondaError: another node did not end within *timeout_seconds*; *option* names that limit's variable.
        """
        if not self.directory:
            yield
            return
        home = self._home(prefix)
        try:
            os.makedirs(home, mode=0o755, exist_ok=True)
        except OSError as error:
            raise CondaError(f"{_OPTION}: {home} cannot be made: {error.strerror}") from error
        with exclusive(os.path.join(home, ".lock"), timeout_seconds, option, _OPTION, needed=False):
            yield

    def pack(self, prefix: str, identity: str) -> None:
        """Make the image of the finished directory *prefix*, unless another node has made it meanwhile.

        :raises CondaError: it could not be made.
        """
        image = self.of(prefix, identity)
        temporary = f"{self._half_made(prefix)}{os.getpid()}"
        try:
            command = [_TOOL, prefix, temporary, "-comp", _COMPRESSION, "-noappend", "-no-progress", "-quiet"]
            result = run(command, keep_lock=True)
            if result.returncode != 0:
                raise CondaError(f"{_OPTION}: {image} cannot be made: {result.tail()}")
            descriptor = os.open(temporary, os.O_RDONLY)
            try:
                os.fchmod(descriptor, 0o644)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            _publish(temporary, image)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
        sync_directory(os.path.dirname(image))

    def mount(self, prefix: str, identity: str) -> None:
        """Mount the image of *prefix* there, in the place of the directory, now and whenever the node starts.

        :raises CondaError: it cannot be mounted, or is not the generation with *identity*. Then it is not mounted.
        """
        image = self.of(prefix, identity)
        if not os.path.ismount(prefix):
            remove_tree(prefix)
            os.makedirs(prefix, mode=0o755)
            result = run(["mount", "-t", "squashfs", "-o", _MOUNT_OPTIONS, image, prefix])
            if result.returncode != 0:
                raise CondaError(
                    f"{_OPTION}: {image} cannot be mounted: {result.tail()}: if it is damaged, move it away"
                )
        try:
            wrong = _wrong(prefix, identity)
        except OSError as error:
            wrong = f"it cannot be read: {error.strerror}"
        if wrong:
            _unmount(prefix)
            raise CondaError(f"{_OPTION}: {image} is not what was packed there: {wrong}: move it away and run again")
        options = f"{_MOUNT_OPTIONS},nofail,_netdev,x-systemd.requires-mounts-for={self.directory},{_OURS}"
        self._write_fstab(prefix, f"{_escaped(image)} {_escaped(prefix)} squashfs {_escaped(options)} 0 0\n")

    def discard(self, prefix: str) -> bool:
        """Remove the generation *prefix*, be it mounted or a directory. Its image stays.

        :returns: whether it is gone: one that a process uses cannot be unmounted, and stays as it is.
        """
        if os.path.ismount(prefix):
            construction.begin(prefix)
            if not _unmount(prefix):
                construction.end(prefix)
                return False
        self._write_fstab(prefix, "")
        for leftover in glob.glob(f"{glob.escape(self._half_made(prefix))}*") if self.directory else ():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(leftover)
        construction.discard(prefix)
        return True

    def _half_made(self, prefix: str) -> str:
        """How the paths begin of files that this node makes the image of *prefix* in: only one run does at a time."""
        return os.path.join(self._home(prefix), f".{os.path.basename(prefix)}.{os.uname().nodename}.")

    def _write_fstab(self, prefix: str, line: str) -> None:
        """Have *line* as the only one of ours for the mount point *prefix*."""
        path = os.path.realpath(self.fstab)
        if self.directory:
            temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.")
            for leftover in glob.glob(glob.escape(temporary) + "[a-z0-9_]" * 8):
                os.unlink(leftover)  # of write_file(), by a run that was killed
        try:
            with open(path, encoding="utf-8", errors="surrogateescape", newline="") as stream:
                lines = stream.readlines()
                mode = os.fstat(stream.fileno()).st_mode & 0o777
        except FileNotFoundError:
            lines, mode = [], 0o644
        kept = [one for one in lines if not _is_ours(one, prefix)]
        if line and kept and not kept[-1].endswith("\n"):
            kept[-1] += "\n"
        if [*kept, *([line] if line else [])] != lines:
            write_file(path, "".join(kept) + line, mode)


def empty(prefix: str) -> bool:
    """Is *prefix* a directory with nothing in it, like one where an image should be mounted?"""
    try:
        with os.scandir(prefix) as found:
            return not os.path.islink(prefix) and next(found, None) is None
    except OSError:
        return False


def _publish(temporary: str, image: str) -> None:
    """Give *temporary* the name *image*, unless there is one by now, which nodes may have mounted."""
    try:
        os.link(temporary, image)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if not os.path.lexists(image):
            os.rename(temporary, image)


def _wrong(prefix: str, identity: str) -> str:
    """Why the generation mounted at *prefix* is not the one with *identity*, or nothing."""
    manifest = prefixes.read_manifest(prefix)
    if manifest is None:
        return "it has no whole manifest"
    if manifest.identity != identity:
        return f"it was made from lock {manifest.identity[:12]}"
    if manifest.prefix != prefix:
        return f"it was made for {manifest.prefix or 'another place'}"
    for problem in prefixes.check(prefix, manifest):
        return f"{problem.subject}: {problem.detail}"
    return ""


def _unmount(prefix: str) -> bool:
    """Unmount what is at *prefix*, unless a process uses it."""
    run(["umount", prefix])
    return not os.path.ismount(prefix)


def _escaped(field: str) -> str:
    """*field* as fstab(5) wants it."""
    return "".join(f"\\{ord(character):03o}" if character in " \t\n\\#" else character for character in field)


def _is_ours(line: str, prefix: str) -> bool:
    fields = line.split()
    return len(fields) >= 4 and fields[1] == _escaped(prefix) and _OURS in fields[3].split(",")
