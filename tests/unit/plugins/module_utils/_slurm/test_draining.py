"""What is done to a node, against a Slurm that plays recorded answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._slurm.controller import (
    Controller,
    Node,
    SlurmError,
)
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._slurm.draining import Step, Wish, converge, decide

RECORDED = Path(__file__).parent / "recorded" / "22.05.8"
JOB = "7|alice|RUNNING\n"


@dataclass
class Played:
    """A Slurm that answers with recordings: the last state and the last list of jobs stay for good."""

    states: list[str]
    jobs: list[str] = field(default_factory=lambda: [""])
    updates: list[list[str]] = field(default_factory=list)

    def __call__(self, command: list[str]) -> tuple[int, str, str]:
        if command[:2] == ["scontrol", "update"]:
            self.updates.append(command[2:])
            return 0, "", ""
        answers = self.jobs if command[0] == "squeue" else self.states
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer == "silence":
            return 1, "", "slurm_load_node error: Unable to contact slurm controller (connect failure)"
        return 0, answer if command[0] == "squeue" else (RECORDED / f"{answer}.txt").read_text(), ""


def wish(state: str, **changes: Any) -> Wish:
    return Wish(
        "rec-1", state, "envfleet", **{"reason": "driver 1", "timeout_seconds": 5, "poll_seconds": 0, **changes}
    )


DRAIN = ["NodeName=rec-1", "State=DRAIN", "Reason=envfleet: driver 1"]
RESUME = ["NodeName=rec-1", "State=RESUME"]
RUN = {
    # name: (wanted, states that Slurm tells one after another, its lists of jobs, updates, jobs left, left as it is)
    "an idle node is drained": ("drained", ["idle", "drained"], [""], [DRAIN], 0, False),
    "jobs are waited for": ("drained", ["allocated", "draining"], [JOB, JOB, JOB, ""], [DRAIN], 0, False),
    "suspended jobs are jobs": ("drained", ["suspended"], ["7|alice|SUSPENDED\n", ""], [], 0, False),
    "ours is not drained again": ("drained", ["drained"], [""], [], 0, False),
    "ours that is down is empty": ("drained", ["silent"], [""], [], 0, False),
    "somebody else's is left": ("drained", ["others"], [""], [], 0, True),
    "a controller that starts again is waited for": (
        "drained",
        ["idle", "draining", "silence", "drained"],
        [JOB, JOB, "silence", ""],
        [DRAIN],
        0,
        False,
    ),
    "ours is resumed": ("resumed", ["drained", "idle"], [""], [RESUME], 0, False),
    "ours is resumed with its slurmd back": ("resumed", ["silent", "silent", "back", "idle"], [""], [RESUME], 0, False),
    "one in work stays there": ("resumed", ["allocated"], [JOB], [], 1, False),
    "somebody else's is not resumed": ("resumed", ["others"], [""], [], 0, True),
    "one that is down is not ours to resume": ("resumed", ["down"], [""], [], 0, True),
    "nothing wanted changes nothing": ("", ["draining"], [JOB], [], 1, False),
}


@pytest.mark.parametrize(("state", "states", "jobs", "updates", "left_jobs", "left"), RUN.values(), ids=RUN.keys())
def test_a_run(
    state: str, states: Sequence[str], jobs: Sequence[str], updates: list[list[str]], left_jobs: int, left: bool
) -> None:
    slurm = Played(list(states), list(jobs))
    outcome = converge(Controller(slurm), wish(state))
    assert slurm.updates == updates
    assert (len(outcome.actions), len(outcome.jobs), bool(outcome.left)) == (len(updates), left_jobs, left)


@pytest.mark.parametrize(
    ("state", "states"), [("drained", ["idle"]), ("resumed", ["drained"]), ("resumed", ["silent"])]
)
def test_check_mode_tells_and_does_nothing(state: str, states: list[str]) -> None:
    slurm = Played(states, [JOB])
    outcome = converge(Controller(slurm), wish(state), check_mode=True)
    assert slurm.updates == []
    assert bool(outcome.actions) is (states != ["silent"])


def test_jobs_that_are_left_at_the_deadline_are_told() -> None:
    slurm = Played(["allocated", "draining"], [JOB])
    outcome = converge(Controller(slurm), wish("drained", timeout_seconds=0.05, poll_seconds=0.01))
    assert [job.as_dict() for job in outcome.jobs] == [{"id": "7", "user": "alice", "state": "RUNNING"}]
    assert outcome.node.has("envfleet")


@pytest.mark.parametrize(
    ("state", "states", "message"),
    [
        ("drained", ["down"], r"rec-1 is DOWN\+NOT_RESPONDING by root: broken: it cannot be drained"),
        ("drained", ["fail"], r"rec-1 is IDLE\+FAIL by root: failing"),
        ("drained", ["draining", "allocated"], "somebody has taken it while its jobs were awaited"),
        ("drained", ["draining", "others"], "somebody has taken it"),
        ("resumed", ["silent"], "its slurmd has not answered for 0.05 s"),
        ("resumed", ["drained"], "although it was resumed"),
        ("", ["silence"], "slurmctld does not answer"),
        ("drained", ["drained", "silence"], "slurmctld does not answer"),
    ],
)
def test_what_a_person_must_look_at(state: str, states: list[str], message: str) -> None:
    slurm = Played(states, [JOB])
    with pytest.raises(SlurmError, match=message):
        converge(Controller(slurm), wish(state, timeout_seconds=0.05, poll_seconds=0.01))


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"name": "rec-[1-2]"}, "name"),
        ({"name": "a,b"}, "name"),
        ({"mark": ""}, "mark"),
        ({"mark": "en:v"}, "mark"),
        ({"reason": "a\nb"}, "reason"),
    ],
)
def test_a_wish_for_more_than_one_node_or_line_is_refused(changes: dict[str, Any], option: str) -> None:
    with pytest.raises(SlurmError, match=f"^{option}: "):
        Wish(**{"name": "rec-1", "state": "drained", "mark": "envfleet", **changes})


def test_a_silent_node_is_waited_for_before_it_is_drained() -> None:
    assert decide(Node("rec-1", ("IDLE", "NOT_RESPONDING")), wish("drained")) == Step("wait")
    assert decide(Node("rec-1", ("IDLE",)), wish("drained")) == Step("drain")
