"""The export of an environment, through the module."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.envfleet.gpu_cluster.plugins.modules import conda_env_export

if TYPE_CHECKING:
    from unit.plugins.conftest import Channel, Node

pytestmark = pytest.mark.usefixtures("restore_umask")
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(node: Node, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call the module as Ansible does, on the node."""

    def call(check_mode: bool = False, **options: Any) -> dict[str, Any]:
        layout = {"envs_dir": node.layout.envs_dir, "generations_dir": node.layout.generations_dir}
        arguments = {**layout, **options, "_ansible_check_mode": check_mode}
        with patch_module_args(arguments), pytest.raises(SystemExit) as end:
            conda_env_export.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert bool(end.value.code) == answer.get("failed", False)
        return answer

    return call


def test_a_shared_environment_is_exported_without_a_process_or_a_change(
    run: Run, node: Node, channel: Channel, audited: Any
) -> None:
    generation = node.install(channel.add_tool())
    before = node.snapshot()
    answers = {}
    for form in ("environment", "explicit", "conda-lock"):
        with audited() as audit:
            answers[form] = run(name="ml", format=form)
        assert (audit.events, node.snapshot()) == ([], before)
        told = {key: answers[form][key] for key in ("changed", "prefix", "platform", "packages", "pip_packages")}
        assert list(told.values()) == [False, str(generation), "linux-64", 1, 0]
        assert set(answers[form]) - {"invocation"} == {*yaml.safe_load(conda_env_export.RETURN), "changed"}
        # Whatever leads there.
        for path in (node.link(), generation):
            other = run(path=f"{path}/", format=form)["content"]
            assert other.partition("channels:")[2] == answers[form]["content"].partition("channels:")[2]
    document = yaml.safe_load(answers["environment"]["content"])
    assert document == {"name": "ml", "channels": [channel.url], "dependencies": ["tool=1.0=0"]}
    assert "\n@EXPLICIT\nfile:///" in answers["explicit"]["content"]
    assert yaml.safe_load(answers["conda-lock"]["content"])["version"] == 1


def test_it_is_written_once_with_check_mode_and_diff_that_tell_the_truth(
    run: Run, node: Node, channel: Channel, tmp_path: Path
) -> None:
    node.install(channel.add_tool())
    dest = tmp_path / "conda-lock.yml"
    options = {"name": "ml", "format": "conda-lock", "dest": str(dest)}

    planned = run(check_mode=True, **options)
    assert os.listdir(tmp_path) == []
    done = run(**options)
    for answer in (planned, done):
        assert answer["changed"]
        assert (answer["diff"]["before"], answer["diff"]["after"]) == ("", done["content"])
        assert answer["diff"]["before_header"] == f"{dest} (absent)"
    assert dest.read_text() == done["content"]
    assert dest.stat().st_mode & 0o7777 == 0o644
    assert os.listdir(tmp_path) == ["conda-lock.yml"]

    before = dest.stat()
    again = run(**options)
    assert not again["changed"]
    assert "diff" not in again
    assert dest.stat() == before

    dest.write_bytes(b"\xff by hand\n")
    planned = run(check_mode=True, **options)
    assert (planned["changed"], planned["diff"]["before"]) == (True, "\ufffd by hand\n")
    assert dest.read_bytes() == b"\xff by hand\n"
    assert run(**options)["changed"]
    assert dest.read_text() == done["content"]

    for mode in ("0600", 0o600):
        changed = run(**options, mode=mode)
        assert changed["changed"] == (mode == "0600")
        assert dest.stat().st_mode & 0o7777 == 0o600
    assert not run(check_mode=True, **options, mode="0600")["changed"]
    assert run(check_mode=True, **options, mode="0640")["diff"]["after_header"] == f"{dest} (0640)"


