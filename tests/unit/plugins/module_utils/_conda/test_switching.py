"""Jobs and readers while the name moves: as it does here, and as it is done elsewhere, which is shown to fail.

The same on nodes, with a Python from a channel, is in tests/acceptance/test_switching.py.
"""

from __future__ import annotations

import glob
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.engines import RattlerEngine
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.files import replace_link
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.locks import Package

from acceptance import switching
from lab.packages import Entry

if TYPE_CHECKING:
    from unit.plugins.conftest import Channel, Node

pytestmark = pytest.mark.usefixtures("restore_umask")
SHORT = f"{sys.version_info.major}.{sys.version_info.minor}"
LIBRARY = f"lib/python{SHORT}"


def python_package(channel: Channel) -> Package:
    """A Python that finds its prefix by where it lies, as conda's do. Its library is links to that of the tests."""
    original = Path(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))
    library = original.parent.parent / LIBRARY
    if not (library / "os.py").is_file():
        pytest.skip(f"{original} is laid out in another way; the acceptance tests have a Python of their own")
    unwanted = {"__pycache__", "site-packages", "test", "idlelib", "tkinter", "turtledemo"}
    entries = [
        Entry(f"bin/python{SHORT}", original.read_bytes(), 0o755),
        Entry("bin/python", link=f"python{SHORT}"),
        Entry(f"{LIBRARY}/site-packages/README.txt", b"for packages\n"),
        *(Entry(f"{LIBRARY}/{path.name}", link=str(path)) for path in library.iterdir() if path.name not in unwanted),
    ]
    for shared in glob.glob(f"{library.parent}/libpython{SHORT}*.so*"):
        entries.append(Entry(f"lib/{os.path.basename(shared)}", link=shared))
    return channel.add("python", f"{SHORT}.0", entries)


@pytest.fixture
def versions(channel: Channel) -> tuple[list[Package], list[Package]]:
    """Two locks that differ in the version of one package."""
    python = python_package(channel)
    site_packages = f"{LIBRARY}/site-packages"
    first, second = (
        [python, channel.add("lazy", version, list(switching.lazy(version, site_packages)))]
        for version in ("1.0", "2.0")
    )
    return first, second


class Beside:
    """Scripts that run beside the test, until they are told to stop."""

    def __init__(self, directory: Path) -> None:
        self._stop = directory / "stop"
        self._directory = directory
        self._running: list[subprocess.Popen[str]] = []

    def start(self, python: Path | str, script: str, before: list[str], after: list[str] | None = None) -> None:
        """Start *script* with its arguments: those before and after the paths of its two signals."""
        ready = self._directory / f"ready-{len(self._running)}"
        path = self._directory / f"script-{len(self._running)}.py"
        path.write_text(script)
        command = [str(python), str(path), *before, str(ready), str(self._stop), *(after or [])]
        self._running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        deadline = time.monotonic() + 60
        while not ready.exists():
            assert self._running[-1].poll() is None, self._running[-1].communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def stop(self) -> list[dict[str, Any]]:
        """What each of them has met."""
        self._stop.touch()
        told = []
        for process in self._running:
            output, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
            told.append(json.loads(output))
        self._running.clear()
        self._stop.unlink()
        return told

    def kill(self) -> None:
        """End what still runs."""
        for process in self._running:
            process.kill()
            process.communicate()


@pytest.fixture
def beside(sandbox: Path) -> Iterator[Beside]:
    """What runs scripts beside the test."""
    directory = sandbox / "beside"
    directory.mkdir()
    scripts = Beside(directory)
    try:
        yield scripts
    finally:
        scripts.kill()


def test_a_job_that_imports_late_stays_in_its_generation_while_the_name_moves(
    node: Node, versions: tuple[list[Package], list[Package]], beside: Beside
) -> None:
    first, second = versions
    old = node.install(*first)
    link = node.link()
    beside.start(link / "bin/python", switching.JOB, [str(link)], ["0.1"])
    beside.start(sys.executable, switching.READER, [str(link / "share/lazy/version")])
    beside.start(sys.executable, switching.STARTER, [str(link)])
    for number in range(50):
        node.converge(node.want(*(first if number % 2 else second)))
        time.sleep(0.05)
    job, reader, starter = beside.stop()
    assert job["prefix"] == str(old)
    assert set(job["found"]) == {"late import", "child", "fork", "spawn", "forkserver"}
    wrong, loads = switching.wrong_loads(job, "1.0")
    print(f"{loads} loads, {wrong} wrong; {reader}; {starter['starts']} starts, {starter['wrong']}")
    assert (wrong, reader["misses"], starter["wrong"]) == (0, 0, [])
    assert job["moves seen"] > 5
    assert loads > 30
    assert reader["reads"] > 1000
    assert starter["starts"] > 3


def test_an_update_in_place_changes_what_a_running_job_loads(
    sandbox: Path, versions: tuple[list[Package], list[Package]], beside: Beside
) -> None:
    """What everybody else does, with the same engine and the same job."""
    prefix, cache = sandbox / "in-place", str(sandbox / "pkgs")
    engine = RattlerEngine(sys.executable)
    engine.install(versions[0], str(prefix), cache)
    beside.start(prefix / "bin/python", switching.JOB, [str(prefix)], ["0.1"])
    for number in range(6):
        engine.install(versions[(number + 1) % 2], str(prefix), cache)
        time.sleep(0.3)
    (job,) = beside.stop()
    wrong, loads = switching.wrong_loads(job, "1.0")
    print(f"{loads} loads, {wrong} wrong: {job['found']}")
    assert wrong > 0


def test_a_reader_misses_a_name_that_is_unlinked_and_made_anew_but_not_one_that_is_replaced(
    sandbox: Path, beside: Beside
) -> None:
    for name in ("1", "2"):
        (sandbox / name).mkdir()
        (sandbox / name / "data").write_text(name)
    link, targets = sandbox / "name", [str(sandbox / name) for name in ("1", "2")]
    link.symlink_to(targets[0])

    beside.start(sys.executable, switching.READER, [str(link / "data")])
    for number in range(1000):
        replace_link(str(link), targets[number % 2])
    (ours,) = beside.stop()

    beside.start(sys.executable, switching.READER, [str(link / "data")])
    swap = [sys.executable, "-c", switching.UNLINK_AND_SYMLINK, str(link), "20000", *targets]
    subprocess.run(swap, check=True, timeout=60)
    (theirs,) = beside.stop()

    print(f"replaced: {ours}; unlinked: {theirs}")
    assert ours["misses"] == 0
    assert ours["reads"] > 1000
    assert theirs["misses"] > 0
