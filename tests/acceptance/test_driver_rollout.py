"""The driver changed under a real Slurm: a controller, two nodes, and jobs that are never ended.

Slurm and the driver's packages are real, and a node that is started anew really is. The kernel's and DKMS's part is a
stand-in (kernel_standin.sh), and the GPUs are a list of PCI devices.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from acceptance import cluster

HOSTS = "rollout.yml"
CONTROLLER, FIRST, SECOND = "rollout-ctl", "rollout-1", "rollout-2"
OURS = re.compile(r"Reason=envfleet: driver 535[.\d]+ \[root@")
_HERE = Path(__file__).parent


@pytest.fixture(scope="module", autouse=True)
def nodes() -> Iterator[None]:
    """A cluster in which every node is idle and none has a driver."""
    inventory = str(cluster.INVENTORY / HOSTS)
    cluster.lab("up", "--fresh", "--inventory", inventory)
    for node in (CONTROLLER, FIRST, SECOND):
        write(node, "/etc/slurm/slurm.conf", "slurm.conf")
    on(CONTROLLER, "systemctl restart slurmctld")
    for node in (FIRST, SECOND):
        write(node, "/usr/local/sbin/kernel-standin", "kernel_standin.sh")
        on(
            node,
            "systemctl restart slurmd; chmod +x /usr/local/sbin/kernel-standin; /usr/local/sbin/kernel-standin setup;"
            " sed -n 's|^deb \\(.*\\)/* bookworm main$|deb \\1-security bookworm-security main|p' /etc/apt/sources.list"
            " >/etc/apt/sources.list.d/security.list; rm -rf /sys/module/nvidia",
        )
    for node in (FIRST, SECOND):
        until(lambda node=node: "State=IDLE " in state(node))  # type: ignore[misc]
    yield
    cluster.lab("down", "--inventory", inventory)


def on(node: str, command: str) -> str:
    """What a shell command prints on a node."""
    return cluster.on_node(f"set -e; {command}", node=node).stdout


def write(node: str, path: str, source: str) -> None:
    """Lay a file of this directory on a node."""
    on(node, f"cat >{path} <<'END'\n{(_HERE / source).read_text()}\nEND")


def state(node: str) -> str:
    """What Slurm says of a node, without what it does not know just after a node was resumed."""
    shown = on(CONTROLLER, f"scontrol show node {node}").replace("+NOT_RESPONDING", "")
    return "\n".join(line for line in shown.splitlines() if "State=" in line or "Reason=" in line)


def job(node: str, seconds: int) -> str:
    """Start a job of an ordinary user on a node, and return its number."""
    submit = f"sbatch --parsable --nodelist={node} --chdir=/tmp --output=/dev/null --wrap='sleep {seconds}'"
    number = on(CONTROLLER, f"runuser -u alice -- {submit}").strip()
    until(lambda: job_state(number) == "RUNNING")
    return number


def job_state(number: str) -> str:
    """The state of a job."""
    found = re.search(r"JobState=(\S+)", on(CONTROLLER, f"scontrol show job {number}"))
    assert found
    return found[1]


def until(condition: Callable[[], bool], run: subprocess.Popen[str] | None = None, seconds: float = 60) -> None:
    """Wait for *condition*, which must come to be before *run* ends."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert run is None or run.poll() is None, run.communicate()[0]
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.5)


def rollout(*arguments: str) -> tuple[int, str]:
    """Run the playbook to its end."""
    return cluster.playbook("driver", *arguments, hosts=HOSTS)


def driver(node: str) -> str:
    """The version of the driver that the node has, and its kernel has loaded."""
    script = "dpkg-query -W -f '${Version} ' libcuda1 2>/dev/null || true; cat /sys/module/nvidia/version || true"
    return on(node, f"{{ {script}; }} 2>/dev/null").strip()


def runs_what_is_installed(node: str) -> bool:
    """Whether the node has the driver, and its kernel the same version of it."""
    return re.fullmatch(r"(535[.\d]+)-\S+ \1", driver(node)) is not None


