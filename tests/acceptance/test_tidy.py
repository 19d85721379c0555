"""Clean-up on a node with people: who uses an environment keeps it, and what nobody uses goes, or comes back."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from acceptance import cluster

HOSTS, NODE = "tidy.yml", "tidy-1"
ENVS = "/home/alice/.conda/envs"
STATE, REPORT, PROFILE = (
    "/var/lib/envfleet-housekeeping",
    "/root/housekeeping.json",
    "/etc/profile.d/envfleet-housekeeping.sh",
)
UNUSED = ("brought", "restored", "gone")
OTHERS = ("running", "idle", "recent", "kept")
# Ages that pass between two runs: nobody has to set the clock of a node for this.
RULES: dict[str, Any] = {
    "env_housekeeping_rules": [{"unused_days": 0.5}],
    "env_housekeeping_notice_days": 0.00001,
    "env_housekeeping_grace_days": 0.00001,
    "env_housekeeping_cache_unused_days": 0,
}
# What tells of use, a day old. Nobody may take the times of access for that.
AGE = "cd {}/conda-meta; touch -d '2 days ago' history envfleet.use/since; touch -d '2 days ago' envfleet.use/used"
# All of a tree that a way there and back could change.
TREE = (
    "cd {}; find . -printf '%p %y %m %U:%G %s %l %i %n %T@\\n' | sort;"
    " find . -type f -print0 | sort -z | xargs -0 sha256sum"
)


def on(command: str, user: str = "root", check: bool = True) -> str:
    return cluster.on_node(command, node=NODE, user=user, check=check).stdout


def login(command: str, user: str = "alice", check: bool = True) -> str:
    """What a login shell of *user* prints."""
    return on(f"bash -lc {shlex.quote(command)}", user, check)


def cleanup(*arguments: str, **variables: Any) -> tuple[str, dict[str, Any]]:
    """Run the playbook: what it printed, and its report."""
    extra = json.dumps({**RULES, **variables})
    code, output = cluster.playbook("cleanup", *arguments, "--extra-vars", extra, hosts=HOSTS)
    assert code == 0, output
    return output, json.loads(on(f"cat {REPORT}"))


def changed(output: str) -> int:
    (number,) = re.findall(rf"^{NODE} .* changed=(\d+) ", output, re.MULTILINE)
    return int(number)


def steps(report: dict[str, Any]) -> dict[str, str]:
    """What is due for each environment, by name."""
    return {one["prefix"].rpartition("/")[2]: one["step"] for one in report["environments"]}


@pytest.fixture(scope="module")
def node() -> Iterator[None]:
    """A node on which alice has environments, whose use is noted, and which are two days old."""
    cluster.lab("up", "--fresh", "--inventory", str(cluster.INVENTORY / HOSTS))
    try:
        code, output = cluster.playbook("site", hosts=HOSTS)
        assert code == 0, output
        # Most need no Python of their own for what is tried with them.
        packages = dict.fromkeys((*UNUSED, *OTHERS), "six") | dict.fromkeys(("running", *UNUSED[:2]), "six python=3.10")
        login("; ".join(f"conda create -y -q -n {name} {wanted}" for name, wanted in packages.items()))
        code, planned = cluster.playbook("cleanup", "--check", "--diff", hosts=HOSTS)
        assert code == 0, planned
        output, report = cleanup()
        assert set(steps(report).values()) == {"keep"}
        assert changed(output) == changed(planned) == 2
        for name in (*UNUSED, *OTHERS):
            on(AGE.format(f"{ENVS}/{name}"), "alice")
        yield
    finally:
        cluster.lab("down", "--inventory", str(cluster.INVENTORY / HOSTS))


@pytest.fixture(scope="module")
def people(node: None) -> Iterator[None]:
    """A Python that runs, a shell that has activated and waits, and two environments with an owner who cares."""
    variables = cluster.lab_variables()
    options = [*shlex.split(variables["ansible_ssh_common_args"]), "-i", variables["ansible_ssh_private_key_file"]]
    ssh = ["ssh", *options, "-p", "2541", "alice@127.0.0.1"]
    python = f"exec {ENVS}/running/bin/python -c 'import time; print(1, flush=True); time.sleep(1000)'"
    # The shell itself waits: no child of it has the environment, and its own is that of before.
    shell = f"bash -lc {shlex.quote('conda activate idle; echo 1; read -r forever')}"
    sessions = [
        subprocess.Popen([*ssh, command], stdin=subprocess.PIPE, stdout=subprocess.PIPE) for command in (python, shell)
    ]
    for session in sessions:
        assert session.stdout
        assert session.stdout.readline() == b"1\n"
    for name in ("running", "idle"):
        on(AGE.format(f"{ENVS}/{name}"), "alice")
    login("conda activate recent; conda deactivate")
    on(f"touch {ENVS}/kept/.keep", "alice")
    yield
    for session in sessions:
        session.kill()
        session.wait()
        assert session.stdout
        session.stdout.close()
        assert session.stdin
        session.stdin.close()


@pytest.mark.usefixtures("people")
def test_what_nobody_uses_is_warned_of_set_aside_restored_and_removed() -> None:
    before = {name: on(TREE.format(f"{ENVS}/{name}")) for name in ("brought", "restored", *OTHERS)}

    # Without being told to, nothing is done: everything stays as it is, and the report tells what is due.
    home = on("cd /home; find . -printf '%p %y %m %U:%G %s %l %i %n %T@ %C@\\n' | sort")
    output, report = cleanup(env_housekeeping_apply=False)
    assert on("cd /home; find . -printf '%p %y %m %U:%G %s %l %i %n %T@ %C@\\n' | sort") == home
    assert (changed(output), report["applied"]) == (0, False)
    due = {**dict.fromkeys(UNUSED, "warn"), **dict.fromkeys(OTHERS, "keep")}
    assert steps(report) == due
    assert re.search(
        r"alice +\d+ MiB .* warn +not used for 2 days, 0.5 are allowed +/home/alice/.conda/envs/gone", output
    )

    planned, _report = cleanup("--check", "--diff")
    output, report = cleanup("--diff")
    assert (steps(report), changed(output)) == (due, 1)
    step = re.compile(r"^\+(?:warn|set|remove) .*$", re.MULTILINE)
    assert step.findall(planned) == step.findall(output) != []
    said = on("bash -lic true </dev/null", "alice")
    assert all(f"touch -- {ENVS}/{name}/.keep" in said for name in UNUSED)
    assert on("bash -lic true </dev/null") == ""

    _output, report = cleanup()
    assert steps(report) == {**dict.fromkeys(UNUSED, "set_aside"), **dict.fromkeys(OTHERS, "keep")}
    assert set(on(f"ls {ENVS}").split()) == set(OTHERS)
    assert login("conda activate gone", check=False) == ""

    # One command of the owner, which the message tells, or one of the operator.
    said = on("bash -lic true </dev/null", "alice")
    (command,) = re.findall(rf"mv -T -- .* {ENVS}/brought$", said, re.MULTILINE)
    on(command, "alice")
    output, _report = cleanup(env_housekeeping_restore=[f"{ENVS}/restored"])
    assert changed(output) == 1
    for name in ("brought", "restored"):
        assert on(TREE.format(f"{ENVS}/{name}")) == before[name]
        assert login(f"conda activate {name}; python -c 'import six; print(six.__file__)'").startswith(f"{ENVS}/{name}")

    _output, report = cleanup()
    assert steps(report) == {"gone": "remove", **dict.fromkeys(("brought", "restored", *OTHERS), "keep")}
    assert set(on(f"ls -A {ENVS}").split()) == {"brought", "restored", *OTHERS}
    assert on("bash -lic true </dev/null", "alice") == ""
    for name in OTHERS:
        assert on(TREE.format(f"{ENVS}/{name}")).splitlines()[-1] == before[name].splitlines()[-1]


@pytest.mark.usefixtures("people")
def test_the_list_of_all_environments_tells_the_same() -> None:
    on(AGE.format(f"{ENVS}/kept") + "; touch -d '1 day ago' history", "alice")
    program = str(Path(sys.executable).with_name("ansible"))
    command = [program, "-i", str(cluster.INVENTORY / HOSTS), "-m", "envfleet.gpu_cluster.conda_env_info", "all", "-o"]
    done = subprocess.run(command, cwd=cluster.ROOT, capture_output=True, text=True, check=True, timeout=120)
    found = json.loads(done.stdout.partition(" => ")[2])["environments"]
    used = {one["name"]: (one["in_use"], one["last_used"]["evidence"]) for one in found if one["kind"] == "private"}
    assert used["running"] == used["idle"] == (True, "process")
    assert (used["recent"], used["kept"]) == ((False, "start"), (False, "history"))


@pytest.mark.usefixtures("node")
def test_caches_lose_what_no_environment_needs() -> None:
    pkgs = "/home/alice/.conda/pkgs"
    login("conda create -y -q -n short decorator parso; conda env remove -y -n short")
    login("conda create -y -q -n soft python=3.10 idna")
    # As a conda that links softly leaves it: the environment has nothing but a link.
    site = f"{ENVS}/soft/lib/python3.10/site-packages"
    source = on(f"ls -d {pkgs}/idna-*/site-packages").strip()
    on(f"rm -r {site}/idna; ln -s {source}/idna {site}/idna", "alice")
    listing = f"cd {pkgs}; ls -d */"
    assert "decorator-" in on(listing)
    _output, report = cleanup(env_housekeeping_cache_unused_days=0.00001)
    (found,) = [one for one in report["caches"] if one["path"] == pkgs]
    assert sorted(name.rpartition("-")[0].rpartition("-")[0] for name in found["packages"]) == ["decorator", "parso"]
    left = on(listing)
    assert "decorator-" not in left
    assert all(f"{name}-" in left for name in ("idna", "python", "six"))
    assert login("conda activate soft; python -c 'import idna; print(idna.__name__)'") == "idna\n"
    for name, module in itertools.product(("running", "brought"), ("six", "ssl")):
        login(f"{ENVS}/{name}/bin/python -c 'import {module}'")
    assert on("/opt/envfleet/envs/tools/bin/python -c 'import requests'", "alice") == ""
    # What is needed again is fetched again.
    login("conda create -y -q -n short decorator")


@pytest.mark.usefixtures("node")
def test_another_user_gains_nothing_and_two_runs_do_not_collide() -> None:
    on("id bob >/dev/null 2>&1 || useradd --create-home bob")
    traps = [
        "mkdir -p .conda/envs/own/conda-meta",
        "touch .conda/envs/own/conda-meta/history",
        "ln -sfn /etc .conda/envs/etc",
        f"ln -sfn {ENVS}/recent .conda/envs/recent",
        rf"printf '%s\n' /etc / {ENVS}/recent '' . >.conda/environments.txt",
    ]
    on(f"runuser -u bob -- sh -euc {shlex.quote('; '.join(['cd', *traps]))}")
    before = on("find /etc -printf '%p %y %m %U:%G %s %l %i %T@\\n' | sort"), on(TREE.format(f"{ENVS}/recent"))
    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(cleanup), pool.submit(cleanup)]
        results = [run.result() for run in runs]
    # The one that comes first notes the use of the environment that bob has made.
    assert sorted(changed(output) for output, _report in results) == [0, 1]
    for _output, report in results:
        of_bob = [one["prefix"] for one in report["environments"] if one["owner"] == "bob"]
        assert of_bob == ["/home/bob/.conda/envs/own"]
    after = on("find /etc -printf '%p %y %m %U:%G %s %l %i %T@\\n' | sort"), on(TREE.format(f"{ENVS}/recent"))
    assert after == before


@pytest.mark.usefixtures("node")
def test_homes_that_all_nodes_share_are_left_unless_all_were_asked() -> None:
    on(AGE.format(f"{ENVS}/recent"), "alice")
    shared = {"env_housekeeping_shared_homes": True}
    assert steps(cleanup("--limit", NODE, **shared)[1])["recent"] == "keep"
    assert steps(cleanup(**shared, env_housekeeping_apply=False)[1])["recent"] == "warn"


@pytest.mark.usefixtures("node")
def test_without_the_clean_up_all_is_as_it_was() -> None:
    for _run in range(2):
        _output, report = cleanup(env_housekeeping_grace_days=30)
    assert steps(report)["recent"] == "set_aside"
    assert "recent" not in on(f"ls {ENVS}").split()
    output, _report = cleanup(env_housekeeping_state="absent")
    assert changed(output) == 2
    assert "recent" in on(f"ls {ENVS}").split()
    left = f"find {ENVS} {STATE} {PROFILE} -name '*envfleet*' 2>/dev/null"
    assert on(left, check=False) == ""
    login("conda activate recent")
    assert changed(cleanup(env_housekeeping_state="absent")[0]) == 0
