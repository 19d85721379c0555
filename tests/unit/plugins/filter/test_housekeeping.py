"""What all nodes together use of private environments."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.filter.housekeeping import environments_in_use

SHARED = {"env_housekeeping_shared_homes": "true"}


def told(*paths: str) -> dict[str, Any]:
    return {"__env_housekeeping_look": {"in_use": list(paths)}, **SHARED}


def test_what_all_nodes_use_is_joined() -> None:
    hostvars = {"a": told("/x", "/y"), "b": told("/y", "/z"), "other": {}}
    assert environments_in_use(hostvars, ["a", "b"], ["a", "b", "other"]) == ["/x", "/y", "/z"]


@pytest.mark.parametrize("silent", [SHARED, {**SHARED, "__env_housekeeping_look": {"in_use": None}}])
@pytest.mark.parametrize("in_play", [True, False])
def test_a_node_that_has_not_told_may_use_anything(silent: dict[str, Any], in_play: bool) -> None:
    hosts = ["a", "b"] if in_play else ["a"]
    assert environments_in_use({"a": told("/x"), "b": silent}, hosts, ["a", "b"]) is None


def test_nothing_is_known_of_nodes_that_a_limit_keeps_out() -> None:
    assert environments_in_use({"a": told("/x")}, ["a"], ["a"], "a") is None
