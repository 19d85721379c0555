"""A node is brought to its locks: once, whole, and again after whatever happened on the way."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda import environments, generations, prefixes
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.files import exclusive
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.generations import SmokeTest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.locks import Package

from lab.packages import Entry

if TYPE_CHECKING:
    from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.convergence import Wanted

    from unit.plugins.conftest import Channel, Node

pytestmark = pytest.mark.usefixtures("restore_umask")


def problems(node: Node, name: str = "ml") -> list[Any]:
    return [problem.as_dict() for problem in environments.look(node.layout, name).problems]


def test_a_node_that_is_right_is_only_looked_at(node: Node, channel: Channel, audited: Any) -> None:
    wanted = [node.want(channel.add_tool(name), name=name) for name in ("one", "two")]
    node.converge(*wanted)
    before = node.snapshot()
    # Neither an engine nor room nor the lock is needed, not even where another run holds it.
    without: dict[str, Any] = {"base_prefix": "/nowhere", "min_free_mb": 10**9, "lock_timeout_seconds": 0}
    with exclusive(node.layout.lock_file, 0, "option"), audited() as audit:
        found = {level: node.converge(*wanted, verify=level, **without) for level in generations.LEVELS}
    assert audit.events == []
    assert node.snapshot().keys() == before.keys()
    before.pop(node.layout.lock_file)
    assert before.items() <= node.snapshot().items()
    for level, outcomes in found.items():
        for outcome in outcomes:
            assert (level, bool(outcome.todo), outcome.problems, outcome.todo.actions()) == (level, False, (), [])
            assert outcome.as_dict()["added"] == []


def test_the_audit_sees_what_a_run_does(node: Node, channel: Channel, audited: Any) -> None:
    """Or the test above would prove nothing."""
    with audited() as audit:
        node.install(channel.add_tool())
    seen = {event.split()[0] for event in audit.events}
    assert seen >= {"subprocess.Popen", "os.mkdir", "os.rename", "os.symlink", "os.chmod", "os.remove", "open"}


@pytest.mark.parametrize("state", ["empty", "outdated", "damaged", "leftover", "unwanted"])
def test_check_mode_says_what_a_run_does_and_touches_nothing(
    state: str, node: Node, channel: Channel, audited: Any
) -> None:
    old, new = channel.add_tool(version="1.0"), channel.add_tool(version="2.0")
    other = channel.add_tool("other")
    if state != "empty":
        generation = node.install(old)
        if state == "damaged":
            (generation / "bin/tool").unlink()
        elif state == "leftover":
            (generation.parent / ".0123456789ab.building").touch()
    wanted = [node.want(new if state == "outdated" else old, other)]
    if state == "unwanted":
        wanted = [gone(node)]
    before = node.snapshot()
    with audited() as audit:
        planned = node.converge(*wanted, check_mode=True)
    assert (audit.events, node.snapshot()) == ([], before)
    done = node.converge(*wanted)
    assert [outcome.as_dict() for outcome in planned] == [outcome.as_dict() for outcome in done]
    assert [outcome.diff() for outcome in planned] == [outcome.diff() for outcome in done]
    assert node.snapshot() != before
    assert not node.converge(*wanted)[0].todo


def gone(node: Node, name: str = "ml") -> Wanted:
    """An environment that is not to be."""
    return dataclasses.replace(node.want(name=name), state="absent")


def test_an_environment_goes_with_its_name_first(node: Node, channel: Channel) -> None:
    made = [node.install(channel.add_tool(version=version)) for version in ("1.0", "2.0")]
    kept = node.install(channel.add_tool(), name="kept")
    (made[0].parent / ".0123456789ab.building").touch()
    (outcome,) = node.converge(gone(node), base_prefix="/nowhere", min_free_mb=10**9)
    assert outcome.todo.actions() == [
        f"remove unfinished generation {made[0].with_name('0123456789ab')} of ml",
        f"remove {node.link()}",
        *(f"remove old generation {path} of ml" for path in sorted(made)),
    ]
    told = outcome.as_dict()
    assert (told["generation"], told["previous"], told["identity"], told["kept"]) == (None, str(made[1]), None, [])
    assert told["removed"] == ["tool 2.0 0"]
    assert outcome.diff()["after"] == ""
    assert environments.names(node.layout) == ["kept"]
    assert os.listdir(node.root / "envs") == ["kept"]
    assert sorted(os.listdir(node.root / "generations")) == [".lock", "kept"]
    assert (node.generation("kept"), problems(node, "kept")) == (kept, [])
    for check_mode in (True, False):
        assert not node.converge(gone(node), check_mode=check_mode)[0].changed


def test_a_node_that_never_had_an_environment_is_left_alone(node: Node) -> None:
    assert not node.converge(gone(node))[0].changed
    assert not node.root.exists()


def test_a_generation_in_use_goes_in_a_later_run(node: Node, channel: Channel) -> None:
    used, unused = (node.install(channel.add_tool(version=version)) for version in ("1.0", "2.0"))
    with subprocess.Popen(["sleep", "60"], cwd=used) as job:
        (outcome,) = node.converge(gone(node))
        assert outcome.as_dict()["kept"] == [str(used)]
        assert [path.exists() for path in (used, unused, node.link())] == [True, False, False]
        # There is nothing to do for now, so it is no change and no drift.
        (again,) = node.converge(gone(node))
        assert (again.changed, again.as_dict()["actions"], again.as_dict()["kept"]) == (False, [], [str(used)])
        assert environments.look(node.layout, "ml").unused == ()
        assert (used / "bin/tool").exists()
        job.kill()
    assert environments.look(node.layout, "ml").unused == (str(used),)
    (later,) = node.converge(gone(node))
    assert later.todo.actions() == [f"remove old generation {used} of ml"]
    assert environments.names(node.layout) == []
    assert not node.converge(gone(node))[0].changed


@pytest.mark.parametrize("target", ["nowhere", "foreign"])
def test_a_name_that_leads_elsewhere_goes_alone(target: str, node: Node, channel: Channel) -> None:
    generation = node.install(channel.add_tool())
    foreign = node.root / "foreign"
    foreign.mkdir()
    (foreign / "precious").touch()
    (generation.parent / "notes").mkdir()
    node.link().unlink()
    node.link().symlink_to(node.root / target)
    node.converge(gone(node))
    assert not os.path.lexists(node.link())
    assert (foreign / "precious").exists()
    assert node.generations() == ["notes"]


def test_what_is_no_name_of_ours_is_not_removed(node: Node, channel: Channel) -> None:
    node.link().mkdir(parents=True)
    with pytest.raises(CondaError, match=rf"^conda_envs_shared: ml: {node.link()} exists and is no link of this"):
        node.converge(gone(node))
    assert node.link().is_dir()


def test_an_environment_that_went_can_come_back(node: Node, channel: Channel) -> None:
    tool = channel.add_tool()
    node.install(tool)
    node.converge(gone(node))
    node.install(tool)
    assert_whole(node, {"1.0"})


def install_by_hand(generation: Path) -> None:
    info = generation / f"lib/python3.{sys.version_info.minor}/site-packages/foo-2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Name: foo\nVersion: 2\n")


def break_tool(generation: Path) -> None:
    (generation / "bin/tool").unlink()


def lose_manifest(generation: Path) -> None:
    (generation / prefixes.MANIFEST).unlink()


@pytest.mark.parametrize("state", ["empty", "right", "damaged", "outdated", "obstacle"])
def test_what_is_verified_is_told_and_never_changed(state: str, node: Node, channel: Channel, audited: Any) -> None:
    old, new = channel.add_tool(version="1.0"), channel.add_tool(version="2.0")
    if state == "obstacle":
        node.link().mkdir(parents=True)
    elif state != "empty":
        generation = node.install(old)
        if state == "damaged":
            break_tool(generation)
    wanted = dataclasses.replace(node.want(new if state == "outdated" else old), state="verified")
    before = node.snapshot()
    with audited() as audit:
        (outcome,) = node.converge(wanted, verify="full")
    assert (audit.events, node.snapshot(), outcome.changed) == ([], before, False)
    told = outcome.as_dict()
    assert [problem["kind"] for problem in told["problems"]] == {"damaged": ["missing"], "obstacle": ["obstacle"]}.get(
        state, []
    )
    words = [action.split()[0] for action in told["actions"]]
    assert words == ([] if state in ("right", "obstacle") else ["build", "point"])


def test_what_is_verified_does_not_keep_the_others_from_their_change(node: Node, channel: Channel) -> None:
    tool = channel.add_tool()
    break_tool(node.install(tool))
    verified = dataclasses.replace(node.want(tool), state="verified")
    outcomes = node.converge(verified, node.want(tool, name="other"))
    assert [outcome.changed for outcome in outcomes] == [False, True]
    assert [problem["kind"] for problem in problems(node)] == ["missing"]


@pytest.mark.parametrize(
    ("changes", "damage", "rebuilt"),
    [
        ({}, install_by_hand, True),
        ({}, break_tool, True),
        ({"repair": False}, install_by_hand, False),
        ({"repair": False}, break_tool, False),
        ({"repair": False}, lose_manifest, True),
        ({"foreign_packages": "report"}, install_by_hand, False),
        ({"foreign_packages": "report"}, break_tool, True),
    ],
)
def test_damage_is_always_told_and_mended_where_wanted(
    changes: dict[str, Any], damage: Any, rebuilt: bool, node: Node, channel: Channel
) -> None:
    tool = channel.add_tool()
    old = node.install(tool)
    damage(old)
    wanted = dataclasses.replace(node.want(tool), **changes)
    (outcome,) = node.converge(wanted)
    assert outcome.problems
    assert (outcome.changed, node.generation() != old) == (rebuilt, rebuilt)
    # Another lock is installed whatever has become of the live generation.
    node.converge(dataclasses.replace(node.want(channel.add_tool(version="2.0")), **changes))
    assert_whole(node, {"2.0"})


def test_an_outcome_speaks_of_packages(node: Node, channel: Channel) -> None:
    one, two, three = channel.add_tool("one"), channel.add_tool("two"), channel.add_tool("three")
    first = node.install(one, two)
    newer = channel.add_tool("two", "2.0")
    (outcome,) = node.converge(node.want(newer, three))
    content = json.loads(json.dumps(outcome.as_dict()))
    assert content == {
        "name": "ml",
        "generation": str(node.generation()),
        "previous": str(first),
        "identity": outcome.todo.lock.identity,
        "actions": [
            f"build generation {node.generation()} of ml with 2 packages",
            f"point {node.link()} to {node.generation()}",
        ],
        "kept": [],
        "added": ["three 1.0 0"],
        "removed": ["one 1.0 0"],
        "changed": [{"name": "two", "before": "two 1.0 0", "after": "two 2.0 0"}],
        "problems": [],
    }
    assert outcome.diff() == {
        "before_header": f"ml ({first})",
        "after_header": f"ml ({node.generation()})",
        "before": "one 1.0 0\ntwo 1.0 0\n",
        "after": "three 1.0 0\ntwo 2.0 0\n",
    }


def test_damage_is_in_the_diff_once(node: Node, channel: Channel) -> None:
    tool = channel.add_tool()
    (node.install(tool) / "bin/tool").unlink()
    (outcome,) = node.converge(node.want(tool), check_mode=True, verify="full")
    assert outcome.diff()["before"] == "tool 1.0 0\nmissing bin/tool: file of tool 1.0 0 is missing\n"


def test_too_little_room_stops_a_build_before_any_change(node: Node, channel: Channel, audited: Any) -> None:
    tool = channel.add_tool()
    with (
        audited() as audit,
        pytest.raises(CondaError, match=r"^conda_envs_min_free_mb: \d+ MiB are free at .*, 10{9} are"),
    ):
        node.converge(node.want(tool), min_free_mb=10**9)
    assert audit.events == []
    assert not node.root.exists()


def test_a_missing_engine_stops_a_build_before_any_change(node: Node, channel: Channel) -> None:
    for engine, base, message in (("auto", "/nowhere", "has none"), ("conda", sys.prefix, "has rattler")):
        with pytest.raises(CondaError, match=rf"^conda_envs_engine: .*{message}"):
            node.converge(node.want(channel.add_tool()), engine=engine, base_prefix=base)
    assert not node.root.exists()


def test_a_directory_that_cannot_be_made_is_named_with_its_variable(node: Node, channel: Channel) -> None:
    node.root.mkdir()
    node.pkgs.write_text("no directory")
    with pytest.raises(CondaError, match=rf"^conda_envs_pkgs_dir: {node.pkgs} cannot be made: File exists"):
        node.converge(node.want(channel.add_tool()))


def test_a_failure_names_its_environment_and_keeps_what_is_done(node: Node, channel: Channel) -> None:
    failing = SmokeTest(("false",), "nobody", 9)
    with pytest.raises(CondaError, match=r"^conda_envs_shared: two: the smoke test failed with 1: false"):
        node.converge(
            node.want(channel.add_tool("one"), name="one"),
            node.want(channel.add_tool("two"), name="two", smoke_test=failing),
        )
    assert environments.names(node.layout) == ["one", "two"]
    assert problems(node, "one") == []
    assert node.generations("two") == []
    assert not node.link("two").exists()


# Runs of a process of their own: what they are to do comes on stdin.
RUN = """
import json, os, signal, sys
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.convergence import Settings, Wanted, converge
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.generations import Layout, SmokeTest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.locks import Lock, Package

