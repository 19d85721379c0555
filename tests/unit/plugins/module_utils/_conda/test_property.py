"""Whatever a node is like, a run makes it exactly what the lock says, another does nothing, and check mode knew it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import hypothesis
import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.convergence import Outcome, Wanted
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.generations import LEVELS, Retention
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.locks import Lock
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from lab.packages import Entry
from unit.plugins import pip_part, proof

if TYPE_CHECKING:
    from unit.plugins.conftest import Channel, Node
    from unit.plugins.proof import Item, Part

pytestmark = pytest.mark.usefixtures("restore_umask")

Choice = tuple[tuple[str, int], ...]
"""Which packages a lock has: names, and for each the number of its version."""

VERSIONS = {
    # The same version in two builds, and the same program in two packages' words.
    "alpha": (("1.0", "0"), ("1.0", "1"), ("2.0", "0")),
    "beta": (("1.0", "0"), ("1.0.1", "0")),
    "gamma": (("3", "h0_0"), ("4", "h0_0")),
    "delta": (("1.0", "0"),),
    "epsilon": (("1.0", "0"), ("0.9", "0")),
    "zeta": (("1.0", "0"),),
}
choices = st.fixed_dictionaries(
    {}, optional={name: st.integers(0, len(found) - 1) for name, found in VERSIONS.items()}
).filter(bool)
WHEELS = {"tiny": ("1.0", "2.0"), "small": ("1.0",)}
wheel_choices = st.fixed_dictionaries(
    {}, optional={name: st.integers(0, len(found) - 1) for name, found in WHEELS.items()}
)


def rewrite(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"edited\n")


def edit_unseen(path: Path) -> None:
    """Change content, and put size and time back."""
    info = path.stat()
    path.write_bytes(b"D" + path.read_bytes()[1:])
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def make_link(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/etc/hostname")


def make_directory(path: Path, name: str, text: str) -> None:
    path.mkdir(parents=True)
    (path / name).write_text(text)


def add_distribution(prefix: Path) -> None:
    info = prefix / "lib/python3.9/site-packages/foo-1.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Name: foo\nVersion: 1\n")


def add_record(prefix: Path) -> None:
    record = {"name": "foreign", "version": "1", "build": "0", "files": []}
    (prefix / "conda-meta/foreign-1-0.json").write_text(json.dumps(record))


def cut_off(path: Path) -> None:
    path.write_text(path.read_text()[:40])


def edit_listing(prefix: Path, path: Path) -> None:
    """The listing is read only where something differs."""
    rewrite(prefix / "conda-meta/envfleet.files")
    os.utime(path, ns=(2, 2))


# Ways to damage a generation; each gets the prefix, and a file of one of its packages.
DAMAGES: dict[str, Callable[[Path, Path], None]] = {
    "deleted": lambda _prefix, path: path.unlink(),
    "edited": lambda _prefix, path: rewrite(path),
    "edited unseen": lambda _prefix, path: edit_unseen(path),
    "touched": lambda _prefix, path: os.utime(path, ns=(1, 1)),
    "made writable": lambda _prefix, path: path.chmod(0o666),
    "made a link": lambda _prefix, path: make_link(path),
    "file added": lambda prefix, _path: (prefix / "bin/extra").touch(),
    "pip package": lambda prefix, _path: add_distribution(prefix),
    "conda package": lambda prefix, _path: add_record(prefix),
    "record deleted": lambda prefix, _path: next(prefix.glob("conda-meta/*-*.json")).unlink(),
    "record cut off": lambda prefix, _path: cut_off(next(prefix.glob("conda-meta/*-*.json"))),
    "manifest deleted": lambda prefix, _path: (prefix / "conda-meta/envfleet.manifest").unlink(),
    "manifest cut off": lambda prefix, _path: cut_off(prefix / "conda-meta/envfleet.manifest"),
    "listing edited": edit_listing,
}

# Not more than this happens between two runs, or nodes would hardly ever be seen by one.
event: Callable[[Any], Any] = precondition(lambda self: self.happened < 2)
WHICH = st.integers(0, 2)


class AnyNode(RuleBasedStateMachine):
    """A node to which things happen, and runs in between."""

    stocked: ClassVar[dict[str, tuple[Item, ...]]]  #: the packages there are
    wheels: ClassVar[dict[str, tuple[Part, ...]]]  #: the wheels, which need a python
    new_node: Callable[[], Node]
    applied = 0  #: runs so far, over all nodes

    def __init__(self) -> None:
        super().__init__()
        self.node = self.new_node()
        self.made: dict[Path, Choice] = {}  # each generation, and the lock it was made from
        self.unseen = False  # has anything happened that only a full check sees?
        self.locks: list[Choice] = []
        self.last = 0  # which of them was the last to be applied
        self.happened = 0  # events since then

    @property
    def home(self) -> Path:
        """Where the generations are."""
        return self.node.root / "generations/ml"

    def items(self, choice: Choice) -> list[Item]:
        """The packages of a lock."""
        return [self.stocked[name][number] for name, number in choice if name in self.stocked]

    def parts(self, choice: Choice) -> list[Part]:
        """The wheels of a lock."""
        return [self.wheels[name][number] for name, number in choice if name in self.wheels]

    def wanted(self, choice: Choice) -> Wanted:
        """The environment as a lock says."""
        packages = tuple(item.package for item in self.items(choice))
        lock = Lock("linux-64", packages, tuple(part.wheel for part in self.parts(choice)))
        return dataclasses.replace(self.node.want(), lock=lock)

    def place(self, number: int, suffix: str = "") -> Path:
        """Where the generation of a lock would be."""
        return self.home / f"{self.wanted(self.locks[number]).lock.identity[:12]}{suffix}"

    def sound(self, prefix: Path, choice: Choice) -> bool:
        """Is *prefix* just what the lock says? Told by other means than the code under test."""
        try:
            proof.require_exact(prefix, self.items(choice), self.parts(choice))
            manifest = json.loads((prefix / "conda-meta/envfleet.manifest").read_text())
            listing = (prefix / "conda-meta/envfleet.files").read_text()
        except (AssertionError, OSError, ValueError, KeyError):
            return False
        writable = [path for path in prefix.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o022]
        return not writable and bool(manifest) and not listing.endswith("edited\n")

    def finished(self) -> list[Path]:
        """The generations there are, without those that a killed run was about to remove."""
        marked = {mark.name[1 : -len(".building")] for mark in self.home.glob(".*.building")}
        return [path for path in self.made if path.exists() and path.name not in marked]

    def known(self) -> list[Path]:
        """Those of them whose lock is known."""
        return [path for path in self.finished() if self.made[path]]

    @initialize(
        choices=st.lists(choices, min_size=3, max_size=3), wheels=st.lists(wheel_choices, min_size=3, max_size=3)
    )
    def begin(self, choices: list[dict[str, int]], wheels: list[dict[str, int]]) -> None:
        """Somebody writes locks, between which the node will go forth and back."""
        if self.wheels:
            choices = [{**choice, **more, "python": 0} for choice, more in zip(choices, wheels, strict=True)]
        self.locks = [tuple(sorted(choice.items())) for choice in choices]

    @rule(
        number=WHICH,
        level=st.sampled_from(LEVELS),
        keep=st.sampled_from((1, 2, 3)),
        min_age_seconds=st.sampled_from((0, 3600)),
    )
    def run(self, number: int, level: str, keep: int, min_age_seconds: int) -> None:
        """A run, in check mode, in earnest, and once more."""
        type(self).applied += 1
        self.last, self.happened, choice = number, 0, self.locks[number]
        node, level = self.node, "full" if self.unseen else level
        wanted = dataclasses.replace(self.wanted(choice), retention=Retention(keep, min_age_seconds))
        expected = self.expected(choice)
        before, contents = node.snapshot(), self.contents()

        (planned,) = node.converge(wanted, check_mode=True, verify=level)
        assert node.snapshot() == before
        previous = node.link().resolve() if node.link().is_symlink() else None
        was_sound = previous in self.made and self.sound(previous, self.made[previous])
        (done,) = node.converge(wanted, verify=level)
        assert (planned.as_dict(), planned.diff()) == (done.as_dict(), done.diff())
        assert (done.todo.build, done.todo.switch) == expected

        live = Path(done.as_dict()["generation"])
        assert node.link().resolve(strict=True) == live
        if done.todo.build:
            self.made[live] = choice
        assert self.made[live] == choice
        assert self.sound(live, choice)
        self.require_told(done, before, contents)
        self.require_retained(done, previous if was_sound else None, keep, min_age_seconds)
        self.require_nothing_to_do(wanted, level)
        self.unseen = self.unseen and any(not self.sound(path, self.made[path]) for path in self.finished())

    def expected(self, choice: Choice) -> tuple[bool, bool]:
        """Is a generation to be built, and the name to be moved?"""
        sound = [path for path in self.finished() if self.made[path] == choice and self.sound(path, choice)]
        live = self.node.link().resolve() if self.node.link().is_symlink() else None
        return not sound, live not in sound

    def contents(self) -> dict[Path, dict[str, str]]:
        """What is in the home of the environment, by entry."""
        there = sorted(self.home.iterdir()) if self.home.is_dir() else []
        return {path: proof.files(path) if path.is_dir() and not path.is_symlink() else {} for path in there}

    def require_told(
        self, done: Outcome, before: Mapping[str, object], contents: Mapping[Path, dict[str, str]]
    ) -> None:
        """Fail unless the told actions are all that has happened to the generations and to what is beside them."""
        node, told = self.node, done.as_dict()
        words = [action.split() for action in told["actions"]]
        unfinished = {Path(action[3]) for action in words if action[:2] == ["remove", "unfinished"]}
        removed = {Path(action[3]) for action in words if action[:2] == ["remove", "old"]} | unfinished
        built = {Path(action[2]) for action in words if action[0] == "build"}
        assert {action[0] for action in words} <= {"remove", "build", "point"}
        marks = {path.with_name(f".{path.name}.building") for path in unfinished}
        after = self.contents()
        assert after.keys() == (contents.keys() - removed - marks) | built
        assert {path: after[path] for path in contents.keys() & after.keys() - built} == {
            path: files for path, files in contents.items() if path in after and path not in built
        }
        proof_of_tidiness = [name for name in os.listdir(node.root / "envs") if name != "ml"]
        assert proof_of_tidiness == []
        if not words:
            assert node.snapshot() == before
        choice = self.made[Path(told["generation"])]
        packages = {item.package.name: item.package.label for item in self.items(choice)}
        packages.update({f"pypi:{part.wheel.name}": part.wheel.label for part in self.parts(choice)})
        assert set(told["added"]) <= set(packages.values())
        assert all(packages[change["name"]] == change["after"] != change["before"] for change in told["changed"])
        assert not set(told["removed"]) & set(packages.values())

    def require_retained(self, done: Outcome, previous: Path | None, keep: int, min_age_seconds: int) -> None:
        """Fail if a way back is gone that should be there, or one is there that should not."""
        left = self.finished()
        self.made = {path: choice for path, choice in self.made.items() if path.exists()}
        if min_age_seconds:
            assert done.todo.retired == ()
        elif done.todo.switch:
            assert len(left) <= keep
        if previous and keep > 1:
            assert previous.exists()

    def require_nothing_to_do(self, wanted: Wanted, level: str) -> None:
        """Fail if another run would change anything."""
        before = self.node.snapshot()
        for check_mode in (True, False):
            (again,) = self.node.converge(wanted, verify=level, check_mode=check_mode)
            told = again.as_dict()
            assert not again.todo
            assert (told["actions"], told["added"], told["removed"], told["changed"], told["problems"]) == ([],) * 5
        assert self.node.snapshot() == before

    @event
    @precondition(lambda self: self.known())
    @rule(kind=st.sampled_from(sorted(DAMAGES)), which=st.integers(0, 5), package=st.integers(0, 5))
    def damage(self, kind: str, which: int, package: int) -> None:
        """Somebody changes a generation, the live one or an old one."""
        self.happened += 1
        there = self.known()
        prefix = there[which % len(there)]
        choice = self.made[prefix]
        name, _number = choice[package % len(choice)]
        of_package = f"share/{name}/data" if name in self.stocked else f"{pip_part.SITE}/{name}.py"
        with contextlib.suppress(FileNotFoundError, StopIteration):  # something else has damaged it before
            DAMAGES[kind](prefix, prefix / of_package)
        self.unseen = self.unseen or kind == "edited unseen"

    @event
    @precondition(lambda self: self.known())
    @rule(which=st.integers(0, 5))
    def take_for_another(self, which: int) -> None:
        """A generation turns out to be of another lock whose identity begins alike."""
        self.happened += 1
        there = self.known()
        manifest = there[which % len(there)] / "conda-meta/envfleet.manifest"
        if manifest.is_file() and manifest.read_text().endswith("}\n"):
            content = json.loads(manifest.read_text())
            content["identity"] = content["identity"][:12] + "0" * 52
            manifest.write_text(json.dumps(content))
            self.made[manifest.parent.parent] = ()

    @event
    @rule(kind=st.sampled_from(("mark", "half a prefix", "an old generation", "link")), number=WHICH)
    def leave_over(self, kind: str, number: int) -> None:
        """A run is killed."""
        self.happened += 1
        self.home.mkdir(parents=True, exist_ok=True)
        (self.node.root / "envs").mkdir(exist_ok=True)
        if kind == "link":
            half_made = self.node.root / "envs/.ml.new"
            half_made.unlink(missing_ok=True)
            half_made.symlink_to(self.home / "0123456789ab")
            return
        path = self.place(number)
        if kind == "an old generation":
            live = self.node.link().resolve()
            old = [path for path in self.finished() if path != live]
            if old:
                (old[0].with_name(f".{old[0].name}.building")).touch()
        elif not os.path.lexists(path):
            path.with_name(f".{path.name}.building").touch()
            if kind == "half a prefix":
                make_directory(path / "conda-meta", "history", "")
                make_directory(path / "share/alpha", "data", "half")

    @event
    @rule(kind=st.sampled_from(("removed", "dangling", "foreign")))
    def move_name(self, kind: str) -> None:
        """Somebody takes the name away, or leads it elsewhere."""
        self.happened += 1
        link = self.node.link()
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        foreign = self.node.root / "foreign"
        if kind == "foreign":
            foreign.mkdir(exist_ok=True)
        if kind != "removed":
            link.symlink_to(foreign if kind == "foreign" else self.node.root / "nowhere")

    @event
    @rule(kind=st.sampled_from(("directory", "file", "link")), number=WHICH, suffix=st.sampled_from(("", "-2", "-3")))
    def occupy(self, kind: str, number: int, suffix: str) -> None:
        """Something that is no generation has the place of one."""
        self.happened += 1
        self.home.mkdir(parents=True, exist_ok=True)
        path = self.place(number, suffix)
        if not os.path.lexists(path):
            if kind == "directory":
                make_directory(path, "precious", "precious")
            elif kind == "file":
                path.write_text("precious")
            else:
                path.symlink_to("/nowhere")

    @event
    @rule(kind=st.sampled_from(("gone", "edited", "cut off")), name=st.sampled_from(sorted(VERSIONS)))
    def spoil_cache(self, kind: str, name: str) -> None:
        """The package cache is removed or damaged."""
        self.happened += 1
        if kind == "gone":
            shutil.rmtree(self.node.pkgs, ignore_errors=True)
        for path in self.node.pkgs.glob(f"{name}-*/bin/{name}"):
            # A file that differs in each prefix, and so is no hard link.
            path.write_bytes(path.read_bytes()[:-3] if kind == "cut off" else path.read_bytes() + b"# edited\n")

    def teardown(self) -> None:
        """The last word is a run's."""
        if self.node.root.exists():
            self.run(number=self.last, level="full", keep=2, min_age_seconds=0)


