"""What a node says of itself through its files."""

from __future__ import annotations

import hashlib
import os
import platform
import socket
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda import prefixes
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.generations import Layout
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.kernels import render
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._node import facts


def test_the_platform_is_what_conda_calls_it() -> None:
    system = facts.system()
    assert system["architecture"] == platform.machine()
    assert system["platform"] == {"x86_64": "linux-64", "aarch64": "linux-aarch64"}[platform.machine()]
    assert system["glibc"] == platform.libc_ver()[1]


def test_a_file_tells_its_owner_mode_and_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    path.chmod(0o4640)
    assert facts.file(str(path)) == {
        "state": "file",
        "mode": "4640",
        "owner": path.owner(),
        "group": path.group(),
        "sha256": hashlib.sha256(b"content").hexdigest(),
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_an_owner_without_a_name_is_a_number(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    os.chown(path, 4_000_001, 4_000_002)
    found = facts.file(str(path))
    assert (found["owner"], found["group"]) == ("4000001", "4000002")


def test_other_things_are_told_by_kind(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("no/where")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "directory").mkdir(mode=0o711)
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")

    def state(name: str, *more: str) -> list[Any]:
        found = facts.file(str(tmp_path / name))
        return [found["state"], *(found.get(key) for key in more)]

    assert state("link", "target", "sha256") == ["link", "no/where", None]
    assert state("loop", "target") == ["link", "loop"]
    assert state("directory", "mode", "sha256") == ["directory", "0711", None]
    assert state("pipe", "sha256") == ["other", None]
    assert facts.file(str(tmp_path / "nothing")) == {"state": "absent"}
    assert facts.file(str(tmp_path / "file" / "below")) == {"state": "absent"}
    assert facts.file(str(tmp_path / "loop" / "below")) == {"state": "absent"}


def test_a_socket_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        assert facts.file(str(tmp_path / "socket"))["state"] == "other"


def test_room_is_that_where_the_directory_will_be(tmp_path: Path) -> None:
    found = facts.disk(str(tmp_path / "not" / "yet"))
    info = os.statvfs(tmp_path)
    assert found["total_mb"] == info.f_blocks * info.f_frsize // 2**20
    assert 0 <= found["free_mb"] <= found["total_mb"]
    assert found["free_inodes"] >= 0


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A finished base behind its link."""
    prefix = tmp_path / "versions" / "py310_1"
    (prefix / "conda-meta").mkdir(parents=True)
    (prefix / "bin").mkdir()
    (prefix / "bin" / "conda").touch()
    prefixes.finish(str(prefix), "py310_1@abc", "installer")
    (tmp_path / "conda").symlink_to(prefix)
    return tmp_path / "conda"


def kinds(found: dict[str, Any]) -> list[str]:
    return [problem["kind"] for problem in found["problems"]]


def test_a_base_is_what_its_link_leads_to(base: Path) -> None:
    (Path(os.readlink(base)).parent / ".py310_2.building").touch()
    assert facts.base(str(base)) == {
        "link": str(base),
        "target": os.readlink(base),
        "identity": "py310_1@abc",
        "problems": [],
        "leftovers": [os.path.join(os.path.dirname(os.readlink(base)), "py310_2")],
    }


def test_what_is_wrong_with_a_base_is_told(base: Path) -> None:
    target = Path(os.readlink(base))
    (target / "bin" / "conda").chmod(0o777)
    assert (kinds(facts.base(str(base))), facts.base(str(base))["identity"]) == (["changed"], "py310_1@abc")
    (target / prefixes.MANIFEST).unlink()
    assert (kinds(facts.base(str(base))), facts.base(str(base))["identity"]) == (["manifest"], None)
    target.rename(target.with_name("moved"))
    found = facts.base(str(base))
    assert (kinds(found), found["target"]) == (["link"], None)
    base.unlink()
    assert (kinds(facts.base(str(base))), facts.base(str(base))["target"]) == ([], None)
    base.mkdir()
    assert kinds(facts.base(str(base))) == ["obstacle"]


def test_every_environment_that_there_is_anything_of_is_told(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path / "envs"), str(tmp_path / "generations"))
    assert facts.environments(layout) == {}
    (tmp_path / "envs" / "by_hand").mkdir(parents=True)
    (tmp_path / "envs" / ".conda_envs_dir_test").touch()
    (tmp_path / "generations" / "half" / "abc").mkdir(parents=True)
    (tmp_path / "generations" / "half" / ".abc.building").touch()
    (tmp_path / "generations" / ".lock").touch()
    found = facts.environments(layout)
    assert sorted(found) == ["by_hand", "half"]
    assert kinds(found["by_hand"]) == ["obstacle"]
    assert found["half"]["leftovers"] == [str(tmp_path / "generations" / "half" / "abc")]


def test_an_environment_is_told_with_its_kernelspec(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path / "envs"), str(tmp_path / "generations"))
    for name in ("offered", "foreign", "plain"):
        (tmp_path / "generations" / name).mkdir(parents=True)
    texts = {"offered": render("offered", "/generations/offered/0123", ()), "foreign": "{}"}
    for name, text in texts.items():
        (tmp_path / "kernels" / name).mkdir(parents=True)
        (tmp_path / "kernels" / name / "kernel.json").write_text(text)
    found = facts.environments(layout, str(tmp_path / "kernels"))
    assert {name: one["kernelspec"] for name, one in found.items()} == {
        "offered": {"path": str(tmp_path / "kernels/offered"), "state": "ours", "text": texts["offered"]},
        "foreign": {"path": str(tmp_path / "kernels/foreign"), "state": "foreign", "text": ""},
        "plain": {"path": str(tmp_path / "kernels/plain"), "state": "absent", "text": ""},
    }
    assert facts.environments(layout)["offered"]["kernelspec"] == {"path": "", "state": "absent", "text": ""}
