"""Whatever happens to a user's environments, no run takes one that is in use, or was not unused for long enough."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import hypothesis
import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._housekeeping.policy import DAY
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from unit.plugins.homes import NOBODY, POLICY, Home, tree

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs files of two users, and to see all processes")

UNUSED, NOTICE, GRACE = POLICY.rules[0].unused_days, POLICY.notice_days, POLICY.grace_days
NAMES = st.sampled_from(["a", "b"])
DAYS = st.sampled_from([0.1, 1, 9, 11, 19, 21, 29, 31, 100])
_CHANGES = {"rename", "remove", "rmdir", "mkdir", "chmod", "chown", "utime", "truncate", "link", "symlink"}
_NOTES = ("conda-meta/envfleet.use", "_envfleet_use.py", "zz-envfleet-use.pth", "etc")


class Killed(BaseException):
    """The end of a run in the middle of it: nothing that follows can change anything."""


class Killer:
    """Ends a run before its n-th change of a file."""

    left = 0
    active = False
    installed = False

    @classmethod
    def see(cls, event: str, arguments: tuple[Any, ...]) -> None:
        """The audit hook."""
        if cls.active:
            writes = event == "open" and (arguments[2] or 0) & (os.O_CREAT | os.O_WRONLY | os.O_RDWR)
            if writes or (event.startswith("os.") and event[3:] in _CHANGES):
                cls.left -= 1
                if cls.left < 0:
                    raise Killed

    @classmethod
    @contextlib.contextmanager
    def after(cls, changes: int) -> Iterator[None]:
        """The body is ended after so many changes."""
        if not cls.installed:
            sys.addaudithook(cls.see)
            cls.installed = True
        cls.left, cls.active = changes, True
        try:
            yield
        except Killed:
            pass
        finally:
            cls.active = False


@dataclasses.dataclass
class Truth:
    """What really happened to an environment, by a clock that nobody can set."""

    content: dict[str, tuple[object, ...]]
    used: float  #: the last use that was to be seen
    warned: float | None = None
    moved: float | None = None
    job: subprocess.Popen[bytes] | None = None


class AnyHistory(RuleBasedStateMachine):
    """A user with environments, an operator, and a clock that is set at times."""

    runs: ClassVar[dict[str, int]] = {}

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.TemporaryDirectory(prefix="envfleet-test-", dir="/var/tmp")
        root = Path(self.directory.name)
        root.chmod(0o755)
        self.home = Home(root)
        self.home.envs.mkdir(parents=True)
        self.home.own(self.home.home)
        self.true = self.home.now  # what a right clock would say
        self.boot = 0
        self.set_at: float | None = None
        self.settled = True  # has a run seen that the clock was set?
        self.there: dict[str, Truth] = {}  # where they belong
        self.aside: dict[Path, Truth] = {}
        for name in ("a", "b"):
            self.create(name)
        self.run(0)
        self._wait(UNUSED - 2)

    def teardown(self) -> None:
        if hasattr(self, "home"):
            for truth in (*self.there.values(), *self.aside.values()):
                self._end(truth)
            self.directory.cleanup()

    # What happens

    @rule(name=NAMES)
    def create(self, name: str) -> None:
        if name not in self.there:
            prefix = self.home.make(name, used_days_ago=0, noted=False)
            self.there[name] = Truth(self._content(prefix), self.true)

    def _wait(self, days: float) -> None:
        for clock in ("now", "uptime"):
            setattr(self.home, clock, getattr(self.home, clock) + days * DAY)
        self.true += days * DAY

    @rule(name=NAMES, with_conda=st.booleans())
    def use(self, name: str, with_conda: bool) -> None:
        meta = self.home.envs / name / "conda-meta"
        path = meta / ("history" if with_conda else "envfleet.use/used")
        if name in self.there and path.exists():
            os.utime(path, (self.home.now, self.home.now))
            self.there[name].used = self.true
            self.there[name].content = self._content(self.home.envs / name)

    @rule(name=NAMES)
    def start_or_end_a_job(self, name: str) -> None:
        truth = self.there.get(name)
        if truth and truth.job:
            self._end(truth)
        elif truth:
            program = self.home.envs / name / "bin/python"
            truth.job = subprocess.Popen([program, "600"], user=NOBODY, group=NOBODY, cwd="/")

    @rule(name=NAMES)
    def ask_for_it(self, name: str) -> None:
        if name in self.there:
            keep = self.home.envs / name / ".keep"
            keep.unlink() if keep.exists() else keep.touch()
            self.home.own(self.home.envs / name)
            self.there[name].content = self._content(self.home.envs / name)

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        if name in self.there and not self.there[name].job:
            shutil.rmtree(self.home.envs / name)
            del self.there[name]

    @precondition(lambda self: self.aside)
    @rule()
    def bring_back(self) -> None:
        place, truth = next(iter(self.aside.items()))
        name = place.name[1:].partition(".unused-")[0]
        if name not in self.there:
            place.rename(self.home.envs / name)
            del self.aside[place]
            truth.used, truth.moved, truth.warned = self.true, None, None
            self.there[name] = truth

    @rule(days=st.sampled_from([-200, -40, -12, 12, 40, 200]))
    def set_the_clock(self, days: float) -> None:
        self.home.now += days * DAY
        self.set_at, self.settled = self.true, False

    @precondition(lambda self: self.settled)
    @rule()
    def start_the_machine_anew(self) -> None:
        self.boot += 1
        self.home.boot = f"boot {self.boot}"
        self.home.uptime = 60
        for truth in (*self.there.values(), *self.aside.values()):
            self._end(truth)

    # Runs

    @rule(days=DAYS, changes=st.integers(0, 40))
    def run_that_is_killed(self, days: float, changes: int) -> None:
        self._wait(days)
        self._run("killed", changes)

    @rule(days=DAYS)
    def run(self, days: float) -> None:
        self._wait(days)
        self._run("whole", 1 << 30)

    @rule(days=DAYS)
    def run_again(self, days: float) -> None:
        self.run(days)

    @rule(days=DAYS)
    def dry_run(self, days: float) -> None:
        self._wait(days)
        before = tree(self.home.root)
        self.home.clean(days=0, act=False)
        assert tree(self.home.root) == before

    def _run(self, kind: str, changes: int) -> None:
        self.runs[kind] = self.runs.get(kind, 0) + 1
        with Killer.after(changes):
            result = self.home.clean(days=0)
            assert result.problems in ([], ["the clock was set since the last run: every wait begins again"])
            self.settled = True
        self._compare()

    def _compare(self) -> None:
        """What the run has done, held against what really happened."""
        envs = self.home.envs
        for name, truth in list(self.there.items()):
            if (envs / name).exists():
                assert self._content(envs / name) == truth.content
                continue
            (place,) = [path for path in envs.glob(f".{name}.unused-*") if path not in self.aside]
            self._may_move(truth, place)
            truth.moved = self.true
            self.aside[place] = self.there.pop(name)
            self.runs["moved"] = self.runs.get("moved", 0) + 1
        for place, truth in list(self.aside.items()):
            if place.exists():
                assert self._content(place) == truth.content
            else:
                assert truth.job is None
                assert truth.moved is not None
                assert self.true - truth.moved >= GRACE * DAY
                del self.aside[place]
                self.runs["removed"] = self.runs.get("removed", 0) + 1
        known = {*self.there, *(path.name for path in self.aside)}
        for entry in os.listdir(envs):
            assert entry in known or entry.endswith(".removing"), f"{entry} came from nowhere"
        warned = self._warned()
        for name, truth in self.there.items():
            if name not in warned:
                truth.warned = None
            elif truth.warned is None:
                truth.warned = self.true

    def _may_move(self, truth: Truth, place: Path) -> None:
        assert truth.job is None, "a process uses it"
        assert not (place / ".keep").exists()
        assert truth.warned is not None, "its owner was not warned"
        assert self.true - truth.warned >= NOTICE * DAY
        # By a clock that is wrong, nobody can note when something was used. Then there is the notice.
        if self.set_at is None or truth.used > self.set_at:
            assert self.true - truth.used >= UNUSED * DAY
        assert self._content(place) == truth.content

    def _warned(self) -> set[str]:
        path = self.home.root / "state/journal.json"
        if not path.exists():
            return set()
        return {os.path.basename(name) for name in json.loads(path.read_text())["warned"]}

    @staticmethod
    def _content(prefix: Path) -> dict[str, tuple[object, ...]]:
        """All there is but our own notes, and what makes room for them."""
        found = {}
        for name, facts in tree(prefix).items():
            if not any(note in name for note in _NOTES):
                mode, owner, group, inode, links, mtime, *rest = facts
                plain = os.path.isdir(prefix / name)
                found[name] = (mode, owner, group, inode, *((links, mtime) if not plain else ()), *rest[plain:])
        return found

    @staticmethod
    def _end(truth: Truth) -> None:
        if truth.job:
            truth.job.kill()
            truth.job.wait()
            truth.job = None


def try_histories(examples: int, **settings: Any) -> None:
    AnyHistory.runs = {}
    run_state_machine_as_test(
        AnyHistory,
        settings=hypothesis.settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
            **settings,
        ),
    )
    print(f"{examples} histories: {AnyHistory.runs}")
    assert min(AnyHistory.runs.get(what, 0) for what in ("whole", "killed", "moved", "removed")) > examples / 10


def test_any_history_leaves_what_is_used() -> None:
    try_histories(20, derandomize=True)


@pytest.mark.slow
def test_any_of_many_histories_leaves_what_is_used() -> None:
    try_histories(300)
