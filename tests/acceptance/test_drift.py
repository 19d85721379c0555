"""Whatever drifts is found by one finding of the right class, corrected where a run may, and then gone.

Injuries that do not touch each other are done together: what is found must be just the findings of them all.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jsonschema
import prometheus_client.parser
import pytest
import yaml

from acceptance import cluster

HOSTS = "drift.yml"
NODE, GPU_NODE = "drift-1", "drift-2"
ENVS = "/opt/envfleet/envs"
KERNEL = "/usr/local/share/jupyter/kernels/drift"
LIBRARY = "lib/python3.10"
PACKAGES = f"{LIBRARY}/site-packages"
CONDARC, PROFILE, COMMAND = "/etc/conda/.condarc", "/etc/profile.d/envfleet-conda.sh", "/usr/local/bin/conda"
BLACKLIST, PINS = "/etc/modprobe.d/envfleet-nvidia.conf", "/etc/apt/preferences.d/envfleet-nvidia"
SOURCE = "/etc/apt/sources.list.d/nvidia-container-toolkit.sources"
KEY = "/etc/apt/keyrings/nvidia-container-toolkit.asc"
SPEC = "/var/run/cdi/nvidia.yaml"
# Runs on the node: writes the wheel of a package that no lock has.
WHEEL = """
import zipfile
with zipfile.ZipFile("byhand-1.0-py3-none-any.whl", "w") as wheel:
    wheel.writestr("byhand.py", "")
    info = "byhand-1.0.dist-info/"
    wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: byhand\\nVersion: 1.0\\n")
    wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
    wheel.writestr(info + "RECORD", "".join(name + ",,\\n" for name in wheel.namelist()))
