"""Every step of a build fails or is the last one, in turn, and nothing is lost: the name, the next run, the order."""

from __future__ import annotations

import dataclasses
import errno
import functools
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.convergence import Wanted
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.generations import SmokeTest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.locks import Lock

from lab.packages import Entry
from unit.plugins import pip_part, proof

if TYPE_CHECKING:
    from unit.plugins.conftest import Channel, Node
    from unit.plugins.proof import Item, Part

pytestmark = pytest.mark.usefixtures("restore_umask")


def slow(value: object) -> Any:
    """A parameter that is tried by `make test-slow` alone."""
    return pytest.param(value, marks=pytest.mark.slow)


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
    parts: tuple[Part, ...] = ()  #: wheels that come with *after*
    smoke_test: tuple[str, ...] = ("tool",)
    counted: list[str] = field(default_factory=list)

    def prepare(self) -> None:
        """The node as it was before, by other means than the code under test."""
        node = self.node
        if not self.before:
            for name in os.listdir(node.root) if node.root.exists() else []:
                shutil.rmtree(node.root / name)
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

    def wanted(self, items: tuple[Item, ...]) -> Wanted:
        """The environment with *items*, and with the wheels that belong to them."""
        wheels = tuple(part.wheel for part in self.parts if items == self.after)
        lock = Lock("linux-64", tuple(item.package for item in items), wheels)
        return Wanted("ml", lock, SmokeTest(self.smoke_test, "nobody", 60))

    def run(self, step: int = 0, fault: str = "EIO", *, lasting: bool = False) -> dict[str, Any]:
        """One run in a process of its own, and what became of it."""
        order = {
            "root": str(self.node.root),
            "base": str(self.base),
            "lock": self.wanted(self.after).lock.as_dict(),
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
        proof.require_exact(prefix, items, self.parts if items == self.after else ())
        return items

    def require_done(self, wanted: tuple[Item, ...]) -> None:
        """The node is right, and there is nothing but that."""
        assert self.live() == wanted
        proof.require_tidy(self.node, ["ml"])
        assert sorted(os.listdir(self.node.root)) == ["envs", "generations", "pkgs", "tmp"]

    def next_run(self, items: tuple[Item, ...], monkeypatch: pytest.MonkeyPatch) -> None:
        """A run that nothing hinders makes the node right, and another has nothing to do."""
        monkeypatch.setattr(tempfile, "tempdir", str(self.node.root / "tmp"))
        wanted = self.wanted(items)
        self.node.converge(wanted)
        self.require_done(items)
        assert not self.node.converge(wanted, verify="full")[0].todo


def require_clear(answer: dict[str, Any], fault: str, cause: str = "") -> None:
    """A failure is told in one message that names the option and the cause."""
    assert answer["status"] == 0
    assert "traceback" not in answer, answer["traceback"]
    if "error" in answer:
        cause = cause or os.strerror(getattr(errno, fault))
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


def require_nothing_lost(trial: Trial, answer: dict[str, Any], fault: str, cause: str = "") -> str:
    """How the run ended, if the name leads to what was there before it, or to what there is to be after it."""
    live = trial.live()
    if fault == "kill":
        assert answer == {"status": -signal.SIGKILL}
        return "killed"
    require_clear(answer, fault, cause)
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
    """Each kind of fault at every 61st step, shifted against each other."""
    trial.steps()
    reader = reading(trial) if trial.before else None
    count = try_all(trial, lambda number, which: number % 61 == which * 10, monkeypatch)
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


@pytest.fixture
def trial_with_wheels(node: Node, channel: Channel, server: subprocess.Popen[str]) -> Trial:
    """A node with an older generation, which gets one with a pip part."""
    old, new = (proof.stock(channel, "tool", version) for version in ("1.0", "2.0"))
    python = proof.unpacked(channel, pip_part.add_python(channel))
    parts = tuple(proof.part(channel.directory / "wheels", name, "1.0") for name in ("tiny", "small"))
    scratch = node.root.with_name("scratch")
    made = node.install(old.package)
    shutil.copytree(made, scratch / made.name, symlinks=True)
    return Trial(node, server, (old,), (python, new), scratch, parts=parts)


def of_pip_part(trial: Trial) -> range:
    """The steps in which wheels are fetched and installed."""
    numbers = [number for number, step in enumerate(trial.steps(), 1) if ".envfleet-wheels" in step]
    return range(numbers[0], numbers[-1] + 1)


def test_a_pip_part_with_a_fault_at_some_steps_loses_nothing(
    trial_with_wheels: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = of_pip_part(trial_with_wheels)
    assert len(steps) > 20
    try_all(trial_with_wheels, lambda number, which: number in steps and number % 61 == which * 10, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("which", range(len(FAULTS)), ids=lambda which: " ".join(map(str, FAULTS[which])))
def test_a_pip_part_with_a_fault_at_every_step_loses_nothing(
    which: int, trial_with_wheels: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = of_pip_part(trial_with_wheels)
    count = try_all(trial_with_wheels, lambda number, this: number in steps and this == which, monkeypatch)
    print(f"{len(steps)} steps of the pip part, {FAULTS[which]}: {count}")


# Stands in for the Python of the base: it gets ready what is to happen, and does then what it was asked for.
WRAPPER = """\
#!{python}
import io, json, os, resource, signal, sys, threading, time
sys.path[:0] = {path!r}
text = sys.stdin.read()
order = json.loads(text)
sys.stdin = io.StringIO(text)
{prelude}
exec(sys.argv[3], {{"__name__": "__main__"}})
"""
# rattler has threads of its own, so that one may watch how far it has come.
DIE_AFTER_FILES = """
def watch():
    while sum(len(files) for _folder, _folders, files in os.walk(order["prefix"])) < {count}:
        time.sleep(0.0002)
    os.kill(os.getpid(), signal.SIGKILL)
threading.Thread(target=watch, daemon=True).start()
"""
FAIL_AT_STEP = """
from unit.plugins.faulty import Faults
Faults(order["prefix"], {step}, {fault!r}, lasting=False).install()
"""
# As where the disk is full: a file that is larger cannot be written.
LIMIT_FILES = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
"""


def base_with(directory: Path, prelude: str) -> Path:
    """A base whose engine meets with what *prelude* prepares."""
    rattler = directory / "lib/python3.0/site-packages/rattler/__init__.py"
    rattler.parent.mkdir(parents=True, exist_ok=True)
    rattler.touch()  # by this a base is known to have the engine; what runs is that of the tests
    python = directory / "bin/python"
    python.parent.mkdir(exist_ok=True)
    python.write_text(WRAPPER.format(python=sys.executable, path=[str(FAULTY.parents[2])], prelude=prelude))
    python.chmod(0o755)
    return directory


@pytest.mark.parametrize("count", [slow(1), 30, slow(200)])
def test_an_engine_that_is_killed_after_some_files_loses_nothing(
    count: int, trial: Trial, channel: Channel, sandbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bulk = [Entry(f"share/bulk/{number}", str(number).encode()) for number in range(300)]
    trial.after += (proof.stock(channel, "bulk", "2.0", *bulk),)
    trial.prepare()
    trial.base = base_with(sandbox / "base", DIE_AFTER_FILES.format(count=count))
    answer = trial.run()
    assert require_nothing_lost(trial, answer, "EIO", "rattler ended") == "failed"
    trial.next_run(trial.after, monkeypatch)


def try_engine(trial: Trial, base: Path, steps: range, fault: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Have the engine's child fail at each of *steps* of its own, and count how often that was a failure."""
    failed = 0
    for step in steps:
        trial.prepare()
        trial.base = base_with(base, FAIL_AT_STEP.format(step=step, fault=fault))
        answer = trial.run()
        answer.pop("steps", None)
        cause = "rattler ended" if fault == "kill" else os.strerror(getattr(errno, fault))
        try:
            failed += require_nothing_lost(trial, answer, "EIO", cause) == "failed"
            trial.next_run(trial.after, monkeypatch)
        except Exception as error:
            error.add_note(f"step {step}, {fault}: {answer}")
            raise
    return failed


@pytest.mark.parametrize("fault", ["kill", "EIO"])
def test_an_engine_with_a_fault_at_a_step_of_its_own_loses_nothing(
    fault: str, trial: Trial, sandbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert try_engine(trial, sandbox / "base", range(1, 16, 5), fault, monkeypatch) > 0


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["kill", "EIO", "ENOSPC", "EACCES"])
def test_an_engine_with_a_fault_at_every_step_of_its_own_loses_nothing(
    fault: str, trial: Trial, sandbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert try_engine(trial, sandbox / "base", range(1, 20), fault, monkeypatch) > 5


@pytest.mark.parametrize("size", [slow(0), 60, slow(1000)])
def test_an_engine_that_cannot_write_large_files_loses_nothing(
    size: int, trial: Trial, sandbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial.prepare()
    trial.base = base_with(sandbox / "base", LIMIT_FILES.format(size=size))
    assert require_nothing_lost(trial, trial.run(), "EFBIG") == "failed"
    trial.next_run(trial.after, monkeypatch)


@dataclass
class Unreliable:
    """A server of packages that fails at one request, or from then on."""

    url: str
    how: str = ""  #: a status, or: cut off, short, wrong bytes, slow death
    at: int = 0  #: the number of the request, from 1
    lasting: bool = True
    asked: int = 0

    def now(self) -> str:
        """How to answer this request, where not as one should."""
        self.asked += 1
        return self.how if self.asked == self.at or (self.lasting and 0 < self.at < self.asked) else ""


@pytest.fixture
def unreliable(channel: Channel) -> Iterator[Unreliable]:
    """The channel by http."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            how = server_state.now()
            if how.isdigit():
                return self.send_error(int(how))
            if not how:
                return super().do_GET()
            data = Path(self.translate_path(self.path)).read_bytes()
            told = len(data) // 2 if how == "short" else len(data)
            self.send_response(200)
            self.send_header("Content-Length", str(told))
            self.end_headers()
            self.wfile.write(data[:1] + bytes(len(data) - 1) if how == "wrong bytes" else data[: len(data) // 2])
            self.close_connection = True
            return None

        def log_message(self, format: str, *arguments: Any) -> None:
            """Say nothing."""

    handler = functools.partial(Handler, directory=str(channel.directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server_state = Unreliable(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server_state
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("at", [slow(1), 2])
@pytest.mark.parametrize("how", [slow("404"), "500", slow("503"), "cut off", slow("short"), "wrong bytes"])
def test_a_download_that_fails_loses_nothing(
    how: str, at: int, trial: Trial, unreliable: Unreliable, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = trial.after[0].package.channel
    trial.after = tuple(
        dataclasses.replace(
            item, package=dataclasses.replace(item.package, url=item.package.url.replace(url, unreliable.url))
        )
        for item in trial.after
    )
    trial.prepare()
    unreliable.how, unreliable.at = how, at
    answer = trial.run()
    answer.pop("steps")
    assert require_nothing_lost(trial, answer, "EIO", "-2.0-0.conda: ") == "failed"
    unreliable.at = 0
    trial.next_run(trial.after, monkeypatch)


@pytest.fixture
def small_disk(node: Node) -> Iterator[Callable[[int | None], None]]:
    """Mount a disk of its own for the node, and have room for that many KiB more on it; None: for all."""
    node.root.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(node.root)]
    if subprocess.run(mounting, capture_output=True, check=False).returncode:
        pytest.skip("only who may mount a file system can have a disk that is full")

    def leave(room_kib: int | None) -> None:
        info = os.statvfs(node.root)
        used_kib = (info.f_blocks - info.f_bfree) * info.f_frsize // 1024
        size_kib = 512 * 1024 if room_kib is None else max(used_kib + room_kib, 4)
        subprocess.run(["mount", "-o", f"remount,size={size_kib}k", str(node.root)], check=True)

    try:
        leave(None)
        yield leave
    finally:
        subprocess.run(["umount", "--lazy", str(node.root)], check=True)


def try_disks(
    trial: Trial, leave: Callable[[int | None], None], parts: int, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Have the disk be full after each of that many equal parts of what a build needs."""
    trial.prepare()
    before = shutil.disk_usage(trial.node.root).used
    trial.smoke_test = ("sh", "-c", f"df --output=used -k {trial.node.root} | tail -1 >&2; exit 1")
    answer = trial.run()
    needed_kib = int(answer["error"].split()[-1]) - before // 1024
    trial.smoke_test = ("tool",)
    ends = []
    for part in range(parts):
        trial.prepare()
        leave(needed_kib * part // parts)
        answer = trial.run()
        answer.pop("steps")
        leave(None)
        try:
            ends.append(require_nothing_lost(trial, answer, "ENOSPC"))
            trial.next_run(trial.after, monkeypatch)
        except Exception as error:
            error.add_note(f"{needed_kib * part // parts} of {needed_kib} KiB: {answer}")
            raise
    return ends


@pytest.mark.parametrize("parts", [3, slow(40)])
def test_a_disk_that_is_full_at_some_point_loses_nothing(
    parts: int, small_disk: Callable[[int | None], None], trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = try_disks(trial, small_disk, parts, monkeypatch)
    assert ends.count("failed") >= parts * 3 // 4


@pytest.mark.parametrize(
    ("dying", "message"),
    [
        ("kill -9 $$", "compileall was killed"),
        ("echo concurrent.futures.process.BrokenProcessPool: terminated abruptly >&2; exit 1", "compileall was killed"),
    ],
    ids=["itself", "a worker"],
)
def test_byte_code_that_is_half_written_is_no_generation(
    dying: str, message: str, trial: Trial, channel: Channel, sandbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = sandbox / "dies"
    entries = {entry.path: entry for entry in library("2")}
    script = f'#!/bin/sh\ncase "$*" in *compileall*) if test -e {flag}; then {dying}; fi;; esac\n'
    script += f'exec {sys.executable} "$@"\n'
    entries["bin/python"] = Entry("bin/python", script.encode(), 0o755)
    trial.after = (proof.stock(channel, "snake", "2.0", *entries.values()), trial.after[1])
    trial.prepare()
    flag.touch()
    assert require_nothing_lost(trial, trial.run(), "EIO", message) == "failed"
    flag.unlink()
    trial.next_run(trial.after, monkeypatch)


def test_a_smoke_test_that_is_killed_loses_nothing(
    trial: Trial, sandbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = sandbox / "dies"
    flag.touch()
    trial.smoke_test = ("sh", "-c", f"test ! -e {flag} || kill -9 $$")
    trial.prepare()
    assert require_nothing_lost(trial, trial.run(), "EIO", "the smoke test failed with -9") == "failed"
    flag.unlink()
    trial.next_run(trial.after, monkeypatch)


def test_a_template_that_was_edited_in_the_cache_does_not_reach_an_environment(node: Node, channel: Channel) -> None:
    """It is no hard link, and its sum in the prefix is taken of what the prefix was put into."""
    tool = proof.stock(channel, "tool", "1.0")
    node.install(tool.package, name="first")
    template = node.pkgs / "tool-1.0-0/bin/tool"
    template.write_bytes(template.read_bytes() + b"echo evil\n")
    proof.require_exact(node.install(tool.package, name="second"), [tool])
