"""A site whose drift is corrected on a schedule: two nodes with their control node, and one that is its own."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from acceptance import cluster
from lab import control_node
from lab.paths import lab_cache

HOSTS = "schedule.yml"
CONTROL, PULL, FLEET = "schedule-control", "schedule-pull", ("schedule-1", "schedule-2")
DIRECTORY = "/var/lib/envfleet-drift"
METRICS = "/var/lib/node_exporter/textfile"
ENV = "/opt/envfleet/envs/tools"
HOLD = "/run/hold"
"""While a node has it, a correction of the environment there goes on for as long."""
SECRETS = {name: f"secret-{name}-1f0e" for name in ("vault_password", "report_token", "vaulted", "extra")}
REPORTS = "/srv/reports"

_UNIT = "envfleet-drift.service"
ACTIVE = f"systemctl show -P ActiveState {_UNIT} | grep -x activating"
"""Succeeds while a run is at work."""
# Takes reports, with the token alone, and keeps them in the order in which they came.
_ENDPOINT = f"""
import http.server, json, os
class Endpoint(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        report = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        welcome = self.headers["Authorization"] == "Bearer " + open("/root/report_token").read().strip()
        if welcome:
            with open("{REPORTS}/%04d.json" % len(os.listdir("{REPORTS}")), "w") as stream:
                json.dump(report, stream)
        self.send_response(204 if welcome else 401)
        self.end_headers()
http.server.HTTPServer(("", 8081), Endpoint).serve_forever()
"""


def on(node: str, command: str, check: bool = True) -> str:
    """What a command of root printed on *node*."""
    return cluster.on_node(command, node=node, check=check).stdout.strip()


class Site:
    """What its people write, in *directory*, and where the nodes of pull mode get it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.inventory = directory / "inventory"
        self.archive = cluster.ROOT / _run(str(cluster.ROOT / "tools" / "build.sh")).split()[-1]
        self.repository = Path(cluster.lab_variables()["lab_www"]) / "schedule" / "site.git"

    def write(self, lock: str = "conda-lock.yml") -> None:
        """The inventory, in which the environment `tools` has *lock*."""
        envs = self.inventory / "envs" / "tools"
        envs.mkdir(parents=True, exist_ok=True)
        for path in (cluster.INVENTORY / "envs" / "tools").glob("conda-lock*.yml"):
            shutil.copy(path, envs)
        served = {
            name: value
            for name, value in cluster.lab_variables().items()
            if name == "gpu_cluster_channels" or name.startswith("miniconda_")
        }
        test = f"while test -e {HOLD}; do sleep 0.2; done; python -c 'import requests, six'"
        tools = {"name": "tools", "lock": f"envs/tools/{lock}", "smoke_test": ["sh", "-c", test]}
        groups = {
            "gpu_nodes": {"hosts": {name: {"ansible_host": name, "ansible_user": "root"} for name in FLEET}},
            "pulling": {"hosts": {PULL: {}}},
            "all": {"vars": {**served, "conda_envs_shared": [tools]}},
        }
        (self.inventory / "hosts.yml").write_text(yaml.safe_dump(groups, sort_keys=False))

    def remove(self) -> None:
        """Take the repository off the mirror."""
        shutil.rmtree(self.repository.parent, ignore_errors=True)

    def encrypt(self) -> None:
        """Add a variable that only the vault's password opens."""
        password = self.directory / "vault_password"
        password.write_text(SECRETS["vault_password"])
        variables = self.inventory / "group_vars" / "all.yml"
        variables.parent.mkdir()
        variables.write_text(yaml.safe_dump({"site_password": SECRETS["vaulted"]}))
        program = Path(sys.executable).with_name("ansible-vault")
        _run(str(program), "encrypt", "--vault-password-file", str(password), str(variables))

    def commit(self) -> str:
        """Commit the inventory and let the mirror serve it: the commit."""
        work = self.directory / "work"
        if not work.exists():
            _git("init", "--quiet", "--initial-branch=main", str(work))
        shutil.copytree(self.inventory, work, dirs_exist_ok=True, ignore=shutil.ignore_patterns("group_vars"))
        _git("-C", str(work), "add", "--all")
        _git("-C", str(work), "-c", "user.name=site", "-c", "user.email=site@example.org", "commit", "-qm", "State")
        if not self.repository.exists():
            _git("init", "--quiet", "--bare", "--initial-branch=main", str(self.repository))
        _git("-C", str(work), "push", "--quiet", str(self.repository), "main")
        _git("-C", str(self.repository), "update-server-info")
        return _git("-C", str(work), "rev-parse", "HEAD")

    def apply(self, *arguments: str, **variables: Any) -> str:
        """Run the role on both control nodes with these *variables* besides: what was printed."""
        common = {
            "site_inventory": str(self.inventory / "hosts.yml"),
            "drift_schedule_collection": str(self.archive),
            "drift_schedule_pip_options": control_node.PIP_OPTIONS,
            "drift_schedule_extra_vars": {"site_extra": SECRETS["extra"]},
        }
        path = self.directory / "variables.json"
        path.write_text(json.dumps({**common, **variables}))
        play = "../tests/acceptance/plays/schedule"
        code, output = cluster.playbook(play, "--extra-vars", f"@{path}", *arguments, hosts=HOSTS)
        assert code == 0, output
        return output


def prepare() -> None:
    """What a schedule finds on its control node: keys, passwords, who the nodes are; and where the reports go."""
    python = "import sys; print('%d.%d' % sys.version_info[:2])"
    control_node.publish_packages(lab_cache(), on(CONTROL, f"python3 -c {shlex.quote(python)}"))
    on(CONTROL, "ssh-keygen -q -t ed25519 -N '' -f /root/drift_key </dev/null")
    key = shlex.quote(on(CONTROL, "cat /root/drift_key.pub"))
    for node in FLEET:
        on(node, f"echo {key} >>/root/.ssh/authorized_keys")
        known = on(node, f"sed 's/^/{node} /' /etc/ssh/ssh_host_*_key.pub")
        on(CONTROL, f"echo {shlex.quote(known)} >>/root/drift_known_hosts")
    on(CONTROL, f"umask 077; echo {SECRETS['vault_password']} >/root/vault_password; mkdir {REPORTS}")
    for node in (CONTROL, PULL):
        on(node, f"umask 077; echo {SECRETS['report_token']} >/root/report_token")
    on(CONTROL, f"printf %s {shlex.quote(_ENDPOINT)} >/root/endpoint.py")


def endpoint(action: str) -> None:
    """`start` or `stop` what takes the reports."""
    command = "systemd-run --quiet --unit=endpoint python3 /root/endpoint.py" if action == "start" else ""
    on(CONTROL, command or "systemctl stop endpoint")


def quiet(node: str) -> None:
    """Stop the timer, and wait for the run that it may have started."""
    on(node, f"systemctl stop envfleet-drift.timer; {waiting(f'! {ACTIVE}')}")


def waiting(condition: str) -> str:
    """A command that ends when *condition* is so, and fails when that takes too long."""
    return f"timeout 280 sh -c {shlex.quote(f'until {condition} >/dev/null 2>&1; do sleep 0.2; done')}"


def run(node: str) -> dict[str, Any]:
    """One run, started by hand: its status, which must be what systemd saw of it."""
    on(node, f"systemctl start {_UNIT}", check=False)
    told = status(node)
    assert on(node, f"systemctl show -P ExecMainStatus {_UNIT}") == str(told["exit_code"]), log(node)
    assert on(node, f"systemctl show -P Result {_UNIT}") == ("exit-code" if told["exit_code"] else "success")
    return told


def status(node: str) -> dict[str, Any]:
    """How the last run ended."""
    return dict(json.loads(on(node, f"cat {DIRECTORY}/status.json")))


def log(node: str) -> str:
    """All that the runs have said."""
    return on(node, f"journalctl --no-pager --output=cat --unit={_UNIT}")


def _git(*arguments: str) -> str:
    """Run git without what this machine has set up for it."""
    return _run("git", "-c", "core.hooksPath=/dev/null", *arguments)


def _run(*command: str) -> str:
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout.strip()
