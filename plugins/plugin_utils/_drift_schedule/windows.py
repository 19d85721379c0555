# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""Maintenance windows. They go by the clock on the wall: when it is put forward or back, one is shorter or longer."""

from __future__ import annotations

import dataclasses
import datetime
import re
import typing as t

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclasses.dataclass(frozen=True)
class Window:
    """From *start* on each of *days* to the next time that it is *end*, both in minutes after midnight."""

    days: frozenset[int]
    start: int
    end: int

    @classmethod
    def of(cls, content: t.Mapping[str, t.Any]) -> Window:
        """From days by name, and times as HH:MM.

        :raises ValueError, KeyError: it is no window.
        """
        if unknown := sorted(set(content) - {"days", "start", "end"}):
            raise ValueError(f"a window has no {', '.join(unknown)}")
        days = frozenset(DAYS.index(day) for day in content.get("days", DAYS))
        if not days:
            raise ValueError("a window needs days")
        return cls(days, _minutes(content["start"]), _minutes(content["end"]))

    def holds(self, moment: datetime.datetime) -> bool:
        """Whether *moment*, in local time, is in it. The start is, the end is not."""
        day, now = moment.weekday(), moment.hour * 60 + moment.minute
        if self.start < self.end:
            return day in self.days and self.start <= now < self.end
        return (day in self.days and now >= self.start) or ((day - 1) % 7 in self.days and now < self.end)


def allowed(windows: t.Sequence[Window], moment: datetime.datetime) -> bool:
    """Whether nodes may be changed at *moment*, in local time."""
    return not windows or any(window.holds(moment) for window in windows)


def _minutes(text: t.Any) -> int:
    found = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)", str(text))
    if not found:
        raise ValueError(f"{text!r} is no time of day: write it as 22:00, in quotes")
    return int(found[1]) * 60 + int(found[2])
