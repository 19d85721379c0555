# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Prefixes in the making, and the mark that tells what killed runs have left of them from everything else.

The mark stands beside a prefix from before its first file until it is finished, and nothing leads people to a prefix
before that. So whoever holds the lock may remove a marked prefix, while one that was finished once is never touched.
"""

from __future__ import annotations

import contextlib
import os
import typing as t

from .files import remove_tree, sync_directory

_MARK = ".building"


def begin(prefix: str) -> None:
    """Mark *prefix* as one that is not finished."""
    with open(_mark(prefix), "w", encoding="utf-8"):
        sync_directory(os.path.dirname(prefix))


def end(prefix: str) -> None:
    """Take the mark away for good: one that came back after a power loss would condemn what people use."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_mark(prefix))
    sync_directory(os.path.dirname(prefix))


def discard(prefix: str) -> None:
    """Remove *prefix*, marked as long as there is anything of it. A link is gone at once, and needs no mark."""
    if os.path.islink(prefix):
        os.unlink(prefix)
    elif os.path.lexists(prefix):
        begin(prefix)
        remove_tree(prefix)
    end(prefix)


def leftovers(directory: str) -> list[str]:
    """The prefixes in *directory* that are marked, whether or not there is anything of them."""
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    marked = (name[1 : -len(_MARK)] for name in names if name.startswith(".") and name.endswith(_MARK))
    return sorted(os.path.join(directory, name) for name in marked)


def first_free(stem: str, freed: t.Collection[str]) -> str:
    """*stem*, or with -2, -3 and so on where that is taken by something else than one of *freed*."""
    path, number = stem, 1
    while os.path.lexists(path) and path not in freed:
        number += 1
        path = f"{stem}-{number}"
    return path


def _mark(prefix: str) -> str:
    return os.path.join(os.path.dirname(prefix), f".{os.path.basename(prefix)}{_MARK}")
