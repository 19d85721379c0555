"""Reading nodes from an inventory, and the variables written beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.inventory import Node, lab_nodes, lab_variables, read_inventory, write_lab_variables
from lab.paths import Cache, LabError

HOSTS = """\
gpu_nodes:
  hosts:
    n2: {ansible_host: 127.0.0.1, ansible_port: 2302}
    n1: {ansible_host: 127.0.0.1, ansible_port: "2301"}
    real: {ansible_host: gpu7.example}
    portless: {ansible_host: 127.0.0.1}
"""


@dataclass(frozen=True)
class Channel:
    directory: Path
    python: str = "3.10.13"


@dataclass(frozen=True)
class Installer:
    version: str
    file: Path
    sha256: str


def listing(**hosts: dict[str, Any]) -> dict[str, Any]:
    return {"_meta": {"hostvars": hosts}}


def test_inventory_gives_the_hosts_behind_local_ports(tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text(HOSTS)
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "environment.yml").write_text("dependencies: [python]\n")
    for path in (tmp_path, tmp_path / "hosts.yml"):
        inventory = read_inventory(path)
        assert inventory.nodes == (Node("n1", 2301), Node("n2", 2302))
        assert (inventory.source, inventory.directory) == (tmp_path / "hosts.yml", tmp_path)


def test_written_variables_reach_ansible(tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text("all: {hosts: {n1: {ansible_host: 127.0.0.1}}}\n")
    with pytest.raises(LabError, match="ansible_port"):
        read_inventory(tmp_path)
    inventory = read_inventory_with(tmp_path, HOSTS)
    path = write_lab_variables(inventory, {"ansible_port": 2400, "ansible_user": "root"})
    assert path == tmp_path / "group_vars" / "all" / "lab.yml"
    assert path.read_text().startswith("# Written by `python -m lab up`; do not edit")
    # portless has no port of its own, so the written one counts.
    assert Node("portless", 2400) in read_inventory(tmp_path).nodes


def read_inventory_with(directory: Path, hosts: str) -> Any:
    (directory / "hosts.yml").write_text(hosts)
    return read_inventory(directory)


def test_unreadable_inventories_are_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no such inventory"):
        read_inventory(tmp_path / "missing")
    (tmp_path / "hosts.yml").write_text("gpu_nodes: [\n")
    with pytest.raises(LabError, match=r"hosts\.yml"):
        read_inventory(tmp_path)


@pytest.mark.parametrize(
    ("hosts", "message"),
    [
        (
            {
                "a": {"ansible_host": "127.0.0.1", "ansible_port": 1},
                "b": {"ansible_host": "127.0.0.1", "ansible_port": "1"},
            },
            "hosts a and b have the same ansible_port 1",
        ),
        ({"a": {"ansible_host": "127.0.0.1", "ansible_port": "ssh"}}, "host a: ansible_port is 'ssh'"),
    ],
)
def test_wrong_ports_are_named(hosts: dict[str, dict[str, Any]], message: str) -> None:
    with pytest.raises(LabError, match=message):
        lab_nodes(listing(**hosts))


def test_variables_offer_the_oldest_installer_and_list_all(tmp_path: Path) -> None:
    installers = [Installer("1.0", tmp_path / "Base-1.0.sh", "aa"), Installer("2.0", tmp_path / "Base-2.0.sh", "bb")]
    variables = lab_variables(Cache(tmp_path), Channel(tmp_path), installers)
    assert variables["miniconda_version"] == "1.0"
    assert variables["miniconda_installer_url"] == "http://envfleet-lab-mirror:8080/installers/Base-1.0.sh"
    assert variables["miniconda_installer_sha256"] == "aa"
    assert [one["version"] for one in variables["lab_installers"]] == ["1.0", "2.0"]
    assert variables["gpu_cluster_channels"] == ["http://envfleet-lab-mirror:8080/lab"]
    assert variables["lab_python"] == "3.10.13"
    assert yaml.safe_load(yaml.safe_dump(variables)) == variables


def test_host_keys_are_checked_against_the_labs_own_file(tmp_path: Path) -> None:
    arguments = lab_variables(Cache(tmp_path), None, [])["ansible_ssh_common_args"]
    assert f"UserKnownHostsFile={tmp_path}/ssh/known_hosts" in arguments
    assert "StrictHostKeyChecking=yes" in arguments
