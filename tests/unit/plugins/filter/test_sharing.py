"""Which node installs for all, and what is known of the others."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.filter.sharing import generations_in_use, installing_host

SHARED, OTHER = "/shared/generations", "/scratch/generations"
OLD, NEW = f"{SHARED}/ml/0", f"{SHARED}/ml/1"


def looked(in_use: list[str] | None, place: str = SHARED, register: str = "gpu_cluster_look") -> dict[str, Any]:
    """The variables of a host after its look."""
    return {register: {"changed": False, "node": {"usage": {"generations_dir": place, "in_use": in_use}}}}


def test_the_first_host_that_was_seen_installs_for_those_that_share_with_it() -> None:
    hostvars = {
        "silent": {"gpu_cluster_look": {"unreachable": True}},
        "alone": looked(None),
        "a": looked([], register="__conda_envs_look"),
        "x": looked([], OTHER),
        "b": looked([]),
        "y": looked([], OTHER),
    }
    hosts = list(hostvars)
    installers = {host: installing_host(hostvars, host, hosts) for host in ("a", "b", "x", "y")}
    assert installers == {"a": "a", "b": "a", "x": "x", "y": "x"}
    # A host that has failed is in the batch no longer.
    assert installing_host(hostvars, "b", ["x", "b", "y"]) == "b"
    assert installing_host({"a": {}, "b": {}}, "b", ["a", "b"]) == "b"


@pytest.mark.parametrize(
    ("changes", "limit", "expected"),
    [
        ({}, "", [OLD, NEW]),
        ({}, "a,b", None),
        ({"b": {}}, "", None),  # a later wave
        ({"b": looked(None)}, "", None),  # a look that asked for less
        ({"b": {"gpu_cluster_look": {"unreachable": True}}}, "", None),
        ({"b": {"gpu_cluster_look": {"node": {}}}}, "", None),
        ({"elsewhere": {"conda_envs_install_once": True}}, "", None),  # not in this play
        ({"elsewhere": {"conda_envs_install_once": "yes"}}, "", None),
        ({"elsewhere": {"conda_envs_install_once": True, **looked([])}}, "", [OLD, NEW]),
    ],
)
def test_what_is_in_use_is_only_known_when_all_have_told(
    changes: dict[str, Any], limit: str, expected: list[str] | None
) -> None:
    hostvars = {"a": looked([NEW]), "b": looked([OLD, NEW]), "elsewhere": {}, **changes}
    assert generations_in_use(hostvars, ["a", "b"], list(hostvars), limit) == expected
