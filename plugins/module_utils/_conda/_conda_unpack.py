#!/usr/bin/env python
# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Makes an unpacked environment one that knows its place: source bin/activate, and run conda-unpack once.

It stands in the archive as bin/conda-unpack, with the list of the files to change at its end.
"""

from __future__ import annotations

import os
import re

_LONGEST_SHEBANG = 127  # of the kernels before 5.1


def rewrite(path: str, placeholder: str, kind: str, prefix: str) -> None:
    """Put *prefix* into the place of *placeholder* in a file of *kind* text or binary."""
    old, new = os.fsencode(placeholder), os.fsencode(prefix)
    with open(path, "rb") as stream:
        content = stream.read()
    if kind == "text":
        content = content.replace(old, new)
        first, newline, rest = content.partition(b"\n")
        if first.startswith(b"#!") and len(first) > _LONGEST_SHEBANG:
            content = b"#!/usr/bin/env " + os.path.basename(first.split()[0][2:]) + newline + rest
    else:
        if len(new) > len(old):
            raise SystemExit(f"conda-unpack: {prefix} has more than {len(old)} bytes: unpack into a shorter path")

        def padded(match: re.Match[bytes]) -> bytes:
            return match[0].replace(old, new).ljust(len(match[0]), b"\0")

        content = re.sub(re.escape(old) + rb"[^\0]*\0", padded, content)
    temporary = f"{path}.conda-unpack"
    with open(temporary, "wb") as written:
        written.write(content)
    os.chmod(temporary, os.stat(path).st_mode & 0o777)
    os.replace(temporary, path)


def unpack(files: list[tuple[str, str, str]]) -> None:
    """Rewrite all *files*: path, placeholder, kind."""
    prefix = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for path, placeholder, kind in files:
        rewrite(os.path.join(prefix, path), placeholder, kind, prefix)
