"""Clean-up of private environments, in real directories and with real processes."""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.inventory import Account
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.usage import Elsewhere, in_use
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._housekeeping import cleaning, report
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._housekeeping.cleaning import Result
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._housekeeping.policy import DAY, Rule

from unit.plugins.homes import NOBODY, POLICY, Home, tree

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs files of two users, and to see all processes")


def steps(result: Result) -> list[str]:
    return [item.decision.action for item in result.items]


@pytest.fixture
def set_aside(home: Home) -> Path:
    """The path of an environment that was set aside."""
    prefix = home.make("old")
    home.clean()
    home.clean(days=11)
    assert not prefix.exists()
    return prefix


def test_an_unused_environment_is_warned_of_then_set_aside_then_removed(home: Home) -> None:
    prefix = home.make("old")
    message = home.root / f"state/messages/{NOBODY}"
    first = home.clean()
    assert (steps(first), first.problems) == (["warn"], [])
    assert str(prefix) in message.read_text()
    assert (message.stat().st_uid, stat.S_IMODE(message.stat().st_mode)) == (NOBODY, 0o400)
    assert steps(home.clean(days=9)) == ["wait"]
    assert prefix.is_dir()
    moved = home.clean(days=2)
    assert (steps(moved), moved.problems) == (["set_aside"], [])
    assert (prefix.exists(), len(home.aside)) == (False, 1)
    assert "mv -T" in message.read_text()
    assert steps(home.clean(days=19)) == ["wait"]
    assert len(home.aside) == 1
    gone = home.clean(days=2)
    assert (steps(gone), gone.problems) == (["remove"], [])
    assert os.listdir(home.envs) == []
    assert not message.exists()
    assert home.clean().items == []


def test_a_second_run_does_nothing(home: Home) -> None:
    home.make("old")
    home.clean()
    again = home.clean(days=0)
    assert (again.actions, steps(again)) == ([], ["wait"])


def test_a_dry_run_changes_nothing(home: Home) -> None:
    home.make("new", noted=False)
    home.make("old")
    for days in (0, 1, 11, 21):
        before = tree(home.root)
        planned = home.clean(days=days, act=False)
        assert tree(home.root) == before
        assert home.clean(days=0).actions == planned.actions


def test_where_not_all_processes_can_be_seen_everything_is_in_use(home: Home, request: pytest.FixtureRequest) -> None:
    home.make("old")
    assert steps(home.clean(act=False)) == ["warn"]
    shutil.rmtree(home.root / "state")  # which only root can read
    request.getfixturevalue("unprivileged")
    result = home.clean(act=False)
    assert (steps(result), result.in_use) == (["keep"], None)


@pytest.mark.parametrize("owner_moves", [True, False], ids=["by its owner", "by the operator"])
def test_what_was_set_aside_comes_back_byte_for_byte_and_counts_as_used(home: Home, owner_moves: bool) -> None:
    prefix = home.make("old")
    home.clean()
    before = tree(prefix)
    home.clean(days=11)
    if owner_moves:
        text = (home.root / f"state/messages/{NOBODY}").read_text()
        (command,) = [line for line in text.splitlines() if "mv -T" in line]
        home.as_owner(command)
    else:
        clock = home.clock
        assert cleaning.restore(home.settings(), [str(prefix)], True, clock).actions == [f"restore {prefix}"]
    assert tree(prefix) == before
    assert home.aside == []
    assert steps(home.clean()) == ["keep"]
    assert steps(home.clean(days=29)) == ["keep"]
    assert steps(home.clean(days=2)) == ["warn"]


def test_what_is_not_set_aside_cannot_be_restored(home: Home, set_aside: Path) -> None:
    with pytest.raises(CondaError, match="env_housekeeping_restore: /nowhere was not set aside on this node: there is"):
        cleaning.restore(home.settings(), ["/nowhere"], True)
    set_aside.mkdir()
    with pytest.raises(CondaError, match="there is something at"):
        cleaning.restore(home.settings(), [str(set_aside)], True)
    assert len(home.aside) == 1


