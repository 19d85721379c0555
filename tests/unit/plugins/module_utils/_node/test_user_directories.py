"""Private directories below one of root, made with real users of this machine, on a real file system."""

from __future__ import annotations

import os
import pwd
import stat
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._node import user_directories
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._node.user_directories import DirectoryError

# Every Debian and every RHEL has them.
USERS = ["bin", "daemon", "nobody"]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives directories away")


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    return {"root": str(tmp_path / "scratch/conda"), "users": USERS, "groups": []}


def made(options: dict[str, Any]) -> dict[str, tuple[str, int]]:
    """Whose the directories are, and their modes."""
    found = {}
    for path in [Path(options["root"]), *Path(options["root"]).iterdir()]:
        info = path.lstat()
        found[path.name] = (pwd.getpwuid(info.st_uid).pw_name, stat.S_IMODE(info.st_mode))
    return found


WANTED = {"conda": ("root", 0o755), **{name: (name, 0o700) for name in USERS}}


def test_each_user_gets_one_whatever_the_umask(options: dict[str, Any]) -> None:
    umask = os.umask(0o077)
    try:
        root = options["root"]
        assert user_directories.look(options)["problem"] == {"actual": "absent", "fix": "auto"}
        foretold = user_directories.make(options, check_mode=True)
        assert not Path(root).parent.exists()
        assert user_directories.make(options) == foretold
        assert foretold == [f"{root}: absent", *(f"{root}/{name}: absent" for name in USERS)]
    finally:
        os.umask(umask)
    assert made(options) == WANTED
    assert stat.S_IMODE(Path(root).parent.stat().st_mode) == 0o755
    assert user_directories.make(options) == []
    assert user_directories.look(options) == {"root": root, "problem": None, "unknown": [], "wrong": {}}


def test_nothing_is_told_without_a_root() -> None:
    assert user_directories.look({"root": "", "users": USERS, "groups": []}) == {}
    assert user_directories.look({}) == {}


def test_members_of_groups_get_one_and_root_gets_none(options: dict[str, Any]) -> None:
    users, unknown = user_directories.members(["root", "nobody", "who-is-that"], ["daemon", "no-such-group"])
    assert list(users) == ["nobody", "daemon"]
    assert unknown == ["group no-such-group", "user who-is-that"]
    assert user_directories.look({**options, "users": [], "groups": ["no-such-group"]})["unknown"] == [
        "group no-such-group"
    ]


def test_a_run_that_was_killed_is_taken_up(options: dict[str, Any]) -> None:
    user_directories.make(options)
    halfway = Path(options["root"], "bin")
    os.chown(halfway, 0, 0)
    (halfway / "kept").touch()
    assert user_directories.look(options)["wrong"] == {"bin": {"actual": "belongs to root", "fix": "auto"}}
    user_directories.make(options)
    assert made(options) == WANTED
    assert (halfway / "kept").exists()


def test_modes_are_put_right(options: dict[str, Any]) -> None:
    user_directories.make(options)
    Path(options["root"]).chmod(0o777)
    Path(options["root"], "daemon").chmod(0o755)
    found = user_directories.look(options)
    assert (found["problem"], found["wrong"]) == (
        {"actual": "mode 0777", "fix": "auto"},
        {"daemon": {"actual": "mode 0755", "fix": "auto"}},
    )
    user_directories.make(options)
    assert made(options) == WANTED


@pytest.mark.parametrize("what", ["of another user", "a link", "a file"])
def test_what_is_in_the_way_of_a_user_is_left_alone(options: dict[str, Any], tmp_path: Path, what: str) -> None:
    root = Path(options["root"])
    root.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir(mode=0o755)
    if what == "a link":
        (root / "nobody").symlink_to(tmp_path / "elsewhere")
    elif what == "a file":
        (root / "nobody").touch()
    else:
        (root / "nobody").mkdir()
        os.chown(root / "nobody", pwd.getpwnam("bin").pw_uid, -1)
    assert user_directories.look(options)["wrong"]["nobody"]["fix"] == "human"
    with pytest.raises(DirectoryError, match="nobody"):
        user_directories.make(options)
    assert [path.name for path in root.iterdir()] == ["nobody"]
    assert (tmp_path / "elsewhere").stat().st_uid == 0


@pytest.mark.parametrize("what", ["open", "of a user", "a link"])
def test_a_root_that_is_not_safe_is_refused(options: dict[str, Any], tmp_path: Path, what: str) -> None:
    root = Path(options["root"])
    if what == "open":
        root.parent.mkdir()
        root.parent.chmod(0o777)
    elif what == "of a user":
        root.mkdir(parents=True)
        os.chown(root, pwd.getpwnam("nobody").pw_uid, -1)
    else:
        root.parent.mkdir()
        root.symlink_to(tmp_path)
    found = user_directories.look(options)
    assert (found["problem"]["fix"], found["wrong"]) == ("human", {})
    with pytest.raises(DirectoryError, match="root: "):
        user_directories.make(options)
    assert not list(root.glob("nobody"))


def test_a_directory_above_may_be_open_to_all_with_the_sticky_bit(options: dict[str, Any]) -> None:
    above = Path(options["root"]).parent
    above.mkdir()
    above.chmod(0o1777)
    user_directories.make(options)
    assert made(options) == WANTED


def test_runs_at_once_do_not_collide(options: dict[str, Any]) -> None:
    with ProcessPoolExecutor(4) as pool:
        for _done in pool.map(user_directories.make, [options] * 8):
            pass
    assert made(options) == WANTED
