# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A finished prefix and its manifest, and the cheap answer to: is it still what was installed?

A prefix is finished when it has a manifest, which is written last. The manifest holds one fingerprint over the name,
kind, mode, owner, size and modification time of everything in the prefix, so a check is one walk and no file is read.
Only where the fingerprint differs is the listing behind it read, to tell what differs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import stat
import time

from .errors import CondaError
from .files import write_file
from .problems import Problem

# No name here may end in .json: conda takes every conda-meta/*.json for a package and dies of it.
MANIFEST = "conda-meta/envfleet.manifest"
LISTING = "conda-meta/envfleet.files"
FORMAT = 1
# They are written last, and cannot tell of themselves.
_OWN = tuple(f"{os.path.basename(path)}\0" for path in (MANIFEST, LISTING))


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a finished prefix says of itself."""

    identity: str  #: what was installed: a lock's id, or an installer's version and sum
    fingerprint: str  #: sha256 over the listing
    created: str  #: UTC, ISO 8601
    engine: str  #: who installed it
    prefix: str = ""  #: where it must be, if it is packed into an image


def listing_of(prefix: str) -> str:
    """Everything in *prefix*, directory by directory: mode, owner, and for what is no directory size and time.

    Each entry is NAME NUL MODE UID GID [SIZE TIME] NUL, sorted by name in its directory. The path of a directory
    comes before its entries, with nothing between the NULs.
    """
    parts: list[str] = []
    top = os.open(prefix, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _list(top, "", parts)
    finally:
        os.close(top)
    return "".join(parts)


def _list(descriptor: int, directory: str, parts: list[str]) -> None:
    # The cost of the usual run is here: a descriptor spares the kernel the path, and a directory is sorted by itself.
    rows, folders = [], []
    with os.scandir(descriptor) as found:
        for entry in found:
            info = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                folders.append(entry.name)
                rows.append(f"{entry.name}\0{info.st_mode:o} {info.st_uid} {info.st_gid}\0")
            else:
                rows.append(
                    f"{entry.name}\0{info.st_mode:o} {info.st_uid} {info.st_gid} {info.st_size} {info.st_mtime_ns}\0"
                )
    rows.sort()
    if directory == "conda-meta/":
        rows = [row for row in rows if not row.startswith(_OWN)]
    parts += (directory, "\0\0", *rows)
    for name in sorted(folders):
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
        try:
            _list(inner, f"{directory}{name}/", parts)
        finally:
            os.close(inner)


def entries_of(listing: str) -> dict[str, str]:
    """The lines of a listing by relative path."""
    fields = listing.split("\0")
    entries, directory = {}, ""
    for name, line in zip(fields[::2], fields[1::2]):
        if line:
            entries[f"{directory}{name}"] = line
        else:
            directory = name
    return entries


def scan(prefix: str) -> dict[str, str]:
    """The lines of the listing of *prefix* by relative path."""
    return entries_of(listing_of(prefix))


def fingerprint(listing: str) -> str:
    """The fingerprint of a listing."""
    return hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()


def in_whole_seconds(listing: str) -> str:
    """*listing* as it is when all is in a squashfs image, which keeps no fractions of seconds."""
    fields = listing.split("\0")
    for number, line in enumerate(fields[1::2]):
        entry = line.split(" ")
        if len(entry) == 5:
            entry[4] = str(int(entry[4]) // 10**9 * 10**9)
            fields[2 * number + 1] = " ".join(entry)
    return "\0".join(fields)


def finish(prefix: str, identity: str, engine: str, packed: bool = False) -> Manifest:
    """Declare *prefix* finished: nothing in it may change from now on.

    :param packed: will it be in a squashfs image?
    """
    text = in_whole_seconds(listing_of(prefix)) if packed else listing_of(prefix)
    manifest = Manifest(
        identity=identity,
        fingerprint=fingerprint(text),
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        engine=engine,
        prefix=prefix if packed else "",
    )
    told = {key: value for key, value in dataclasses.asdict(manifest).items() if value}
    write_file(os.path.join(prefix, LISTING), text)
    write_file(
        os.path.join(prefix, MANIFEST),
        json.dumps({"format": FORMAT, **told}, indent=1, sort_keys=True) + "\n",
    )
    return manifest


def read_manifest(prefix: str) -> Manifest | None:
    """The manifest of *prefix*, or None where there is none that is whole: then the prefix is not finished."""
    try:
        with open(os.path.join(prefix, MANIFEST), encoding="utf-8") as stream:
            content = json.load(stream)
        if content.pop("format") != FORMAT:
            return None
        return Manifest(**content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def check(prefix: str, manifest: Manifest) -> list[Problem]:
    """What is different in *prefix* since it was finished: an empty list, after one walk, where nothing is."""
    own = _check_own(prefix)
    listing = listing_of(prefix)
    if fingerprint(listing) == manifest.fingerprint:
        return own
    try:
        recorded = read_listing(prefix, manifest)
    except CondaError as error:
        return own or [Problem("manifest", LISTING, str(error))]
    from .explain import explain  # what reads records would cost each look, and few need it

    return own + explain(prefix, recorded, entries_of(listing))


def _check_own(prefix: str) -> list[Problem]:
    """What is wrong with the two files that the fingerprint does not tell of, as far as one look at each shows."""
    problems = []
    for path in (MANIFEST, LISTING):
        try:
            mode = os.lstat(os.path.join(prefix, path)).st_mode
        except FileNotFoundError:
            problems.append(Problem("manifest", path, "is missing"))
            continue
        if not stat.S_ISREG(mode) or mode & 0o022:
            problems.append(Problem("manifest", path, f"is no file that only its owner can write: mode {mode:o}"))
    return problems


def behind(link: str, kind: str, home: str = "") -> tuple[str | None, Manifest | None, list[Problem]]:
    """The prefix that *link* leads to, its manifest, and what is wrong on the way and there.

    :param kind: what people call such a prefix.
    :param home: the directory that it must be in, if that matters.
    """
    if not os.path.islink(link):
        taken = os.path.lexists(link)
        return None, None, [Problem("obstacle", link, "is no link of this collection")] if taken else []
    target = os.path.realpath(link)
    if not os.path.isdir(target):
        return None, None, [Problem("link", link, f"leads to {os.readlink(link)}, where nothing is")]
    if home and os.path.dirname(target) != home:
        return (
            target,
            None,
            [Problem("link", link, f"leads to {target}, which is no {kind} of {os.path.basename(home)}")],
        )
    manifest = read_manifest(target)
    if manifest is None:
        return target, None, [Problem("manifest", target, f"the {kind} has no whole manifest")]
    return target, manifest, check(target, manifest)


def read_listing(prefix: str, manifest: Manifest) -> dict[str, str]:
    """The listing made when *prefix* was finished.

    :raises CondaError: it is gone, or not the one the manifest was made with.
    """
    try:
        with open(os.path.join(prefix, LISTING), encoding="utf-8", errors="surrogateescape", newline="") as stream:
            text = stream.read()
    except (OSError, ValueError) as error:
        raise CondaError(f"the listing of what was installed cannot be read: {error}") from error
    if fingerprint(text) != manifest.fingerprint:
        raise CondaError("the listing of what was installed was changed")
    return entries_of(text)