@pytest.fixture
def machine(channel: Channel, node: Node) -> Iterator[type[AnyNode]]:
    """What makes nodes, each in a directory of its own."""

    def item(name: str, version: str, build: str) -> Item:
        more = [Entry(f"share/{name}/more/{number}", f"{name} {number}\n".encode()) for number in range(3)]
        return proof.stock(channel, name, version, *more, build=build)

    with tempfile.TemporaryDirectory(dir=node.root.parent) as directory:
        numbers = iter(range(10**9))

        class Machine(AnyNode):
            stocked: ClassVar[dict[str, tuple[Item, ...]]] = {
                name: tuple(item(name, *found) for found in all_) for name, all_ in VERSIONS.items()
            }
            wheels: ClassVar[dict[str, tuple[Part, ...]]] = {}
            applied = 0

            def new_node(self) -> Node:
                return type(node)(Path(directory) / str(next(numbers)))

        yield Machine


def try_nodes(machine: type[AnyNode], examples: int, **settings: Any) -> None:
    """Let things happen to that many nodes."""
    run_state_machine_as_test(
        machine,
        settings=hypothesis.settings(
            max_examples=examples,
            stateful_step_count=12,
            deadline=None,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
            **settings,
        ),
    )
    print(f"{examples} nodes, {machine.applied} runs")


