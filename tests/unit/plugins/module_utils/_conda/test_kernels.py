"""Jupyter offers an environment by a kernelspec of the generation that its name leads to."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda import kernels
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.generations import SmokeTest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.locks import Lock, Wheel

from lab.packages import Entry

if TYPE_CHECKING:
    from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.convergence import Outcome, Wanted

    from unit.plugins.conftest import Channel, Node

pytestmark = pytest.mark.usefixtures("restore_umask")


@pytest.fixture
def kernels_dir(node: Node) -> Path:
    """Where Jupyter looks, on a node where it has not been made yet."""
    return node.root / "jupyter/kernels"


def offered(node: Node, channel: Channel, version: str = "1.0", **changes: Any) -> Wanted:
    """An environment that Jupyter offers."""
    ipykernel = channel.add("ipykernel", version, [Entry("share/ipykernel", version.encode())])
    wanted = node.want(ipykernel)
    lock = dataclasses.replace(wanted.lock, variables=(("THREADS", "8"),))
    return dataclasses.replace(wanted, **{"lock": lock, "kernel": True, **changes})


def run(node: Node, kernels_dir: Path, wanted: Wanted, **settings: Any) -> Outcome:
    (outcome,) = node.converge(wanted, kernels_dir=str(kernels_dir), **settings)
    return outcome


def content(kernels_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((kernels_dir / "ml/kernel.json").read_text())
    return found


def test_a_kernel_is_started_by_the_generation(node: Node, channel: Channel, kernels_dir: Path) -> None:
    outcome = run(node, kernels_dir, offered(node, channel))
    generation = node.generation()
    assert content(kernels_dir) == {
        "argv": [f"{generation}/bin/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "ml",
        "language": "python",
        "env": {
            "CONDA_DEFAULT_ENV": "ml",
            "CONDA_PREFIX": str(generation),
            "PATH": f"{generation}/bin:${{PATH}}",
            "THREADS": "8",
        },
        "metadata": {"debugger": True, "envfleet.gpu_cluster": "changes made here are undone"},
    }
    assert outcome.todo.actions()[-1] == f"write kernelspec {kernels_dir}/ml"
    assert os.listdir(kernels_dir / "ml") == ["kernel.json"]
    for path, mode in ((kernels_dir, 0o755), (kernels_dir / "ml", 0o755), (kernels_dir / "ml/kernel.json", 0o644)):
        assert (path, oct(path.stat().st_mode & 0o7777)) == (path, oct(mode))
    assert not run(node, kernels_dir, offered(node, channel)).todo


def test_a_kernelspec_follows_the_name_forwards_and_back(node: Node, channel: Channel, kernels_dir: Path) -> None:
    for version in ("1.0", "2.0", "1.0"):
        run(node, kernels_dir, offered(node, channel, version))
        assert content(kernels_dir)["env"]["CONDA_PREFIX"] == str(node.generation())


@pytest.mark.parametrize("kernel", [None, True, False])
def test_without_being_asked_a_kernelspec_stays_or_stays_away(
    kernel: bool | None, node: Node, channel: Channel, kernels_dir: Path
) -> None:
    run(node, kernels_dir, offered(node, channel, kernel=kernel))
    run(node, kernels_dir, offered(node, channel, "2.0", kernel=None))
    assert (kernels_dir / "ml").exists() == bool(kernel)
    if kernel:
        assert content(kernels_dir)["env"]["CONDA_PREFIX"] == str(node.generation())


@pytest.mark.parametrize("changes", [{"kernel": False}, {"state": "absent"}])
def test_a_kernelspec_goes_when_it_is_no_longer_wanted(
    changes: dict[str, Any], node: Node, channel: Channel, kernels_dir: Path
) -> None:
    run(node, kernels_dir, offered(node, channel))
    (kernels_dir / "others").mkdir()
    outcome = run(node, kernels_dir, offered(node, channel, **changes))
    assert f"remove kernelspec {kernels_dir}/ml" in outcome.todo.actions()
    assert os.listdir(kernels_dir) == ["others"]
    assert not run(node, kernels_dir, offered(node, channel, **changes)).todo


def edit(path: Path) -> None:
    path.write_text(path.read_text().replace("8", "9"))


@pytest.mark.parametrize("damage", [Path.unlink, edit])
def test_a_kernelspec_that_is_gone_or_edited_is_put_right(
    damage: Any, node: Node, channel: Channel, kernels_dir: Path
) -> None:
    run(node, kernels_dir, offered(node, channel))
    text = (kernels_dir / "ml/kernel.json").read_text()
    damage(kernels_dir / "ml/kernel.json")
    outcome = run(node, kernels_dir, offered(node, channel))
    assert [problem.kind for problem in outcome.problems] == ["kernel"]
    assert outcome.todo.actions() == [f"write kernelspec {kernels_dir}/ml"]
    assert (kernels_dir / "ml/kernel.json").read_text() == text


@pytest.mark.parametrize("text", ["{}", '{"metadata": {}}', "[]", "no json", "\udcff"])
def test_a_kernelspec_of_somebody_else_is_never_touched(
    text: str, node: Node, channel: Channel, kernels_dir: Path
) -> None:
    place = kernels_dir / "ml/kernel.json"
    place.parent.mkdir(parents=True)
    place.write_bytes(os.fsencode(text))
    before = node.snapshot()
    for state in ("present", "verified"):
        wanted = offered(node, channel, state=state)
        if state == "present":
            with pytest.raises(CondaError, match=rf"^conda_envs_shared: ml: kernel: {place.parent} exists and is no"):
                run(node, kernels_dir, wanted)
        else:
            assert not any("kernelspec" in step for step in run(node, kernels_dir, wanted).todo.actions())
    assert node.snapshot() == before
    run(node, kernels_dir, offered(node, channel, kernel=False))
    run(node, kernels_dir, offered(node, channel, state="absent"))
    assert place.read_bytes() == os.fsencode(text)


def test_a_lock_without_a_kernel_is_refused_before_any_change(node: Node, channel: Channel, kernels_dir: Path) -> None:
    wanted = dataclasses.replace(node.want(channel.add_tool()), kernel=True)
    for check_mode in (True, False):
        with pytest.raises(CondaError, match=r"^conda_envs_shared: ml: kernel: the lock has no ipykernel"):
            run(node, kernels_dir, wanted, check_mode=check_mode)
    assert not node.root.exists()
    with pytest.raises(CondaError, match=r"kernel: conda_envs_kernels_dir is empty"):
        node.converge(offered(node, channel))


def test_a_wheel_of_the_kernel_will_do() -> None:
    wheel = Wheel("ipykernel", "7.0", "https://example.org/ipykernel-7.0-py3-none-any.whl", "0" * 64)
    found = kernels.Kernelspec("/kernels/ml", "absent")
    packages = Lock("linux-64", ())
    kernels.require(found, "text", dataclasses.replace(packages, wheels=(wheel,)))
    with pytest.raises(CondaError, match=r"has no ipykernel"):
        kernels.require(found, "text", packages)


def test_people_get_a_kernel_only_after_the_smoke_test(node: Node, channel: Channel, kernels_dir: Path) -> None:
    run(node, kernels_dir, offered(node, channel))
    text = (kernels_dir / "ml/kernel.json").read_text()
    failing = offered(node, channel, "2.0", smoke_test=SmokeTest(("false",), "nobody", 60))
    with pytest.raises(CondaError, match=r"the smoke test failed"):
        run(node, kernels_dir, failing)
    assert (kernels_dir / "ml/kernel.json").read_text() == text


def test_what_a_killed_run_left_of_a_kernelspec_goes(node: Node, channel: Channel, kernels_dir: Path) -> None:
    run(node, kernels_dir, offered(node, channel, kernel=False))
    for kernel in (True, False):
        (kernels_dir / "ml").mkdir(parents=True, exist_ok=True)
        (kernels_dir / "ml/kernel.json").unlink(missing_ok=True)
        (kernels_dir / "ml/.kernel.json.abcd").touch()
        run(node, kernels_dir, offered(node, channel, kernel=kernel))
        assert os.listdir(kernels_dir) == (["ml"] if kernel else [])
        assert not kernel or os.listdir(kernels_dir / "ml") == ["kernel.json"]


def test_a_logo_stays_where_it_is(node: Node, channel: Channel, kernels_dir: Path) -> None:
    run(node, kernels_dir, offered(node, channel))
    (kernels_dir / "ml/logo.svg").touch()
    run(node, kernels_dir, offered(node, channel, kernel=False))
    assert os.listdir(kernels_dir / "ml") == ["logo.svg"]
    assert not run(node, kernels_dir, offered(node, channel, kernel=False)).todo
    run(node, kernels_dir, offered(node, channel))
    assert sorted(os.listdir(kernels_dir / "ml")) == ["kernel.json", "logo.svg"]


def test_a_directory_that_cannot_be_made_is_named_with_its_variable(
    node: Node, channel: Channel, kernels_dir: Path
) -> None:
    kernels_dir.parent.mkdir(parents=True)
    kernels_dir.touch()
    with pytest.raises(CondaError, match=rf"^conda_envs_kernels_dir: {kernels_dir} cannot be made"):
        run(node, kernels_dir, offered(node, channel))


def test_check_mode_and_a_look_touch_no_kernelspec(
    node: Node, channel: Channel, kernels_dir: Path, audited: Any
) -> None:
    run(node, kernels_dir, offered(node, channel))
    edit(kernels_dir / "ml/kernel.json")
    wanted = [
        offered(node, channel, **changes)
        for changes in ({}, {"kernel": False}, {"state": "absent"}, {"state": "verified"}, {"kernel": None})
    ]
    before = node.snapshot()
    with audited() as audit:
        planned = [run(node, kernels_dir, one, check_mode=True).as_dict()["actions"] for one in wanted]
    assert all(planned)
    assert (audit.events, node.snapshot()) == ([], before)
