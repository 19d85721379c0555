"""What a fleet that pulls costs: one run on a node, and what the repository must bear.

The repository has one commit of an inventory with the locks of 20 environments, and is served by `git daemon`. A run
that has nothing to do takes nothing from the mirror of the channel: what a rollout takes from it is told by rollout.py.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from measuring import ROOT, ansible, compared, processes, run, spent_by, spent_here, told

NODES = 10_000
LOCKS, LINES = 20, 400


def git(*arguments: str, at: Path) -> None:
    """Run git in *at*."""
    identity = ["-c", "user.name=bench", "-c", "user.email=bench@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *identity, *arguments], cwd=at, check=True, capture_output=True, timeout=60)


def make_repository(place: Path) -> Path:
    """An inventory with locks, whose lines cannot be compressed better than real ones."""
    repository = place / "served" / "site"
    repository.mkdir(parents=True)
    git("init", at=repository)
    chance = random.Random(0)
    for number in range(LOCKS):
        lines = [
            f"https://mirror.example.org/linux-64/package{n}-1.0-0.conda#{chance.randbytes(32).hex()}"
            for n in range(LINES)
        ]
        (repository / f"lock{number}.txt").write_text("@EXPLICIT\n" + "\n".join(lines) + "\n")
    git("add", ".", at=repository)
    git("commit", "-m", "All locks", at=repository)
    return repository


class Relay:
    """Hands bytes on to a server, and counts them."""

    def __init__(self, port: int) -> None:
        self.bytes = 0
        self._port = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            near, _address = self._server.accept()
            far = socket.create_connection(("127.0.0.1", self._port))
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self._hand_on, args=(source, target), daemon=True).start()

    def _hand_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.bytes += len(data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def served(directory: Path) -> Iterator[tuple[Relay, str]]:
    """A git server for *directory*: what it sends and receives, and what its processes have in common."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["git", "daemon", "--export-all", f"--base-path={directory}", f"--port={port}", "--listen=127.0.0.1"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        for _attempt in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        yield Relay(port), f"--port={port}"
        server.terminate()


def fetches(place: Path, count: int) -> dict[str, tuple[float, float]]:
    """Bytes and CPU seconds of the server, for one fetch without news and for one with a new commit."""
    repository = make_repository(place)
    found = {}
    with served(place / "served") as (relay, mark):
        clones = [place / f"clone{number}" for number in range(count)]
        for clone in clones:
            git("clone", f"git://127.0.0.1:{relay.port}/site", str(clone), at=place)
        for kind in ("without news", "with a new lock"):
            if kind == "with a new lock":
                path = repository / "lock0.txt"
                path.write_text(path.read_text().replace("package7-1.0", "package7-1.1"))
                git("commit", "-a", "-m", "A package", at=repository)
            before, spent = relay.bytes, served_cpu(mark)
            for clone in clones:
                git("fetch", at=clone)
            found[kind] = ((relay.bytes - before) / count, (served_cpu(mark) - spent) / count)
    return found


def served_cpu(mark: str) -> float:
    """CPU seconds of the server, with those of its processes that have ended."""
    ticks = 0
    for pid in processes(mark):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[13]) + int(fields[14])
    return ticks / os.sysconf("SC_CLK_TCK") + spent_by(processes(mark))


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="envfleet-bench-") as directory:
        place = Path(directory)
        inventory = place / "hosts.json"
        variables = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "ansible_become": False,
            "conda_envs_dir": str(place / "envs"),
            "conda_envs_generations_dir": str(place / "generations"),
        }
        inventory.write_text(json.dumps({"gpu_nodes": {"vars": variables, "hosts": {"node": {}}}}))
        play = place / "look.yml"
        play.write_text((ROOT / "playbooks/check.yml").read_text().replace("fail: true", "fail: false"))

        def cost(program: str, *arguments: str) -> float:
            before = spent_here()
            run(ansible(program, inventory, *arguments))
            return spent_here() - before

        ways = {
            "ping": lambda: cost("ansible", "node", "-m", "ansible.builtin.ping"),
            "run": lambda: cost("ansible-playbook", str(play)),
        }
        found = compared(ways, options.rounds)
        print("\nCPU time of a node that looks at itself")
        print(f"  ansible-playbook check.yml / ansible -m ping, both here   {told(found['run'], found['ping'])}")
        print(f"\nWhat a git server bears for each fetch, and (calculated) for {NODES} nodes that fetch once an hour")
        for kind, (size, cpu) in fetches(place, 20).items():
            share = cpu * NODES / 3600
            one = f"{size:8.0f} bytes {cpu * 1000:6.1f} ms of CPU"
            print(f"  {kind:<16} {one}   {size * NODES / 2**20:7.0f} MiB, {share:.3f} of a core")


if __name__ == "__main__":
    main()
