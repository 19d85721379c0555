# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""Take a node out of work and give it back, without ever touching what somebody else has done to it.

A drain is ours when its reason begins with our mark. The mark is in Slurm and nowhere else, so a run that was killed
leaves all that the next one must know.
"""

from __future__ import annotations

import dataclasses
import time
import typing as t

from .controller import Controller, Job, Node, SlurmError, Unreachable, check_name


@dataclasses.dataclass(frozen=True)
class Wish:
    """What a node should be."""

    name: str
    state: str  #: drained or resumed; empty: as it is
    mark: str
    reason: str = ""
    timeout_seconds: float = 0
    poll_seconds: float = 5

    def __post_init__(self) -> None:
        check_name(self.name)
        for option, value in {"mark": self.mark, "reason": self.reason}.items():
            if not value.isprintable() or value != value.strip():
                raise SlurmError(f"{option}: {value!r} must be one line without blanks around it")
        if not self.mark or ":" in self.mark:
            raise SlurmError(f"mark: {self.mark!r} must be a word or two without a colon")

    @property
    def full_reason(self) -> str:
        """The reason as people see it in sinfo."""
        return f"{self.mark}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class Step:
    """What has to be done next."""

    action: str  #: drain, resume, wait: the node does not answer just now, or nothing
    left: str = ""  #: why the node is left as it is, where somebody else is at it


@dataclasses.dataclass
class Outcome:
    """How a node is now, or would be after a real run."""

    node: Node
    jobs: list[Job]
    before: str
    actions: list[str] = dataclasses.field(default_factory=list)
    left: str = ""

    def after(self, wish: Wish) -> str:
        """The node's state and reason as the actions make them, for a diff."""
        return f"DRAIN: {wish.full_reason}\n" if wish.state == "drained" else "in work\n"


def decide(node: Node, wish: Wish) -> Step:
    """The next step for a node. Raises SlurmError when it cannot be drained."""
    if not wish.state:
        return Step("nothing")
    if node.has(wish.mark):
        if wish.state == "drained":
            return Step("nothing")
        return Step("wait" if node.is_silent else "resume")
    if node.is_drained:
        return Step("nothing", f"{node.name} is {node.text()}, which is not ours")
    if wish.state == "resumed":
        return Step("nothing", f"{node.name} is {node.text()}, which is not ours" if node.unusable else "")
    if node.unusable:
        raise SlurmError(f"{node.name} is {node.text()}: it cannot be drained; mend or drain it by hand first")
    return Step("wait" if node.is_silent else "drain")


def converge(controller: Controller, wish: Wish, check_mode: bool = False) -> Outcome:
    """Make the node what it should be, and wait for that as long as the wish says.

    Jobs that are left at the deadline are in the outcome and no error. Raises SlurmError for everything that a person
    must look at.
    """
    deadline = time.monotonic() + wish.timeout_seconds
    node = controller.node(wish.name)
    step = decide(node, wish)
    while step.action == "wait" and not check_mode:
        if time.monotonic() >= deadline:
            raise SlurmError(
                f"{node.name} is {node.text()}: its slurmd has not answered for {wish.timeout_seconds:g} s (timeout)"
            )
        time.sleep(wish.poll_seconds)
        node = _patiently(lambda: controller.node(wish.name), deadline, wish)
        step = decide(node, wish)
    outcome = Outcome(node, controller.jobs(wish.name), f"{node.text()}\n", left=step.left)
    if step.action in ("drain", "resume"):
        text = f"drain {node.name} ({wish.full_reason})" if step.action == "drain" else f"resume {node.name}"
        outcome.actions.append(text)
    if check_mode or step.left:
        return outcome
    if step.action == "drain":
        controller.drain(wish.name, wish.full_reason)
        outcome.node = controller.node(wish.name)
    if step.action == "resume":
        controller.resume(wish.name)
        outcome.node = controller.node(wish.name)
        if outcome.node.has(wish.mark):
            raise SlurmError(f"{node.name} is {outcome.node.text()} although it was resumed: see slurmctld's log")
    if wish.state == "drained":
        _wait_for_jobs(controller, wish, outcome, deadline)
    return outcome


def _wait_for_jobs(controller: Controller, wish: Wish, outcome: Outcome, deadline: float) -> None:
    """Wait until no job has a part of the node."""
    while True:
        outcome.jobs = _patiently(lambda: controller.jobs(wish.name), deadline, wish)
        outcome.node = _patiently(lambda: controller.node(wish.name), deadline, wish)
        if not outcome.node.has(wish.mark):
            raise SlurmError(f"{wish.name} is {outcome.node.text()}: somebody has taken it while its jobs were awaited")
        if not outcome.jobs or time.monotonic() >= deadline:
            return
        time.sleep(wish.poll_seconds)


_T = t.TypeVar("_T")


def _patiently(ask: t.Callable[[], _T], deadline: float, wish: Wish) -> _T:
    """What *ask* returns. A controller that starts again meanwhile is given the time that is left."""
    while True:
        try:
            return ask()
        except Unreachable:
            if time.monotonic() >= deadline:
                raise
            time.sleep(wish.poll_seconds)