"""
# What a conda that was told not to mind the policy leaves of a package from another channel.
RECORD = {
    "name": "elsewhere",
    "version": "1.0",
    "build": "0",
    "url": "https://channel.example/linux-64/elsewhere-1.0-0.conda",
    "files": ["share/elsewhere"],
    "paths_data": {"paths": []},
}
# Stands in for a driver that works, and for what a container has not: a kernel that shows its modules. The daemon and
# nvidia-ctk do just what is looked at.
DRIVER = """
set -eu
library=$(dirname /usr/lib/*-linux-gnu/libc.so.6)
touch $library/libcuda.so.535.1.1 $library/libcuda.so.550.1.1
ln -sfn libcuda.so.535.1.1 $library/libcuda.so.1
rm -rf /sys/module/nvidia /sys/module/nouveau
mkdir -p /sys/module/nvidia /var/lib/dkms/nvidia /etc/docker /etc/modprobe.d
echo 535.1.1 >/sys/module/nvidia/version
ln -sfn 535.1.1/$(uname -r)/x86_64 /var/lib/dkms/nvidia/kernel-$(uname -r)-x86_64
cp /bin/sleep /usr/local/sbin/nvidia-persistenced
printf '%s\\n' '[Service]' 'ExecStart=/usr/local/sbin/nvidia-persistenced infinity' '[Install]' \
    'WantedBy=multi-user.target' >/etc/systemd/system/nvidia-persistenced.service
systemctl daemon-reload
printf '%s\\n' '' 'Package: nvidia-persistenced' 'Status: install ok installed' 'Version: 535.1.1-1' \
    'Architecture: all' 'Maintainer: tests <tests@example.org>' 'Description: stand-in' '' >>/var/lib/dpkg/status
printf '%s\\n' '#!/bin/sh' 'echo "kind: nvidia.com/gpu # $(readlink -e /usr/lib/*-linux-gnu/libcuda.so.1)" >"${3#*=}"' \
    >/usr/bin/nvidia-ctk
chmod 0755 /usr/bin/nvidia-ctk
"""
ROLE = yaml.safe_load((cluster.ROOT / "roles/nvidia_driver/vars/main.yml").read_text())
# What the role nvidia_driver writes beside the packages; to install those takes an archive, and is tested elsewhere.
DRIVER_FILES = f"touch {PINS}; printf %s {shlex.quote(ROLE['__nvidia_driver_blacklist'])} >{BLACKLIST}"
USER_SPACE = f"ln -sfn libcuda.so.{{}} /usr/lib/*-linux-gnu/libcuda.so.1; nvidia-ctk cdi generate --output={SPEC}"


class Injury(NamedTuple):
    """Something that happens to a node, and the one finding that it must be found by."""

    command: str  #: what a shell runs; {NAME} is the generation of environment NAME
    component: str
    subject: str
    actual: str  #: how it begins
    fix: str = "auto"
    mend: str = ""  #: of what no run corrects, what a person would do


def of_drift(command: str, subject: str, actual: str) -> Injury:
    """An injury of the environment `drift`, in its generation."""
    return Injury(f"cd {{drift}}; {command}", "environment drift", subject, actual)


def of_policy(command: str, subject: str, actual: str, fix: str = "auto", mend: str = "") -> Injury:
    return Injury(command, "policy", subject, actual, fix, mend)


def of_toolkit(command: str, subject: str, actual: str) -> Injury:
    return Injury(command, "container toolkit", subject, actual)


def of_driver(command: str, subject: str, actual: str, mend: str) -> Injury:
    """While the driver is loaded, nothing of it is changed but on an empty node."""
    return Injury(command, "driver", subject, actual, "drain", mend)


ROUNDS: list[dict[str, list[Injury]]] = [
    {
        NODE: [
            # First those that need a whole Python.
            of_drift(
                f"cd /tmp; python3 -c {shlex.quote(WHEEL)};"
                f" {ENVS}/drift/bin/python -m pip install -q --break-system-packages --no-index ./byhand-1.0-*.whl",
                "byhand",
                "foreign: byhand 1.0 was installed by hand with pip",
            ),
            of_drift(
                f"echo {shlex.quote(json.dumps(RECORD))} >conda-meta/elsewhere-1.0-0.json; touch share/elsewhere",
                "elsewhere",
                "foreign: elsewhere 1.0 0 was installed by hand with conda",
            ),
            of_drift(f"rm {PACKAGES}/six.py", f"{PACKAGES}/six.py", "missing: file of six 1.16.0"),
            of_drift(f"echo >>{LIBRARY}/this.py", f"{LIBRARY}/this.py", "changed: file of python 3.10"),
            of_drift(f"chmod 0666 {LIBRARY}/abc.py", f"{LIBRARY}/abc.py", "changed: file of python 3.10"),
            of_drift(f"chown alice {LIBRARY}/ast.py", f"{LIBRARY}/ast.py", "changed: file of python 3.10"),
            of_drift(
                f"touch {LIBRARY}/sitecustomize.py", f"{LIBRARY}/sitecustomize.py", "unexpected: is in no package"
            ),
            of_drift("ln -sfn /bin/true bin/python3", "bin/python3", "changed: file of python 3.10"),
            of_drift("chmod 0777 bin", "bin", "changed: file of no package: expected directory 0755"),
            of_drift(f"rm -r {PACKAGES}/comm", f"{PACKAGES}/comm", "missing"),
            of_drift("echo >>conda-meta/six-1.16.0-pyh_0.json", "conda-meta/six-1.16.0-pyh_0.json", "changed"),
            of_drift(
                "echo '{' >conda-meta/decorator-5.3.1-pyh_0.json", "conda-meta/decorator-5.3.1-pyh_0.json", "record"
            ),
            of_drift("rm conda-meta/parso-*.json", "conda-meta/parso-0.8.7-pyh_0.json", "missing"),
            of_drift("rm conda-meta/frozen", "conda-meta/frozen", "missing"),
            of_drift(f"rm {LIBRARY}/EXTERNALLY-MANAGED", f"{LIBRARY}/EXTERNALLY-MANAGED", "missing"),
            of_drift("echo >etc/conda/activate.d/envfleet-pin.sh", "etc/conda/activate.d/envfleet-pin.sh", "changed"),
            of_drift(f"echo >{PACKAGES}/zzz-envfleet-pin.pth", f"{PACKAGES}/zzz-envfleet-pin.pth", "changed"),
            of_drift("echo 'channels: [defaults]' >.condarc", ".condarc", "unexpected"),
            Injury(f"sed -i s/drift/other/ {KERNEL}/kernel.json", "environment drift", KERNEL, "kernel: leads to"),
            Injury(f"rm {ENVS}/gone", "environment gone", f"{ENVS}/gone", "absent"),
            Injury(
                f"ln -sfn /nowhere {ENVS}/broken", "environment broken", f"{ENVS}/broken", "link: leads to /nowhere"
            ),
            Injury(
                f"ln -sfn $(ls -d /opt/envfleet/generations/older/* | grep -vx {{older}}) {ENVS}/older",
                "environment older",
                f"{ENVS}/older",
                "lock ",
            ),
            Injury(
                f"ln -sfn {{half}} {ENVS}/stray",
                "environment stray",
                f"{ENVS}/stray",
                "link: leads to /opt/envfleet/generations/half/",
            ),
            Injury(
                "cd /opt/envfleet/generations/unfinished; mkdir killed; touch .killed.building",
                "environment unfinished",
                "/opt/envfleet/generations/unfinished/killed",
                "unfinished prefix",
            ),
            Injury(f"ln -s /nowhere {ENVS}/.half.new", "environment half", f"{ENVS}/.half.new", "unfinished prefix"),
            Injury("echo >{damaged}/conda-meta/envfleet.manifest", "environment damaged", "{damaged}", "manifest"),
            Injury(
                "rm {unlisted}/conda-meta/envfleet.files",
                "environment unlisted",
                "conda-meta/envfleet.files",
                "manifest",
            ),
            Injury(
                "chmod 0666 {writable}/conda-meta/envfleet.manifest",
                "environment writable",
                "conda-meta/envfleet.manifest",
                "manifest",
            ),
            Injury("chmod 0777 {open}", "environment open", "{open}", "changed: directory of the generation"),
            Injury(f"ln -s {{half}} {ENVS}/retired", "environment retired", f"{ENVS}/retired", "is there"),
            Injury("echo >>$(readlink -e /opt/conda/bin/conda)", "base", "bin/conda", "changed: file of conda"),
            of_policy(f"echo 'channels: [defaults]' >>{CONDARC}", CONDARC, "content"),
            of_policy(f"echo >>{PROFILE}", PROFILE, "content"),
            of_policy(f"ln -sfn /bin/true {COMMAND}", COMMAND, "target /bin/true"),
            of_policy(
                "echo 'solver: classic' >/etc/conda/condarc",
                "/etc/conda/condarc",
                "file",
                "human",
                "rm /etc/conda/condarc",
            ),
            of_policy(
                "mkdir -p /var/lib/conda/condarc.d",
                "/var/lib/conda/condarc.d",
                "directory",
                "human",
                "rmdir /var/lib/conda/condarc.d",
            ),
        ],
        GPU_NODE: [
            of_driver(f"echo >>{BLACKLIST}", BLACKLIST, "content", DRIVER_FILES),
            of_driver(f"rm {PINS}", PINS, "absent", DRIVER_FILES),
            Injury("systemctl stop nvidia-persistenced", "driver", "persistence daemon", "not running"),
            of_driver("mkdir /sys/module/nouveau", "nouveau", "loaded: reboot needed", "rmdir /sys/module/nouveau"),
            of_toolkit(
                "mkdir -p /etc/cdi; cp -L /run/cdi/nvidia.yaml /etc/cdi/nvidia.yaml", "/etc/cdi/nvidia.yaml", "a second"
            ),
            of_toolkit(f"rm {SPEC}", SPEC, "absent"),
            of_toolkit(f"echo >>{SOURCE}", SOURCE, "content"),
            of_toolkit(f"chmod 0666 {KEY}", KEY, "mode 0666"),
            of_toolkit("echo '{}' >/etc/docker/daemon.json", "/etc/docker/daemon.json", "without them"),
        ],
    },
    {
        NODE: [
            Injury("rm /opt/conda", "base", "/opt/conda", "absent"),
            of_policy(f"chown alice {CONDARC}", CONDARC, "owner alice"),
            of_policy(f"rm {PROFILE}", PROFILE, "absent"),
            of_policy(f"rm {COMMAND}; cp /bin/true {COMMAND}", COMMAND, "file"),
        ],
        GPU_NODE: [
            # As an upgrade by hand leaves it, with a spec for containers that fits.
            of_driver(
                USER_SPACE.format("550.1.1"),
                "user space",
                "550.1.1",
                USER_SPACE.format("535.1.1"),
            ),
        ],
    },
    {
        NODE: [
            Injury("rm -rf $(readlink -e /opt/conda)", "base", "/opt/conda", "link: leads to"),
            of_policy(f"chmod 0666 {CONDARC}", CONDARC, "mode 0666"),
            of_policy(f"chmod 0666 {PROFILE}", PROFILE, "mode 0666"),
            of_policy(f"rm {COMMAND}", COMMAND, "absent"),
        ],
        GPU_NODE: [
            of_driver(
                "echo 535.0.1 >/sys/module/nvidia/version",
                "loaded kernel module",
                "535.0.1",
                "echo 535.1.1 >/sys/module/nvidia/version",
            ),
            of_toolkit(f"sed -i s/535.1.1/525.1.1/ {SPEC}", SPEC, "CDI spec of driver 525.1.1"),
        ],
    },
    {
        NODE: [
            Injury("ln -sfn /opt/envfleet/base/py310_1.1-1 /opt/conda", "base", "/opt/conda", "py310_1.1-1"),
            of_policy(f"rm {CONDARC}", CONDARC, "absent"),
        ],
        GPU_NODE: [
            Injury(
                "rm /var/lib/dkms/nvidia/kernel-*",
                "driver",
                "kernel module for {kernel}",
                "not built",
                "human",
                "ln -sfn 535.1.1/$(uname -r)/x86_64 /var/lib/dkms/nvidia/kernel-$(uname -r)-x86_64",
            ),
        ],
    },
    {
        # What no run can do anything about stops the whole role on its node, before the first change.
        NODE: [
            Injury(
                f"rm {ENVS}/replaced; mkdir {ENVS}/replaced",
                "environment replaced",
                f"{ENVS}/replaced",
                "obstacle: is no link",
                "human",
                f"rmdir {ENVS}/replaced; ln -s {{replaced}} {ENVS}/replaced",
            ),
        ],
        GPU_NODE: [],
    },
]

Found = list[tuple[str, str, str, str, str]]
Check = Callable[[], Found]


@pytest.fixture(scope="module")
def places() -> Iterator[dict[str, dict[str, str]]]:
    """Nodes that are as their inventory says, one with an older base and an older generation; and where things are."""
    cluster.lab("up", "--fresh", "--inventory", str(cluster.INVENTORY / HOSTS))
    cluster.on_node(f"{DRIVER}\n{DRIVER_FILES}", node=GPU_NODE)
    installer = cluster.lab_variables()["lab_installers"][1]
    older = {
        "miniconda_version": installer["version"],
        **{f"miniconda_installer_{name}": installer[name] for name in ("url", "sha256")},
        "conda_envs_shared": [{"name": "older", "lock": "envs/small/conda-lock-older.yml"}],
    }
    site("--limit", NODE, "--extra-vars", json.dumps(older))
    site()
    yield {NODE: generations(), GPU_NODE: {"kernel": cluster.on_node("uname -r", node=GPU_NODE).stdout.strip()}}
    cluster.lab("down", "--inventory", str(cluster.INVENTORY / HOSTS))


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Run the check, and tell from its report what was found."""
    monkeypatch.setenv("GPU_CLUSTER_DRIFT_REPORT_DIRECTORY", str(tmp_path))

    def run() -> Found:
        code, output = cluster.playbook("check", hosts=HOSTS)
        report = json.loads((tmp_path / "drift.json").read_text())
        jsonschema.validate(report, json.loads((cluster.ROOT / "docs/drift-report.schema.json").read_text()))
        hosts = report["hosts"]
        assert {name for name, host in hosts.items() if host["examined"]} == {NODE, GPU_NODE}, output
        found = [(name, finding) for name, host in hosts.items() for finding in host["findings"]]
        assert code == (2 if any((one["severity"], one["fix"]) != ("warning", "human") for _name, one in found) else 0)
        text = (tmp_path / "drift_check.prom").read_text()
        (family,) = (
            family
            for family in prometheus_client.parser.text_string_to_metric_families(text)
            if family.name == "gpu_cluster_drift_findings"
        )
        assert sum(sample.value for sample in family.samples) == len(found)
        return [(name, *(one[key] for key in ("component", "subject", "fix", "actual"))) for name, one in found]

    return run


def site(*arguments: str) -> None:
    """Bring the nodes to their declared state, as far as that can be done."""
    code, output = cluster.playbook("site", *arguments, hosts=HOSTS)
    assert code == 0, output


def generations() -> dict[str, str]:
    """Where each name on the node leads to."""
    found = cluster.on_node(f"cd {ENVS}; for name in *; do echo $name $(readlink -e $name); done", node=NODE)
    return dict(line.split() for line in found.stdout.splitlines())


def at(places: dict[str, str], text: str) -> str:
    """*text* with the places that it names."""
    for name, place in places.items():
        text = text.replace(f"{{{name}}}", place)
    return text


def differences(found: Found, expected: list[tuple[str, Injury]], places: dict[str, dict[str, str]]) -> list[str]:
    """What was not found by just one finding, and the findings of nothing."""
    missed, unexplained = [], list(found)
    for node, injury in expected:
        wanted = (node, injury.component, at(places[node], injury.subject), injury.fix)
        match = next((one for one in unexplained if one[:4] == wanted and one[4].startswith(injury.actual)), None)
        if match:
            unexplained.remove(match)
        else:
            missed.append(f"not found: {wanted}: {injury.actual}")
    return [*missed, *map(str, unexplained)]


@pytest.mark.parametrize("injuries", ROUNDS, ids=["first", "second", "third", "fourth", "obstacle"])
def test_each_is_found_once_and_corrected_where_a_run_may(
    places: dict[str, dict[str, str]], check: Check, injuries: dict[str, list[Injury]]
) -> None:
    places[NODE] = generations()
    for node, generation in places.items():
        commands = [f"({at(generation, injury.command)})" for injury in injuries[node]]
        cluster.on_node("set -e\n" + "\n".join(commands), node=node)
    expected = [(node, injury) for node in injuries for injury in injuries[node]]
    assert differences(check(), expected, places) == []
    if any(injury.fix == "auto" for _node, injury in expected):
        site()
    left = [(node, injury) for node, injury in expected if injury.fix != "auto"]
    assert differences(check(), left, places) == []
    for node, injury in left:
        cluster.on_node(at(places[node], injury.mend), node=node)
    assert check() == []


@pytest.mark.usefixtures("places")
def test_nothing_is_found_on_a_clean_node(check: Check) -> None:
    assert [check() for _run in range(10)] == [[]] * 10
