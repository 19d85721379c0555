"""What a node's Python makes of a probe."""

from __future__ import annotations

import glob
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._node import facts
from ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils import _probe

if TYPE_CHECKING:
    from unit.plugins.conftest import Channel, Node

PYTHONS = sorted({sys.executable, *glob.glob("/usr/bin/python3.[0-9]*[0-9]")})


def run(python: str, script: bytes) -> subprocess.CompletedProcess[bytes]:
    """What a node runs."""
    return subprocess.run([python, "-I", "-S", "-"], input=script, capture_output=True, check=False, timeout=60)


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.usefixtures("restore_umask")
def test_a_probe_sees_what_the_module_sees(node: Node, channel: Channel, python: str) -> None:
    node.install(channel.add_tool())
    damaged = node.install(channel.add_tool("other"), name="damaged")
    (damaged / "bin/other").chmod(0o777)
    Path(os.fsdecode(os.fsencode(damaged) + b"/bin/\xff")).touch()
    options: dict[str, Any] = {
        "base_prefix": str(node.root / "conda"),
        "envs_dir": str(node.root / "envs"),
        "generations_dir": str(node.root / "generations"),
        "kernels_dir": "",
        "files": [str(node.link()), "/etc/passwd", '/nowhere/it\'s "here"\\n'],
        "contents": ["/etc/passwd"],
        "usage": True,
        "user_directories": {"root": "", "users": [], "groups": []},
    }
    done = run(python, _probe.script("_node.facts.node", options))
    assert (done.returncode, done.stderr) == (0, b"")
    found, expected = _probe.answer(done.stdout.decode()), json.loads(json.dumps(facts.node(options)))
    for told in (found, expected):  # other processes of this machine write meanwhile
        assert set(told.pop("disk")) == {str(node.root / "conda"), str(node.root / "generations")}
    assert found == expected
    assert [problem["kind"] for problem in found["environments"]["damaged"]["problems"]] == ["changed", "unexpected"]


def test_what_a_node_says_before_is_no_answer() -> None:
    assert _probe.answer('Welcome {"node": 1}\nenvfleet.gpu_cluster:[1]\n') == [1]
    for said in ("", "Welcome", "envfleet.gpu_cluster:[1"):
        with pytest.raises(ValueError, match=r"answer|Expecting"):
            _probe.answer(said)


def test_a_fault_ends_in_an_exit_code() -> None:
    done = run(sys.executable, _probe.script("_node.facts.node", {}))
    assert done.returncode != 0
    assert b"KeyError" in done.stderr


def test_no_more_is_sent_than_is_needed() -> None:
    """Each node compiles what it imports on every run."""
    modules: dict[str, str] = {}
    _probe._collect("_node.facts", modules)
    assert {"_node", "_node.facts", "_conda.environments", "_gpu.facts"} <= set(modules)
    assert not {"_conda.engines", "_conda.convergence", "_gpu.plan"} & set(modules)
