"""Every step of a build fails or is the last one, in turn, and nothing is lost: the name, the next run, the order."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.generations import SmokeTest

from lab.packages import Entry
from unit.plugins import proof

if TYPE_CHECKING:
    from unit.plugins.conftest import Channel, Node
    from unit.plugins.proof import Item

pytestmark = pytest.mark.usefixtures("restore_umask")

FAULTY = Path(proof.__file__).with_name("faulty.py")
# Reads through the name as people do, until it is told to stop, and says how often that worked and how often not.
READER = """
import select, sys, time
good = bad = 0
print("ready", flush=True)
while not select.select([0], [], [], 0)[0]:
    try:
        with open(sys.argv[1]) as stream:
            assert stream.read().startswith("data of ")
        good += 1
    except OSError:
        bad += 1
    time.sleep(0.0005)
print(good, bad)
"""


@dataclass
class Trial:
    """A node that is brought to *after*, from nothing or from *before*, again and again."""

    node: Node
    server: subprocess.Popen[str]
    before: tuple[Item, ...]
    after: tuple[Item, ...]
    scratch: Path
    base: Path = Path(sys.prefix)
    smoke_test: tuple[str, ...] = ("tool",)
    counted: list[str] = field(default_factory=list)

    def prepare(self) -> None:
        """The node as it was before, by other means than the code under test."""
        node = self.node
        if not self.before:
            shutil.rmtree(node.root, ignore_errors=True)
        else:
            home = node.root / "generations/ml"
            original = next(self.scratch.iterdir())
            if not (home / original.name).exists():
                shutil.copytree(original, home / original.name, symlinks=True)
            link = node.root / "link"
            link.symlink_to(home / original.name)
            link.rename(node.link())
            for path in (home / name for name in os.listdir(home) if name != original.name):
                shutil.rmtree(path)
            shutil.rmtree(node.pkgs)
            node.pkgs.mkdir()
        shutil.rmtree(node.root / "tmp", ignore_errors=True)
        (node.root / "tmp").mkdir(parents=True)

    def run(self, step: int = 0, fault: str = "EIO", *, lasting: bool = False) -> dict[str, Any]:
        """One run in a process of its own, and what became of it."""
        order = {
            "root": str(self.node.root),
            "base": str(self.base),
            "lock": self.node.want(*(item.package for item in self.after)).lock.as_dict(),
            "smoke_test": self.smoke_test,
            "keep": 1,
            "step": step,
            "fault": fault,
            "lasting": lasting,
        }
        assert self.server.stdin
        assert self.server.stdout
        self.server.stdin.write(json.dumps(order) + "\n")
        self.server.stdin.flush()
        answer: dict[str, Any] = json.loads(self.server.stdout.readline())
        return answer

    def steps(self) -> list[str]:
        """What a run does that nothing hinders. Looked at once."""
        if not self.counted:
            self.prepare()
            answer = self.run()
            assert (answer["status"], answer.get("error"), answer.get("traceback")) == (0, None, None)
            self.require_done(self.after)
            assert os.listdir(self.node.root / "tmp") == []
            self.counted += answer["steps"]
        return self.counted

    def live(self) -> tuple[Item, ...]:
        """What the name leads to, whole and to the last byte: the state before or after."""
        link = self.node.link()
        if not os.path.lexists(link):
            assert self.before == ()
            return ()
        prefix = link.resolve(strict=True)
        tool = json.loads(next((prefix / "conda-meta").glob("tool-*.json")).read_text())
        items = next(
            items for items in (self.before, self.after) if tool["version"] in {i.package.version for i in items}
        )
        proof.require_exact(prefix, items)
        return items

    def require_done(self, wanted: tuple[Item, ...]) -> None:
        """The node is right, and there is nothing but that."""
        assert self.live() == wanted
        proof.require_tidy(self.node, ["ml"])
        assert sorted(os.listdir(self.node.root)) == ["envs", "generations", "pkgs", "tmp"]

    def next_run(self, items: tuple[Item, ...], monkeypatch: pytest.MonkeyPatch) -> None:
        """A run that nothing hinders makes the node right, and another has nothing to do."""
        monkeypatch.setattr(tempfile, "tempdir", str(self.node.root / "tmp"))
        wanted = self.node.want(*(item.package for item in items), smoke_test=SmokeTest(self.smoke_test, "nobody", 60))
        self.node.converge(wanted)
        self.require_done(items)
        assert not self.node.converge(wanted, verify="full")[0].todo


def require_clear(answer: dict[str, Any], fault: str) -> None:
    """A failure is told in one message that names the option and the cause."""
    assert answer["status"] == 0
    assert "traceback" not in answer, answer["traceback"]
    if "error" in answer:
        cause = os.strerror(getattr(errno, fault))
        assert re.match(r"conda_envs_\w+: |/", answer["error"]), answer["error"]
        assert cause in answer["error"] or (fault == "ENOSPC" and "the disk is full" in answer["error"]), answer[
            "error"
        ]


@pytest.fixture
def server() -> Iterator[subprocess.Popen[str]]:
    """What runs processes that fail."""
    with subprocess.Popen(
        [sys.executable, FAULTY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        assert process.stdin
        process.stdin.close()


def library(version: str) -> tuple[Entry, ...]:
    """A Python that is the one of the tests, with a library that is compiled."""
    folder = f"lib/python3.{sys.version_info.minor}"
    script = f'#!/bin/sh\nexec {sys.executable} "$@"\n'.encode()
    return (
        Entry("bin/python", script, 0o755),
        Entry(f"{folder}/where.py", f"version = {version!r}\n".encode()),
        Entry(f"{folder}/site-packages/README.txt", b"Packages are installed into this directory.\n"),
    )


@pytest.fixture(params=["first install", "upgrade"])
def trial(request: pytest.FixtureRequest, node: Node, channel: Channel, server: subprocess.Popen[str]) -> Trial:
    """A node with nothing, or with an older generation that people use."""
    old, new = (
        (
            proof.stock(channel, "snake", f"{number}.0", *library(f"{number}")),
            proof.stock(channel, "tool", f"{number}.0"),
        )
        for number in (1, 2)
    )
    scratch = node.root.with_name("scratch")
    scratch.mkdir()
    if request.param == "first install":
        return Trial(node, server, (), new, scratch)
    made = node.install(*(item.package for item in old))
    shutil.copytree(made, scratch / made.name, symlinks=True)
    return Trial(node, server, old, new, scratch)


FAULTS = [("kill", False), ("EIO", False), ("ENOSPC", False), ("EACCES", False), ("EIO", True), ("ENOSPC", True)]


def try_all(trial: Trial, chosen: Callable[[int, int], bool], monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Have the chosen pairs of step and fault happen, and count what came of them."""
    count: dict[str, int] = {}
    failures = []
    for number, step in enumerate(trial.steps(), 1):
        for which, (fault, lasting) in enumerate(FAULTS):
            if not chosen(number, which) or (step.startswith("read ") and which > 1):
                continue
            trial.prepare()
            answer = trial.run(number, fault, lasting=lasting)
            answer.pop("steps", None)
            try:
                told = require_nothing_lost(trial, answer, fault)
                if trial.before and number % 2:
                    # Somebody has put the older lock back in between.
                    trial.next_run(trial.before, monkeypatch)
                trial.next_run(trial.after, monkeypatch)
                assert os.listdir(trial.node.root / "tmp") == []
            except Exception as error:
                error.add_note(f"step {number}, {step}, {fault}{' from then on' if lasting else ''}: {answer}")
                failures.append(error)
                continue
            count[told] = count.get(told, 0) + 1
    if failures:
        raise ExceptionGroup(f"{len(failures)} of {len(failures) + sum(count.values())} trials", failures)
    return count


