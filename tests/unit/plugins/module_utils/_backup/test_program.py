"""What the units start, with the Pythons that nodes have."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils import _probe
from prometheus_client.parser import text_string_to_metric_families

PYTHONS = sorted({sys.executable, *map(str, Path("/usr/bin").glob("python3.[0-9]*[0-9]"))})


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A directory with the program and its configuration."""
    (tmp_path / "backup.py").write_text(_probe.program("_backup.program.main"))
    config: dict[str, Any] = {
        "repository": str(tmp_path / "repository"),
        "host": "node",
        "directory": str(tmp_path),
        "envs_dir": str(tmp_path / "envs"),
        "generations_dir": str(tmp_path / "generations"),
        "shared": ["missing"],
        "users": [],
        "paths": [],
        "marker": "",
        "keep": {"daily": 1},
        "prune": True,
        "lock_timeout_seconds": 0,
        "drill": "all",
        "metrics_directory": "",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def run(node: Path, verb: str, python: str = sys.executable, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [python, "-I", "-S", "-B", str(node / "backup.py"), verb, str(node / "config.json")]
    return subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize(("verb", "prefix"), [("save", "gpu_cluster_backup"), ("drill", "gpu_cluster_backup_drill")])
def test_a_failure_is_told_to_people_and_to_prometheus(node: Path, python: str, verb: str, prefix: str) -> None:
    (node / f"{verb}.json").write_text(json.dumps({"last_success": 5, "environments": {"shared:ml": 5}}))
    done = run(node, verb, python)  # without systemd, there is no password
    assert (done.returncode, done.stderr) == (1, "")
    assert "start this as a unit of systemd" in done.stdout
    status = json.loads((node / f"{verb}.json").read_text())
    assert (status["exit_code"], status["last_success"], status["environments"]) == (1, 5, {"shared:ml": 5})
    assert status["message"] in done.stdout
    text = (node / f"env_backup{'_drill' if verb == 'drill' else ''}.prom").read_text()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert {sample.name for sample in samples if not sample.name.startswith(f"{prefix}_")} == set()
    told = {sample.name.removeprefix(f"{prefix}_"): sample.value for sample in samples}
    assert (told["exit_code"], told["last_success_timestamp_seconds"]) == (1, 5)
    assert told["environment_last_success_timestamp_seconds"] == 5


def test_a_second_run_ends_at_once_and_changes_nothing(node: Path) -> None:
    with open(node / "save.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run(node, "save")
    assert (done.returncode, done.stderr) == (75, "Another run is at work.\n")
    assert not (node / "save.json").exists()


def test_a_configuration_of_another_version_is_told(node: Path) -> None:
    (node / "config.json").write_text('{"repository": "/x"}')
    done = run(node, "save")
    assert done.returncode == 1
    assert "run the role env_backup again" in done.stderr
