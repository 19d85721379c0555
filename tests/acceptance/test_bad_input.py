"""Bad input gives one clear error that names the variable, before anything on the node is changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from acceptance import cluster

LOCKS = cluster.INVENTORY / "envs/tools"
PACKAGE = "http://envfleet-lab-mirror:8080/lab/noarch/six-1.16.0-pyh_0.conda"


def refused(variables: dict[str, Any], *expected: str) -> None:
    """Run the site playbook with *variables*: it must fail with all of *expected* said, and change nothing."""
    before = cluster.snapshot()
    code, output = cluster.playbook("site", "--extra-vars", json.dumps(variables))
    assert code != 0, output
    text = " ".join(output.split())
    for words in expected:
        assert words in text, output
    assert "Traceback" not in output
    assert cluster.snapshot() == before


def environment(lock: Path | str) -> dict[str, Any]:
    """One shared environment with this lock."""
    return {"conda_envs_shared": [{"name": "tools", "lock": str(lock)}]}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        pytest.param(
            {"miniconda_version": "py310_99.1.1-1", "miniconda_installer_sha256": ""},
            ["miniconda_installer_sha256", "py310_99.1.1-1"],
            id="unknown-version-without-sum",
        ),
        pytest.param({"miniconda_installer_sha256": "0" * 64}, ["miniconda_installer_sha256"], id="wrong-sum"),
        pytest.param({"miniconda_min_free_mb": 2**40}, ["miniconda_min_free_mb"], id="disk-full-for-the-base"),
        pytest.param({"miniconda_verison": "typo"}, ["miniconda_verison"], id="unknown-variable"),
    ],
)
def test_base(empty: None, variables: dict[str, Any], expected: list[str]) -> None:
    refused(variables, *expected)


@pytest.fixture(scope="module")
def empty() -> None:
    """An empty node, which every test of the module leaves empty."""
    cluster.lab("up", "--fresh", "--inventory", str(cluster.INVENTORY))


def test_missing_lock(converged_node: None) -> None:
    refused(environment("envs/none.yml"), "conda_envs_shared", "tools", "envs/none.yml")


def test_lock_for_another_platform(converged_node: None, tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    url = PACKAGE.replace("noarch", "linux-aarch64")
    lock.write_text(f"# platform: linux-aarch64\n@EXPLICIT\n{url}#{'0' * 64}\n")
    refused(environment(lock), "conda_envs_shared", "linux-aarch64", "linux-64")


def test_lock_without_hashes(converged_node: None, tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(f"# platform: linux-64\n@EXPLICIT\n{PACKAGE}\n")
    refused(environment(lock), "conda_envs_shared", "no hash")


def test_channel_not_allowed(converged_node: None) -> None:
    refused({"conda_envs_channels": ["https://example.org/other"]}, "conda_envs_channels", "example.org/other")


def test_too_little_disk(converged_node: None) -> None:
    refused({**environment(LOCKS / "conda-lock-next.yml"), "conda_envs_min_free_mb": 2**40}, "conda_envs_min_free_mb")


@pytest.fixture
def corrupt_channel(tmp_path: Path) -> Iterator[str]:
    """The URL of a copy of the channel whose archive of six has one wrong byte."""
    www = Path(cluster.lab_variables()["lab_www"])
    copy = www / "corrupt" / "noarch"
    copy.mkdir(parents=True)
    archive = next((www / "lab/noarch").glob("six-1.17*"))
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    (copy / archive.name).write_bytes(content)
    yield f"http://envfleet-lab-mirror:8080/corrupt/noarch/{archive.name}"
    (copy / archive.name).unlink()
    copy.rmdir()
    copy.parent.rmdir()


def test_corrupt_package_on_the_mirror(converged_node: None, corrupt_channel: str, tmp_path: Path) -> None:
    content = (LOCKS / "conda-lock-next.yml").read_text()
    healthy = corrupt_channel.replace("/corrupt/", "/lab/")
    assert healthy in content
    lock = tmp_path / "conda-lock.yml"
    lock.write_text(content.replace(healthy, corrupt_channel))
    channels = [*cluster.lab_variables()["gpu_cluster_channels"], "http://envfleet-lab-mirror:8080/corrupt"]
    keeps_the_last_good_state({**environment(lock), "conda_envs_channels": channels}, "conda_envs_shared", "six")


def test_mirror_down(converged_node: None) -> None:
    cluster.on_node("rm -rf /opt/envfleet/pkgs/*")
    cluster.lab("mirror", "stop")
    try:
        keeps_the_last_good_state(
            environment(LOCKS / "conda-lock-next.yml"), "conda_envs_shared", "envfleet-lab-mirror"
        )
    finally:
        cluster.lab("mirror", "start")


def test_disk_that_fills_up(converged_node: None) -> None:
    # A file system of its own that every node has, with as much left of it as a part of the environment takes.
    cluster.on_node("fallocate -l $(($(stat -f -c '%a * %S' /dev/shm) - 30000000)) /dev/shm/filler")
    small = {
        "conda_envs_generations_dir": "/dev/shm/generations",
        "conda_envs_pkgs_dir": "/dev/shm/pkgs",
        "conda_envs_dir": "/dev/shm/envs",
        "conda_envs_min_free_mb": 1,
    }
    try:
        code, output = cluster.playbook("site", "--extra-vars", json.dumps(small))
        assert code != 0
        assert "the disk is full" in " ".join(output.split()), output
        assert cluster.on_node("find /dev/shm/generations/tools /dev/shm/envs -mindepth 1").stdout == ""
        assert cluster.environment_state()
    finally:
        cluster.on_node("rm -rf /dev/shm/*")


def test_two_runs_at_once(converged_node: None) -> None:
    cluster.on_node("setsid flock /opt/envfleet/generations/.lock sleep 300 >/dev/null 2>&1 </dev/null & sleep 0.5")
    try:
        refused(
            {**environment(LOCKS / "conda-lock-next.yml"), "conda_envs_lock_timeout_seconds": 1},
            "another run is changing this node",
            "conda_envs_lock_timeout_seconds",
        )
    finally:
        cluster.on_node("pkill -f 'sleep 300'")


def keeps_the_last_good_state(variables: dict[str, Any], *expected: str) -> None:
    """The run must fail with all of *expected* said; the name leads where it led, and nothing half-made is left."""
    before = cluster.environment_state()
    generations = cluster.on_node("ls -A /opt/envfleet/generations/tools").stdout
    code, output = cluster.playbook("site", "--extra-vars", json.dumps(variables))
    assert code != 0, output
    for words in expected:
        assert words in output
    assert "Traceback" not in output
    assert cluster.environment_state() == before
    assert cluster.on_node("ls -A /opt/envfleet/generations/tools").stdout == generations