def test_a_rollout_waits_for_a_job_and_stops_at_the_first_node_that_fails() -> None:
    number = job(FIRST, 20)
    untouched = state(SECOND)
    process = cluster.start_playbook("driver", hosts=HOSTS)
    until(lambda: "ALLOCATED+DRAIN" in state(FIRST), process)
    assert OURS.search(state(FIRST))
    assert (driver(FIRST), job_state(number)) == ("", "RUNNING")
    output, _nothing = process.communicate(timeout=600)

    assert process.returncode != 0, output
    assert "rollout-1 stays drained, and no other node is changed: Run the smoke test of the site" in output
    assert job_state(number) == "COMPLETED"
    assert runs_what_is_installed(FIRST), output
    assert "DRAIN" in state(FIRST)
    assert OURS.search(state(FIRST))
    assert (driver(SECOND), state(SECOND)) == ("", untouched)


def test_the_next_run_goes_on_and_leaves_what_somebody_else_has_drained() -> None:
    on(FIRST, "touch /var/works")
    on(CONTROLLER, f"scontrol update NodeName={SECOND} State=DRAIN Reason='fan 3'")
    untouched = state(SECOND)
    code, output = rollout()
    assert code == 0, output
    assert state(FIRST).strip().startswith("State=IDLE ")
    assert "Left as it was: rollout-2 is IDLE+DRAIN by root: fan 3, which is not ours" in output
    assert (driver(SECOND), state(SECOND)) == ("", untouched)
    on(CONTROLLER, f"scontrol update NodeName={SECOND} State=RESUME")


def test_a_node_whose_job_does_not_end_in_time_is_given_back() -> None:
    number = job(SECOND, 3600)
    code, output = rollout("--extra-vars", "node_drain_timeout_seconds=2")
    assert code != 0
    assert f"after 2 s these jobs are left on rollout-2: {number} alice RUNNING" in output
    assert state(SECOND).strip().startswith("State=ALLOCATED ")
    assert "Reason" not in state(SECOND)
    assert job_state(number) == "RUNNING"
    on(CONTROLLER, f"scancel {number}")


def test_without_a_scheduler_a_guard_and_the_processes_on_gpus_decide() -> None:
    """/dev/nvidia0 is a plain file here."""
    untouched = state(SECOND)
    alone = ("-e", "node_drain_scheduler_host=''", "-e", "node_drain_timeout_seconds=2")
    code, output = rollout(*alone, "-e", "node_drain_guard_command='test -e /var/free'")
    assert code != 0
    assert "Wait until the guard command lets the change go on" in output
    on(
        SECOND,
        "touch /var/free /dev/nvidia0; systemd-run --quiet --unit=user -p StandardInput=file:/dev/nvidia0 sleep 1h",
    )
    code, output = rollout(*alone, "-e", "node_drain_guard_command='test -e /var/free'")
    assert code != 0
    assert re.search("no process holds a GPU: .*Nothing was changed", " ".join(output.split()))
    on(SECOND, "systemctl stop user; rm /dev/nvidia0")
    code, output = rollout("--check", "--diff")
    assert code == 0, output
    assert "+DRAIN: envfleet: driver 535." in output
    assert (driver(SECOND), state(SECOND)) == ("", untouched)


def test_a_run_that_was_killed_is_taken_up_by_the_next() -> None:
    on(SECOND, "touch /var/works")
    number = job(SECOND, 3600)
    process = cluster.start_playbook("driver", hosts=HOSTS)
    until(lambda: OURS.search(state(SECOND)) is not None, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    on(CONTROLLER, f"scancel {number}")

    code, output = rollout()
    assert code == 0, output
    assert runs_what_is_installed(SECOND)
    assert state(SECOND).strip().startswith("State=IDLE ")
    # And then there is nothing left to do.
    code, output = rollout()
    assert code == 0, output
    assert re.findall(r"changed=(\d+)", output) == ["0", "0"], output
