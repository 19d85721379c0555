"""The one look at a node, through the module."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._node import facts
from ansible_collections.envfleet.gpu_cluster.plugins.modules import node_facts

if TYPE_CHECKING:
    from unit.plugins.conftest import Channel, Node


def look(capsys: pytest.CaptureFixture[str], **options: Any) -> dict[str, Any]:
    """Call the module as Ansible does."""
    with patch_module_args(options), pytest.raises(SystemExit) as end:
        node_facts.main()
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (end.value.code or 0, answer["changed"]) == (0, False)
    found: dict[str, Any] = answer["node"]
    return found


def options(root: Path) -> dict[str, str]:
    return {
        "base_prefix": str(root / "conda"),
        "envs_dir": str(root / "envs"),
        "generations_dir": str(root / "generations"),
    }


def test_an_empty_node_has_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], audited: Any) -> None:
    with audited() as audit:
        found = look(capsys, **options(tmp_path), files=[str(tmp_path / "condarc")])
    assert audit.events == []
    assert list(found) == ["system", "base", "environments", "files", "usage", "disk", "gpu", "user_directories"]
    assert found["base"] == {
        "link": str(tmp_path / "conda"),
        "target": None,
        "identity": None,
        "problems": [],
        "leftovers": [],
    }
    assert (found["environments"], found["files"]) == ({}, {str(tmp_path / "condarc"): {"state": "absent"}})
    assert set(found["disk"]) == {str(tmp_path / "conda"), str(tmp_path / "generations")}
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("restore_umask")
def test_a_full_node_is_seen_without_a_process_or_a_change(
    node: Node, channel: Channel, capsys: pytest.CaptureFixture[str], audited: Any
) -> None:
    generation = node.install(channel.add_tool())
    damaged = node.install(channel.add_tool("other"), name="damaged")
    (damaged / "bin/other").chmod(0o777)
    Path(os.fsdecode(os.fsencode(damaged) + b"/bin/\xff")).touch()  # a name that is no text must not end the look
    before = node.snapshot()
    with audited() as audit:
        found = look(capsys, **options(node.root), files=[str(node.link())])
    assert (audit.events, node.snapshot()) == ([], before)
    environments = found["environments"]
    assert (environments["ml"]["generation"], environments["ml"]["problems"]) == (str(generation), [])
    problems = [(problem["kind"], problem["subject"]) for problem in environments["damaged"]["problems"]]
    assert problems == [("changed", "bin/other"), ("unexpected", "bin/\udcff")]
    assert found["files"][str(node.link())]["target"] == str(generation)


def test_a_look_loads_no_more_than_it_needs() -> None:
    """Every node pays for it on every run."""
    script = f"import sys, {facts.__name__}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert {"json", facts.__name__} <= set(done.stdout.split())
    assert not {"asyncio", "csv", "email", "http", "rattler", "ssl", "subprocess", "yaml"} & set(done.stdout.split())


@pytest.mark.usefixtures("restore_umask")
def test_a_node_tells_what_its_processes_use_where_it_is_asked(
    node: Node, channel: Channel, capsys: pytest.CaptureFixture[str]
) -> None:
    generation = node.install(channel.add_tool())
    place = str(node.root / "generations")
    assert look(capsys, **options(node.root))["usage"] == {"generations_dir": place, "in_use": None}
    assert look(capsys, **options(node.root), usage=True)["usage"]["in_use"] == []
    with subprocess.Popen(["sleep", "60"], cwd=generation) as job:
        try:
            assert look(capsys, **options(node.root), usage=True)["usage"]["in_use"] == [str(generation)]
        finally:
            job.kill()
