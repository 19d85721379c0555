"""A site with a mirror of its own: two hosts that serve it, and a node that reaches nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import yaml

from acceptance import cluster
from lab import control_node
from lab.paths import lab_cache
from lab.podman import Podman

HOSTS = "mirror.yml"
MIRROR, NODE, FAR = "mirror-1", "mirror-2", "mirror-3"
DIRECTORY = "/srv/envfleet-mirror"
WWW = f"{DIRECTORY}/www"
UPSTREAM = "envfleet-lab-mirror"
_UNIT = "envfleet-mirror.service"
_CERTIFICATE = """
set -e; cd /root
openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 30 -subj /CN=site
for host in mirror-1 mirror-3; do
    openssl req -newkey rsa:2048 -nodes -keyout $host.key -out $host.csr -subj /CN=$host
    echo "subjectAltName=DNS:$host" >$host.ext
    openssl x509 -req -in $host.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile $host.ext -out $host.pem
done
"""


def on(node: str, command: str, check: bool = True) -> str:
    """What a command of root printed on *node*."""
    return cluster.on_node(command, node=node, check=check).stdout.strip()


class Site:
    """What its people write, in *directory*."""

    def __init__(self, directory: Path) -> None:
        self.locks = directory / "locks"
        self.archive = cluster.ROOT / _run(str(cluster.ROOT / "tools" / "build.sh")).split()[-1]
        self._variables = directory / "variables.json"
        self._wheels = Path(cluster.lab_variables()["lab_www"]) / "site-wheels"

    def write_locks(self) -> None:
        """Three locks of different kinds, one of which has a wheel that upstream has."""
        shutil.copytree(cluster.INVENTORY / "envs" / "tools", self.locks / "tools")
        tools = yaml.safe_load((self.locks / "tools/conda-lock.yml").read_text())
        lines = [f"{one['url']}#{one['hash']['sha256']}" for one in tools["package"]]
        (self.locks / "listed").mkdir()
        (self.locks / "listed/explicit.txt").write_text("\n".join(["# platform: linux-64", "@EXPLICIT", *lines]) + "\n")
        name, digest = self._wheel()
        wheel = {"name": "site-wheel", "version": "1.0", "manager": "pip", "platform": "linux-64", "dependencies": {}}
        wheel |= {"url": f"{_lab('lab_mirror_url')}/site-wheels/{name}", "hash": {"sha256": digest}}
        tools["package"].append({**wheel, "category": "main", "optional": False})
        (self.locks / "wheels").mkdir()
        (self.locks / "wheels/conda-lock.yml").write_text(yaml.safe_dump(tools))

    def _wheel(self) -> tuple[str, str]:
        self._wheels.mkdir(exist_ok=True)
        name, stem = "site_wheel-1.0-py3-none-any.whl", "site_wheel-1.0.dist-info"
        files = {
            "site_wheel.py": "",
            f"{stem}/METADATA": "Metadata-Version: 2.1\nName: site-wheel\nVersion: 1.0\n",
            f"{stem}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        rows = [f"{path},sha256={_record(text.encode())},{len(text)}" for path, text in files.items()]
        with zipfile.ZipFile(self._wheels / name, "w") as archive:
            for path, text in {**files, f"{stem}/RECORD": "\n".join([*rows, f"{stem}/RECORD,,"]) + "\n"}.items():
                archive.writestr(path, text)
        return name, hashlib.sha256((self._wheels / name).read_bytes()).hexdigest()

    def remove(self) -> None:
        """Take the wheel off upstream."""
        shutil.rmtree(self._wheels, ignore_errors=True)

    def run(self, playbook: str, *arguments: str, **variables: Any) -> tuple[int, str]:
        """Run a playbook with these *variables* besides: its exit code, and what it printed."""
        common = {
            "site_locks": str(self.locks),
            "channel_mirror_collection": str(self.archive),
            "channel_mirror_pip_options": control_node.pip_options(control_node.SITE_MIRROR) + " --no-compile",
        }
        self._variables.write_text(json.dumps({**common, **variables}))
        return cluster.playbook(playbook, "--extra-vars", f"@{self._variables}", *arguments, hosts=HOSTS)

    def apply(self, playbook: str, *arguments: str, **variables: Any) -> str:
        """Run one that must succeed: what was printed."""
        code, output = self.run(playbook, *arguments, **variables)
        assert code == 0, output
        return output


def prepare() -> None:
    """What hosts find that people of the site have put there: certificates, and pinned packages for pip."""
    python = "import sys; print('%d.%d' % sys.version_info[:2])"
    found = on(MIRROR, f"python3 -c {shlex.quote(python)}")
    control_node.publish_packages(lab_cache(), found, control_node.SITE_MIRROR)
    on(MIRROR, _CERTIFICATE)
    for host in (MIRROR, FAR):
        for path, name in (("/etc/ssl/site-mirror.pem", "pem"), ("/etc/ssl/private/site-mirror.key", "key")):
            text = on(MIRROR, f"cat /root/{host}.{name}")
            on(host, f"umask 077; mkdir -p /etc/ssl/private; echo {shlex.quote(text)} >{path}")
    authority = shlex.quote(on(MIRROR, "cat /root/ca.pem"))
    for node in (MIRROR, NODE, FAR):
        on(node, f"echo {authority} >/usr/local/share/ca-certificates/site.crt; update-ca-certificates")


def cut_off(node: str, *kept: str) -> None:
    """Let *node* reach nothing but *kept* and its names: in its network, from outside, where it cannot change it."""
    allowed = [on(node, f"getent ahostsv4 {name} | head -1").split()[0] for name in kept]
    podman = Podman(lab_cache())
    process = podman.run("inspect", "--format={{.State.Pid}}", f"envfleet-{node}")
    rules = ["-P OUTPUT ACCEPT", "-F OUTPUT", "-A OUTPUT -o lo -j ACCEPT"]
    rules += ["-A OUTPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"]
    rules += [f"-A OUTPUT -p {kind} --dport 53 -j ACCEPT" for kind in ("udp", "tcp")]
    rules += [f"-A OUTPUT -d {address} -j ACCEPT" for address in allowed]
    rules += ["-A OUTPUT -j REJECT"]
    for rule in rules:
        _run("nsenter", f"--target={process}", "--net", "iptables", *rule.split())


def update(host: str) -> dict[str, Any]:
    """One run, started as the timer does: its status, which must be what systemd saw of it."""
    on(host, f"systemctl start {_UNIT}", check=False)
    told: dict[str, Any] = json.loads(on(host, f"cat {WWW}/status.json"))
    assert on(host, f"systemctl show -P ExecMainStatus {_UNIT}") == str(told["exit_code"]), log(host)
    return told


def log(host: str) -> str:
    """All that the runs have said."""
    return on(host, f"journalctl --no-pager --output=cat --unit={_UNIT}")


def served(host: str) -> str:
    """Sums of all that is served but the status, and the times of it."""
    return on(host, f"cd {WWW} && find . -type f ! -name status.json -printf '%p %T@ ' -exec sha256sum {{}} \\; | sort")


def _lab(name: str) -> str:
    return str(cluster.lab_variables()[name])


def _record(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout.strip()
