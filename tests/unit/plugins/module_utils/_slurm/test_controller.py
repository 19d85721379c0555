"""What is read from scontrol and squeue. `recorded` is what Slurm 22.05.8 printed on lab nodes, unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._slurm.controller import (
    Controller,
    Job,
    Node,
    SlurmError,
    Unreachable,
    parse_jobs,
    parse_node,
)

RECORDED = Path(__file__).parent / "recorded" / "22.05.8"
OURS = "envfleet: driver 535.309.01"


def recorded(name: str) -> str:
    return (RECORDED / f"{name}.txt").read_text()


@pytest.mark.parametrize(
    ("name", "states", "reason", "by"),
    [
        ("idle", ("IDLE",), "", ""),
        ("allocated", ("ALLOCATED",), "", ""),
        ("draining", ("ALLOCATED", "DRAIN"), OURS, "root"),
        ("suspended", ("IDLE", "DRAIN"), OURS, "root"),
        ("drained", ("IDLE", "DRAIN"), OURS, "root"),
        # A reason may look like anything, even like a state or like one of ours.
        ("others", ("IDLE", "DRAIN"), "fan 3 [hot] State=IDLE Reason=envfleet: no", "root"),
        ("twolines", ("IDLE", "DRAIN", "NOT_RESPONDING"), "first", "root"),
        ("down", ("DOWN", "NOT_RESPONDING"), "broken", "root"),
        ("fail", ("IDLE", "FAIL"), "failing", "root"),
        # Its slurmd was stopped while it was drained, and came back: the reason is still ours.
        ("silent", ("DOWN", "DRAIN", "NOT_RESPONDING"), OURS, "root"),
        ("back", ("DOWN", "DRAIN"), OURS, "root"),
    ],
)
def test_a_node_as_slurm_tells_it(name: str, states: tuple[str, ...], reason: str, by: str) -> None:
    assert parse_node(recorded(name), "rec-1") == Node("rec-1", states, reason, by)


@pytest.mark.parametrize(
    ("state", "states"),
    [
        ("DOWN*+DRAIN", ("DOWN", "NOT_RESPONDING", "DRAIN")),
        ("IDLE~", ("IDLE",)),
        ("MIXED+DRAIN+REBOOT_REQUESTED", ("MIXED", "DRAIN", "REBOOT_REQUESTED")),
    ],
)
def test_states_as_other_versions_write_them(state: str, states: tuple[str, ...]) -> None:
    text = recorded("idle").replace("State=IDLE ", f"State={state} ")
    assert parse_node(text, "rec-1").states == states


@pytest.mark.parametrize("text", ["", "NodeName=rec-1 \n", recorded("idle").replace("rec-1", "rec-10"), "x State=IDLE"])
def test_what_is_not_that_node_is_refused(text: str) -> None:
    with pytest.raises(SlurmError, match="does not describe the node rec-1"):
        parse_node(text, "rec-1")


@pytest.mark.parametrize(
    ("reason", "ours"),
    [
        (OURS, True),
        ("envfleet", True),
        (f"{OURS} : Not responding", True),
        ("envfleets: fan", False),
        ("fan; envfleet: driver", False),
        ("", False),
    ],
)
def test_the_mark_is_what_a_reason_begins_with(reason: str, ours: bool) -> None:
    assert Node("a", ("IDLE", "DRAIN"), reason).has("envfleet") is ours
    assert not Node("a", ("IDLE",), reason).has("envfleet")


def test_jobs() -> None:
    assert parse_jobs("1|root|SUSPENDED\n12_3|alice|RUNNING\n") == [
        Job("1", "root", "SUSPENDED"),
        Job("12_3", "alice", "RUNNING"),
    ]
    assert parse_jobs("") == []


@pytest.mark.parametrize(
    ("code", "errors", "kind", "message"),
    [
        (1, "Node nosuch not found\n", SlurmError, "Slurm knows no node rec-1"),
        (1, "slurm_update error: Invalid user id\n", SlurmError, "run it as root or as the SlurmUser"),
        (
            1,
            "slurm_load_node error: Unable to contact slurm controller (connect failure)\n",
            Unreachable,
            "slurmctld does not answer scontrol on this host",
        ),
        (2, "", SlurmError, r"failed \(2\): without a message"),
    ],
)
def test_what_slurm_refuses_is_one_clear_error(code: int, errors: str, kind: type[SlurmError], message: str) -> None:
    with pytest.raises(kind, match=message):
        Controller(lambda command: (code, "", errors)).node("rec-1")
