"""Environments on a file system that two nodes share: one installs, both have them, and what a job uses stays."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from acceptance import cluster

HOSTS = "shared.yml"
NODES = ("shared-1", "shared-2")


@pytest.fixture(scope="module", autouse=True)
def nodes() -> Iterator[None]:
    """Two nodes with a base each and nothing in what they share."""
    cluster.lab("up", "--inventory", str(cluster.INVENTORY / HOSTS))
    cluster.on_node("rm -rf /shared/* /shared/.[!.]*", node=NODES[0])
    yield
    cluster.lab("down", "--inventory", str(cluster.INVENTORY / HOSTS))


def site(*arguments: str) -> str:
    """A run that must succeed, and what it printed."""
    code, output = cluster.playbook("site", *arguments, hosts=HOSTS)
    assert code == 0, output
    return output


def version(number: int) -> tuple[str, str]:
    """What makes another generation of the same packages, and keeps no old one that need not stay."""
    tools = {"name": "tools", "lock": "envs/tools/conda-lock.yml", "variables": {"RELEASE": number}}
    return "--extra-vars", json.dumps({"conda_envs_shared": [{**tools, "keep_generations": 1}]})


def live() -> str:
    """The generation that people get, which must be the same on both nodes."""
    seen = {cluster.on_node("readlink -e /shared/envs/tools", node=node).stdout.strip() for node in NODES}
    assert len(seen) == 1
    for node in NODES:
        cluster.on_node("/shared/envs/tools/bin/python -c 'import requests, six'", node=node, user="alice")
    return seen.pop()


def generations() -> set[str]:
    """All that there are."""
    return set(cluster.on_node("ls -d /shared/generations/tools/*", node=NODES[1]).stdout.split())


def test_two_control_nodes_at_once_install_once() -> None:
    runs = [cluster.start_playbook("site", hosts=HOSTS) for _number in range(2)]
    outputs = [run.communicate(timeout=600)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    assert generations() == {live()}
    assert cluster.on_node("find /shared -name '.*.building' -o -name '.*.new'", node=NODES[0]).stdout == ""
    assert re.findall(r"changed=(\d+)", site()) == ["0", "0"]
    assert cluster.drift(hosts=HOSTS) == {node: [] for node in NODES}


def test_a_job_on_another_node_keeps_its_generation() -> None:
    site(*version(1))
    first = live()
    job = "systemd-run --quiet --unit=job --uid=alice /shared/envs/tools/bin/python -c 'import time; time.sleep(3600)'"
    cluster.on_node(job, node=NODES[1])
    output = site(*version(2))
    # One of them has installed, and the other had nothing to change.
    assert sorted(re.findall(r"^shared-\d .*changed=(\d+)", output, re.MULTILINE)) == ["0", "1"], output
    site(*version(3))
    assert first in generations()
    cluster.on_node("systemctl is-active --quiet job", node=NODES[1])
    cluster.on_node("systemctl stop job", node=NODES[1])
    # A run that does not look at all nodes knows too little, even where the job has ended.
    site(*version(4), "--limit", NODES[0])
    assert first in generations()
    before = live()
    site(*version(5))
    assert generations() == {before, live()}

    code, output = cluster.playbook("rollback", "--extra-vars", "conda_envs_rollback_name=tools", hosts=HOSTS)
    assert code == 0, output
    assert live() == before  # and not back again, for the second node
