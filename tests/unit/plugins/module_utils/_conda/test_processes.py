"""Child processes in a clean environment of their own."""

from __future__ import annotations

import json
import os
import pwd
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.processes import run

REPORT = "import json, os; print(json.dumps([dict(os.environ), os.getcwd(), os.listdir()]))"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a command as somebody else")


def test_nothing_of_the_callers_environment_steers_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONDA_PREFIX", "CONDARC", "CONDA_PKGS_DIRS", "PYTHONPATH", "PIP_TARGET", "LD_PRELOAD_X", "CI"):
        monkeypatch.setenv(name, "/evil")
    for name in [
        name for name in os.environ if name.lower().startswith(("ssl_", "requests_")) or "proxy" in name.lower()
    ]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "localhost")
    variables, directory, listed = json.loads(
        run([sys.executable, "-c", REPORT], environment={"EXTRA": "1"}, path="/opt/bin").stdout
    )
    assert {name for name in variables if not name.startswith("__")} == {
        *("HOME", "TMPDIR", "LC_ALL", "PATH", "PYTHONNOUSERSITE", "EXTRA", "https_proxy", "NO_PROXY")
    }
    assert variables["PATH"].split(":")[0] == "/opt/bin"
    assert variables["HOME"] == variables["TMPDIR"] == directory
    assert listed == []
    assert not os.path.exists(directory)


def test_input_output_and_end_come_back() -> None:
    result = run(["sh", "-c", "cat; echo problem >&2; exit 3"], stdin="some ünicode\n")
    assert result == (3, "some ünicode\n", "problem\n")
    assert result.tail() == "some ünicode\nproblem"
    assert result.tail(7) == "problem"


def test_output_that_is_no_text_is_no_failure() -> None:
    assert run(["printf", r"a\377b"]).stdout == "a\ufffdb"


def test_files_are_made_for_all_to_read(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        run(["touch", str(tmp_path / "file")])
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


@as_root
def test_another_user_has_a_home_and_no_more_groups() -> None:
    result = run(["sh", "-c", "id -un; id -G; touch ~/file && ls ~"], user="nobody")
    assert result.stdout.split() == ["nobody", str(pwd.getpwnam("nobody").pw_gid), "file"]


@pytest.mark.parametrize(
    ("argv", "user", "message"),
    [
        (["/no/such/command"], "", "/no/such/command cannot be run: .*No such file"),
        (["/etc/passwd"], "", "/etc/passwd cannot be run: .*Permission denied"),
        (["true"], "no-such-user", "there is no user no-such-user to run true as"),
    ],
)
def test_what_cannot_be_started_is_named(argv: list[str], user: str, message: str) -> None:
    with pytest.raises(CondaError, match=message):
        run(argv, user=user)


def test_a_command_that_takes_too_long_is_ended_with_all_it_started(tmp_path: Path) -> None:
    script = f"(sleep 1.5; touch {tmp_path}/alive) & sleep 60"
    begin = time.monotonic()
    with pytest.raises(CondaError, match=r"^sh did not end within 0.3 s$"):
        run(["sh", "-c", script], timeout_seconds=0.3)
    assert time.monotonic() - begin < 1.4
    time.sleep(1.5)
    assert not (tmp_path / "alive").exists()


def test_a_command_in_time_is_not_cut_off() -> None:
    assert run(["echo", "x"], timeout_seconds=30).stdout == "x\n"
