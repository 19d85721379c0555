# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which prefixes running processes use, as /proc tells."""

from __future__ import annotations

import dataclasses
import os
import re
import typing as t


@dataclasses.dataclass(frozen=True)
class Elsewhere:
    """What other nodes use of a file system that they share with this one."""

    in_use: frozenset[str] | None  #: prefixes, as each node's own in_use() tells; None: not all nodes were asked

    def may_use(self, prefix: str) -> bool:
        """Can a process on another node use *prefix*?"""
        return self.in_use is None or prefix in self.in_use


def in_use(prefixes: t.Iterable[str], proc: str = "/proc") -> set[str]:
    """Those of *prefixes* that a process on this node runs from, works in, has mapped, or has in its environment.

    A process that cannot be looked at may use any of them. Other nodes that share the file system are not seen.
    """
    # What follows a path must not make it a longer one: ID is another generation than ID-2.
    patterns = {prefix: re.compile(_either(prefix) + rb"(?![\w-])") for prefix in prefixes}
    found: set[str] = set()
    for pid in filter(str.isdigit, os.listdir(proc) if patterns else []):
        try:
            traces = _traces(os.path.join(proc, pid))
        except PermissionError:
            if pid == "1":
                continue  # init is nobody's job, and in a container it may be out of reach even for root
            return set(patterns)
        found.update(prefix for prefix, pattern in patterns.items() if prefix not in found and pattern.search(traces))
    return found


def _either(prefix: str) -> bytes:
    """A pattern for *prefix* as it is written, and as the kernel shows it where a link leads to it."""
    paths = {os.fsencode(prefix), os.fsencode(os.path.realpath(prefix))}
    return rb"(?:" + rb"|".join(map(re.escape, sorted(paths))) + rb")"


def _traces(process: str) -> bytes:
    """Every path that a process shows, or nothing where it has ended. Kernel threads show none."""
    traces = b""
    try:
        for link in ("exe", "cwd", "root"):
            if os.path.lexists(os.path.join(process, link)):
                traces += os.fsencode(os.readlink(os.path.join(process, link))) + b"\0"
        for name in ("maps", "environ"):
            with open(os.path.join(process, name), "rb") as stream:
                traces += stream.read() + b"\0"
    except (FileNotFoundError, ProcessLookupError):
        return traces
    return traces
