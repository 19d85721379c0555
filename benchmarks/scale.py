"""What 10, 100 and 1,000 nodes cost their control node: time, CPU time, and memory of all of Ansible's processes.

The nodes are simulated: each gives the answer that one of the lab's demo nodes has given, after 0.2 s. What is left out
is ssh, whose processes cost the control node as much as with `ansible -m ping`, and all that the nodes do themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from measuring import PING, ROOT, ansible, run, spent_here

from lab.inventory import read_inventory
from lab.paths import lab_cache
from lab.podman import Podman

WAYS = {
    "ansible -m ping": ("ansible", *PING),
    "check.yml": ("ansible-playbook", "playbooks/check.yml"),
    "site.yml": ("ansible-playbook", "playbooks/site.yml"),
}


@dataclass(frozen=True)
class Cost:
    """What one run took."""

    wall: float
    cpu: float
    mib: float


def fleet(place: Path, demo: Path, look: Path, size: int) -> Path:
    """An inventory of *size* simulated nodes."""
    directory = place / f"fleet{size}"
    directory.mkdir()
    for name in ("group_vars", "envs"):
        (directory / name).symlink_to(read_inventory(demo).directory.resolve() / name)
    container = read_inventory(demo).nodes[0].container
    variables = {"ansible_connection": "simulated", "simulated_look": str(look), "simulated_container": container}
    hosts: dict[str, dict[str, str]] = {f"node-{number}": {} for number in range(size)}
    path = directory / "hosts.json"
    path.write_text(json.dumps({"gpu_nodes": {"vars": variables, "hosts": hosts}}))
    return path


def measured(command: list[str], forks: int) -> Cost:
    """What one run takes."""
    environment = {
        **Podman(lab_cache()).environment,
        "ANSIBLE_CONNECTION_PLUGINS": str(ROOT / "benchmarks/connection_plugins"),
        "ANSIBLE_FORKS": str(forks),
    }
    highest, stop = [0.0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.5):
            highest[0] = max(highest[0], memory(os.getpid()))

    thread = threading.Thread(target=watch, daemon=True)
    begin, before = time.perf_counter(), spent_here()
    thread.start()
    run(command, environment)
    stop.set()
    thread.join()
    return Cost(time.perf_counter() - begin, spent_here() - before, highest[0])


def memory(parent: int) -> float:
    """MiB of all processes below *parent*: what several have in common is counted once (PSS)."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            children.setdefault(int(path.read_text().rpartition(")")[2].split()[1]), []).append(int(path.parent.name))
        except OSError:
            continue
    found, waiting = 0, list(children.get(parent, ()))
    while waiting:
        pid = waiting.pop()
        waiting += children.get(pid, ())
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        found += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return found / 1024


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inventory", type=Path, default=ROOT / "inventory/demo/hosts.yml", help="the lab's nodes")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--forks", type=int, default=25)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="envfleet-bench-") as directory:
        place = Path(directory)
        look = place / "look"
        measured(ansible("ansible-playbook", fleet(place, options.inventory, look, 1), "playbooks/check.yml"), 1)
        first: dict[str, float] = {}
        for size in options.sizes:
            inventory = fleet(place, options.inventory, look, size)
            print(f"\n{size} nodes, {options.forks} forks")
            ping = None
            for way in options.ways:
                program, *arguments = WAYS[way]
                cost = measured(ansible(program, inventory, *arguments), options.forks)
                ping = ping or cost
                each = cost.cpu / size
                first.setdefault(way, each)
                print(
                    f"  {way:<16} CPU / ping {cost.cpu / ping.cpu:5.2f}   time / ping {cost.wall / ping.wall:5.2f}   "
                    f"{cost.mib:6.0f} MiB   CPU of a node / with {options.sizes[0]} nodes {each / first[way]:5.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
