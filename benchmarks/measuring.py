"""What the benchmarks of whole fleets share: inventories of many names, and the CPU time of all that is at work."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_BIN = Path(sys.executable).parent


def ansible(program: str, inventory: Path, *arguments: str) -> list[str]:
    """A command of Ansible's for *inventory*."""
    return [str(_BIN / program), "-i", str(inventory), *arguments]


PING = ("gpu_nodes", "-b", "-m", "ansible.builtin.ping")
"""What everything is compared with."""


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Run *command* in the checkout; what it printed. One that fails ends the benchmark."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PATH": f"{_BIN}:{os.environ['PATH']}", **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=1800,
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-3000:]}")
    return done.stdout


def spent_here() -> float:
    """CPU seconds of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def processes(mark: str) -> Iterator[int]:
    """The processes whose command lines have *mark* in them."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in path.read_bytes():
                yield int(path.parent.name)
        except OSError:
            continue


def spent_by(pids: Iterator[int]) -> float:
    """CPU seconds of processes that go on running."""
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def spent_in_container(pid: int) -> float:
    """CPU seconds of all processes of the container whose first process is *pid*."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _number, controllers, path = line.split(":", 2)
        path = path.removesuffix("/init.scope")
        if "cpuacct" in controllers.split(","):
            for directory in ("cpuacct", controllers):
                usage = Path(f"/sys/fs/cgroup/{directory}{path}/cpuacct.usage")
                if usage.exists():
                    return int(usage.read_text()) / 1e9
        elif not controllers and (stat := Path(f"/sys/fs/cgroup{path}/cpu.stat")).exists():
            told = dict(row.split() for row in stat.read_text().splitlines())
            if "usage_usec" in told:
                return int(told["usage_usec"]) / 1e6
    sys.exit("this machine tells no CPU time of containers")


def compared(ways: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each of *ways* costs, in rounds that take turns; the first of each does not count."""
    for way in ways.values():
        way()
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _round in range(rounds):
        for name, way in ways.items():
            found[name].append(way())
    return found


def told(costs: Sequence[float], base: Sequence[float]) -> str:
    """A ratio, and from where to where it went."""
    ratios = [cost / other for cost, other in zip(costs, base, strict=True)]
    return f"{statistics.median(ratios):6.2f}   ({min(ratios):.2f} to {max(ratios):.2f})"
