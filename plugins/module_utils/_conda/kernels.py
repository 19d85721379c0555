# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kernelspecs, by which Jupyter offers an environment.

A kernel is started by the path of a generation and never through the name, so that it stays in it. A kernelspec of ours
has a mark in its metadata. Whatever else is in the directory of kernelspecs is never touched.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import json
import os
import typing as t

from .errors import CondaError
from .files import sync_directory, write_file
from .problems import Problem

if t.TYPE_CHECKING:
    from .locks import Lock

_FILE = "kernel.json"
_MARK = "envfleet.gpu_cluster"
_PACKAGE = "ipykernel"


@dataclasses.dataclass(frozen=True)
class Kernelspec:
    """What is in the place of an environment's kernelspec."""

    path: str
    state: str  #: absent; unfinished: a killed run's; ours; foreign
    text: str = ""  #: of one that is ours

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return dataclasses.asdict(self)


def look(kernels_dir: str, name: str) -> Kernelspec:
    """See what there is of the kernelspec of environment *name*; nothing where *kernels_dir* is empty."""
    if not kernels_dir:
        return Kernelspec("", "absent")
    path = os.path.join(kernels_dir, name)
    try:
        with open(os.path.join(path, _FILE), encoding="utf-8") as stream:
            text = stream.read()
        ours = _MARK in json.loads(text)["metadata"]
    except (FileNotFoundError, NotADirectoryError):
        try:
            unfinished = all(_is_temporary(file_name) for file_name in os.listdir(path))
        except OSError:
            unfinished = False
        return Kernelspec(path, "unfinished" if unfinished else "foreign" if os.path.isfile(path) else "absent")
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    return Kernelspec(path, "ours", text) if ours else Kernelspec(path, "foreign")


def render(name: str, prefix: str, variables: t.Iterable[tuple[str, str]]) -> str:
    """The kernelspec of environment *name*, whose kernels run in *prefix* as if it had been activated."""
    content = {
        "argv": [f"{prefix}/bin/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": name,
        "language": "python",
        "env": {
            **dict(variables),
            "CONDA_DEFAULT_ENV": name,
            "CONDA_PREFIX": prefix,
            "PATH": f"{prefix}/bin:${{PATH}}",  # Jupyter puts in its own
        },
        "metadata": {"debugger": True, _MARK: "changes made here are undone"},
    }
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


def expected(name: str, prefix: str | None, wanted: bool | None, lock: Lock, found: Kernelspec) -> str:
    """The text that *found* must have where the name leads to *prefix*, if anywhere; empty: there must be none of ours.

    :param wanted: whether Jupyter offers the environment; None: as it does now.
    """
    if not prefix or not (found.state == "ours" if wanted is None else wanted):
        return ""
    return render(name, prefix, lock.variables)


def differs(found: Kernelspec, text: str) -> bool:
    """Is *found* to be written or removed, so that its text is *text*?"""
    return found.state != "foreign" and (found.text != text or (found.state == "unfinished" and not text))


def compare(found: Kernelspec, text: str) -> list[Problem]:
    """What is wrong with *found* when its text must be *text*, for a person."""
    if found.state == "foreign" and text:
        return [Problem("obstacle", found.path, "is no kernelspec of this collection")]
    if not differs(found, text):
        return []
    if not text:
        detail = "should not be there"
    else:
        detail = "leads to another generation or was edited" if found.text else "is missing"
    return [Problem("kernel", found.path, detail)]


def require(found: Kernelspec, text: str, lock: Lock) -> None:
    """Refuse a kernelspec that cannot be written, or whose kernels could not start.

    :raises CondaError: its place is taken by another, or *lock* has no ipykernel.
    """
    if not text:
        return
    if not found.path:
        raise CondaError("kernel: conda_envs_kernels_dir is empty: name the directory where Jupyter looks for kernels")
    if found.state == "foreign":
        raise CondaError(
            f"kernel: {found.path} exists and is no kernelspec of this collection: move it away, then run again"
        )
    packages = {package.name for package in lock.packages} | {wheel.name for wheel in lock.wheels}
    if _PACKAGE not in packages:
        raise CondaError(f"kernel: the lock has no {_PACKAGE}, which Jupyter needs: add it, or leave kernel out")


def change(found: Kernelspec, text: str) -> None:
    """Write or remove the kernelspec, so that its text is *text*. It is whole or not there at any moment."""
    if text:
        os.makedirs(found.path, mode=0o755, exist_ok=True)
        _clean(found.path)
        write_file(os.path.join(found.path, _FILE), text)
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(found.path, _FILE))
    _clean(found.path)
    with contextlib.suppress(OSError):  # somebody may have put a logo there
        os.rmdir(found.path)
    sync_directory(os.path.dirname(found.path))


def _is_temporary(file_name: str) -> bool:
    """Is that what write_file() calls a file that is not whole yet?"""
    return file_name.startswith(f".{_FILE}.")


def _clean(path: str) -> None:
    """Remove what killed runs have left."""
    for leftover in glob.glob(os.path.join(glob.escape(path), f".{_FILE}.*")):
        os.unlink(leftover)
