"""The test of GPUs, through the module, on a machine that may have none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._gpu.facts import gpu
from ansible_collections.envfleet.gpu_cluster.plugins.modules import gpu_test


def failure(capsys: pytest.CaptureFixture[str], **options: Any) -> str:
    """Call the module as Ansible does, and return why it fails."""
    with patch_module_args(options), pytest.raises(SystemExit) as end:
        gpu_test.main()
    answer = json.loads(capsys.readouterr().out)
    assert end.value.code == 1
    return str(answer["msg"])


@pytest.mark.skipif(gpu()["present"], reason="this machine has a GPU")
def test_a_node_without_a_gpu_gets_one_clear_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert failure(capsys).startswith("There is no GPU of NVIDIA on the PCI bus")


def test_a_test_needs_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert failure(capsys, timeout_seconds=0).startswith("timeout_seconds: 0 is no time")
