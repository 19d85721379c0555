# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a file or a directory on the control node holds, as one short text."""

from __future__ import annotations

import hashlib
import os
import stat
import typing as t

from ansible.errors import AnsibleFilterError

#: A directory with more is hardly what somebody meant.
_MOST_FILES = 5000
_MOST_BYTES = 200 * 2**20


def tree_digest(path: str) -> str:
    """See tree_digest.yml."""
    total = hashlib.sha256()
    count = size = 0
    try:
        for name, place in _files(path):
            count, size = count + 1, size + os.path.getsize(place)
            if count > _MOST_FILES or size > _MOST_BYTES:
                raise AnsibleFilterError(
                    f"tree_digest: {path} has more than {_MOST_FILES} files or {_MOST_BYTES >> 20} MiB: give what is "
                    "wanted of it a directory of its own"
                )
            with open(place, "rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            executable = bool(os.stat(place).st_mode & stat.S_IXUSR)
            total.update(f"{digest} {executable} {name}\0".encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise AnsibleFilterError(f"tree_digest: {error.filename}: {error.strerror}") from error
    return total.hexdigest()


def _files(path: str) -> t.Iterator[tuple[str, str]]:
    """All files, by name below *path*. Links are followed, as the module copy follows them."""
    if not os.path.isdir(path):
        yield "", path
        return
    for directory, folders, files in os.walk(path, followlinks=True):
        folders.sort()
        for name in sorted(files):
            place = os.path.join(directory, name)
            yield os.path.relpath(place, path), place


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """By name."""
        return {"tree_digest": tree_digest}
