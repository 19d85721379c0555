# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""What the locks of a site need, as the files of a mirror. This runs on the control node, which reads locks."""

from __future__ import annotations

import glob
import os
import typing as t
import urllib.parse

from ...module_utils._conda.errors import CondaError
from ...module_utils._conda.locks import Lock
from .._lock_files import read_lock_file
from .config import FILES, WHEELS, Channel, File, MirrorError


def selection(
    locks: t.Iterable[str],
    directory: str,
    channels: t.Iterable[Channel],
    platforms: t.Collection[str],
    files: t.Iterable[t.Mapping[str, t.Any]],
    url: str,
) -> list[File]:
    """What the mirror is to have, by path.

    :param locks: lock files, or patterns of some, which begin at *directory*.
    :param platforms: what else a lock is for is left out.
    :param files: what is wanted besides, each with `url` and `sha256`, and perhaps `name`.
    :param url: that of the mirror itself. A lock that was made with it tells of its packages all the same.
    :raises MirrorError: a lock cannot be read, or wants what cannot be mirrored.
    """
    origins = {}
    for channel in channels:
        origins[channel.url] = origins[f"{url.rstrip('/')}/{channel.name}"] = channel
    found: dict[str, File] = {}
    for path, environment in _paths(locks, directory):
        try:
            read = read_lock_file(path, environment)
        except CondaError as error:
            raise MirrorError(f"channel_mirror_locks: {error}") from error
        for platform in sorted(set(read) & set(platforms)):
            for file in _of_lock(read[platform], path, origins):
                _add(found, file, path)
        if not set(read) & set(platforms):
            raise MirrorError(
                f"channel_mirror_locks: {path} is for {', '.join(sorted(read))}, and channel_mirror_platforms has none "
                "of these"
            )
    for entry in files:
        name = entry.get("name") or urllib.parse.unquote(str(entry["url"]).rpartition("/")[2])
        try:
            file = File(f"{FILES}/{name}", str(entry["sha256"]).lower(), str(entry["url"]))
        except MirrorError as error:
            raise MirrorError(f"channel_mirror_files: {error}") from error
        _add(found, file, "channel_mirror_files")
    return [found[path] for path in sorted(found)]


def _paths(locks: t.Iterable[str], directory: str) -> t.Iterator[tuple[str, str]]:
    """The lock files, each with the environment that is meant if it is a pixi.lock."""
    for text in locks:
        pattern, _hash, environment = str(text).partition("#")
        place = os.path.join(directory, os.path.expanduser(pattern))
        # What is no pattern is read even when it has [ in its name, and tells then why it cannot be.
        paths = sorted(glob.glob(place)) or ([] if glob.has_magic(place) else [place])
        if not paths:
            raise MirrorError(f"channel_mirror_locks: {place} names no file")
        yield from ((path, environment) for path in paths)


def _of_lock(lock: Lock, source: str, origins: t.Mapping[str, Channel]) -> t.Iterator[File]:
    for package in lock.packages:
        if package.channel not in origins:
            known = ", ".join(sorted({channel.url for channel in origins.values()})) or "none"
            raise MirrorError(
                f"channel_mirror_locks: {source}: {package.name} comes from {package.channel}, which is not among "
                f"channel_mirror_channels ({known})"
            )
        if not package.sha256:
            raise MirrorError(
                f"channel_mirror_locks: {source}: {package.name} has only an md5 sum: lock it again with sha256 sums"
            )
        channel = origins[package.channel]
        path = f"{channel.name}/{package.subdir}/{urllib.parse.unquote(package.file_name)}"
        yield File(path, package.sha256, f"{channel.url}/{package.subdir}/{package.file_name}")
    for wheel in lock.wheels:
        yield File(f"{WHEELS}/files/{wheel.sha256}/{wheel.file_name}", wheel.sha256, wheel.url)


def _add(found: dict[str, File], file: File, source: str) -> None:
    """One more file; what another lock has too is fetched from where the first of them says."""
    known = found.setdefault(file.path, file)
    if known.sha256 != file.sha256:
        raise MirrorError(
            f"{source}: {file.path} has the sha256 {file.sha256} there and {known.sha256} elsewhere: lock the "
            "older one again"
        )
