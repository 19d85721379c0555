"""Generations on a file system that several nodes share: one installs, the others see it, and nothing in use goes."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda import files
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.convergence import Wanted
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.generations import Retention
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.usage import Elsewhere

from lab.packages import Entry

if TYPE_CHECKING:
    from unit.plugins.conftest import Channel, Node

pytestmark = pytest.mark.usefixtures("restore_umask")
NOBODY = Elsewhere(frozenset())
UNKNOWN = Elsewhere(None)


def tools(node: Node, channel: Channel, count: int = 3) -> list[Wanted]:
    """An environment that changes again and again, and keeps no old generation that it need not."""
    made = [node.want(channel.add_tool(version=f"{number}.0")) for number in range(count)]
    return [dataclasses.replace(wanted, retention=Retention(1, 0)) for wanted in made]


def test_what_another_node_uses_or_may_use_stays(node: Node, channel: Channel) -> None:
    wanted = tools(node, channel, 5)
    made = []
    for step in wanted[:3]:
        node.converge(step, elsewhere=UNKNOWN)
        made.append(node.generation())
    assert node.generations() == sorted(path.name for path in made)  # nobody knows, so nothing goes

    node.converge(wanted[3], elsewhere=Elsewhere(frozenset({str(made[0])})))
    # A job may have begun in what was live, after the others were asked.
    assert node.generations() == sorted(path.name for path in (made[0], made[2], node.generation()))
    made.append(node.generation())

    node.converge(wanted[4], elsewhere=NOBODY)
    assert node.generations() == sorted(path.name for path in (made[3], node.generation()))


def test_an_environment_goes_once_no_node_uses_it(node: Node, channel: Channel) -> None:
    (wanted,) = tools(node, channel, 1)
    node.converge(wanted, elsewhere=NOBODY)
    generation = str(node.generation())
    absent = dataclasses.replace(wanted, state="absent")
    (outcome,) = node.converge(absent, elsewhere=NOBODY)
    assert (outcome.todo.retired, outcome.todo.kept) == ((), (generation,))
    assert not os.path.lexists(node.link())
    for elsewhere in (UNKNOWN, Elsewhere(frozenset({generation}))):
        (outcome,) = node.converge(absent, elsewhere=elsewhere)
        assert (outcome.changed, outcome.todo.kept) == (False, (generation,))
    (outcome,) = node.converge(absent, elsewhere=NOBODY)
    assert (outcome.todo.retired, node.generations()) == ((generation,), [])


def test_a_node_that_does_not_install_sees_what_was_installed(node: Node, channel: Channel) -> None:
    wanted, another = tools(node, channel, 2)
    node.converge(wanted, elsewhere=UNKNOWN)
    before = node.snapshot()
    (outcome,) = node.converge(wanted, elsewhere=UNKNOWN, install=False)
    assert (outcome.changed, node.snapshot()) == (False, before)

    begin = time.monotonic()
    message = (
        rf"^conda_envs_install_once: ml: this node does not see what another has installed, {node.link()} leading to "
        rf".*: what the file system shows here is stale, or that node has failed$"
    )
    with pytest.raises(CondaError, match=message):
        node.converge(another, elsewhere=UNKNOWN, install=False, see_seconds=0.5)
    assert time.monotonic() - begin >= 0.5
    assert node.snapshot() == before
    (planned,) = node.converge(another, elsewhere=UNKNOWN, install=False, check_mode=True)
    assert (planned.changed, planned.as_dict()["actions"]) == (False, [])

    # As when a network file system shows it late.
    late = threading.Timer(0.5, node.converge, [another], {"elsewhere": UNKNOWN})
    late.start()
    (outcome,) = node.converge(another, elsewhere=UNKNOWN, install=False)
    late.join()
    assert (outcome.changed, outcome.problems) == (False, ())


def test_a_node_without_the_file_system_fails_at_once(node: Node, channel: Channel) -> None:
    (wanted,) = tools(node, channel, 1)
    message = rf"^conda_envs_install_once: ml: .*the file system with {node.root}/generations is not mounted here$"
    with pytest.raises(CondaError, match=message):
        node.converge(wanted, elsewhere=UNKNOWN, install=False)
    assert not node.root.exists()


def test_each_node_writes_its_own_kernelspec(node: Node, channel: Channel, tmp_path: Path) -> None:
    kernel = channel.add("ipykernel", "7.0", [Entry("share/ipykernel", b"x")])
    wanted = dataclasses.replace(node.want(kernel), kernel=True)
    node.converge(wanted, elsewhere=UNKNOWN, kernels_dir=str(tmp_path / "first"))
    second = {"elsewhere": UNKNOWN, "install": False, "kernels_dir": str(tmp_path / "second")}
    (planned,) = node.converge(wanted, check_mode=True, **second)
    (done,) = node.converge(wanted, **second)  # type: ignore[arg-type]
    assert planned.as_dict()["actions"] == done.as_dict()["actions"]
    assert [step.split()[0] for step in done.as_dict()["actions"]] == ["write"]
    assert str(node.generation()) in (tmp_path / "second/ml/kernel.json").read_text()
    assert not node.converge(wanted, **second)[0].changed  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_refused(
    number: int, node: Node, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(_descriptor: int, _operation: int) -> None:
        raise OSError(number, os.strerror(number))

    (wanted,) = tools(node, channel, 1)
    monkeypatch.setattr(fcntl, "flock", flock)
    message = rf"^conda_envs_generations_dir: .*/\.lock cannot be locked: {os.strerror(number)}: .* -o flock$"
    with pytest.raises(CondaError, match=message):
        node.converge(wanted, elsewhere=UNKNOWN)
    assert node.generations() == []


MOUNTS = """\
25 1 0:23 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 25 0:40 / {point} rw,relatime shared:9 - {kind} server:/x rw,vers=4.2{options}
41 25 0:41 / {point}/deeper rw - tmpfs tmpfs rw
42 25 0:42 / {point}-not rw - nfs server:/y rw,nolock
"""


@pytest.mark.parametrize(
    ("kind", "options", "wrong"),
    [
        ("nfs", ",nolock,local_lock=none", "nolock"),
        ("nfs4", ",local_lock=all", "local_lock=all"),
        ("nfs", ",local_lock=flock", "local_lock=flock"),
        ("nfs4", ",local_lock=none", ""),
        ("nfs", ",local_lock=posix", ""),
        ("lustre", ",localflock", "localflock"),
        ("lustre", ",flock", ""),
        ("ext4", ",nolock", ""),
    ],
)
def test_a_mount_with_locks_that_others_do_not_see_is_refused(
    kind: str, options: str, wrong: str, tmp_path: Path
) -> None:
    point = tmp_path / "shared files"
    (point / "deeper").mkdir(parents=True)
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTS.format(point=str(point).replace(" ", "\\040"), kind=kind, options=options))
    for place in ("generations/not/yet", ""):
        if wrong:
            with pytest.raises(CondaError, match=rf"^some_dir: {point} is mounted with {wrong}, so other nodes"):
                files.require_cluster_lock(str(point / place), "some_dir", str(table))
        else:
            files.require_cluster_lock(str(point / place), "some_dir", str(table))
    for place in ("deeper/generations", "../elsewhere"):
        files.require_cluster_lock(str(point / place), "some_dir", str(table))
