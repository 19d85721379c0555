# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Notes of use in a private environment: when it was used last, by which shells, and since when that is noted.

They lie in the environment and belong to its owner, as do the hooks that write them. An owner can write there what they
like, and gains no more than that the environment stays. Nobody else can.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat
import typing as t

DIRECTORY = "envfleet.use"  #: in conda-meta, and in the .conda of those who use an environment of somebody else
SINCE, USED, SHELLS = "since", "used", "shells."
#: What activates an environment runs this in its own shell, whichever that is.
ACTIVATION = """\
# Written by envfleet.gpu_cluster: notes that this environment is used, in files of its owner, and tells nobody else.
(
    set +euC
    notes="$CONDA_PREFIX/conda-meta/envfleet.use"
    if [ -w "$notes/used" ]; then
        : >"$notes/used"
        read -r host </proc/sys/kernel/hostname
        read -r line </proc/$$/stat
        line="${line##*) }"
        field=3
        while [ "$field" -lt 22 ]; do
            line="${line#* }"
            field=$((field + 1))
        done
        echo "$$ ${line%% *}" >>"$notes/shells.$host"
    fi
) 2>/dev/null || :
"""
_MOST_BYTES = 4 << 20


@dataclasses.dataclass(frozen=True)
class Notes:
    """What the notes of an environment say."""

    since: float | None = None  #: when they began; None: there are none
    used: float | None = None  #: the last start of a Python, or activation
    shells: bool = False  #: does a shell of this node run that has activated it?


def read(folder: int, proc: str = "/proc") -> Notes:
    """The notes in the open directory *folder*, a conda-meta. Of a user's directory, any may be missing or no notes."""
    try:
        notes = os.open(DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return Notes()
    try:
        shells = f"{SHELLS}{os.uname().nodename}"
        return Notes(_time(notes, SINCE), _time(notes, USED), any(_alive(notes, shells, proc)))
    finally:
        os.close(notes)


def _time(folder: int, name: str) -> float | None:
    with contextlib.suppress(OSError):
        info = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISREG(info.st_mode):
            return info.st_mtime or None  # made with the time 0: not used yet
    return None


def _alive(folder: int, name: str, proc: str) -> t.Iterator[str]:
    """The lines of file *name* whose shells run: a number alone could by now be that of another process."""
    for line in dict.fromkeys(_lines(folder, name)):
        number, _blank, start = line.partition(" ")
        if number.isdigit() and len(number) < 20 and start and start == _start(number, proc):
            yield line


def _lines(folder: int, name: str) -> list[str]:
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return []
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return []
        return stream.read(_MOST_BYTES).decode("ascii", "replace").splitlines()


def _start(number: str, proc: str) -> str:
    """When a process was started, in the kernel's ticks since it was itself; nothing where there is none."""
    try:
        with open(os.path.join(proc, number, "stat"), "rb") as stream:
            return stream.read().rpartition(b") ")[2].split()[19].decode("ascii")
    except (OSError, IndexError):
        return ""


def read_home(folder: int, uid: int) -> dict[str, float]:
    """When the user *uid* used environments of others, by what home_name() makes of their paths.

    :param folder: their .conda, an open directory.
    """
    found = {}
    with contextlib.suppress(OSError):
        notes = os.open(DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            for name in os.listdir(notes):
                info = os.stat(name, dir_fd=notes, follow_symlinks=False)
                if stat.S_ISREG(info.st_mode) and info.st_uid == uid:
                    found[name] = info.st_mtime
        finally:
            os.close(notes)
    return found


def home_name(path: str) -> str:
    """What the note of an environment at *path* is called in the home of somebody else, as _envfleet_use has it."""
    return path.replace("/", "%")


def shortened(folder: int) -> str | None:
    """This node's list of shells without those that have ended, where it has grown long; *folder* holds the notes."""
    name = f"{SHELLS}{os.uname().nodename}"
    with contextlib.suppress(OSError):
        if os.stat(name, dir_fd=folder, follow_symlinks=False).st_size > 1 << 16:
            return "".join(f"{line}\n" for line in _alive(folder, name, "/proc"))
    return None
