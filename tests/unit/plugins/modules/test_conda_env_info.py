"""All environments of a node, through the module."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda import inventory
from ansible_collections.envfleet.gpu_cluster.plugins.modules import conda_env_info

if TYPE_CHECKING:
    from unit.plugins.conftest import Channel, Node


def call(capsys: pytest.CaptureFixture[str], **options: Any) -> dict[str, Any]:
    """Call the module as Ansible does."""
    with patch_module_args(options), pytest.raises(SystemExit) as end:
        conda_env_info.main()
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert bool(end.value.code) == answer.get("failed", False)
    return answer


def options(root: Path) -> dict[str, Any]:
    return {"envs_dir": str(root / "envs"), "generations_dir": str(root / "generations"), "homes": False}


def private(root: Path, name: str) -> Path:
    """An environment in a home below *root*."""
    prefix = root / "home/.conda/envs" / name
    (prefix / "conda-meta").mkdir(parents=True)
    (prefix / "conda-meta/broken.json").write_text("{")
    return prefix


def test_an_empty_node_has_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], audited: Any) -> None:
    with audited() as audit:
        answer = call(capsys, **options(tmp_path))
    assert (audit.events, os.listdir(tmp_path)) == ([], [])
    assert {key: answer[key] for key in ("changed", "environments", "left_out")} == {
        "changed": False,
        "environments": [],
        "left_out": [],
    }


@pytest.mark.usefixtures("restore_umask")
def test_a_node_is_listed_without_a_process_or_a_change(
    node: Node,
    channel: Channel,
    capsys: pytest.CaptureFixture[str],
    audited: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generation = node.install(channel.add_tool())
    prefix = private(node.root, "mine")
    Path(os.fsdecode(os.fsencode(prefix) + b"/\xff")).mkdir(mode=0)  # a name that is no text must not end the look
    passwd = node.root / "passwd"
    passwd.write_text(f"me:x:{os.geteuid()}:0::{node.root}/home:/bin/sh\n")
    monkeypatch.setattr(inventory, "PASSWD", str(passwd))
    asked = {**options(node.root), "homes": True, "packages": True, "paths": [str(node.root / "nowhere")]}
    before = node.snapshot()
    with audited() as audit:
        answer = call(capsys, **asked)
    assert (audit.events, node.snapshot()) == ([], before)
    shared, mine = answer["environments"]
    assert (shared["kind"], shared["prefix"], shared["packages"][0]["name"]) == ("shared", str(generation), "tool")
    assert (mine["kind"], mine["prefix"], mine["package_count"]) == ("private", str(prefix), 0)
    assert mine["problems"][0]["subject"] == "conda-meta/broken.json"
    assert [one["path"] for one in answer["left_out"]] == [str(node.root / "nowhere")]

    returned = yaml.safe_load(conda_env_info.RETURN)
    assert set(answer) - {"invocation"} == {*returned, "changed"}
    documented = returned["environments"]["contains"]
    assert set(shared) == set(documented)
    assert set(shared["generations"][0]) == set(documented["generations"]["contains"])
    assert set(shared["size"]) == set(documented["size"]["contains"])
    assert call(capsys, **{**asked, "homes": False})["environments"][1:] == []


def test_no_result_has_a_meaning_for_ansible_itself() -> None:
    """A result named skipped is taken for that of a task that was not run."""
    assert not set(yaml.safe_load(conda_env_info.RETURN)) & {"changed", "failed", "skipped", "unreachable", "results"}


def test_an_unknown_user_is_an_error_that_names_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = call(capsys, **options(tmp_path), users=["no-such-user"])
    assert answer["msg"].startswith("users: this node has no user 'no-such-user'")