def require_nothing_lost(trial: Trial, answer: dict[str, Any], fault: str) -> str:
    """How the run ended, if the name leads to what was there before it, or to what there is to be after it."""
    live = trial.live()
    if fault == "kill":
        assert answer == {"status": -signal.SIGKILL}
        return "killed"
    require_clear(answer, fault)
    if "error" in answer:
        return "failed"
    assert live == trial.after
    return "went on"


def reading(trial: Trial) -> subprocess.Popen[str]:
    """Somebody who reads through the name all the time."""
    path = trial.node.link() / "share/tool/data"
    process = subprocess.Popen(
        [sys.executable, "-c", READER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def require_no_misses(reader: subprocess.Popen[str]) -> None:
    output, _nothing = reader.communicate(timeout=60)
    good, bad = map(int, output.split())
    assert bad == 0
    assert good > 100


def test_a_build_with_a_fault_at_some_steps_loses_nothing(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of fault at every 41st step, shifted against each other."""
    trial.steps()
    reader = reading(trial) if trial.before else None
    count = try_all(trial, lambda number, which: number % 41 == which * 6, monkeypatch)
    if reader:
        require_no_misses(reader)
    assert count["killed"] > 1
    assert count["failed"] > 1


@pytest.mark.slow
@pytest.mark.parametrize("which", range(len(FAULTS)), ids=lambda which: " ".join(map(str, FAULTS[which])))
def test_a_build_with_a_fault_at_every_step_loses_nothing(
    which: int, trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial.steps()
    reader = reading(trial) if trial.before else None
    count = try_all(trial, lambda _number, this: this == which, monkeypatch)
    if reader:
        require_no_misses(reader)
    print(f"{len(trial.steps())} steps, {FAULTS[which]}: {count}")
