"""Read the nodes from an Ansible inventory, and write beside it what the lab knows about them."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lab import mirror
from lab.paths import Cache, LabError, write_text

_FILE_NAMES = ("hosts.yml", "hosts.yaml", "hosts.ini", "hosts")
_HEADER = "# Written by `python -m lab up`; do not edit, do not commit: it names places on this machine.\n"


@dataclass(frozen=True)
class Node:
    """A host that the lab keeps a container for."""

    name: str
    port: int
    """Where its SSH server is published on 127.0.0.1."""
    volumes: tuple[tuple[str, str], ...] = ()
    """Directories that it shares with others: the name of each, and where it is on the node."""
    pci: str = ""
    """The list of PCI devices that it sees instead of those of this machine, if any."""
    image: str = "node"
    """What it is made of: containers/IMAGE.Containerfile."""

    @property
    def container(self) -> str:
        return f"envfleet-{self.name}"


@dataclass(frozen=True)
class Inventory:
    source: Path
    """The file (or directory) that Ansible reads."""
    nodes: tuple[Node, ...]

    @property
    def directory(self) -> Path:
        return self.source if self.source.is_dir() else self.source.parent


def read_inventory(path: Path) -> Inventory:
    """The inventory at `path`, a file or a directory with a hosts file."""
    if not path.exists():
        raise LabError(f"no such inventory: {path}")
    source = path.resolve()
    if source.is_dir():
        # Ansible would read every other file in the directory as an inventory too, specs and locks included.
        source = next((source / name for name in _FILE_NAMES if (source / name).is_file()), source)
    command = Path(sys.executable).with_name("ansible-inventory")
    found = str(command) if command.exists() else shutil.which("ansible-inventory")
    if found is None:
        raise LabError("ansible-inventory is not installed beside this Python: install ansible-core")
    done = subprocess.run(
        [found, "-i", str(source), "--list"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode:
        raise LabError(f"ansible-inventory cannot read {source}: {' | '.join(done.stderr.strip().splitlines()[-3:])}")
    nodes = lab_nodes(json.loads(done.stdout))
    if not nodes:
        raise LabError(f"{source} has no host with `ansible_host: 127.0.0.1` and an `ansible_port`: add one per node")
    return Inventory(source, nodes)


def lab_nodes(listing: Mapping[str, Any]) -> tuple[Node, ...]:
    """The hosts of `ansible-inventory --list` that are reached through a port of this machine."""
    nodes: dict[int, Node] = {}
    for name, variables in sorted(listing.get("_meta", {}).get("hostvars", {}).items()):
        if variables.get("ansible_host") != "127.0.0.1" or "ansible_port" not in variables:
            continue
        try:
            port = int(variables["ansible_port"])
        except ValueError:
            raise LabError(f"host {name}: ansible_port is {variables['ansible_port']!r}, which is no number") from None
        if port in nodes:
            raise LabError(f"hosts {nodes[port].name} and {name} have the same ansible_port {port}: give each its own")
        volumes = tuple(sorted(variables.get("lab_volumes", {}).items()))
        nodes[port] = Node(name, port, volumes, variables.get("lab_pci", ""), variables.get("lab_image", "node"))
    return tuple(sorted(nodes.values(), key=lambda node: node.name))


def lab_variables(
    cache: Cache, channel: mirror.Channel | None, installers: Sequence[mirror.Installer]
) -> dict[str, Any]:
    """What a playbook needs to know about the lab, as Ansible variables."""
    variables: dict[str, Any] = {
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(cache.ssh_key),
        "ansible_ssh_common_args": shlex.join(ssh_options(cache)),
        "ansible_python_interpreter": "/usr/bin/python3",
        "lab_ssh_key": str(cache.ssh_key),
        "lab_ssh_known_hosts": str(cache.known_hosts),
        "lab_www": str(cache.www),
        "lab_mirror_url": mirror.URL,
        "lab_mirror_host_url": mirror.host_url(),
    }
    if channel is not None:
        variables |= {"lab_python": channel.python, "gpu_cluster_channels": [mirror.CHANNEL_URL]}
    if installers:
        served = [
            {"version": one.version, "url": f"{mirror.URL}/installers/{one.file.name}", "sha256": one.sha256}
            for one in installers
        ]
        oldest = served[0]
        variables |= {
            "miniconda_version": oldest["version"],
            "miniconda_installer_url": oldest["url"],
            "miniconda_installer_sha256": oldest["sha256"],
            "lab_installers": served,
        }
    return variables


def ssh_options(cache: Cache) -> list[str]:
    """Options of ssh that make it trust the nodes' recorded host keys, and those alone."""
    return [
        "-o",
        f"UserKnownHostsFile={cache.known_hosts}",
        "-o",
        "StrictHostKeyChecking=yes",
        "-o",
        "IdentitiesOnly=yes",
    ]


def write_lab_variables(inventory: Inventory, variables: Mapping[str, Any]) -> Path:
    """Write group_vars/all/lab.yml beside the inventory."""
    path = inventory.directory / "group_vars" / "all" / "lab.yml"
    write_text(path, _HEADER + "---\n" + yaml.safe_dump(dict(variables), sort_keys=False, width=1000))
    return path
