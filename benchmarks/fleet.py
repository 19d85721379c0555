"""What a run costs that has nothing to do, beside `ansible -m ping` on the same nodes, over ssh.

The lab's demo nodes must be as they should be (`make site`). Several names of the inventory lead to one of them, each
over a connection of its own. Counted is the CPU time of everything: Ansible and ssh here, sshd and Python on the nodes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from measuring import PING, ROOT, ansible, compared, processes, run, spent_by, spent_here, spent_in_container, told

from lab.inventory import read_inventory
from lab.paths import lab_cache
from lab.podman import Podman

WAYS = {
    "ansible -m ping": ("ansible", *PING),
    "check.yml": ("ansible-playbook", "playbooks/check.yml"),
    "site.yml": ("ansible-playbook", "playbooks/site.yml"),
    "the usual way": ("ansible-playbook", "benchmarks/usual_way.yml"),
}
SETTINGS: dict[str, dict[str, str]] = {
    "as ansible.cfg has it": {},
    "without pipelining": {"ANSIBLE_PIPELINING": "False"},
    "a new connection for each run": {"ANSIBLE_SSH_ARGS": "-o ControlPath=none"},
    "5 forks": {"ANSIBLE_FORKS": "5"},
    "strategy free": {"ANSIBLE_STRATEGY": "ansible.builtin.free"},
    "strategy host_pinned": {"ANSIBLE_STRATEGY": "ansible.builtin.host_pinned"},
}
"""What is tried with check.yml, by the environment of Ansible. Mitogen is one more where ANSIBLE_STRATEGY_PLUGINS leads
to it."""
if "ANSIBLE_STRATEGY_PLUGINS" in os.environ:
    SETTINGS["strategy mitogen_linear"] = {"ANSIBLE_STRATEGY": "mitogen_linear"}


class Fleet:
    """Names that lead to the demo's nodes."""

    def __init__(self, scratch: Path, demo: Path, size: int) -> None:
        found = read_inventory(demo)
        self._sockets = scratch / f"cp{size}"
        self._sockets.mkdir()
        self.inventory = scratch / f"fleet{size}" / "hosts.json"
        self.inventory.parent.mkdir()
        for name in ("group_vars", "envs"):
            (self.inventory.parent / name).symlink_to(found.directory.resolve() / name)
        ports = [node.port for node in found.nodes]
        hosts = {
            f"node-{number}": {"ansible_host": "127.0.0.1", "ansible_port": ports[number % len(ports)]}
            for number in range(size)
        }
        variables = {"ansible_control_path": f"{self._sockets}/{{{{ inventory_hostname }}}}"}
        self.inventory.write_text(json.dumps({"gpu_nodes": {"vars": variables, "hosts": hosts}}))
        podman = Podman(lab_cache())
        first = ["inspect", "--format", "{{.State.Pid}}", *(node.container for node in found.nodes)]
        self._containers = [int(pid) for pid in podman.run(*first).split()]

    def cost(self, way: str, setting: str = "as ansible.cfg has it") -> float:
        """CPU seconds of one run."""
        before = self._spent()
        program, *arguments = WAYS[way]
        run(ansible(program, self.inventory, *arguments), SETTINGS[setting])
        return self._spent() - before

    def ways(self) -> dict[str, Callable[[], float]]:
        """All of them."""
        return {way: partial(self.cost, way) for way in WAYS}

    def _spent(self) -> float:
        return spent_here() + spent_by(processes(str(self._sockets))) + sum(map(spent_in_container, self._containers))

    def close(self) -> None:
        """End the connections."""
        for socket in self._sockets.iterdir():
            command = ["ssh", "-o", f"ControlPath={socket}", "-O", "exit", "node"]
            subprocess.run(command, capture_output=True, check=False, timeout=30)


def main() -> None:
    """Print all comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inventory", type=Path, default=ROOT / "inventory/demo/hosts.yml", help="the lab's nodes")
    parser.add_argument("--sizes", type=int, nargs=2, default=[4, 24], help="how many names")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="envfleet-bench-") as directory:
        medians: dict[int, dict[str, float]] = {}
        for size in options.sizes:
            fleet = Fleet(Path(directory), options.inventory, size)
            found = compared(fleet.ways(), options.rounds)
            medians[size] = {way: statistics.median(costs) for way, costs in found.items()}
            print(f"\nCPU time on {size} nodes, with nothing to do")
            base = found["ansible -m ping"]
            for way, costs in found.items():
                print(f"  {way + ' / ansible -m ping':<40} {told(costs, base)}", flush=True)
            if size == options.sizes[0]:
                count(fleet)
                print("\nCPU time of check.yml with other settings")
                tried = compared({name: partial(fleet.cost, "check.yml", name) for name in SETTINGS}, options.rounds)
                for name, costs in tried.items():
                    print(f"  {name:<40} {told(costs, tried['as ansible.cfg has it'])}", flush=True)
            fleet.close()
        small, large = options.sizes
        print(f"\nCPU time of one more node (from {small} to {large})")
        more = {way: medians[large][way] - medians[small][way] for way in WAYS}
        for way, cost in more.items():
            print(f"  {way + ' / ansible -m ping':<40} {cost / more['ansible -m ping']:6.2f}")


def count(fleet: Fleet) -> None:
    """Print how often each way goes to a node, and what it skips there."""
    print("\nOn each node")
    for way, (program, *arguments) in WAYS.items():
        output = run(ansible(program, fleet.inventory, *arguments, "--limit", "node-0", "-vvv"))
        skipped = sum(int(number) for number in re.findall(r"^node-0 .* skipped=(\d+)", output, re.MULTILINE))
        print(f"  {way:<40} {output.count('SSH: EXEC'):3} remote executions, {skipped} items skipped", flush=True)


if __name__ == "__main__":
    main()
