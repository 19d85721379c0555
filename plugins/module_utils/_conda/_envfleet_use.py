# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Notes that a Python of an environment was started. Every Python of a private environment imports this at its start, so
# it keeps to what Python 3.3 understands, and may never fail. Who may not write to the environment notes it at home.

import errno
import os
import sys
import time

_SECONDS = 60  # a note that is younger is not renewed, so that a thousand ranks of one job write one note


def home_note(prefix: str) -> str:
    """Where a user notes the use of an environment of somebody else."""
    name = os.path.realpath(prefix).replace("/", "%")
    return os.path.join(os.path.expanduser("~"), ".conda", "envfleet.use", name)


def note(prefix: str) -> None:
    """Note that the environment at *prefix* is used now."""
    path = os.path.join(prefix, "conda-meta", "envfleet.use", "used")
    try:
        if abs(time.time() - os.stat(path).st_mtime) >= _SECONDS:
            os.utime(path, None)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            _note_at_home(home_note(prefix))


def _note_at_home(path: str) -> None:
    try:
        if not os.path.isdir(os.path.dirname(path)):
            os.makedirs(os.path.dirname(path), 0o700)
        with open(path, "a"):
            os.utime(path, None)
    except (OSError, ValueError):
        pass  # a full disk, or no home: the program that starts here has nothing to do with it


if __name__ == "_envfleet_use":
    note(sys.prefix)
