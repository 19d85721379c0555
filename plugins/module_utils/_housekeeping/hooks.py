# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What notes the use of a private environment: it is put into the environment, with the rights of its owner."""

from __future__ import annotations

import contextlib
import inspect
import os
import typing as t

from .._conda import _envfleet_use, use_notes
from .._conda.footprint import inode_of
from .._conda.inventory import Prefix
from . import ownership

_SCRIPTS, _SCRIPT = "etc/conda/activate.d", "envfleet-use.sh"
_MODULE, _START = "_envfleet_use.py", "zz-envfleet-use.pth"
_NOTES = f"conda-meta/{use_notes.DIRECTORY}"
_SOURCE = inspect.getsource(_envfleet_use)  # now, for an owner cannot read where Ansible keeps it


def _wanted(folder: int) -> dict[tuple[str, str], str]:
    """What must be there, by directory and name: for each Python, and for whatever activates."""
    wanted = {(_SCRIPTS, _SCRIPT): use_notes.ACTIVATION}
    with contextlib.suppress(OSError), ownership.below(folder, "lib") as library:
        for name in ownership.entries(library):
            packages = f"{name}/site-packages"
            if name.startswith("python3."):
                with contextlib.suppress(OSError), ownership.below(library, packages):
                    wanted[f"lib/{packages}", _MODULE] = _SOURCE
                    # Lines of .pth files that begin with import are run.
                    wanted[f"lib/{packages}", _START] = "import _envfleet_use\n"
    return wanted


@contextlib.contextmanager
def _opened(prefix: Prefix) -> t.Iterator[int]:
    with ownership.directory(prefix.path) as folder:
        if inode_of(os.fstat(folder)) != prefix.inode:
            raise FileNotFoundError(f"{prefix.path} is not the directory that was looked at")
        yield folder


def _read(folder: int, place: str, name: str) -> str | None:
    with contextlib.suppress(OSError), ownership.below(folder, place) as there:
        return ownership.read(there, name)
    return None


def complete(prefix: Prefix) -> bool:
    """Is all there that notes the use of *prefix*?

    :raises OSError: it cannot be looked at.
    """
    with _opened(prefix) as folder:
        notes = [_read(folder, _NOTES, name) for name in (use_notes.SINCE, use_notes.USED)]
        return None not in notes and all(
            _read(folder, place, name) == content for (place, name), content in _wanted(folder).items()
        )


def place(prefix: Prefix) -> None:
    """Have the use of *prefix* noted from now on. The caller acts as its owner.

    :raises OSError: it cannot be.
    """
    with _opened(prefix) as folder:
        unseen = False  # was there a time in which use was not noted?
        for (where, name), content in _wanted(folder).items():
            with ownership.below(folder, where, make=True) as there:
                found = ownership.read(there, name)
                unseen |= found is None
                if found != content:
                    ownership.write(there, name, content)
        with ownership.below(folder, _NOTES, make=True) as notes:
            if ownership.read(notes, use_notes.USED) is None:
                ownership.write(notes, use_notes.USED, "")
                os.utime(use_notes.USED, (0, 0), dir_fd=notes, follow_symlinks=False)  # not that there was a use
                unseen = True
            if unseen or ownership.read(notes, use_notes.SINCE) is None:
                ownership.write(notes, use_notes.SINCE, "")


def shorten(prefix: Prefix) -> None:
    """Drop the shells that have ended, where the list of them has grown long. The caller acts as the owner."""
    with _opened(prefix) as folder, ownership.below(folder, _NOTES) as notes:
        text = use_notes.shortened(notes)
        if text is not None:
            ownership.write(notes, f"{use_notes.SHELLS}{os.uname().nodename}", text)


def withdraw(prefix: Prefix) -> bool:
    """Take all of it away again, and say whether anything was there. The caller acts as the owner."""
    found = False
    with _opened(prefix) as folder:
        for where, name in _wanted(folder):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError), ownership.below(folder, where) as there:
                os.unlink(name, dir_fd=there)
                found = True
            if name == _MODULE:
                _remove_compiled(folder, where)
        with contextlib.suppress(FileNotFoundError), ownership.below(folder, "conda-meta") as records:
            ownership.remove(records, use_notes.DIRECTORY)
            found = True
    return found


def _remove_compiled(folder: int, where: str) -> None:
    stem = f"{_MODULE.partition('.')[0]}."
    with contextlib.suppress(OSError), ownership.below(folder, f"{where}/__pycache__") as compiled:
        for name in ownership.entries(compiled):
            if name.startswith(stem):
                os.unlink(name, dir_fd=compiled)
