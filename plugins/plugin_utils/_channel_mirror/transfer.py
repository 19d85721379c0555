# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""A mirror that is carried: one archive out, and one in, of which nothing is visible before all of it is proved.

The archive is a tar file, so that people can look into it. Its first member lists all others with their sha256 sums.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import os
import shutil
import tarfile
import typing as t

from ...module_utils._conda.files import free_bytes
from .._drift_schedule import journal
from .config import FILES, WHEELS, Config, File, MirrorError
from .tree import Known, Tree, stamp
from .updating import INCOMPLETE, OK, Update

MANIFEST = "MANIFEST.json"
_MANIFEST_MOST = 256 * 2**20
_BLOCK = 1 << 20


def export(tree: Tree, stream: t.BinaryIO) -> int:
    """Write all that is wanted to *stream*, as an archive.

    :raises MirrorError: the mirror is not as it should be, and the archive is none.
    """
    known = Known(tree)
    newest = max(known.wanted.values(), default=None)
    files = [file for path, file in sorted(known.files.items()) if known.wanted[path] == newest]
    if not files:
        raise MirrorError("the mirror is empty: let it be updated first")
    manifest = _json({"schema_version": 1, "created": _now(), "files": [file.as_dict() for file in files]})
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(_member(MANIFEST, len(manifest)), io.BytesIO(manifest))
        for file in files:
            with open(tree.of(file.path), "rb") as content:
                reader = _Proving(content)
                archive.addfile(_member(file.path, os.fstat(content.fileno()).st_size), t.cast("t.IO[bytes]", reader))
            if reader.digest.hexdigest() != file.sha256:
                raise MirrorError(f"{file.path} is damaged, and so is this archive: let the mirror be updated first")
    journal.warn(f"Exported {len(files)} files. The sha256 of the manifest: {hashlib.sha256(manifest).hexdigest()}")
    return OK


def import_archive(config: Config, tree: Tree, stream: t.BinaryIO, manifest_sha256: str = "") -> int:
    """Take in the archive that *stream* has.

    :param manifest_sha256: what export() has told of it, brought here on another way than the archive.
    :returns: the exit status.
    """
    try:
        files, staged = _unpack(config, tree, stream, manifest_sha256)
    except (tarfile.TarError, EOFError, MirrorError) as error:
        journal.warn(f"The archive is refused, and nothing of it is used: {error}")
        return INCOMPLETE
    for path, place in staged.items():
        tree.put(place, path)
    tree.keep_imported(files)
    journal.say(f"Imported {len(files)} files, of which {len(staged)} are new.")
    return Update(config, tree).run(fetch=False)


def _unpack(config: Config, tree: Tree, stream: t.BinaryIO, manifest_sha256: str) -> tuple[list[File], dict[str, str]]:
    """What the archive has, all of it proved, and where the files are that the mirror has not.

    :raises MirrorError, tarfile.TarError, EOFError: it is not what its manifest says.
    """
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        first = archive.next()
        if first is None or first.name != MANIFEST or not first.isreg() or first.size > _MANIFEST_MOST:
            raise MirrorError(f"it does not begin with {MANIFEST}")
        files = _manifest(_content(archive, first).read(), manifest_sha256)
        left = {file.path: file for file in files}
        if strange := sorted(
            {file.place for file in files} - {channel.name for channel in config.channels} - {WHEELS, FILES}
        ):
            raise MirrorError(f"channel_mirror_channels has no {', '.join(strange)}")
        have = tree.sound({file.path: file.sha256 for file in files})
        needed = sum(max(file.size, 0) for file in files if file.path not in have)
        if free_bytes(tree.staging) < needed + config.min_free_mb * 2**20:
            raise MirrorError(f"the disk has no room for {needed >> 20} MiB: see channel_mirror_min_free_mb")
        staged: dict[str, str] = {}
        while member := archive.next():
            file = left.pop(member.name, None)
            if file is None or not member.isreg():
                raise MirrorError(f"{member.name!r} is not in its manifest, or twice in it, or no file")
            reader = _Proving(_content(archive, member))
            place = os.devnull if file.path in have else os.path.join(tree.staging, f"import-{len(staged)}")
            with open(place, "wb") as output:
                shutil.copyfileobj(reader, output, _BLOCK)
            if reader.digest.hexdigest() != file.sha256:
                raise MirrorError(
                    f"{member.name} is not what the manifest says: its sha256 is {reader.digest.hexdigest()}"
                )
            if file.path not in have:
                staged[file.path] = place
    if left:
        raise MirrorError(f"it ends before {min(left)} and {len(left) - 1} more")
    return files, staged


def _manifest(content: bytes, expected: str) -> list[File]:
    digest = hashlib.sha256(content).hexdigest()
    if expected and digest != expected.lower():
        raise MirrorError(f"its manifest has the sha256 {digest}, and not {expected}")
    try:
        document = json.loads(content)
        if document["schema_version"] != 1:
            raise MirrorError("it was made by another version of the role: use the same on both sides")
        files = [File(**entry) for entry in document["files"]]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise MirrorError(f"its manifest is none: {error}") from error
    if len({file.path for file in files}) != len(files):
        raise MirrorError("its manifest has a file twice")
    return files


class _Proving:
    """Reads, and sums up what it has read."""

    def __init__(self, stream: t.IO[bytes]) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """As a file does it."""
        block = self._stream.read(size)
        self.digest.update(block)
        return block


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> t.IO[bytes]:
    content = archive.extractfile(member)
    if content is None:
        raise MirrorError(f"{member.name} is no file")
    return content


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member


def _json(content: t.Any) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def _now() -> str:
    return stamp(datetime.datetime.now(datetime.UTC))
