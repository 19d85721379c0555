"""The gate in the role conda_envs, with Ansible itself on this machine, whose look is given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from unit.plugins.conftest import Channel, Node

Run = Callable[..., tuple[int, str]]

PLAY = [
    {
        "hosts": "localhost",
        "gather_facts": False,
        "tasks": [
            {
                "ansible.builtin.include_role": {
                    "name": "envfleet.gpu_cluster.conda_envs",
                    "tasks_from": "{{ entry | default('main') }}",
                    "public": True,
                }
            },
            {
                "ansible.builtin.debug": {
                    "msg": "{{ __conda_envs_findings | map('envfleet.gpu_cluster.finding_text') | join(' and ') }}"
                },
                "when": "entry | default('main') == 'verify'",
            },
        ],
    }
]


def look(driver: str, present: bool = True) -> dict[str, Any]:
    """What the look tells of a node with an A100 and no environment."""
    gpu = {
        "present": present,
        "devices": [{"kind": "gpu", "class": "0x030200", "driver": "nvidia"}],
        "architectures": ["ampere"],
        "user_space": driver,
        "module": {"loaded": driver},
    }
    return {"node": {"system": {"platform": "linux-64"}, "environments": {}, "gpu": gpu}}


@pytest.fixture
def run(tmp_path: Path, node: Node, channel: Channel) -> Run:
    """Run the role for one environment that is made for CUDA 12.4; what was said, on one line."""
    package = channel.add("cuda-version", "12.4", [])
    (tmp_path / "lock.txt").write_text(f"@EXPLICIT\n{package.url}#{package.sha256}\n# platform: linux-64\n")
    (tmp_path / "play.yml").write_text(yaml.safe_dump(PLAY))
    given = {
        "conda_envs_shared": [{"name": "ml", "lock": "lock.txt"}],
        "conda_envs_locks_dir": str(tmp_path),
        "conda_envs_channels": [channel.url],
        "conda_envs_dir": node.layout.envs_dir,
        "conda_envs_generations_dir": node.layout.generations_dir,
        "conda_envs_pkgs_dir": node.pkgs,
        "conda_envs_base_prefix": sys.prefix,
        "conda_envs_kernels_dir": "",
        "conda_envs_min_free_mb": 1,
        "ansible_python_interpreter": sys.executable,
    }

    def play(*arguments: str, **variables: Any) -> tuple[int, str]:
        command = [str(Path(sys.prefix, "bin", "ansible-playbook")), "-i", "localhost,", "-c", "local", "play.yml"]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
        more = {"ANSIBLE_HOME": str(tmp_path / "home"), "ANSIBLE_NOCOLOR": "1", "COLUMNS": "10000"}
        done = subprocess.run(
            [*command, *arguments, "-e", json.dumps(given | variables, default=str)],
            cwd=tmp_path,
            env=environment | more,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    return play


REFUSED = (
    "conda_envs_shared: ml: CUDA 12.4 does not run with driver 470.256.02: it needs 525.60.13 or newer; "
    "cuda-version 12.4 0 asks for it: change the driver or the lock, or let it be a warning with "
    "conda_envs_cuda_gate: warn"
)


@pytest.mark.parametrize("arguments", [(), ("--check",)], ids=["run", "check"])
def test_what_will_not_run_is_refused_before_anything_is_changed(run: Run, node: Node, arguments: tuple[str]) -> None:
    code, output = run(*arguments, gpu_cluster_look=look("470.256.02"))
    assert code != 0
    assert REFUSED in output
    assert not node.root.exists()


@pytest.mark.parametrize(
    ("driver", "variables", "warned"),
    [
        ("470.256.02", {"conda_envs_cuda_gate": "warn"}, True),
        ("470.256.02", {"conda_envs_cuda_gate": "off"}, False),
        ("535.129.03", {}, True),  # minor-version compatibility
        ("580.95.05", {}, False),
        ("", {}, False),
    ],
)
def test_what_runs_or_is_let_through_is_installed(
    run: Run, node: Node, driver: str, variables: dict[str, str], warned: bool
) -> None:
    code, output = run(gpu_cluster_look=look(driver), **variables)
    assert code == 0, output
    assert node.generation().is_dir()
    assert ("conda_envs_shared: ml: " in output) == warned, output


def test_a_driver_is_held_against_the_environments_before_it_changes(run: Run, node: Node) -> None:
    now = {"entry": "driver", "gpu_cluster_look": look("580.95.05")}
    code, output = run(**now, conda_envs_driver="470.256.02")
    assert code != 0
    assert "with 470.256.02 these environments of localhost would not run: ml: CUDA 12.4 does not run" in output
    code, output = run(**now, conda_envs_driver="535.129.03")
    assert code == 0, output
    assert "12.4 came with driver 550.54.14" in output
    for gate in ("warn", "off"):
        code, output = run(**now, conda_envs_driver="470.256.02", conda_envs_cuda_gate=gate)
        assert code == 0, output
        assert ("does not run with driver" in output) == (gate == "warn")
    assert not node.root.exists()


def test_check_names_what_the_driver_will_not_run(run: Run) -> None:
    code, output = run(entry="verify", gpu_cluster_look=look("470.256.02"))
    assert code == 0, output
    assert "and environment ml: CUDA: CUDA 12.4 does not run with driver 470.256.02" in output
    code, output = run(entry="verify", gpu_cluster_look=look("580.95.05"))
    assert "environment ml: CUDA" not in output
    assert "absent (expected lock" in output


def test_who_goes_back_to_a_generation_need_not_look_first(run: Run, node: Node) -> None:
    assert run(gpu_cluster_look=look("580.95.05"))[0] == 0
    live = node.generation()
    code, output = run(
        entry="rollback", conda_envs_rollback_name="ml", conda_envs_rollback_generation=live.name, conda_envs_shared=[]
    )
    assert code == 0, output
    assert node.generation() == live
