# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an environment can be built from again where its files are of no use: on another platform, at another path."""

from __future__ import annotations

import contextlib
import json
import os
import typing as t

from .._conda import export
from .._conda.errors import CondaError
from .._conda.files import write_file
from .contents import Look

#: Each with what is left out of it, at first and if that does not help.
_FORMATS: t.Mapping[str, tuple[t.Any, ...]] = {
    "environment.yml": ("environment", ()),
    "conda-lock.yml": ("conda-lock", (), ("pip",)),
    "explicit.txt": ("explicit", ("pip", "variables")),
}
# What export reads: in a user's environment, each of these could be a pipe or lead elsewhere.
_READ = ("conda-meta/", ".dist-info/", ".egg-info/")


def write(prefix: str, name: str, platform: str, seen: Look, directory: str) -> dict[str, str]:
    """Write down what is in *prefix*, and tell what could not be, and why: by file, or by kind of package in it."""
    left_out: dict[str, str] = {}
    for file_name, (form, *ways) in _FORMATS.items():
        path = os.path.join(directory, file_name)
        for leave_out in ways:
            try:
                text = _text(prefix, os.path.basename(name), platform, seen, form, leave_out)
            except (CondaError, OSError, RecursionError) as error:
                what = "".join(f"{kind} of " for kind in ways[-1] if leave_out != ways[-1])
                left_out[f"{what}{file_name}"] = " ".join(str(error).split())[:500]
            else:
                write_file(path, text, 0o600)
                break
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)  # of the time before
    return left_out


def _text(prefix: str, name: str, platform: str, seen: Look, form: str, leave_out: t.Sequence[str]) -> str:
    for path, entry in seen.entries.items():
        if entry.kind not in ("file", "directory") and any(part in path for part in _READ):
            raise CondaError(f"{path} is no regular file")
    content = export.read(prefix, platform).without(leave_out)
    if form == "environment":
        return export.environment_text(content, name)
    return export.explicit(content) if form == "explicit" else export.conda_lock(content)


def read_sums(path: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """The sums that were written at *path*, or none: then all files are read."""
    try:
        with open(path, encoding="utf-8") as stream:
            return {name: (tuple(signature), content) for name, (signature, content) in json.load(stream).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
