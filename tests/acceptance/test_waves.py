"""A rollout in waves: the first node that a change does not suit stops it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from acceptance import cluster

HOSTS = "waves.yml"
NODES = ("wave-1", "wave-2", "wave-3")
ONE_BY_ONE = ("--extra-vars", '{"gpu_cluster_serial": [1, "100%"]}')
UPGRADE = {
    "name": "tools",
    "lock": "envs/tools/conda-lock-next.yml",
    "smoke_test": ["sh", "-c", "echo no GPU for six >&2; test -e /tmp/suits"],
}
TO_NEXT = ("--extra-vars", json.dumps({"conda_envs_shared": [UPGRADE]}))


@pytest.fixture(scope="module")
def nodes() -> Iterator[None]:
    """Three nodes."""
    cluster.lab("up", "--inventory", str(cluster.INVENTORY / HOSTS))
    yield
    cluster.lab("down", "--inventory", str(cluster.INVENTORY / HOSTS))


@pytest.fixture
def fleet(nodes: None) -> None:
    """The nodes as their inventory says, and none that the upgrade suits."""
    code, output = cluster.playbook("site", hosts=HOSTS)
    assert code == 0, output
    for node in NODES:
        cluster.on_node("rm -f /tmp/suits", node=node)


def live(node: str) -> str:
    """The generation that people of *node* get."""
    return cluster.on_node("readlink -e /opt/envfleet/envs/tools", node=node).stdout.strip()


@pytest.mark.usefixtures("fleet")
def test_the_first_node_that_fails_stops_the_rollout() -> None:
    old = live("wave-1")
    for node in NODES[1:]:
        cluster.on_node("touch /tmp/suits", node=node)

    code, output = cluster.playbook("site", *ONE_BY_ONE, *TO_NEXT, hosts=HOSTS)
    assert code != 0
    assert "conda_envs_shared: tools: the smoke test failed with 1" in output
    assert "no GPU for six" in output
    assert re.search(r"^wave-1 .* failed=1 ", output, re.MULTILINE), output
    assert not re.search(r"^wave-[23] ", output, re.MULTILINE), output
    assert {live(node) for node in NODES} == {old}
    # Nobody is kept from work: what is on the nodes is what was there before.
    cluster.on_node("ls /opt/envfleet/generations/tools | wc -l | grep -qx 1", node="wave-1")

    cluster.on_node("touch /tmp/suits", node="wave-1")
    code, output = cluster.playbook("site", *ONE_BY_ONE, *TO_NEXT, hosts=HOSTS)
    assert code == 0, output
    (new,) = {live(node) for node in NODES}
    assert new != old
    assert output.index("wave-1]") < output.index("wave-2]")


@pytest.mark.usefixtures("fleet")
def test_without_waves_a_node_that_fails_holds_up_no_other() -> None:
    cluster.on_node("touch /tmp/suits", node="wave-2")
    code, output = cluster.playbook("site", *TO_NEXT, hosts=HOSTS)
    assert code != 0
    assert live("wave-1") == live("wave-3") != live("wave-2"), output
