"""A running job keeps the generation it started with, while the name moves on."""

from __future__ import annotations

import json
import shlex
import time

import pytest

from acceptance import cluster

NAME = "/opt/envfleet/envs/tools"
# Imports nothing of what it is about until the name has moved.
JOB = """
import json, multiprocessing, os, subprocess, sys, time

def version(queue=None):
    import six
    found = [six.__version__, os.path.dirname(os.path.dirname(os.path.realpath(sys.executable)))]
    return queue.put(found) if queue else found

if __name__ == "__main__":
    while not os.path.exists("/tmp/go"):
        time.sleep(0.05)
    import encodings.idna, sysconfig
    found = {"late import": version(), "sys.prefix": sys.prefix}
    found["part of the standard library"] = encodings.idna.__file__
    found["sysconfig"] = sysconfig.get_path("purelib")
    child = subprocess.run([sys.executable, "-c", "import six; print(six.__version__)"], capture_output=True, text=True)
    found["child"] = child.stdout.strip()
    for method in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        process = context.Process(target=version, args=(queue,))
        process.start()
        found[method] = queue.get()
        process.join()
    print(json.dumps(found))
"""
WAIT = "while [ ! -e /tmp/go ]; do sleep 0.05; done"
SHOW = "python -c 'import six, sys; print(six.__version__, sys.prefix)'; echo $CONDA_PREFIX"
SHELLS = {
    "login": f"bash -lc 'conda activate tools; {WAIT}; {{}}'",
    "batch": f"bash -c '. /etc/profile.d/envfleet-conda.sh; conda activate tools; {WAIT}; {{}}'",
    "posix": f"sh -c '. /etc/profile.d/envfleet-conda.sh; conda activate tools; {WAIT}; {{}}'",
}


@pytest.mark.usefixtures("converged_node")
def test_jobs_stay_and_newcomers_move_on() -> None:
    old = cluster.environment_state()
    cluster.on_node("rm -f /tmp/go /tmp/job.* /tmp/shell.*")
    cluster.on_node(f"printf %s {shlex.quote(JOB)} >/tmp/job.py", user="alice")
    start("job", f"{NAME}/bin/python /tmp/job.py")
    show = SHOW.replace("'", "'\\''")
    for shell, command in SHELLS.items():
        start(f"shell.{shell}", command.format(show))
    time.sleep(3)  # all of them have begun to wait

    code, output = cluster.playbook("site", "--extra-vars", lock("conda-lock-next.yml"))
    assert code == 0, output
    new = cluster.environment_state()
    assert new != old
    assert cluster.verified_packages(old)

    cluster.on_node("touch /tmp/go")
    found = json.loads(result("job"))
    here = ["1.16.0", old]
    assert found == {
        "late import": here,
        "part of the standard library": f"{old}/lib/python3.10/encodings/idna.py",
        "sys.prefix": old,
        "sysconfig": f"{old}/lib/python3.10/site-packages",
        "child": "1.16.0",
        "fork": here,
        "spawn": here,
        "forkserver": here,
    }
    for shell in SHELLS:
        assert result(f"shell.{shell}").split() == ["1.16.0", old, old], shell
    newcomer = cluster.on_node(f"PATH={NAME}/bin:$PATH; {SHOW}", user="alice")
    assert newcomer.stdout.split() == ["1.17.0", new]

    # Nobody is left in the new one when the name goes back, and so it goes.
    code, output = cluster.playbook("site", "--extra-vars", lock("conda-lock.yml"))
    assert code == 0, output
    assert cluster.environment_state() == old
    assert cluster.on_node("ls /opt/envfleet/generations/tools").stdout.split() == [old.rpartition("/")[2]]


@pytest.mark.usefixtures("converged_node")
def test_an_activated_shell_can_deactivate() -> None:
    path = "echo $PATH"
    shown = cluster.on_node(f"bash -lc '{path}; conda activate tools; {path}; conda deactivate; {path}'", user="alice")
    before, active, after = shown.stdout.split()
    assert active.startswith(f"{cluster.environment_state()}/bin:")
    assert after == before


def lock(name: str) -> str:
    """The variables that bring the environment to another lock, and keep no old generation but those in use."""
    environment = {"name": "tools", "lock": f"envs/tools/{name}", "keep_generations": 1}
    return json.dumps({"conda_envs_shared": [environment], "conda_envs_min_age_days": 0})


def start(name: str, command: str) -> None:
    """Start *command* as a user, to outlive the login."""
    cluster.on_node(f"setsid {command} >/tmp/{name}.out 2>/tmp/{name}.err </dev/null & echo", user="alice")


def result(name: str) -> str:
    """What *command* printed, once it has ended."""
    for _attempt in range(100):
        text = cluster.on_node(f"cat /tmp/{name}.out", user="alice").stdout
        if text.strip():
            time.sleep(0.5)
            return cluster.on_node(f"cat /tmp/{name}.out", user="alice").stdout
        time.sleep(0.2)
    raise AssertionError(cluster.on_node(f"cat /tmp/{name}.err", user="alice").stdout)
