# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""Slurm's controller, asked through scontrol and squeue, and their output as values.

The output for people is read, not `--json`: Debian's Slurm 22.05 is built without it, and where it is there, each
version spells states in another way.
"""

from __future__ import annotations

import dataclasses
import re
import typing as t

#: Runs a command and returns its exit code, output and error output.
Run = t.Callable[[list[str]], "tuple[int, str, str]"]

#: States of jobs that have, or still have, a part of a node. A node with nothing but suspended jobs is IDLE to Slurm,
#: although they lie in its memory and in that of its GPUs.
_JOB_STATES = "RUNNING,SUSPENDED,COMPLETING,CONFIGURING,STOPPED,SIGNALING,STAGE_OUT"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_STATE = re.compile(r"^\s*State=(\S+)", re.MULTILINE)
# Behind the first line of a reason stands who set it, and when.
_REASON = re.compile(r"^\s*Reason=(.*?)(?: \[([^\s@\[\]]+)@[^\[\]]*\])?$", re.MULTILINE)
_SYMBOLS = "*~#!%$@^-+"  #: what older versions put behind a state instead of a flag


class SlurmError(Exception):
    """Something a person must mend. The message names the node or the option at fault and the way out."""


class Unreachable(SlurmError):
    """The controller does not answer; it may be starting again."""


@dataclasses.dataclass(frozen=True)
class Node:
    """What the controller says of a node."""

    name: str
    states: tuple[str, ...]  #: the state, and the flags that are set, as DRAIN
    reason: str = ""  #: the first line of it
    reason_by: str = ""  #: the user who gave it

    @property
    def is_drained(self) -> bool:
        """No new job starts on it because somebody said so; jobs may be left."""
        return not {"DRAIN", "DRAINED", "DRAINING"}.isdisjoint(self.states)

    @property
    def is_silent(self) -> bool:
        """Its slurmd has not answered lately, or not yet."""
        return not {"NOT_RESPONDING", "UNKNOWN"}.isdisjoint(self.states)

    @property
    def unusable(self) -> str:
        """The first state in which it can take no job at all, if any."""
        bad = ("DOWN", "ERROR", "FAIL", "FAILING", "FUTURE", "INVAL", "POWER_DOWN", "POWERED_DOWN", "POWERING_DOWN")
        return next((state for state in bad if state in self.states), "")

    def has(self, mark: str) -> bool:
        """Whether it is drained with a reason that begins with *mark*. Slurm may have put something behind it."""
        return self.is_drained and (self.reason == mark or self.reason.startswith(f"{mark}:"))

    def text(self) -> str:
        """For a person: state, reason and whose it is."""
        by = f" by {self.reason_by}" if self.reason_by else ""
        return f"{'+'.join(self.states)}{by}: {self.reason or 'without a reason'}"


@dataclasses.dataclass(frozen=True)
class Job:
    """A job that has a part of a node."""

    id: str
    user: str
    state: str

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return dataclasses.asdict(self)


def check_name(name: str) -> str:
    """*name*, if it is that of one node: scontrol would also take lists and ALL. Raises SlurmError otherwise."""
    if not _NAME.fullmatch(name):
        raise SlurmError(f"name: {name!r} is not the name of one node as Slurm has it")
    return name


def parse_node(text: str, name: str) -> Node:
    """The node of `scontrol show node NAME`. Raises SlurmError when that is no node, or another one."""
    state = _STATE.search(text)
    if not re.match(rf"\s*NodeName={re.escape(name)}\s", text) or not state:
        raise SlurmError(f"name: scontrol does not describe the node {name}: {' '.join(text.split())[:200]!r}")
    states = []
    for part in state[1].split("+"):
        states.append(part.rstrip(_SYMBOLS))
        if "*" in part:
            states.append("NOT_RESPONDING")
    reason = _REASON.search(text)
    return Node(name, tuple(states), reason[1] if reason else "", (reason[2] or "") if reason else "")


def parse_jobs(text: str) -> list[Job]:
    """The jobs of squeue with the format `%i|%u|%T`."""
    return [Job(*line.split("|", 2)) for line in text.splitlines() if line.count("|") == 2]


class Controller:
    """The one that scontrol on this host speaks to."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def node(self, name: str) -> Node:
        """What it says of a node. Raises SlurmError for one that it does not know."""
        return parse_node(self._said(["scontrol", "show", "node", name], name), name)

    def jobs(self, name: str) -> list[Job]:
        """All jobs that have a part of the node, of every user."""
        options = ["--all", "--noheader", f"--nodelist={name}", f"--states={_JOB_STATES}", "--format=%i|%u|%T"]
        return parse_jobs(self._said(["squeue", *options], name))

    def drain(self, name: str, reason: str) -> None:
        """Let no new job start on the node."""
        self._said(["scontrol", "update", f"NodeName={name}", "State=DRAIN", f"Reason={reason}"], name)

    def resume(self, name: str) -> None:
        """Let jobs start on the node again."""
        self._said(["scontrol", "update", f"NodeName={name}", "State=RESUME"], name)

    def _said(self, command: list[str], name: str) -> str:
        code, output, errors = self._run(command)
        said = " ".join((errors.strip() or output.strip()).split())
        if code == 0:
            return output
        if "Unable to contact slurm controller" in said:
            raise Unreachable(f"slurmctld does not answer {command[0]} on this host: {said}; see that it runs")
        if "not found" in said or "Invalid node name" in said:
            raise SlurmError(
                f"name: Slurm knows no node {name}: give the name that sinfo shows, it may not be the host's"
            )
        if "Invalid user id" in said or "denied" in said:
            raise SlurmError(f"{' '.join(command[:2])} is not allowed: {said}; run it as root or as the SlurmUser")
        raise SlurmError(f"{' '.join(command)} failed ({code}): {said or 'without a message'}")
