"""Kill runs at random moments and prove that nothing is lost: the name leads to a whole environment, or to nothing.

    python tests/acceptance/kill.py --rounds 20 --seed 1

Each round kills a first install and an upgrade with SIGKILL, on the control node and, in half of the rounds, on the
node too, at a moment drawn between the run's start and the time that a whole run takes. Then the name is looked up, as
root and as a user, every file is compared with its record, and the next run must converge and the check be clean.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from acceptance import cluster

NEXT = ("--extra-vars", '{"conda_envs_shared": [{"name": "tools", "lock": "envs/tools/conda-lock-next.yml"}]}')
_EMPTY = "rm -rf /opt/envfleet /opt/conda /etc/conda"
_KILL_ON_NODE = "pkill -KILL -f '[A]nsiballZ|/opt/[e]nvfleet|[L]abconda|[a]nsible-tmp'"


def timed(*arguments: str) -> float:
    """How many seconds a whole run takes."""
    start = time.monotonic()
    code, output = cluster.playbook("site", *arguments)
    if code:
        raise SystemExit(output)
    return time.monotonic() - start


def killed_run(draw: random.Random, whole_seconds: float, on_node_too: bool, prepare: str, *arguments: str) -> float:
    """Kill a run at a drawn moment, and tell at which second; a run that had ended by then does not count."""
    while True:
        cluster.on_node(prepare)
        delay = draw.uniform(0, whole_seconds)
        process = cluster.start_playbook("site", *arguments)
        try:
            process.communicate(timeout=delay)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            if on_node_too:
                cluster.on_node(_KILL_ON_NODE, check=False)
            return delay


def back_to(old: str, new: str) -> str:
    """The command that takes a node to before its upgrade."""
    return f"ln -sfn {old} /opt/envfleet/envs/tools && rm -rf {new}"


def prove(allowed: set[str], *arguments: str) -> str:
    """The state after a kill is one of *allowed*, and the next run converges: the prefix that it ends with."""
    seen = cluster.environment_state()
    if seen not in allowed:
        raise SystemExit(f"the name leads to {seen or 'nothing'}, and may lead to {allowed}")
    code, output = cluster.playbook("site", *arguments)
    if code:
        raise SystemExit(output)
    found = cluster.drift(*arguments)
    if any(found.values()):
        raise SystemExit(f"a run has left {found}")
    leftovers = cluster.on_node("find /opt/envfleet -name '.*.building'").stdout
    if leftovers:
        raise SystemExit(f"left over: {leftovers}")
    return cluster.environment_state()


def main() -> None:
    """Do the rounds, a line for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    draw = random.Random(options.seed)

    cluster.lab("up", "--inventory", str(cluster.INVENTORY))
    cluster.on_node(_EMPTY)
    first_seconds = timed()
    old = cluster.environment_state()
    upgrade_seconds = timed(*NEXT)
    new = cluster.environment_state()
    print(f"a first install takes {first_seconds:.1f} s, an upgrade {upgrade_seconds:.1f} s", flush=True)

    for number in range(1, options.rounds + 1):
        on_node_too = draw.random() < 0.5
        where = "both sides" if on_node_too else "the control node"
        delay = killed_run(draw, first_seconds, on_node_too, _EMPTY)
        prove({"", old})
        print(f"round {number}: first install killed on {where} after {delay:.1f} s, healed", flush=True)
        delay = killed_run(draw, upgrade_seconds, on_node_too, back_to(old, new), *NEXT)
        prove({old, new}, *NEXT)
        print(f"round {number}: upgrade killed on {where} after {delay:.1f} s, healed", flush=True)
    print(f"{options.rounds} rounds passed")


if __name__ == "__main__":
    main()
