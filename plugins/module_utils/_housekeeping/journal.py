# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What was done to which environment, and when: one file that only root can write.

It says what is about to be done before that is done, so a run may be killed anywhere. What was moved by the journal and
lies where it was counts as brought back by its owner: that looks the same, and is the safe way to be wrong. Without the
journal nothing is lost but time, for what was set aside is known by its name.
"""

from __future__ import annotations

import dataclasses
import json
import time
import typing as t

from .._conda.errors import CondaError
from .._conda.files import write_file

_VERSION = 1
_STEP_SECONDS = 3600.0  # less is the work of those who keep clocks right


@dataclasses.dataclass(frozen=True)
class Clock:
    """What time it is, and what tells whether somebody has set the clock."""

    now: float
    boot: str  #: which start of the machine this is
    uptime: float  #: seconds since then, which nobody can set

    @classmethod
    def read(cls) -> Clock:
        """The clocks of this node."""
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
            boot = stream.read().strip()
        return cls(time.time(), boot, time.clock_gettime(time.CLOCK_BOOTTIME))

    def was_set(self, before: Clock) -> bool:
        """Was the clock set since it was read *before*? That it went forward while the machine was off is not seen."""
        passed = self.now - before.now
        if self.boot == before.boot:
            return abs(passed - (self.uptime - before.uptime)) > _STEP_SECONDS
        return passed < -_STEP_SECONDS


@dataclasses.dataclass
class Mark:
    """That the owner of an environment was warned, or has it back."""

    number: int  #: the inode, for there may be another one at its path by now
    at: float


@dataclasses.dataclass
class Moved:
    """An environment that was set aside."""

    path: str  #: where it belongs
    number: int
    uid: int
    at: float


@dataclasses.dataclass
class Journal:
    """All of it. Paths are the keys: for what was moved, where it is now."""

    clock: Clock | None = None
    warned: dict[str, Mark] = dataclasses.field(default_factory=dict)
    returned: dict[str, Mark] = dataclasses.field(default_factory=dict)
    moved: dict[str, Moved] = dataclasses.field(default_factory=dict)

    @classmethod
    def load(cls, path: str) -> Journal:
        """What is in *path*, or an empty one where nothing is.

        :raises CondaError: it cannot be read.
        """
        try:
            with open(path, encoding="utf-8") as stream:
                content = json.load(stream)
            if content["version"] != _VERSION:
                raise ValueError(f"has version {content['version']}")
            return cls(
                Clock(**content["clock"]) if content["clock"] else None,
                {key: Mark(**value) for key, value in content["warned"].items()},
                {key: Mark(**value) for key, value in content["returned"].items()},
                {key: Moved(**value) for key, value in content["moved"].items()},
            )
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CondaError(
                f"{path} cannot be read ({error}): move it away, and what was set aside waits its time again"
            ) from error

    def save(self, path: str) -> None:
        """Write all of it to *path*, whole or not at all.

        :raises CondaError: it cannot be written, and is as it was.
        """
        content: dict[str, t.Any] = {"version": _VERSION, **dataclasses.asdict(self)}
        try:
            write_file(path, json.dumps(content, indent=1, sort_keys=True) + "\n", 0o600)
        except OSError as error:
            raise CondaError(
                f"{path} cannot be written: {error.strerror}: nothing is done that it does not say"
            ) from error

    def date_anew(self, now: float) -> None:
        """Let every wait begin again: the clock was set, so nobody knows how much of it is over."""
        for mark in (*self.warned.values(), *self.returned.values()):
            mark.at = now
        for moved in self.moved.values():
            moved.at = now