@pytest.fixture
def job(home: Home) -> Iterator[Callable[..., None]]:
    """Starts processes that end with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str | Path, **options: Any) -> None:
        started.append(subprocess.Popen([*command], user=NOBODY, group=NOBODY, **{"cwd": "/", **options}))

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_nothing_happens_to_an_environment_in_use(home: Home, job: Callable[..., None]) -> None:
    prefix = home.make("old")
    job(prefix / "bin/python", "60")
    for days in (1, 11, 100):
        assert steps(home.clean(days=days)) == ["keep"]
    assert prefix.is_dir()


def test_what_is_used_where_it_was_set_aside_is_not_removed(
    home: Home, set_aside: Path, job: Callable[..., None]
) -> None:
    (place,) = home.aside
    job(place / "bin/python", "60")
    assert steps(home.clean(days=100)) == ["keep"]
    assert tree(place)
    assert not set_aside.exists()


def test_what_is_started_where_it_was_set_aside_waits_anew(home: Home, set_aside: Path) -> None:
    (place,) = home.aside
    home.clean(days=19)
    os.utime(place / "conda-meta/envfleet.use/used", (home.now, home.now))
    assert steps(home.clean(days=19)) == ["wait"]
    assert steps(home.clean(days=2)) == ["remove"]
    assert not set_aside.exists()


@pytest.mark.parametrize("moment", ["look", "rename"])
@pytest.mark.parametrize("path", ["history", "envfleet.use/used"])
def test_what_is_used_for_a_moment_after_the_look_stays(home: Home, path: str, moment: str) -> None:
    prefix = home.make("old")
    home.clean()
    real: Callable[..., Any] = in_use if moment == "look" else os.rename
    calls = []

    def seen(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if arguments[0] == "old" or (moment == "look" and len(calls) == 2):
            os.utime(prefix / "conda-meta" / path)
        return real(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{cleaning.__name__}.in_use" if moment == "look" else "os.rename", seen)
        result = home.clean(days=11)
    assert result.problems == [f"{prefix}: somebody uses it again, so it stays"]
    assert prefix.is_dir()
    assert home.aside == []


def test_who_begins_between_the_look_and_the_rename_gets_it_back(home: Home, job: Callable[..., None]) -> None:
    prefix = home.make("old")
    home.clean()
    before = tree(prefix)
    real, calls = os.rename, []

    def rename(*arguments: Any, **options: Any) -> None:
        if arguments[0] == "old":
            job(prefix / "bin/python", "60")
            while f"{prefix}/bin/python".encode() not in Path(f"/proc/{_last_child()}/maps").read_bytes():
                time.sleep(0.01)
        calls.append(arguments)
        real(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "rename", rename)
        home.clean(days=11)
    assert calls, "nothing was moved at all"
    assert tree(prefix) == before
    assert home.aside == []


def _last_child() -> int:
    return max(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))


def test_an_activated_shell_that_does_nothing_keeps_its_environment(home: Home) -> None:
    prefix = home.make("old")
    script = prefix / "etc/conda/activate.d/envfleet-use.sh"
    text = f"CONDA_PREFIX={shlex.quote(str(prefix))}; . {shlex.quote(str(script))}; echo ready; read forever"
    with subprocess.Popen(
        ["sh", "-euc", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, user=NOBODY, group=NOBODY, cwd="/"
    ) as shell:
        assert shell.stdout
        assert shell.stdout.readline() == b"ready\n"
        os.utime(prefix / "conda-meta/envfleet.use/used", (1, 1))
        assert steps(home.clean()) == ["keep"]
        assert steps(home.clean(days=100)) == ["keep"]
        shell.kill()
    assert steps(home.clean()) == ["warn"]


@pytest.mark.parametrize("line", ["{} 1", "1", "", "x y", "{}", "-1 5", "99999999999999999999 1", "\xff\x00"])
def test_another_process_with_the_number_of_a_shell_that_has_ended_is_no_use(home: Home, line: str) -> None:
    prefix = home.make("old")
    shells = prefix / f"conda-meta/envfleet.use/shells.{os.uname().nodename}"
    shells.write_text(line.format(os.getpid()), encoding="latin-1")
    assert steps(home.clean()) == ["warn"]


def test_a_long_list_of_shells_is_shortened(home: Home) -> None:
    prefix = home.make("old")
    shells = prefix / f"conda-meta/envfleet.use/shells.{os.uname().nodename}"
    start = Path("/proc/self/stat").read_text().rpartition(") ")[2].split()[19]
    shells.write_text("1 2\n" * 20000 + f"{os.getpid()} {start}\n")
    assert steps(home.clean()) == ["keep"]
    assert shells.read_text() == f"{os.getpid()} {start}\n"
    assert shells.stat().st_uid == NOBODY
    assert steps(home.clean()) == ["keep"]


def test_an_environment_with_others_in_it_stays(home: Home) -> None:
    """An installation of a user's own has a conda in its base, and all environments below it."""
    base = home.make("base")
    home.clean(days=0)
    inner = base / "envs/inner"
    (inner / "conda-meta").mkdir(parents=True)
    home.own(base)
    assert steps(home.clean()) == ["keep"]
    (home.home / ".conda/environments.txt").write_text(f"{inner}\n")
    home.own(home.home)
    assert steps(home.clean()) == ["keep", "keep"]
    shutil.move(base / "envs", home.home / "elsewhere")
    assert steps(home.clean()) == ["warn"]


