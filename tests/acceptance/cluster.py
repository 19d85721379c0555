"""A lab node, and what an operator and a user do with it: run playbooks from here, and log in over ssh."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
INVENTORY = Path(__file__).resolve().parent / "inventory"
HOSTS = "hosts.yml"
NODE = "accept-1"

# Everything of a node that a run of ours may touch.
_TOUCHED = "/opt /etc/conda /etc/profile.d /usr/local/bin"
# Runs on the node: every regular file that a record lists must have the recorded content.
_VERIFY = """
import glob, hashlib, json, os, sys
records = glob.glob(sys.argv[1] + "/conda-meta/*.json")
assert records, "no records"
for record in map(json.load, map(open, records)):
    for entry in record["paths_data"]["paths"]:
        path = os.path.join(sys.argv[1], entry["_path"])
        assert os.path.lexists(path), path
        if entry["path_type"] == "hardlink" and "__pycache__" not in path.split("/"):
            wanted = entry.get("sha256_in_prefix") or entry["sha256"]
            assert hashlib.sha256(open(path, "rb").read()).hexdigest() == wanted, path
print(len(records))
"""


def lab(*arguments: str) -> None:
    """Run the lab's command line."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    subprocess.run([sys.executable, "-m", "lab", *arguments], cwd=ROOT, env=environment, check=True, timeout=600)


def lab_variables() -> dict[str, Any]:
    """What the lab wrote down for Ansible."""
    content = yaml.safe_load((INVENTORY / "group_vars/all/lab.yml").read_text())
    return dict(content)


def start_playbook(
    name: str, *arguments: str, hosts: str = HOSTS, report: str | Path | None = None
) -> subprocess.Popen[str]:
    """Start a playbook as the head of a process group of its own, with its drift report in the directory *report*."""
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(INVENTORY / hosts), *arguments]
    return subprocess.Popen(
        [*command, str(ROOT / "playbooks" / f"{name}.yml")],
        cwd=ROOT,
        env={**os.environ, **({"GPU_CLUSTER_DRIFT_REPORT_DIRECTORY": str(report)} if report else {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def playbook(name: str, *arguments: str, hosts: str = HOSTS, report: str | Path | None = None) -> tuple[int, str]:
    """Run a playbook to its end: its exit code, and what it printed."""
    process = start_playbook(name, *arguments, hosts=hosts, report=report)
    output, _nothing = process.communicate(timeout=600)
    return process.returncode, output


def drift(*arguments: str, hosts: str = HOSTS, directory: str | Path | None = None) -> dict[str, list[dict[str, str]]]:
    """What check.yml finds on each node, each of which it must have examined; its report may go to *directory*."""
    with tempfile.TemporaryDirectory() as scratch:
        code, output = playbook("check", *arguments, hosts=hosts, report=directory or scratch)
        report = json.loads(Path(directory or scratch, "drift.json").read_text())
    assert all(node["examined"] for node in report["hosts"].values()), output
    found: dict[str, list[dict[str, str]]] = {name: node["findings"] for name, node in report["hosts"].items()}
    remarks_only = all((one["severity"], one["fix"]) == ("warning", "human") for many in found.values() for one in many)
    assert (code == 0) == remarks_only, output
    return found


def on_node(
    command: str, *, node: str = NODE, user: str = "root", check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a shell command on a node as *user*, over ssh; with *check*, one that fails is an error."""
    variables = lab_variables()
    options = [*shlex.split(variables["ansible_ssh_common_args"]), "-i", variables["ansible_ssh_private_key_file"]]
    ports: dict[str, int] = {}
    for hosts in INVENTORY.glob("*.yml"):
        for group in yaml.safe_load(hosts.read_text()).values():
            ports |= {name: variables["ansible_port"] for name, variables in group.get("hosts", {}).items()}
    done = subprocess.run(
        ["ssh", *options, "-p", str(ports[node]), f"{user}@127.0.0.1", command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done


def snapshot() -> str:
    """All that a run could have changed: names, kinds, modes, sizes, targets, inodes and times.

    Directories and the lock files in them do not count: a run may need them to find out that it must refuse.
    """
    return on_node(f"find {_TOUCHED} ! -type d ! -name .lock -printf '%p %y %m %U:%G %s %l %i %T@\\n' | sort").stdout


def verified_packages(prefix: str) -> int:
    """How many packages *prefix* has, when each of their files is there with its recorded content; else an error."""
    return int(on_node(f"/usr/bin/python3 -c {shlex.quote(_VERIFY)} {prefix}").stdout)


def environment_state(name: str = "tools") -> str:
    """The prefix that the name leads to, proved complete and usable by people, or nothing where there is no name."""
    link = f"/opt/envfleet/envs/{name}"
    if on_node(f"test -L {link} || test -e {link}", check=False).returncode:
        return ""
    prefix = on_node(f"readlink -e {link}").stdout.strip()
    verified_packages(prefix)
    on_node(f"{link}/bin/python -c 'import requests, six'", user="alice")
    return prefix
