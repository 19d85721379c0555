"""Changes to the file system that are whole or not there."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda import files
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError


@pytest.mark.parametrize("before", [None, "old", "nowhere/at/all"])
def test_a_link_is_made_or_moved(before: str | None, tmp_path: Path) -> None:
    link = tmp_path / "name"
    if before:
        link.symlink_to(before)
    files.replace_link(str(link), "/some/where")
    assert os.readlink(link) == "/some/where"
    assert os.listdir(tmp_path) == ["name"]


def test_a_killed_run_leaves_nothing_that_the_next_does_not_remove(tmp_path: Path) -> None:
    (tmp_path / ".name.new").symlink_to("/half/done")
    files.replace_link(str(tmp_path / "name"), "/some/where")
    assert os.listdir(tmp_path) == ["name"]


def test_the_link_is_there_at_every_moment(tmp_path: Path) -> None:
    link = tmp_path / "name"
    link.symlink_to("0")
    watcher = [sys.executable, "-c", "import os, sys\nprint('ready', flush=True)\nwhile True: os.readlink(sys.argv[1])"]
    with subprocess.Popen([*watcher, str(link)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        for number in range(300):
            files.replace_link(str(link), str(number))
        assert process.poll() is None  # it has not missed the link once
        process.kill()


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_what_is_no_link_is_left_alone(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "name"
    if kind == "directory":
        (path / "precious").mkdir(parents=True)
    else:
        path.write_text("precious")
    with pytest.raises(CondaError, match=rf"{path} exists and is no link of this collection: move it away"):
        files.replace_link(str(path), "/some/where")
    assert (path / "precious").is_dir() if kind == "directory" else path.read_text() == "precious"
    assert os.listdir(tmp_path) == ["name"]


@pytest.mark.parametrize("mode", [0o644, 0o600])
def test_a_file_is_written_with_its_mode_whatever_the_umask(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    before = os.umask(0o077)
    try:
        files.write_file(str(path), "new\n", mode)
    finally:
        os.umask(before)
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new\n", mode)
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_that_cannot_be_written_keeps_its_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        files.write_file(str(path), "\ud800")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("mode", [0o755, 0o555, 0o000])
def test_a_tree_goes_whatever_its_modes(mode: int, sandbox: Path, unprivileged: Iterator[None]) -> None:
    tree = sandbox / "shared" / "tree"
    os.umask(0o022)
    # The directory is the user's own, as the sandbox is not.
    _as_owner(sandbox / "shared")
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "file").write_text("x")
    (tree / "a" / "link").symlink_to("/etc")
    for path in (tree / "a" / "b", tree / "a"):
        path.chmod(mode)
    files.remove_tree(str(tree))
    assert os.listdir(sandbox / "shared") == []
    assert Path("/etc/passwd").exists()


def _as_owner(path: Path) -> None:
    user = os.geteuid()
    if os.getuid() == 0:
        os.seteuid(0)
    path.mkdir()
    os.chown(path, user, -1)
    os.seteuid(user)


def test_removing_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    files.remove_tree(str(tmp_path / "nothing"))


def test_removing_a_link_is_not_removing_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    files.remove_tree(str(tmp_path / "link"))
    assert os.listdir(tmp_path) == ["target"]


def test_space_is_asked_for_where_the_directory_will_be(tmp_path: Path) -> None:
    path = str(tmp_path / "not" / "there" / "yet")
    files.require_free_space(path, 1, "conda_envs_min_free_mb")
    message = rf"conda_envs_min_free_mb: \d+ MiB are free at {path}, {10**9} are wanted: free some space or lower"
    with pytest.raises(CondaError, match=message):
        files.require_free_space(path, 10**9, "conda_envs_min_free_mb")
    assert os.listdir(tmp_path) == []


HOLDER = """
import sys
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.files import exclusive
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.processes import run
with exclusive(sys.argv[1], 5, "option"):
    if sys.argv[2] == "child":
        script = "import os, sys, time; print(os.getpid(), file=open(sys.argv[1], 'w'), flush=True); time.sleep(60)"
        run([sys.executable, "-c", script, sys.argv[3]], keep_lock=sys.argv[4] == "keep")
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_run_waits_and_then_says_who_is_at_work(tmp_path: Path) -> None:
    path = str(tmp_path / ".lock")
    command = [sys.executable, "-c", HOLDER, path, "alone"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        begin = time.monotonic()
        message = (
            rf"process {holder.pid}, since .* holds {re.escape(path)}\) and did not end within 0.3 s: .* raise option"
        )
        with pytest.raises(CondaError, match=message), files.exclusive(path, 0.3, "option"):
            raise AssertionError("two hold the lock")
        assert 0.3 <= time.monotonic() - begin < 3
        holder.kill()
        holder.wait()
    # The kernel has dropped the lock of the killed process.
    with files.exclusive(path, 0, "option"):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o644


def test_a_waiting_run_goes_on_when_the_first_ends(tmp_path: Path) -> None:
    path = str(tmp_path / ".lock")
    command = [sys.executable, "-c", HOLDER, path, "alone"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as second:
            assert second.stdin
            assert second.stdout
            os.set_blocking(second.stdout.fileno(), False)
            time.sleep(0.4)
            assert not second.stdout.read()
            os.set_blocking(second.stdout.fileno(), True)
            holder.stdin.close()
            assert second.stdout.readline() == b"held\n"
            second.stdin.close()


@pytest.mark.parametrize("keep", ["keep", "drop"])
def test_an_orphan_that_still_writes_holds_the_lock(keep: str, tmp_path: Path) -> None:
    path, pid_file = str(tmp_path / ".lock"), tmp_path / "pid"
    command = [sys.executable, "-c", HOLDER, path, "child", str(pid_file), keep]
    with subprocess.Popen(command, env={**os.environ, "TMPDIR": str(tmp_path)}) as holder:
        deadline = time.monotonic() + 10
        while not (pid_file.exists() and pid_file.read_text().strip()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        holder.kill()
        holder.wait()
    orphan = int(pid_file.read_text())
    try:
        if keep == "keep":
            with pytest.raises(CondaError, match=r"another run is changing"), files.exclusive(path, 0, "option"):
                raise AssertionError("the orphan's lock was taken")
        else:
            with files.exclusive(path, 0, "option"):
                pass
    finally:
        os.kill(orphan, signal.SIGKILL)
    with files.exclusive(path, 5, "option"):
        pass
