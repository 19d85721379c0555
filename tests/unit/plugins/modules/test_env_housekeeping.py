"""Clean-up of private environments, through the module."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda import inventory
from ansible_collections.envfleet.gpu_cluster.plugins.modules import env_housekeeping

from unit.plugins.homes import Home, tree

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs files of two users, and to see all processes")


@pytest.fixture
def home(sandbox: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """The home of the one user that the node has."""
    made = Home(sandbox)
    made.envs.mkdir(parents=True)
    made.own(made.home)
    passwd = sandbox / "passwd"
    passwd.write_text(f"nobody:x:{made.uid}:{made.uid}::{made.home}:/bin/sh\n")
    monkeypatch.setattr(inventory, "PASSWD", str(passwd))
    return made


def call(home: Home, capsys: pytest.CaptureFixture[str], check: bool = False, **options: Any) -> dict[str, Any]:
    """Call the module as Ansible does."""
    places = {name: str(home.root / name) for name in ("envs_dir", "generations_dir", "state_dir")}
    rules = [{"unused_days": 30}]
    arguments = {**places, "rules": rules, "_ansible_check_mode": check, "_ansible_diff": True, **options}
    with patch_module_args(arguments), pytest.raises(SystemExit) as end:
        env_housekeeping.main()
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert bool(end.value.code) == answer.get("failed", False)
    return answer


def test_what_is_returned_is_documented(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    home.make("old")
    answer = call(home, capsys)
    returned = yaml.safe_load(env_housekeeping.RETURN)
    assert set(answer) - {"invocation", "diff", "changed"} == set(returned)
    assert set(answer["environments"][0]) == set(returned["environments"]["contains"])
    documented = yaml.safe_load(env_housekeeping.DOCUMENTATION)["options"]
    assert set(documented) == set(env_housekeeping.ARGUMENT_SPEC) - {"envs_dir", "generations_dir"}
    defaults = {name: dict(option).get("default") for name, option in env_housekeeping.ARGUMENT_SPEC.items()}
    for name, option in documented.items():
        assert option.get("default") == defaults[name], name


def test_nothing_is_changed_without_apply_or_in_check_mode(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    home.make("old")
    report = home.root / "report.json"
    before = tree(home.root)
    planned = call(home, capsys, check=True, apply=True, report=str(report))
    assert tree(home.root) == before
    assert planned["changed"]
    assert planned["diff"]["after"] == f"warn nobody of {home.envs}/old\n"
    dry = call(home, capsys, report=str(report))
    assert (dry["changed"], dry["actions"], dry["applied"]) == (False, planned["actions"], False)
    assert "Nothing was changed: 1 steps are due." in dry["table"]
    assert json.loads(report.read_text())["environments"] == dry["environments"]
    assert stat.S_IMODE(report.stat().st_mode) == 0o600
    report.unlink()
    assert tree(home.root).keys() == before.keys()
    done = call(home, capsys, apply=True)
    assert (done["changed"], done["actions"]) == (True, planned["actions"])
    assert not call(home, capsys, apply=True)["changed"]


def test_absent_leaves_nothing(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    home.make("old")
    call(home, capsys, apply=True)
    assert (home.root / "state_dir/journal.json").exists()
    planned = call(home, capsys, check=True, apply=True, state="absent")
    gone = call(home, capsys, apply=True, state="absent")
    assert planned["actions"] == gone["actions"] != []
    assert not (home.root / "state_dir").exists()
    assert not call(home, capsys, apply=True, state="absent")["changed"]


def test_a_path_that_was_not_set_aside_is_an_error(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    answer = call(home, capsys, apply=True, restore=["/nowhere"])
    assert answer["msg"].startswith("env_housekeeping_restore: /nowhere was not set aside on this node")