def test_a_run_makes_any_node_what_its_lock_says(machine: type[AnyNode]) -> None:
    try_nodes(machine, 12, derandomize=True)
    assert machine.applied > 24


@pytest.mark.slow
def test_a_run_makes_any_of_many_nodes_what_its_lock_says(machine: type[AnyNode]) -> None:
    try_nodes(machine, 600)


def python(channel: Channel) -> Item:
    """A Python that pip can work on."""
    return proof.unpacked(channel, pip_part.add_python(channel, Entry("share/python/data", b"python")))


@pytest.fixture
def machine_with_wheels(machine: type[AnyNode], channel: Channel) -> type[AnyNode]:
    """Nodes whose environments have a pip part."""
    directory = channel.directory / "wheels"

    class Machine(machine):  # type: ignore[misc, valid-type]
        stocked: ClassVar[dict[str, tuple[Item, ...]]] = {**machine.stocked, "python": (python(channel),)}
        wheels: ClassVar[dict[str, tuple[Part, ...]]] = {
            name: tuple(proof.part(directory, name, version) for version in versions)
            for name, versions in WHEELS.items()
        }

    return Machine


@pytest.mark.parametrize("examples", [1, pytest.param(60, marks=pytest.mark.slow)])
def test_a_run_makes_any_node_with_a_pip_part_what_its_lock_says(
    examples: int, machine_with_wheels: type[AnyNode]
) -> None:
    try_nodes(machine_with_wheels, examples, derandomize=examples == 1)
    assert machine_with_wheels.applied > examples
