"""The look at the GPUs, through the module."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.envfleet.gpu_cluster.plugins.modules import gpu_facts

from lab import pci


def look(capsys: pytest.CaptureFixture[str], **options: Any) -> dict[str, Any]:
    """Call the module as Ansible does."""
    with patch_module_args(options), pytest.raises(SystemExit) as end:
        gpu_facts.main()
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (end.value.code or 0, answer["changed"]) == (0, False)
    return answer


def node(root: Path, devices: str) -> str:
    (root / "sys/bus/pci").mkdir(parents=True)
    pci.write_tree(root / "sys/bus/pci/devices", pci.read_list(pci.LISTS / f"{devices}.yml"))
    return str(root)


def test_all_that_is_returned_is_documented(tmp_path: Path, capsys: pytest.CaptureFixture[str], audited: Any) -> None:
    root = node(tmp_path, "a100")
    with audited() as audit:
        found = look(capsys, root=root)
    assert audit.events == []
    assert set(found) - {"invocation"} == {"gpu", "changed"}
    assert set(found["gpu"]) == set(yaml.safe_load(gpu_facts.RETURN)["gpu"]["contains"])


def test_the_library_is_asked_only_where_there_is_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nvml" not in look(capsys, root=node(tmp_path / "without", "intel"), refine=True)
    found = look(capsys, root=node(tmp_path / "with", "a100"), refine=True)["nvml"]
    assert set(found) == set(yaml.safe_load(gpu_facts.RETURN)["nvml"]["sample"])
