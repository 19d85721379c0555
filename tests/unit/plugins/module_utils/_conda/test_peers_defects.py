"""What is known to go wrong with other roles and modules for conda environments, and does not here.

Seen in their code or by running them. More of the kind is where it belongs: a name that is moved in two steps and an
update in place under a running job (test_switching.py), checks that crash or change something (test_convergence.py,
test_property.py), extra packages, deleted and edited files, world-writable files, damage that comes back from the
package cache (test_generations.py), two JSON documents in one output (test_engines.py), specs that are split at "="
(test__specs.py).
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda import export, generations, inventory
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.generations import SmokeTest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.locks import Lock

from lab.packages import Entry
from unit.plugins import proof

if TYPE_CHECKING:
    from unit.plugins.conftest import Channel, Node

pytestmark = pytest.mark.usefixtures("restore_umask")


def test_a_build_that_failed_is_done_by_the_next_healthy_run(node: Node, channel: Channel) -> None:
    """Elsewhere the copied file is the trigger, so that after one failure nothing is built or said."""
    tool = proof.stock(channel, "tool", "1.0")
    archive = channel.directory / "linux-64" / tool.package.file_name
    archive.rename(channel.directory / "away")
    for _attempt in range(2):
        with pytest.raises(CondaError, match=r"tool-1.0-0.conda cannot be read"):
            node.install(tool.package)
    (channel.directory / "away").rename(archive)
    (outcome,) = node.converge(node.want(tool.package))
    assert outcome.changed
    proof.require_exact(node.generation(), [tool])


def test_a_smoke_test_that_failed_is_tried_again_by_the_next_run(node: Node, channel: Channel) -> None:
    tool, flag = proof.stock(channel, "tool", "1.0"), node.root.with_name("healthy")
    wanted = node.want(tool.package, smoke_test=SmokeTest(("test", "-e", str(flag)), "nobody", 60))
    with pytest.raises(CondaError, match="the smoke test failed"):
        node.converge(wanted)
    flag.touch()
    assert node.converge(wanted)[0].changed
    proof.require_exact(node.generation(), [tool])


def test_check_mode_neither_makes_nor_empties_an_environment(node: Node, channel: Channel) -> None:
    """Elsewhere the missing one is made, and of the one that is there nothing is left but its history."""
    old, new = (proof.stock(channel, "tool", version) for version in ("1.0", "2.0"))
    node.converge(node.want(old.package), check_mode=True)
    assert not node.root.exists()
    generation = node.install(old.package)
    before = node.snapshot()
    for wanted in (old, new):
        node.converge(node.want(wanted.package), check_mode=True)
        assert node.snapshot() == before
    proof.require_exact(generation, [old])


def test_a_run_that_changes_nothing_removes_nothing_of_users(node: Node, channel: Channel) -> None:
    """Elsewhere each run of a named environment removes it and makes it anew, with what users had put beside it."""
    tool = proof.stock(channel, "tool", "1.0")
    generation = node.install(tool.package)
    notes = generation.parent / "notes.txt"
    notes.write_text("precious")
    info = generation.stat()
    assert not node.converge(node.want(tool.package))[0].changed
    assert (generation.stat().st_ino, generation.stat().st_ctime_ns) == (info.st_ino, info.st_ctime_ns)
    assert notes.read_text() == "precious"


def test_a_newer_package_in_the_channel_is_no_reason_to_change_anything(node: Node, channel: Channel) -> None:
    """Elsewhere every run updates all packages in place and reports that nothing has changed."""
    tool = proof.stock(channel, "tool", "1.0")
    generation = node.install(tool.package)
    proof.stock(channel, "tool", "2.0")
    assert not node.converge(node.want(tool.package), verify="full")[0].changed
    proof.require_exact(generation, [tool])


def test_a_change_is_reported_as_one_and_nothing_else_is(node: Node, channel: Channel) -> None:
    """Elsewhere the condition is the wrong way round, and a fresh install is told to be none."""
    old, new = (proof.stock(channel, "tool", version) for version in ("1.0", "2.0"))
    reports = [node.converge(node.want(item.package))[0].changed for item in (old, old, new, new, old, old)]
    assert reports == [True, False] * 3


def test_another_build_of_the_same_version_is_another_package(node: Node, channel: Channel) -> None:
    """Elsewhere names and versions are compared, and a build for another CUDA counts as the same."""
    cpu, cuda = (proof.stock(channel, "tool", "1.0", build=build) for build in ("cpu_0", "cuda118_0"))
    node.install(cpu.package)
    (outcome,) = node.converge(node.want(cuda.package))
    assert outcome.as_dict()["changed"] == [{"name": "tool", "before": "tool 1.0 cpu_0", "after": "tool 1.0 cuda118_0"}]
    proof.require_exact(node.generation(), [cuda])


def test_a_package_that_the_lock_has_no_longer_is_gone(node: Node, channel: Channel) -> None:
    """Elsewhere what is dropped from a list stays installed, with or without --prune."""
    one, two = (proof.stock(channel, name, "1.0") for name in ("one", "two"))
    node.install(one.package, two.package)
    (outcome,) = node.converge(node.want(one.package))
    assert outcome.as_dict()["removed"] == ["two 1.0 0"]
    proof.require_exact(node.generation(), [one])


def test_a_variable_that_the_lock_has_no_longer_is_gone(node: Node, channel: Channel) -> None:
    """Elsewhere variables that are dropped from the file stay set."""
    tool = proof.stock(channel, "tool", "1.0")
    wanted = node.want(tool.package)
    with_variable = dataclasses.replace(wanted, lock=Lock("linux-64", (tool.package,), variables=(("STRAY", "1"),)))

    def tell_of_it() -> list[Path]:
        files = (path for path in node.generation().rglob("*") if path.is_file() and "envfleet." not in path.name)
        return [path for path in files if b"STRAY" in path.read_bytes()]

    node.converge(with_variable)
    assert tell_of_it() != []
    assert node.converge(wanted)[0].changed
    assert tell_of_it() == []


@pytest.mark.parametrize("marked", [True, False])
def test_a_half_made_environment_does_not_stop_every_later_run(marked: bool, node: Node, channel: Channel) -> None:
    """Elsewhere the directory that a killed run has left is taken for an environment, and no run gets past it."""
    tool = proof.stock(channel, "tool", "1.0")
    wanted = node.want(tool.package)
    place = node.root / "generations/ml" / wanted.lock.identity[:12]
    (place / "conda-meta").mkdir(parents=True)
    (place / "conda-meta/history").touch()
    if marked:
        place.with_name(f".{place.name}.building").touch()
    assert node.converge(wanted)[0].changed
    proof.require_exact(node.generation(), [tool])
    assert node.generation() == (place if marked else place.with_name(f"{place.name}-2"))


def test_an_installation_that_fails_leaves_what_there_was(node: Node, channel: Channel) -> None:
    """Elsewhere the old prefix is removed before it is known whether the new one can be made."""
    tool = proof.stock(channel, "tool", "1.0")
    generation = node.install(tool.package)
    missing = dataclasses.replace(tool.package, version="2.0", url=f"{channel.url}/linux-64/tool-2.0-0.conda")
    with pytest.raises(CondaError, match="cannot be read"):
        node.install(missing)
    assert node.link().is_symlink()
    assert node.generation() == generation
    proof.require_exact(generation, [tool])
    proof.require_tidy(node, ["ml"], {"ml": {generation.name}})


def test_what_is_not_there_can_be_absent(node: Node) -> None:
    """Elsewhere the removal of what is neither installed nor in a channel is an error."""
    wanted = dataclasses.replace(node.want(), lock=Lock("", ()), state="absent")
    (outcome,) = node.converge(wanted)
    assert not outcome.changed
    assert not node.root.exists()


@pytest.mark.parametrize("level", generations.LEVELS)
def test_looking_at_an_environment_deletes_no_record(level: str, node: Node, channel: Channel) -> None:
    """`conda list` removes the records of packages whose dist-info is gone, as after an upgrade with pip."""
    site_packages = "lib/python3.10/site-packages"
    entries = [
        Entry(f"{site_packages}/thing.py", b""),
        Entry(f"{site_packages}/thing-1.0.dist-info/METADATA", b"Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n"),
        Entry(f"{site_packages}/thing-1.0.dist-info/INSTALLER", b"conda\n"),
    ]
    thing = proof.stock(channel, "thing", "1.0", *entries)
    generation = node.install(thing.package)
    info = generation / site_packages / "thing-1.0.dist-info"
    for path in info.iterdir():
        path.unlink()
    info.rename(info.with_name("thing-2.0.dist-info"))
    (info.with_name("thing-2.0.dist-info") / "METADATA").write_text("Name: thing\nVersion: 2.0\n")
    before = node.snapshot()
    (outcome,) = node.converge(node.want(thing.package), check_mode=True, verify=level)
    (told,) = inventory.look(node.layout, [], [], list_packages=True)["environments"]
    exported = export.read(str(generation), "linux-64")
    assert node.snapshot() == before
    assert outcome.changed
    assert "thing" in {package["name"] for package in told["packages"]}
    assert [record.name for record in exported.records] == ["thing"]


def test_nothing_is_registered_in_a_home(node: Node, channel: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere each environment that root makes is noted in a file of root's home, which later runs rewrite."""
    home = node.root.with_name("home")
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    node.install(proof.stock(channel, "tool", "1.0").package)
    assert os.listdir(home) == []