order = json.load(sys.stdin)
changing = {"os.chmod", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "subprocess.Popen"}
steps = []

def hook(event, arguments):
    begun = root in str(arguments) or event == "subprocess.Popen"
    if begun and (event in changing or event == "open" and arguments[2] and arguments[2] & os.O_CREAT):
        steps.append(event)
        if len(steps) == order["die_at"]:
            os.killpg(0, signal.SIGKILL)

root = order["root"]
sys.addaudithook(hook)
layout = Layout(root + "/envs", root + "/generations")
settings = Settings(layout, root + "/pkgs", sys.prefix, "auto", "fast", 1, order["timeout"], root + "/kernels")
smoke_test = SmokeTest(tuple(order["smoke_test"]), "nobody", 60)
wanted = Wanted("ml", Lock.from_dict(order["lock"]), smoke_test, **order["changes"])
try:
    outcome = converge([wanted], settings, False)[0]
    print(json.dumps({"changed": bool(outcome.todo), "steps": len(steps)}))
except CondaError as error:
    print(json.dumps({"error": str(error)}))
"""


def start(
    node: Node,
    *packages: Package,
    die_at: int = 0,
    timeout: float = 60,
    smoke_test: tuple[str, ...] = (),
    **changes: Any,
) -> subprocess.Popen[str]:
    """Begin a run in a process group of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A killed run leaves the empty home of its child.
        env={**os.environ, "TMPDIR": str(node.root.parent)},
    )
    lock = node.want(*packages).lock.as_dict()
    order = {"root": str(node.root), "lock": lock, "die_at": die_at, "timeout": timeout, "smoke_test": smoke_test}
    order["changes"] = changes
    assert process.stdin
    process.stdin.write(json.dumps(order))
    process.stdin.close()
    process.stdin = None
    return process


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a run said at its end; empty where it was killed."""
    output, _nothing = process.communicate(timeout=60)
    answer: dict[str, Any] = json.loads(output) if output else {}
    return answer


def assert_whole(node: Node, versions: set[str | None]) -> None:
    """The name leads to a complete generation of one of *versions*, or is not there where None is one."""
    if not os.path.lexists(node.link()):
        assert None in versions
        return
    assert problems(node) == []
    done = subprocess.run([node.link() / "bin/tool"], capture_output=True, text=True, check=True)
    assert done.stdout in {f"tool {version}\n" for version in versions}


def assert_converges(node: Node, package: Package, version: str, generations_expected: int) -> None:
    """The next run makes the node right and leaves nothing over."""
    node.install(package)
    assert_whole(node, {version})
    assert len(node.generations()) == generations_expected
    assert os.listdir(node.root / "envs") == ["ml"]
    assert sorted(os.listdir(node.root / "generations")) == [".lock", "ml"]
    assert not node.converge(node.want(package), verify="full")[0].todo


SEEDS = range(4)
_COUNTED: list[int] = []


def steps_of(channel: Channel, node: Node) -> int:
    """How many changes a run makes in its own process. Counted once."""
    if not _COUNTED:
        answer = finish(start(type(node)(node.root.with_name("counted")), channel.add_tool()))
        _COUNTED.append(answer["steps"])
    return _COUNTED[0]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_killed_at_any_step_leaves_the_last_good_state(seed: int, node: Node, channel: Channel) -> None:
    old, new = channel.add_tool(version="1.0"), channel.add_tool(version="2.0")
    first = seed % 2 == 0
    if not first:
        node.install(old)
    count = steps_of(channel, node)
    assert count > 15
    # The seeds share the steps out, so that together they reach the beginning, the end, and what is between.
    low, high = (count * part // len(SEEDS) for part in (seed, seed + 1))
    step = random.Random(seed).randint(low + 1, high)
    process = start(node, new, die_at=step)
    assert finish(process) == {}
    assert process.returncode == -signal.SIGKILL
    assert_whole(node, {"2.0", None} if first else {"1.0", "2.0"})
    assert_converges(node, new, "2.0", 1 if first else 2)


@pytest.mark.slow
def test_a_run_killed_at_every_single_step_leaves_the_last_good_state(node: Node, channel: Channel) -> None:
    old, new = channel.add_tool(version="1.0"), channel.add_tool(version="2.0")
    for step in range(1, steps_of(channel, node) + 1):
        here = type(node)(node.root.with_name(f"node{step}"))
        here.install(old)
        finish(start(here, new, die_at=step))
        assert_whole(here, {"1.0", "2.0"})
        assert_converges(here, new, "2.0", 2)


@pytest.mark.slow
def test_a_removal_killed_at_any_step_is_ended_by_the_next(node: Node, channel: Channel) -> None:
    ipykernel = channel.add("ipykernel", "1.0", [Entry("bin/tool", b"#!/bin/sh\necho tool 1.0\n", 0o755)])
    for step in range(1, 100):
        here = type(node)(node.root.with_name(f"node{step}"))
        kernels_dir = here.root / "kernels"
        offered = dataclasses.replace(here.want(ipykernel), kernel=True)
        here.converge(offered, kernels_dir=str(kernels_dir))
        process = start(here, die_at=step, state="absent")
        if finish(process):
            assert step > 8
            break
        assert process.returncode == -signal.SIGKILL
        if os.path.lexists(here.link()):
            assert_whole(here, {"1.0"})
        here.converge(gone(here), kernels_dir=str(kernels_dir))
        assert (os.listdir(here.root / "envs"), os.listdir(kernels_dir)) == ([], [])
        assert environments.look(here.layout, "ml").leftovers == ()
        # An empty directory may stay, and is no environment.
        assert here.generations() == []
    else:
        pytest.fail("the removal never ended by itself")


@pytest.mark.parametrize("seed", range(3))
def test_a_run_killed_at_any_moment_leaves_the_last_good_state(seed: int, node: Node, channel: Channel) -> None:
    """The moment may lie within the engine, whose steps nobody counts."""
    old = channel.add_tool(version="1.0")
    data = [Entry("bin/tool", b"#!/bin/sh\necho tool 2.0\n", 0o755)]
    data += [Entry(f"share/{number}", os.urandom(200)) for number in range(500)]
    new = channel.add("tool", "2.0", data)
    node.install(old)
    process = start(node, new)
    home = node.root / "generations" / "ml"
    deadline = time.monotonic() + 20
    while len(os.listdir(home)) < 2:  # until the mark is there
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(random.Random(seed).uniform(0.05, 0.3))
    os.killpg(process.pid, signal.SIGKILL)
    finish(process)
    assert_whole(node, {"1.0", "2.0"})
    assert_converges(node, new, "2.0", 2)


def test_two_runs_at_once_are_one_run_after_the_other(node: Node, channel: Channel) -> None:
    tool = channel.add_tool()
    slow = ("sh", "-c", "sleep 0.6")
    processes = [start(node, tool, smoke_test=slow) for _run in range(2)]
    answers = [finish(process) for process in processes]
    # The second has waited, and found nothing left to do.
    assert sorted(answer["changed"] for answer in answers) == [False, True]
    assert_whole(node, {"1.0"})
    assert len(node.generations()) == 1


def test_a_run_that_may_not_wait_says_who_is_at_work(node: Node, channel: Channel) -> None:
    tool = channel.add_tool()
    flag = node.root.with_name("flag")
    process = start(node, tool, smoke_test=("sh", "-c", f"while ! test -e {flag}; do sleep 0.05; done"))
    try:
        deadline = time.monotonic() + 20
        while not Path(node.layout.lock_file).exists() or not Path(node.layout.lock_file).read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        message = (
            rf"another run is changing this node \(process {process.pid}, since .*raise conda_envs_lock_timeout_seconds"
        )
        with pytest.raises(CondaError, match=message):
            node.converge(node.want(tool), lock_timeout_seconds=0)
    finally:
        flag.touch()
    assert finish(process)["changed"] is True
    assert_whole(node, {"1.0"})
