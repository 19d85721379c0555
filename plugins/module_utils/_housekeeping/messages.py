# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What owners are told: at each login, from a file that only they can read, and once by the site's own command."""

from __future__ import annotations

import contextlib
import os
import time
import typing as t

from .._conda.errors import CondaError
from .._conda.files import write_file
from .._conda.processes import run
from . import text
from .policy import DAY, Policy

if t.TYPE_CHECKING:
    from .cleaning import Item
    from .journal import Journal

_COMMAND_SECONDS = 60


def deliver(
    state_dir: str,
    items: t.Sequence[Item],
    new: t.Sequence[Item],
    journal: Journal,
    policy: Policy,
    command: t.Sequence[str],
) -> list[str]:
    """Write the message of each owner, remove those that are out of date, and say what could not be done.

    :param new: what the owners were not told of before: they also get it by *command*.
    """
    directory = os.path.join(state_dir, "messages")
    os.makedirs(directory, mode=0o755, exist_ok=True)
    problems = []
    told: dict[int, list[Item]] = {}
    for item in items:
        if item.place in journal.moved or item.path in journal.warned:
            told.setdefault(item.account.uid, []).append(item)
    for uid, those in told.items():
        content = message(those, journal, policy)
        path = os.path.join(directory, str(uid))
        try:
            if _content(path) != content:
                write_file(path, content, 0o400)
                os.chown(path, uid, -1)
        except OSError as error:
            problems.append(f"{path} cannot be written: {error.strerror}")
        if command and any(item.account.uid == uid for item in new):
            try:
                done = run([*command, those[0].account.name], stdin=content, timeout_seconds=_COMMAND_SECONDS)
                if done.returncode:
                    problems.append(f"env_housekeeping_notify_command: exit code {done.returncode}: {done.tail(200)}")
            except CondaError as error:
                problems.append(f"env_housekeeping_notify_command: {error}")
    for name in os.listdir(directory):
        if not name.isdigit() or int(name) not in told:
            os.unlink(os.path.join(directory, name))
    return problems


def message(items: t.Iterable[Item], journal: Journal, policy: Policy) -> str:
    """What one owner is told."""
    lines = []
    for item in sorted(items, key=lambda item: item.path):
        moved, warned = journal.moved.get(item.place), journal.warned.get(item.path)
        path, size = text.shell(item.path), text.size(item.facts.bytes)
        if moved and item.is_whole:
            lines += [
                f"The conda environment {path} ({size}) was set aside, since nobody has used it for long.",
                f"It is removed after {_day(moved.at + policy.grace_days * DAY)}. To have it back:",
                f"    mv -T -- {text.shell(item.place)} {path}",
            ]
        elif warned:
            lines += [
                f"The conda environment {path} ({size}) has not been used for long.",
                f"It is set aside after {_day(warned.at + policy.notice_days * DAY)}. To keep it, use it, or:",
                f"    touch -- {text.shell(os.path.join(item.path, '.keep'))}",
            ]
    return "".join(f"{line}\n" for line in lines)


def _content(path: str) -> str | None:
    with contextlib.suppress(OSError), open(path, encoding="utf-8") as stream:
        return stream.read()
    return None


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))
