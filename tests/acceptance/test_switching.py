"""A job that imports late for a minute, and readers, on a node whose environment is switched all the while.

Beside it, the same job under an update in place, and the same reader under a switch of two steps, as done elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shlex
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from acceptance import cluster, switching
from lab.packages import index_of, write_package

NAME = "/opt/envfleet/envs/tools"
PLACE = "/var/tmp/switching"
"""Where the channel, the scripts and their signals are on the node."""

COLLECTION = cluster.ROOT / "plugins/module_utils/_conda"
# The engine of the base puts one lock after the other into the same prefix.
IN_PLACE = f"""
import json, subprocess, sys, time
times, pause, *orders = sys.argv[1:]
for number in range(int(times)):
    command = ["/opt/conda/bin/python", "-I", "{PLACE}/_conda/_rattler_child.py"]
    with open(orders[number % 2]) as order:
        done = subprocess.run(command, stdin=order, capture_output=True, text=True)
    assert "version" in json.loads(done.stdout), done
    time.sleep(float(pause))
"""
REPLACE = f"""
import sys
sys.path.insert(0, "{PLACE}")
from _conda.files import replace_link
name, times, *targets = sys.argv[1:]
for number in range(int(times)):
    replace_link(name, targets[number % 2])
"""


@pytest.fixture(scope="module")
def locks(converged_node: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """Two locks of the environment that differ in the version of a package, which the node has a channel for."""
    channel = tmp_path_factory.mktemp("channel")
    content = yaml.safe_load((cluster.INVENTORY / "envs/tools/conda-lock.yml").read_text())
    (python,) = (entry["version"] for entry in content["package"] if entry["name"] == "python")
    site_packages = f"lib/python{python.rpartition('.')[0]}/site-packages"
    made = []
    for version in ("1.0", "2.0"):
        package = write_package(channel, index_of("lazy", version, "0", []), switching.lazy(version, site_packages))
        entry = {
            "name": "lazy",
            "version": version,
            "manager": "conda",
            "platform": "linux-64",
            "dependencies": {},
            "url": f"file://{PLACE}/linux-64/{package.name}",
            "hash": {"sha256": hashlib.sha256(package.read_bytes()).hexdigest()},
        }
        path = channel / f"conda-lock-{version}.yml"
        path.write_text(yaml.safe_dump({**content, "package": [*content["package"], entry]}))
        made.append(path)
    cluster.on_node(f"rm -rf {PLACE} && mkdir -p {PLACE}/signals && chmod 1777 {PLACE}/signals")
    send(*((path, f"linux-64/{path.name}") for path in channel.glob("linux-64/*.conda")))
    send(*((path, f"_conda/{path.name}") for path in COLLECTION.glob("*.py")))
    for name in ("JOB", "READER", "STARTER", "UNLINK_AND_SYMLINK"):
        send_text(name, getattr(switching, name))
    send_text("IN_PLACE", IN_PLACE)
    send_text("REPLACE", REPLACE)
    yield made
    cluster.on_node(f"rm -rf {PLACE} /opt/in-place")
    code, output = cluster.playbook("site")
    assert code == 0, output


def send(*files: tuple[Path, str]) -> None:
    """Copy files to PLACE on the node."""
    for source, name in files:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            archive.add(source, name)
        text = base64.b64encode(buffer.getvalue()).decode()
        cluster.on_node(f"echo {text} | base64 -d | tar -xzf - --no-same-owner -C {PLACE}")


def send_text(name: str, text: str) -> None:
    """Write a file in PLACE on the node."""
    cluster.on_node(f"printf %s {shlex.quote(text)} >{PLACE}/{name}.py")


def start(script: str, python: str, *arguments: str) -> None:
    """Start a script as a user, and wait until it is at work."""
    signals = f"{PLACE}/signals"
    command = shlex.join([python, f"{PLACE}/{script}.py", *arguments])
    command = command.replace("READY", f"{signals}/{script}.ready").replace("STOP", f"{signals}/stop")
    cluster.on_node(
        f"rm -f {signals}/{script}.*; setsid {command} >{signals}/{script}.out 2>{signals}/{script}.err </dev/null & "
        f"for i in $(seq 300); do test -e {signals}/{script}.ready && exit; sleep 0.1; done; "
        f"cat {signals}/{script}.err; exit 1",
        user="alice",
    )


def stop(*scripts: str) -> list[dict[str, Any]]:
    """What each of the scripts has met, once they are told to stop."""
    signals = f"{PLACE}/signals"
    cluster.on_node(f"touch {signals}/stop", user="alice")
    told = []
    for script in scripts:
        for _attempt in range(600):
            if output := cluster.on_node(f"cat {signals}/{script}.out").stdout.strip():
                break
            time.sleep(0.2)
        assert output, cluster.on_node(f"cat {signals}/{script}.err").stdout
        told.append(json.loads(output))
    cluster.on_node(f"rm {signals}/stop")
    return told


def switch(locks: list[Path], times: int, directory: Path) -> None:
    """Have the module bring the environment to one lock after the other, that many times, beginning with the first."""
    channels = [*cluster.lab_variables()["gpu_cluster_channels"], f"file://{PLACE}"]
    environment = {"name": "tools", "lock": "{{ item }}"}
    task = {
        "name": "Bring the environment to another lock",
        "envfleet.gpu_cluster.conda_env": {"environments": [environment], "channels": channels, "min_free_mb": 1},
        "loop": [str(locks[number % 2]) for number in range(times)],
        "register": "switched",
        "failed_when": "switched is failed or switched is not changed",
    }
    play = {"hosts": "gpu_nodes", "gather_facts": False, "tasks": [task]}
    path = directory / "switch.yml"
    path.write_text(yaml.safe_dump([play]))
    code, output = cluster.playbook(str(path.with_suffix("")))
    assert code == 0, output


@pytest.mark.parametrize(
    ("switches", "pause"), [(10, 0.1), pytest.param(50, 0.3, marks=pytest.mark.slow)], ids=["short", "a minute"]
)
def test_a_job_that_imports_late_loads_nothing_but_its_own_while_the_name_moves(
    switches: int, pause: float, locks: list[Path], tmp_path: Path
) -> None:
    switch(locks[1:], 1, tmp_path)
    switch(locks[:1], 1, tmp_path)
    old = cluster.on_node(f"readlink {NAME}").stdout.strip()
    begun = time.monotonic()
    start("JOB", f"{NAME}/bin/python", NAME, "READY", "STOP", str(pause))
    start("READER", "/usr/bin/python3", f"{NAME}/share/lazy/version", "READY", "STOP")
    start("STARTER", "/usr/bin/python3", NAME, "READY", "STOP")
    switch(locks[::-1], switches, tmp_path)
    job, reader, starter = stop("JOB", "READER", "STARTER")
    seconds = time.monotonic() - begun
    wrong, loads = switching.wrong_loads(job, "1.0")
    print(
        f"{switches} switches in {seconds:.0f} s: {loads} loads, {wrong} wrong; "
        f"{reader['reads']} reads, {reader['misses']} misses; {starter['starts']} starts, {len(starter['wrong'])} wrong"
    )
    assert job["prefix"] == old
    assert (wrong, reader["misses"], starter["wrong"]) == (0, 0, [])
    assert set(job["found"]) == {"late import", "child", "fork", "spawn", "forkserver"}
    assert job["moves seen"] >= switches / 2
    assert reader["reads"] > 1000 * switches
    assert starter["starts"] > switches
    assert cluster.verified_packages(old)


def order(lock: Path) -> dict[str, Any]:
    """What the engine needs to know to put a lock into a prefix of its own."""
    entries = yaml.safe_load(lock.read_text())["package"]
    packages = []
    for entry in entries:
        file_name = entry["url"].rpartition("/")[2].removesuffix(".conda")
        name, version, build = file_name.rsplit("-", 2)
        subdir, sums = entry["url"].split("/")[-2], {"sha256": "", "md5": "", **entry["hash"]}
        told = {"name": name, "version": version, "build": build, "subdir": subdir, "url": entry["url"]}
        packages.append({**told, "sha256": sums["sha256"], "md5": sums["md5"]})
    return {"packages": packages, "prefix": "/opt/in-place", "cache": f"{PLACE}/pkgs"}


def test_an_update_in_place_changes_what_a_running_job_loads(locks: list[Path]) -> None:
    """What everybody else does, with the same engine, the same packages and the same job."""
    orders = []
    for number, lock in enumerate(locks):
        cluster.on_node(f"printf %s {shlex.quote(json.dumps(order(lock)))} >{PLACE}/{number}.json")
        orders.append(f"{PLACE}/{number}.json")
    cluster.on_node(f"/usr/bin/python3 {PLACE}/IN_PLACE.py 1 0 {shlex.join(orders)}")
    start("JOB", "/opt/in-place/bin/python", "/opt/in-place", "READY", "STOP", "0.1")
    cluster.on_node(f"/usr/bin/python3 {PLACE}/IN_PLACE.py 10 0.5 {shlex.join(orders[::-1])}")
    (job,) = stop("JOB")
    wrong, loads = switching.wrong_loads(job, "1.0")
    print(f"updated 10 times in place: {loads} loads, {wrong} wrong: {job['found']}")
    assert wrong > 0


@pytest.mark.parametrize("way", ["REPLACE", "UNLINK_AND_SYMLINK"])
def test_a_reader_misses_a_name_that_is_unlinked_but_not_one_that_is_replaced(way: str, locks: list[Path]) -> None:
    name, targets = f"{PLACE}/name", [f"{PLACE}/1", f"{PLACE}/2"]
    for target in targets:
        cluster.on_node(f"mkdir -p {target} && echo data >{target}/data && ln -sfn {target} {name}")
    start("READER", "/usr/bin/python3", f"{name}/data", "READY", "STOP")
    times = 5000 if way == "REPLACE" else 50000
    cluster.on_node(f"/usr/bin/python3 {PLACE}/{way}.py {name} {times} {shlex.join(targets)}")
    (reader,) = stop("READER")
    print(f"{way}, {times} times: {reader}")
    assert reader["reads"] > 1000
    assert (reader["misses"] > 0) == (way == "UNLINK_AND_SYMLINK")