@pytest.mark.parametrize("mode", ["0999", "u+x", 644, "", "-1", "1777", None])
def test_a_mode_that_is_none_is_an_error(run: Run, node: Node, channel: Channel, tmp_path: Path, mode: Any) -> None:
    node.install(channel.add_tool())
    answer = run(name="ml", dest=str(tmp_path / "x"), mode=mode)
    assert answer["msg"].startswith("mode: ")
    assert answer["msg"].endswith("is none for a file: write it like '0644'")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("dest", "said"), [("no/x", "dest: there is no directory /"), ("there", "/there cannot be written: Is a directory")]
)
def test_a_place_that_is_none_is_an_error(
    run: Run, node: Node, channel: Channel, tmp_path: Path, dest: str, said: str
) -> None:
    node.install(channel.add_tool())
    (tmp_path / "there").mkdir()
    for check_mode in (True, False):
        answer = run(check_mode=check_mode, name="ml", dest=str(tmp_path / dest))
        assert said in answer["msg"]
    assert os.listdir(tmp_path) == ["there"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "one of the following is required: name, path"),
        ({"name": "ml", "path": "/opt/conda"}, "mutually exclusive: name|path"),
        ({"name": "lm"}, "has no shared environment 'lm', only broken, ml, unfinished"),
        ({"name": "../ml"}, "has no shared environment '../ml', only"),
        ({"name": "broken"}, "which is no finished generation: run the site playbook"),
        ({"name": "unfinished"}, "has no shared environment 'unfinished'"),
        ({"path": "/nowhere"}, "path: /nowhere is no environment: it has no directory conda-meta"),
        ({"name": "ml", "from_history": True}, "from_history: nothing in "),
        ({"name": "ml", "from_history": True, "format": "explicit"}, "from_history: a lock says exactly"),
        ({"name": "ml", "no_builds": True, "format": "conda-lock"}, "no_builds: a lock says exactly what is there"),
        ({"name": "ml", "leave_out": ["conda"]}, "value of leave_out must be one or more of: pip, variables"),
    ],
)
def test_what_cannot_be_exported_is_one_error(
    run: Run, node: Node, channel: Channel, options: dict[str, Any], said: str
) -> None:
    generation = node.install(channel.add_tool())
    (node.root / "generations/unfinished/0123").mkdir(parents=True)
    node.link("broken").symlink_to(generation.parent)
    answer = run(**options)
    assert said in answer["msg"]
    assert "\n" not in answer["msg"]


def add_by_hand(prefix: Path, origin: dict[str, Any]) -> None:
    folder = prefix / "lib/python3.10/site-packages/x-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: x\nVersion: 1.0\n")
    (folder / "RECORD").touch()
    (folder / "direct_url.json").write_text(json.dumps(origin))


def test_what_is_left_out_is_left_out_on_request_alone(
    run: Run, node: Node, channel: Channel, warned: list[str]
) -> None:
    generation = node.install(channel.add_tool())
    add_by_hand(generation, {"url": "file:///home/alice/x", "dir_info": {"editable": True}})
    (generation / "conda-meta/state").write_text('{"env_vars": {"A": "1"}}')
    for form, missed in (("explicit", "no place for pip (x 1.0 pypi)"), ("conda-lock", "x 1.0 pypi is installed edit")):
        assert missed in run(name="ml", format=form)["msg"]
    assert "no place for variables (A)" in run(name="ml", format="explicit", leave_out=["pip"])["msg"]
    answer = run(name="ml", format="explicit", leave_out=["pip", "variables"])
    assert answer["content"].count("://") == 1
    assert answer["pip_packages"] == 1
    lock = yaml.safe_load(run(name="ml", format="conda-lock", leave_out=["pip"])["content"])
    assert [entry["name"] for entry in lock["package"]] == ["tool"]
    assert list(lock["metadata"]["custom_metadata"].values()) == ["1"]

    run(name="ml", leave_out=["pip"])
    assert warned == []
    answer = run(name="ml")
    assert yaml.safe_load(answer["content"])["dependencies"][-1] == {"pip": ["x==1.0"]}
    (warning,) = warned
    assert "elsewhere another package may be taken for this one, or none: x 1.0 pypi: is install" in warning


def test_a_user_exports_what_is_the_users_own(
    run: Run, node: Node, channel: Channel, sandbox: Path, request: pytest.FixtureRequest
) -> None:
    node.install(channel.add_tool())
    home = sandbox / "home"
    (home / "mine/conda-meta").mkdir(parents=True)
    record = json.loads(next(node.link().glob("conda-meta/*.json")).read_text())
    (home / "mine/conda-meta/tool-1.0-0.json").write_text(json.dumps({**record, "requested_spec": "tool >=1"}))
    (home / "others/conda-meta").mkdir(parents=True, mode=0o700)
    if os.geteuid() == 0:
        os.chown(home, 65534, 65534)
    request.getfixturevalue("unprivileged")
    answer = run(path=str(home / "mine"), from_history=True, dest=str(home / "environment.yml"))
    assert answer["changed"]
    expected = {"name": "mine", "channels": [channel.url], "dependencies": ["tool >=1"]}
    assert yaml.safe_load((home / "environment.yml").read_text()) == expected
    if os.getuid() == 0:
        assert (home / "environment.yml").stat().st_uid == 65534
        assert "others cannot be read: Permission denied: run this as its" in run(path=str(home / "others"))["msg"]
        assert "cannot be written: Permission denied" in run(path=str(home / "mine"), dest=str(node.root / "x"))["msg"]
    assert run(name="ml")["packages"] == 1
