"""Nodes in the states that the tests begin with."""

from __future__ import annotations

import pytest

from acceptance import cluster


@pytest.fixture
def empty_node() -> None:
    """A node as a machine comes out of the installer."""
    cluster.lab("up", "--fresh", "--inventory", str(cluster.INVENTORY))


@pytest.fixture(scope="module")
def converged_node() -> None:
    """A node that is as its inventory says."""
    cluster.lab("up", "--inventory", str(cluster.INVENTORY))
    code, output = cluster.playbook("site")
    assert code == 0, output