def test_a_removal_that_was_ended_is_finished_and_cannot_be_undone(home: Home, set_aside: Path) -> None:
    home.now += 21 * DAY
    home.uptime += 21 * DAY
    real = os.unlink
    removed: list[tuple[Any, ...]] = []

    def unlink(*arguments: Any, **options: Any) -> None:
        if len(removed) == 3:
            raise KeyboardInterrupt
        removed.append(arguments)
        real(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "unlink", unlink)
        with pytest.raises(KeyboardInterrupt):
            home.clean(days=0)
    (place,) = home.aside
    assert place.name.endswith(".removing")
    with pytest.raises(CondaError, match="was not set aside"):
        cleaning.restore(home.settings(), [str(set_aside)], True, home.clock)
    (home.root / "state/journal.json").unlink()
    assert steps(home.clean(days=0)) == ["remove"]
    assert os.listdir(home.envs) == []


@pytest.mark.parametrize("shell", ["sh", "bash", "zsh"])
def test_an_activation_is_noted_whatever_the_shell_is_set_to(home: Home, shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"there is no {shell} here")
    prefix = home.make("old")
    script = prefix / "etc/conda/activate.d/envfleet-use.sh"
    text = f"set -euC; set -- a b; CONDA_PREFIX={shlex.quote(str(prefix))}; export CONDA_PREFIX; . {script}; echo $*"
    done = subprocess.run([shell, "-c", text], user=NOBODY, group=NOBODY, cwd="/", capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"a b\n", b"")
    assert abs((prefix / "conda-meta/envfleet.use/used").stat().st_mtime - time.time()) < 60
    assert (prefix / f"conda-meta/envfleet.use/shells.{os.uname().nodename}").read_text().count(" ") == 1


