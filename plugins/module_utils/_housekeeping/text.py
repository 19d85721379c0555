# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is told to people. Paths are made by users: nothing in them may break a line or steer a terminal."""

from __future__ import annotations

import os
import shlex
import time
import typing as t


def shell(path: str) -> str:
    """A path as a shell understands it, in one line of plain characters."""
    if path.isprintable():
        return shlex.quote(path)
    plain = "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else f"\\x{byte:02x}" for byte in os.fsencode(path)
    )
    return f"$'{plain}'"


def size(number: float) -> str:
    """Bytes, rounded."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 10 else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def utc(seconds: float | None) -> str | None:
    """A time for JSON; none where there is none, or none that is sensible."""
    try:
        return None if seconds is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    except (ValueError, OverflowError, OSError):
        return None


def table(heads: t.Sequence[str], rows: t.Sequence[t.Sequence[str]]) -> list[str]:
    """Lines in columns. Those whose heads end in > are aligned to the right."""
    right = [head.endswith(">") for head in heads]
    lines = [[head.rstrip(">") for head in heads], *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width) for cell, width, to_right in zip(line, widths, right)
        ).rstrip()
        for line in lines
    ]
