"""conda_lock with Ansible itself, and the playbook that locks an inventory."""

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

from lab.channel import write_repodata

if TYPE_CHECKING:
    from unit.plugins.conftest import Channel

Play = Callable[..., tuple[int, str]]


@pytest.fixture
def site(tmp_path: Path, channel: Channel) -> Path:
    """An inventory of two hosts, which nobody could reach."""
    for version in ("1.0", "2.0"):
        channel.add("tool", version, [])
    channel.add("other", "1.0", [])
    write_repodata(channel.directory)
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs/a.yml").write_text("dependencies: [tool=1.0]\n")
    (tmp_path / "envs/b.yml").write_text("dependencies: [other]\n")
    shared = [
        {"name": "a", "spec": "envs/a.yml", "lock": "envs/a-lock.yml", "smoke_test": ["true"]},
        {"name": "b", "spec": "envs/b.yml", "lock": "envs/b-lock.yml", "explicit": "envs/b-{platform}.txt"},
        {"name": "c", "lock": "envs/c-lock.yml"},
    ]
    hosts = {"one": {"conda_envs_shared": shared}, "two": {"conda_envs_shared": shared[:1]}, "three": {}}
    variables = {"gpu_cluster_channels": [channel.url], "ansible_host": "192.0.2.1", "ansible_connection": "ssh"}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"gpu_nodes": {"hosts": hosts, "vars": variables}}))
    return tmp_path


@pytest.fixture
def lock(site: Path, root: Path) -> Play:
    """Run the playbook; the result of the task is the last thing said."""

    def run(*arguments: str, playbook: Path = root / "playbooks/lock.yml", **variables: Any) -> tuple[int, str]:
        command = [str(Path(sys.prefix, "bin", "ansible-playbook")), "-i", "hosts.yml", str(playbook), *arguments]
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")},
            "ANSIBLE_HOME": str(site / "home"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
            "ANSIBLE_NOCOLOR": "1",
            "XDG_CACHE_HOME": str(site / "cache"),
        }
        done = subprocess.run(
            [*command, "-e", json.dumps(variables)],
            cwd=site,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        return done.returncode, done.stdout + done.stderr

    return run


def files(site: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (site / "envs").iterdir()}


def test_all_environments_of_an_inventory_are_locked_once(site: Path, lock: Play) -> None:
    specs = files(site)
    code, said = lock("--check", "--diff")
    assert code == 0, said
    assert "a (linux-64):\n  added    tool 1.0 0\n" in said
    assert "b (linux-64):\n  added    other 1.0 0\n" in said
    assert files(site) == specs

    code, said = lock()
    assert code == 0, said
    assert "changed=1" in said
    written = files(site)
    assert written.keys() == {"a.yml", "b.yml", "a-lock.yml", "b-lock.yml", "b-linux-64.txt"}
    assert yaml.safe_load(written["a-lock.yml"])["metadata"]["sources"] == ["a.yml"]
    assert (site / "envs/a-lock.yml").stat().st_mode & 0o777 == 0o644

    (site / "envs/a-lock.yml").chmod(0o600)
    code, said = lock("--diff")
    assert (code, "changed=0" in said) == (0, True), said
    assert files(site) == written

    (site / "envs/a.yml").write_text("dependencies: [tool]\n")
    code, said = lock("--diff", conda_envs_lock_update=["tool"])
    assert "a (linux-64):\n  up       tool 1.0 0 -> tool 2.0 0\n" in said
    assert (site / "envs/a-lock.yml").stat().st_mode & 0o777 == 0o600

    code, said = lock(conda_envs_lock_update=["nonsense"])
    assert code != 0
    assert "update: no lock has nonsense" in said


def test_one_that_fails_does_not_lose_the_others(site: Path, lock: Play) -> None:
    (site / "envs/a.yml").write_text("dependencies: [nonsense]\n")
    code, said = lock()
    assert code != 0
    assert "No candidates were found for nonsense" in said
    assert files(site).keys() == {"a.yml", "b.yml", "b-lock.yml", "b-linux-64.txt"}
    # An @EXPLICIT list has no place for variables.
    (site / "envs/b.yml").write_text("dependencies: [other]\nvariables: {MODE: fast}\n")
    (site / "envs/a.yml").unlink()
    before = files(site)
    code, said = lock()
    assert code != 0
    assert f"a: the spec {site}/envs/a.yml cannot be read: No such file or directory" in said
    assert "b: an @EXPLICIT list has no place for variables (MODE)" in said
    assert files(site) == before

    # What failed is not taken for done.
    (site / "envs/a.yml").write_text("dependencies: [tool]\n")
    (site / "envs/b.yml").write_text("dependencies: [other]\n")
    code, said = lock()
    assert code == 0, said
    assert files(site).keys() == {"a.yml", "a-lock.yml", *before}


BAD: list[tuple[dict[str, Any], str]] = [
    ({"lock": "envs/a.yml"}, "environments: a: lock: {site}/envs/a.yml is the spec of a: choose another file"),
    ({"lock": "envs/b.yml"}, "environments: a: lock: {site}/envs/b.yml is the spec of b"),
    ({"lock": "envs/b-lock.yml"}, "lock: {site}/envs/b-lock.yml is the lock of a"),
    ({"explicit": "envs/a-lock.yml"}, "environments: a: explicit: {site}/envs/a-lock.yml is the lock of a"),
    ({"lock": "pixi.lock"}, "environments: a: lock: name the file to write, which must end in .yml or .yaml"),
    ({"lock": "no/a.yml"}, "environments: a: lock: the directory of {site}/no/a.yml is not there: make it"),
    ({"explicit": "a.txt", "platforms": ["linux-64", "linux-aarch64"]}, "put {{platform}} into the path"),
    ({"platform": ["linux-64"]}, "Unsupported parameters for"),
    ({"platforms": ["osx-64"]}, "platforms: osx-64 cannot be locked, only linux-64 and linux-aarch64"),
    ({"virtual_packages": {"__cuda": 12.4}}, "virtual_packages: __cuda: put 12.4 in quotes"),
]


def test_bad_input_is_one_error_before_any_change(site: Path, lock: Play) -> None:
    before = files(site)
    good = [{"name": name, "spec": f"envs/{name}.yml", "lock": f"envs/{name}-lock.yml"} for name in "ab"]
    tasks = []
    for changes, message in BAD:
        environments = [{**good[0], **changes}, *(good[1:] if "envs/b" in message else [])]
        call = {"environments": environments, "channels": ["file:///nowhere"], "locks_dir": str(site)}
        tasks.append({"envfleet.gpu_cluster.conda_lock": call, "ignore_errors": True})
    (site / "bad.yml").write_text(yaml.safe_dump([{"hosts": "one", "gather_facts": False, "tasks": tasks}]))
    _code, said = lock(playbook=site / "bad.yml")
    assert [message for _changes, message in BAD if message.format(site=site) not in said] == []
    assert f"ignored={len(BAD)}" in said
    assert files(site) == before