def start_python(prefix: Path, user: int, home: Path) -> None:
    """What each Python of the environment does at its start, with one that is here."""
    packages = prefix / "lib/python3.10/site-packages"
    code = f"import sys; sys.prefix = {str(prefix)!r}; sys.path.insert(0, {str(packages)!r}); import _envfleet_use"
    command = ["/usr/bin/python3", "-IBc", code]
    account: dict[str, Any] = {"user": user, "group": user, "env": {"HOME": str(home)}, "cwd": "/"}
    done = subprocess.run(command, **account, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_start_of_python_is_noted(home: Home) -> None:
    prefix = home.make("old")
    start_python(prefix, NOBODY, home.home)
    (found,) = home.clean(days=0).items
    assert (found.decision.action, found.evidence) == ("keep", "start")
    assert steps(home.clean(days=29)) == ["keep"]
    assert steps(home.clean(days=2)) == ["warn"]


def test_a_start_by_somebody_else_is_noted_in_their_home(home: Home) -> None:
    prefix = home.make("old")
    other = home.root / "other"
    other.mkdir()
    os.chown(other, 1, 1)
    start_python(prefix, 1, other)
    accounts = (home.account, Account("daemon", 1, str(other)))
    assert steps(home.clean()) == ["warn"]
    assert steps(home.clean(accounts=accounts)) == ["keep"]


def test_nothing_is_unused_before_its_use_is_noted(home: Home) -> None:
    prefix = home.make("old", noted=False)
    first = home.clean()
    assert (steps(first), first.actions) == (["keep"], [f"note the use of {prefix}"])
    for path in (prefix / "conda-meta/envfleet.use", prefix / "etc/conda/activate.d/envfleet-use.sh"):
        assert path.stat().st_uid == NOBODY
    os.utime(prefix / "conda-meta/envfleet.use/since", (home.now, home.now))
    assert steps(home.clean(days=29)) == ["keep"]
    assert steps(home.clean(days=2)) == ["warn"]


def test_who_takes_the_hooks_away_begins_anew(home: Home) -> None:
    prefix = home.make("old")
    (prefix / "lib/python3.10/site-packages/zz-envfleet-use.pth").unlink()
    home.now = time.time()
    assert home.clean(days=0).actions == [f"note the use of {prefix}"]
    assert (prefix / "lib/python3.10/site-packages/zz-envfleet-use.pth").exists()
    assert abs((prefix / "conda-meta/envfleet.use/since").stat().st_mtime - home.now) < 60
    assert steps(home.clean(days=11)) == ["keep"]


def test_owners_can_keep_an_environment_and_sites_can_exempt_owners(home: Home) -> None:
    prefix = home.make("old")
    exempt = dataclasses.replace(POLICY, exempt_users=frozenset({"nobody"}))
    assert steps(home.clean(policy=exempt)) == ["keep"]
    home.as_owner(f"touch {prefix}/.keep")
    assert steps(home.clean()) == ["keep"]
    (prefix / ".keep").unlink()
    assert steps(home.clean()) == ["warn"]


@pytest.mark.parametrize(("rule", "due"), [(Rule(30, 1), False), (Rule(30, 0, 10), True), (Rule(30, 0, 1000), False)])
def test_rules_go_by_size_too(home: Home, rule: Rule, due: bool) -> None:
    home.make("old")
    result = home.clean(policy=dataclasses.replace(POLICY, rules=(Rule(500), rule)))
    assert steps(result) == ["warn" if due else "keep"]


def test_what_other_nodes_use_or_may_use_is_in_use(home: Home) -> None:
    prefix = home.make("old")
    assert steps(home.clean(elsewhere=Elsewhere(None))) == ["keep"]
    assert steps(home.clean(elsewhere=Elsewhere(frozenset({str(prefix)})))) == ["keep"]
    assert steps(home.clean(elsewhere=Elsewhere(frozenset()))) == ["warn"]


def test_a_clock_that_was_set_costs_waiting_and_nothing_else(home: Home, set_aside: Path) -> None:
    waiting = home.make("warned")
    home.clean()
    home.now += 1000 * DAY  # and the machine has not run for any longer
    wrong = home.clean(days=0)
    assert steps(wrong) == ["wait", "wait"]
    assert (waiting.is_dir(), len(home.aside)) == (True, 1)
    home.now -= 1000 * DAY
    assert "the clock was set" in home.clean(days=0).problems[0]
    assert (waiting.is_dir(), len(home.aside)) == (True, 1)
    assert steps(home.clean(days=19)) == ["set_aside", "wait"]
    assert not set_aside.exists()


def test_a_lost_journal_costs_waiting_and_nothing_else(home: Home, set_aside: Path) -> None:
    (home.root / "state/journal.json").unlink()
    assert steps(home.clean(days=19)) == ["wait"]
    assert cleaning.restore(home.settings(), [str(set_aside)], False).actions
    assert steps(home.clean(days=21)) == ["remove"]


def test_a_journal_that_cannot_be_read_ends_the_run(home: Home, set_aside: Path) -> None:
    (home.root / "state/journal.json").write_text("{")
    with pytest.raises(CondaError, match=r"journal\.json cannot be read"):
        home.clean(days=100)
    assert (len(home.aside), set_aside.exists()) == (1, False)


def test_without_room_for_the_journal_nothing_is_set_aside(home: Home) -> None:
    prefix = home.make("old")
    home.clean()

    def refuse(*_arguments: Any, **_options: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(CondaError, match=r"journal\.json cannot be written: No space left on device"):
            home.clean(days=11)
    assert prefix.is_dir()
    assert steps(home.clean(days=0)) == ["set_aside"]


def test_what_cannot_be_looked_at_is_told(home: Home) -> None:
    os.mkfifo(home.home / ".conda/environments.txt")
    (home.home / ".conda/envs").rename(home.home / "moved")
    (home.home / ".conda/envs").symlink_to("envs")
    assert home.clean().problems == [f"{home.envs}: Too many levels of symbolic links"]


def test_all_goes_back_when_the_clean_up_is_given_up(home: Home, set_aside: Path) -> None:
    other = home.make("other")
    compiled = other / "lib/python3.10/site-packages/__pycache__"
    compiled.mkdir()
    (compiled / "_envfleet_use.cpython-310.pyc").touch()
    home.own(other)
    cleaning.withdraw(home.settings(), True, home.clock)
    assert home.aside == []
    for prefix in (set_aside, other):
        left = [path for path in tree(prefix) if "envfleet" in path]
        assert (prefix.is_dir(), left) == (True, [])


def test_what_cannot_be_set_aside_is_told_and_stays(home: Home) -> None:
    prefix = home.make("old")
    home.clean()
    os.chown(home.envs, 0, 0)
    result = home.clean(days=11)
    (problem,) = result.problems
    assert "Permission denied" in problem
    assert prefix.is_dir()
    os.chown(home.envs, NOBODY, NOBODY)
    assert steps(home.clean(days=0)) == ["set_aside"]
    assert not prefix.exists()


def test_the_table_is_plain_text_whatever_paths_are_called(home: Home) -> None:
    home.make("bad\n\x1b[2Jname")
    result = home.clean()
    lines = report.table(result, applied=True)
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)
    text = (home.root / f"state/messages/{NOBODY}").read_text()
    assert "\x1b" not in text
    (command,) = [line for line in text.splitlines() if "touch" in line]
    subprocess.run(["bash", "-euc", command], user=NOBODY, group=NOBODY, cwd="/", check=True)
    assert steps(home.clean()) == ["keep"]


def test_the_command_gets_each_message_once(home: Home) -> None:
    home.make("old")
    log = home.root / "log"
    command = ("sh", "-c", f'(echo "to $1"; cat) >>{log}', "sh")
    for days in (1, 1, 11, 1):
        assert home.clean(days=days, notify_command=command).problems == []
    assert log.read_text().count("to nobody") == 2
    failing = home.clean(days=50, notify_command=("false",))
    assert failing.problems == []


def test_shared_environments_that_nobody_declares_are_told(home: Home) -> None:
    generation = home.root / "shared/generations/ml/0123/conda-meta"
    generation.mkdir(parents=True)
    assert home.clean(listed=frozenset({"ml"})).unlisted == []
    (found,) = home.clean(listed=frozenset()).unlisted
    assert (found["name"], found["in_use"]) == ("ml", False)
    assert generation.is_dir()
