"""Which nodes are given back after their driver was changed, and which are not."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.filter.driver_problems import driver_problems

NEW, OLD = "580.95.05", "535.309.01"


def node(loaded: str = NEW, reboot: str = "", count: int = 8) -> dict[str, Any]:
    return {"gpu": {"present": bool(count), "count": count, "module": {"loaded": loaded}, "reboot_needed": reboot}}


def finding(severity: str) -> dict[str, str]:
    return {
        "component": "driver",
        "subject": "fabric manager",
        "expected": NEW,
        "actual": OLD,
        "severity": severity,
        "fix": "auto",
    }


@pytest.mark.parametrize(
    ("look", "findings", "problem"),
    [
        (node(), [], ""),
        (node(), [finding("warning")], ""),
        (node(), [finding("error")], f"driver: fabric manager: {OLD} (expected {NEW})"),
        (node(loaded=OLD, reboot="The loaded module is old."), [], "must be started anew: The loaded module is old."),
        (node(loaded=""), [], "has not loaded"),
        (node(count=7), [], "shows 7 GPUs, and should show 8"),
        (node(loaded="", count=0), [], "shows 0 GPUs"),
    ],
)
def test_only_a_whole_node_is_given_back(look: dict[str, Any], findings: list[dict[str, str]], problem: str) -> None:
    problems = driver_problems(look, findings, 8)
    assert len(problems) == bool(problem)
    assert problem in "".join(problems)
