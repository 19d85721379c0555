"""Playbooks with Ansible itself, where this machine stands for all nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PLAYBOOKS = Path(__file__).resolve().parent.parent.parent / "playbooks"
HOSTS: dict[str, dict[str, Any]] = {
    "good": {},
    "hanging": {"ansible_python_interpreter": "{{ inventory_dir }}/hangs"},
    # Nothing listens at port 1.
    "away": {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1},
    "mistaken": {"conda_envs_shared": [{"name": "tools", "lock": "nowhere.yml"}]},
}


@pytest.mark.parametrize("strategy", ["linear", "free"])
def test_a_node_that_hangs_or_is_away_keeps_nobody_from_being_examined(tmp_path: Path, strategy: str) -> None:
    (tmp_path / "hangs").write_text("#!/bin/sh\nexec sleep 600\n")
    (tmp_path / "hangs").chmod(0o755)
    variables = {
        "ansible_connection": "local",
        "ansible_become": False,
        "ansible_python_interpreter": sys.executable,
        "gpu_cluster_look_timeout_seconds": 5,
        "miniconda_prefix": str(tmp_path / "conda"),
        "miniconda_condarc_path": str(tmp_path / "condarc"),
        "conda_envs_dir": str(tmp_path / "envs"),
        "conda_envs_generations_dir": str(tmp_path / "generations"),
    }
    inventory = {"gpu_nodes": {"vars": variables, "hosts": HOSTS}}
    (tmp_path / "hosts.json").write_text(json.dumps(inventory))
    program = Path(sys.executable).with_name("ansible-playbook")
    environment = {
        "ANSIBLE_HOME": str(tmp_path),
        "ANSIBLE_STRATEGY": strategy,
        "GPU_CLUSTER_DRIFT_REPORT_DIRECTORY": str(tmp_path / "report"),
    }
    done = subprocess.run(
        [program, "-i", tmp_path / "hosts.json", PLAYBOOKS / "check.yml"],
        cwd=PLAYBOOKS.parent,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode != 0
    hosts = json.loads((tmp_path / "report/drift.json").read_text())["hosts"]
    states = {host: hosts[host]["state"] for host in HOSTS}
    assert states == {"good": "drifted", "hanging": "failed", "away": "unreachable", "mistaken": "failed"}, done.stdout
    subjects = {finding["subject"] for finding in hosts["good"]["findings"]}
    assert {str(tmp_path / "conda"), str(tmp_path / "condarc")} <= subjects
    assert "nowhere.yml" in done.stdout
