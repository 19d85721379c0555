"""All environments of a node, in real directories."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda import inventory
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.footprint import measure
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.generations import Layout
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.inventory import Account, look

if TYPE_CHECKING:
    from unit.plugins.conftest import Channel, Node

FORGE = "https://conda.example.org/forge"
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs files of two users")


def make(prefix: Path, *packages: str, **fields: Any) -> Path:
    """An environment of packages without files."""
    folder = prefix / "conda-meta"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "history").write_text("==> 2026-11-20 08:15:00 <==\n")
    for name in packages:
        url = f"{FORGE}/noarch/{name}-1.0-0.conda"
        record = {"name": name, "version": "1.0", "build": "0", "subdir": "noarch", "url": url, **fields}
        (folder / f"{name}-1.0-0.json").write_text(json.dumps(record))
    return prefix


@pytest.fixture
def home(sandbox: Path) -> Path:
    """A home with the directory that conda makes in it."""
    directory = sandbox / "home/me"
    (directory / ".conda/envs").mkdir(parents=True)
    return directory


@pytest.fixture
def me(home: Path) -> Account:
    """The user who runs the tests."""
    return Account("me", home.stat().st_uid, str(home))


def nothing_shared(root: Path) -> Layout:
    return Layout(str(root / "envs"), str(root / "generations"))


def seen(root: Path, *accounts: Account, paths: tuple[Path, ...] = ()) -> dict[str, Any]:
    """All there is, with the packages."""
    return look(nothing_shared(root), accounts, map(str, paths), list_packages=True)


def names(answer: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["kind"], one["name"]) for one in answer["environments"]]


def on_disk(*paths: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in paths)


def test_a_shared_environment_has_all_its_generations(node: Node, channel: Channel, audited: Any) -> None:
    old = node.install(channel.add_tool(version="1.0"))
    new = node.install(channel.add_tool(version="2.0"))
    unfinished = node.root / "generations/ml/0123"
    unfinished.mkdir()
    before = node.snapshot()
    with audited() as audit:
        answer = look(node.layout, [], [], list_packages=True)
    assert (audit.events, node.snapshot()) == ([], before)
    (found,) = answer["environments"]
    assert (found["name"], found["kind"], found["prefix"], found["problems"]) == ("ml", "shared", str(new), [])
    assert {one["prefix"]: one["live"] for one in found["generations"]} == {
        str(old): False,
        str(new): True,
        str(unfinished): False,
    }
    engines = {
        one["prefix"]: (one["engine"], bool(one["identity"]), bool(one["created"])) for one in found["generations"]
    }
    assert engines == {
        str(old): ("rattler", True, True),
        str(new): ("rattler", True, True),
        str(unfinished): (None, False, False),
    }
    assert found["packages"] == [{"name": "tool", "version": "2.0", "build": "0", "channel": channel.url}]
    assert (found["package_count"], found["channels"]) == (1, [channel.url])
    assert found["last_used"] == {"at": None, "evidence": None}
    for field in ("bytes", "shared_bytes", "exclusive_bytes", "files", "inodes"):
        assert found["size"][field] == sum(one["size"][field] for one in found["generations"])
    assert 0 < found["size"]["shared_bytes"] < found["size"]["bytes"], "the package cache has the same files"


def test_a_name_that_leads_nowhere_or_is_no_link_is_told(node: Node) -> None:
    node.link("gone").parent.mkdir(parents=True)
    node.link("gone").symlink_to(node.root / "generations/gone/0123")
    own = make(node.link("own"), "six")
    elsewhere = make(node.root / "elsewhere")
    node.link("strange").symlink_to(elsewhere)
    answer = look(node.layout, [], [str(elsewhere)], list_packages=False)
    facts = {
        one["name"]: (one["prefix"], one["package_count"], [problem["kind"] for problem in one["problems"]])
        for one in answer["environments"]
    }
    assert facts == {
        "gone": (None, 0, ["link"]),
        "own": (str(own), 1, ["obstacle"]),
        "strange": (str(elsewhere), 0, ["link"]),
    }
    assert all("packages" not in one for one in answer["environments"])


def test_private_environments_are_found_by_name_and_by_the_list(sandbox: Path, home: Path, me: Account) -> None:
    named = make(home / ".conda/envs/named", "six")
    listed = make(home / "work/listed")
    moved = make(home / "big/moved")
    (home / ".conda/envs/link").symlink_to(moved)
    (home / ".conda/envs/leftover").mkdir()
    (home / ".conda/environments.txt").write_text(f"{named}\n{listed}\nrelative\n\n{home}/gone\n{listed}\n")
    os.utime(named / "conda-meta/history", (0, 86400))
    answer = seen(sandbox, me)
    assert answer["left_out"] == []
    assert names(answer) == [("private", "link"), ("private", "named"), ("private", "listed")]
    by_name = {one["name"]: one for one in answer["environments"]}
    assert by_name["link"]["prefix"] == str(moved)
    assert by_name["named"]["last_used"] == {"at": "1970-01-02T00:00:00Z", "evidence": "history"}
    assert (by_name["named"]["package_count"], by_name["named"]["generations"]) == (1, [])


@as_root
def test_a_link_of_a_user_to_what_is_not_theirs_leads_nowhere(sandbox: Path, home: Path) -> None:
    theirs = make(sandbox / "theirs", "secret")
    (home / ".conda/envs/stolen").symlink_to(theirs)
    fake = home / ".conda/envs/fake"
    fake.mkdir()
    (fake / "conda-meta").symlink_to(theirs / "conda-meta")
    mine = make(home / ".conda/envs/mine")
    (mine / "conda-meta/secret-1.0-0.json").symlink_to(theirs / "conda-meta/secret-1.0-0.json")
    (home / ".conda/environments.txt").write_text(f"{theirs}\n")
    for path in (home, fake, mine):
        os.chown(path, NOBODY, NOBODY)
    os.chown(home / ".conda/environments.txt", NOBODY, NOBODY)
    answer = seen(sandbox, Account("nobody", NOBODY, str(home)))
    (found,) = answer["environments"]
    assert (found["name"], found["owner"], found["packages"]) == ("mine", "nobody", [])
    assert [(one["kind"], one["subject"]) for one in found["problems"]] == [("record", "conda-meta/secret-1.0-0.json")]


@as_root
def test_a_list_that_is_not_the_users_own_is_not_read(sandbox: Path, home: Path) -> None:
    listed = make(home / "listed")
    (sandbox / "list").write_text(f"{listed}\n")
    (home / ".conda/environments.txt").symlink_to(sandbox / "list")
    for path in (home, listed):
        os.chown(path, NOBODY, NOBODY)
    account = Account("nobody", NOBODY, str(home))
    assert seen(sandbox, account)["environments"] == []
    os.chown(sandbox / "list", NOBODY, NOBODY)
    assert names(seen(sandbox, account)) == [("private", "listed")]


@pytest.mark.parametrize("make_special", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_a_list_that_is_no_file_is_not_read(
    sandbox: Path, home: Path, me: Account, make_special: Callable[[Path], None]
) -> None:
    make_special(home / ".conda/environments.txt")
    make(home / ".conda/envs/mine")
    assert names(seen(sandbox, me)) == [("private", "mine")]


@as_root
def test_what_root_has_registered_elsewhere_is_not_private(sandbox: Path, home: Path, me: Account) -> None:
    make(home / ".conda/envs/mine")
    (home / ".conda/environments.txt").write_text(f"{make(sandbox / 'base')}\n")
    assert names(seen(sandbox, me)) == [("private", "mine"), ("other", "base")]


def test_a_home_of_somebody_else_is_no_home(sandbox: Path, home: Path, request: pytest.FixtureRequest) -> None:
    make(home / ".conda/envs/mine")
    (home / ".conda").chmod(0)
    request.getfixturevalue("unprivileged")  # so that it would be told if it were tried
    stranger = Account("daemon", home.stat().st_uid + 1, str(home))
    absent = Account("ghost", home.stat().st_uid, str(sandbox / "nonexistent"))
    assert seen(sandbox, stranger, absent) == {"environments": [], "left_out": []}


@pytest.mark.parametrize(
    ("closed", "paths"),
    [
        ("", [".conda/envs", ".conda/environments.txt"]),
        (".conda", [".conda/envs", ".conda/environments.txt"]),
        (".conda/envs", [".conda/envs"]),
        (".conda/environments.txt", [".conda/environments.txt"]),
        (".conda/envs/mine", [".conda/envs/mine"]),
    ],
)
def test_what_cannot_be_read_in_a_home_is_left_out(
    sandbox: Path, home: Path, me: Account, closed: str, paths: list[str], request: pytest.FixtureRequest
) -> None:
    make(home / ".conda/envs/mine")
    (home / ".conda/environments.txt").touch()
    (home / closed).chmod(0)
    request.getfixturevalue("unprivileged")
    assert seen(sandbox, me)["left_out"] == [
        {"path": str(home / path), "user": "me", "reason": "Permission denied"} for path in paths
    ]


def test_what_cannot_be_read_in_a_prefix_is_a_problem(sandbox: Path, request: pytest.FixtureRequest) -> None:
    prefix = make(sandbox / "mine", "six", "attrs")
    (prefix / "lib").mkdir(mode=0)
    (prefix / "conda-meta/six-1.0-0.json").chmod(0)
    request.getfixturevalue("unprivileged")
    (found,) = seen(sandbox, paths=(prefix,))["environments"]
    assert [one["name"] for one in found["packages"]] == ["attrs"]
    assert [(one["kind"], one["subject"]) for one in found["problems"]] == [
        ("record", "conda-meta/six-1.0-0.json"),
        ("unreadable", str(prefix / "lib")),
    ]


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _huge(path: Path) -> None:
    os.truncate(path, 1 << 40)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff"),
        lambda path: path.write_text("[]"),
        lambda path: path.write_text("null"),
        lambda path: path.write_text('{"name": "six"}'),
        lambda path: path.write_text("[" * 1_000_000),
        _pipe,
        _directory,
    ],
)
def test_a_broken_record_is_a_problem_and_no_more(sandbox: Path, damage: Callable[[Path], object]) -> None:
    prefix = make(sandbox / "mine", "six", "attrs")
    damage(prefix / "conda-meta/six-1.0-0.json")
    open_before = set(os.listdir("/proc/self/fd"))
    (found,) = seen(sandbox, paths=(prefix,))["environments"]
    assert set(os.listdir("/proc/self/fd")) == open_before
    assert [one["name"] for one in found["packages"]] == ["attrs"]
    assert [(one["kind"], one["subject"]) for one in found["problems"]] == [("record", "conda-meta/six-1.0-0.json")]


@pytest.mark.parametrize(
    ("fields", "channel"),
    [
        ({}, FORGE),
        ({"url": f"{FORGE}/linux-64/six.conda", "subdir": "linux-64"}, FORGE),
        ({"url": "https://me:pw@conda.example.org/t/to-ken/forge/noarch/six.conda"}, FORGE),
        ({"url": "file:///srv/six.conda"}, "file:///srv"),
        ({"url": "", "channel": f"{FORGE}/noarch"}, FORGE),
        ({"url": None, "channel": "forge"}, "forge"),
        ({"url": None}, ""),
    ],
)
def test_the_channel_of_a_package(sandbox: Path, fields: dict[str, Any], channel: str) -> None:
    (found,) = seen(sandbox, paths=(make(sandbox / "mine", "six", **fields),))["environments"]
    assert found["packages"] == [{"name": "six", "version": "1.0", "build": "0", "channel": channel}]
    assert found["channels"] == ([channel] if channel else [])


def test_a_file_with_many_names_counts_once(sandbox: Path) -> None:
    first, second = make(sandbox / "first"), make(sandbox / "second")
    content = b"x" * 100_000
    (first / "own").write_bytes(content)
    (first / "twice").write_bytes(content)
    os.link(first / "twice", first / "twice-again")
    (first / "both").write_bytes(content)
    os.link(first / "both", second / "both")
    (sandbox / "cached").write_bytes(content)
    os.link(sandbox / "cached", second / "cached")
    (second / "link").symlink_to(first / "own")
    answer = {one["name"]: one["size"] for one in seen(sandbox, paths=(first, second, first))["environments"]}
    fixed = {
        prefix: on_disk(prefix, prefix / "conda-meta", prefix / "conda-meta/history") for prefix in (first, second)
    }
    big = on_disk(first / "own")
    link = on_disk(second / "link")
    assert big >= len(content)
    assert answer == {
        "first": {
            "bytes": fixed[first] + 3 * big,
            "shared_bytes": big,
            "exclusive_bytes": fixed[first] + 2 * big,
            "files": 5,
            "inodes": 6,
        },
        "second": {
            "bytes": fixed[second] + big + link,
            "shared_bytes": 2 * big,
            "exclusive_bytes": fixed[second] + link,
            "files": 4,
            "inodes": 5,
        },
    }
    du = subprocess.run(["du", "-s", "-B1", first, second], capture_output=True, text=True, check=True)
    assert sum(size["bytes"] for size in answer.values()) == sum(
        int(line.split()[0]) for line in du.stdout.splitlines()
    )


def test_an_environment_inside_of_another_counts_by_itself(sandbox: Path, home: Path, me: Account) -> None:
    base = make(home / "miniconda3", "conda")
    inner = make(base / "envs/inner")
    (inner / "data").write_bytes(b"x" * 100_000)
    (home / ".conda/environments.txt").write_text(f"{base}\n{inner}\n")
    sizes = {one["name"]: one["size"] for one in seen(sandbox, me)["environments"]}
    assert (sizes["miniconda3"]["files"], sizes["inner"]["files"]) == (2, 2)
    assert sizes["miniconda3"]["bytes"] < 100_000 <= sizes["inner"]["bytes"]


@pytest.mark.skipif(os.geteuid() != 0, reason="other users' processes cannot be looked at")
@pytest.mark.parametrize("way", ["exe", "alias"])
def test_a_process_uses_an_environment(node: Node, channel: Channel, way: str) -> None:
    old = node.install(channel.add_tool(version="1.0"))
    new = node.install(channel.add_tool(version="2.0"))
    private = make(node.root / "home/mine")
    (private / "bin").mkdir()
    shutil.copy2(shutil.which("sleep") or "/bin/sleep", private / "bin/sleep")
    (node.root / "alias").symlink_to(private)

    def used() -> dict[str, Any]:
        answer = look(node.layout, [], [str(node.root / "alias")], list_packages=False)
        return {
            **{one["name"]: (one["in_use"], one["last_used"]["evidence"]) for one in answer["environments"]},
            **{one["prefix"]: one["in_use"] for one in answer["environments"][0]["generations"]},
        }

    idle = {"ml": (False, None), "alias": (False, "history"), str(old): False, str(new): False}
    assert used() == idle
    program = str(private / "bin/sleep") if way == "exe" else "sleep"
    known_as = {"CONDA_PREFIX": str(node.root / "alias")} if way == "alias" else {}
    with subprocess.Popen([program, "60"], env={**os.environ, **known_as}, cwd=old) as job:
        try:
            assert used() == {**idle, "ml": (True, "process"), "alias": (True, "process"), str(old): True}
        finally:
            job.kill()
    assert used() == idle


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a process of somebody else")
def test_where_processes_are_hidden_nothing_is_said_of_use(sandbox: Path, request: pytest.FixtureRequest) -> None:
    prefix = make(sandbox / "mine")
    request.getfixturevalue("unprivileged")
    (found,) = seen(sandbox, paths=(prefix,))["environments"]
    assert (found["in_use"], found["last_used"]["evidence"]) == (None, "history")


@pytest.mark.parametrize("seconds", [2**33, -1])
def test_a_time_that_a_user_made_up_ends_nothing(sandbox: Path, seconds: int) -> None:
    prefix = make(sandbox / "mine")
    os.utime(prefix / "conda-meta/history", (seconds, seconds))
    (found,) = seen(sandbox, paths=(prefix,))["environments"]
    assert found["last_used"]["evidence"] == "history"
    assert inventory._utc(1e30) is None


@pytest.mark.parametrize("instead", ["nothing", "another", "link"])
def test_an_environment_that_vanishes_before_it_is_looked_at_is_none(
    sandbox: Path, instead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix, other = make(sandbox / "mine"), make(sandbox / "other", "secret")
    listdir = os.listdir

    def vanish(path: Any) -> list[str]:
        if path == "/proc" and instead == "link":
            (prefix / "conda-meta").rename(prefix / "removed")
            (prefix / "conda-meta").symlink_to(other / "conda-meta")
        elif path == "/proc":
            prefix.rename(sandbox / "removed")
            if instead == "another":
                other.rename(prefix)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", vanish)
    assert seen(sandbox, paths=(prefix,)) == {"environments": [], "left_out": []}


def test_what_vanishes_during_the_walk_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lib/gone", "lib/stays"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        (tmp_path / "mine" / name / "file").touch()
    scandir = os.scandir

    def vanish(path: Any) -> Any:
        if str(path).rstrip("/").endswith("lib/gone"):
            (tmp_path / "mine/lib/gone").rename(tmp_path / "gone")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanish)
    footprint, problems = measure(str(tmp_path / "mine"))
    assert (footprint.files, problems) == (1, [])
    assert measure(str(tmp_path / "nowhere"))[0].files == 0


def test_paths_without_an_environment_are_left_out(sandbox: Path) -> None:
    assert seen(sandbox, paths=(sandbox, sandbox / "nowhere"))["left_out"] == [
        {"path": str(path), "user": "", "reason": "is no environment: it has no directory conda-meta"}
        for path in (sandbox, sandbox / "nowhere")
    ]


def test_accounts_come_from_the_file_of_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passwd = tmp_path / "passwd"
    passwd.write_bytes(b"root:x:0:0:root:/root:/bin/bash\n+::::::\nbroken\n\nme:x:1000:1000:M\xff:/home/me:\n")
    monkeypatch.setattr(inventory, "PASSWD", str(passwd))
    assert inventory.local_accounts() == [Account("root", 0, "/root"), Account("me", 1000, "/home/me")]


def test_a_user_that_the_node_does_not_have_is_named() -> None:
    with pytest.raises(CondaError, match="users: this node has no user 'no-such-user'"):
        inventory.account_of("no-such-user")
    assert inventory.account_of("root").uid == 0


def test_a_look_loads_no_more_than_it_needs() -> None:
    script = f"import sys, {inventory.__name__}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"asyncio", "http", "rattler", "ssl", "yaml"} & set(done.stdout.split())


def test_a_file_of_no_sensible_size_is_not_read(sandbox: Path) -> None:
    prefix = make(sandbox / "mine", "six")
    _huge(prefix / "conda-meta/six-1.0-0.json")
    (found,) = seen(sandbox, paths=(prefix,))["environments"]
    assert found["problems"][0]["detail"] == f"has {1 << 40} bytes, more than {64 << 20}"


def test_the_last_witness_of_use_counts(sandbox: Path, home: Path, me: Account) -> None:
    prefix = make(home / ".conda/envs/mine")
    notes, elsewhere = prefix / "conda-meta/envfleet.use", home / ".conda/envfleet.use"
    os.utime(prefix / "conda-meta/history", (0, 86400))

    def told() -> tuple[object, ...]:
        (found,) = seen(sandbox, me)["environments"]
        return (*found["last_used"].values(), found["noted_since"])

    assert told() == ("1970-01-02T00:00:00Z", "history", None)
    notes.mkdir()
    for name, days in (("since", 1), ("used", 0)):
        (notes / name).touch()
        os.utime(notes / name, (0, days * 86400))
    # Made with the time 0, the note tells of no use.
    assert told() == ("1970-01-02T00:00:00Z", "history", "1970-01-02T00:00:00Z")
    os.utime(notes / "used", (0, 2 * 86400))
    assert told() == ("1970-01-03T00:00:00Z", "start", "1970-01-02T00:00:00Z")
    elsewhere.mkdir()
    note = elsewhere / str(prefix).replace("/", "%")
    note.touch()
    os.utime(note, (0, 3 * 86400))
    assert told()[:2] == ("1970-01-04T00:00:00Z", "start")
    for path in (notes / "used", note):
        path.unlink()
        path.symlink_to("/etc/passwd")
    assert told()[:2] == ("1970-01-02T00:00:00Z", "history")
