"""What users do in their homes while root looks and acts there harms nobody, themselves excepted."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._housekeeping import ownership

from unit.plugins.homes import NOBODY, Home, tree

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs files of two users, and to see all processes")


@pytest.fixture(params=[0, NOBODY], ids=["of root", "of the user"])
def victim(sandbox: Path, home: Home, request: pytest.FixtureRequest) -> Path:
    """Something of root, or else of the user, that looks like an environment and has the same name as one."""
    prefix = (home.home if request.param else sandbox) / "etc/old"
    for name in ("bin", "conda-meta", "etc/conda/activate.d", "lib/python3.10/site-packages"):
        (prefix / name).mkdir(parents=True)
    (prefix / "conda-meta/history").write_text("")
    os.utime(prefix / "conda-meta/history", (1, 1))
    for name in ("file", "bin/file", "lib/python3.10/file"):
        (prefix / name).write_text("precious")
    for folder, folders, files in os.walk(prefix.parent):
        for path in (folder, *(os.path.join(folder, name) for name in folders + files)):
            os.chown(path, request.param, request.param)
    return prefix


def swap(path: Path, target: Path) -> None:
    path.rename(path.with_name("hidden"))
    path.symlink_to(target)


def run_with(home: Home, moment: str, attack: Callable[[], None], days: float) -> None:
    """A run in which the owner does something just before root does *moment*."""
    done: list[bool] = []
    real = getattr(os, moment)

    def attacked(*arguments: Any, **options: Any) -> Any:
        if os.geteuid() == NOBODY and not done:
            done.append(True)
            attack()
        return real(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, moment, attacked)
        home.clean(days=days)
    assert done, f"the run has no {moment}"


@pytest.mark.parametrize("moment", ["open", "mkdir", "rename", "utime"])
@pytest.mark.parametrize("what", ["", "conda-meta", "etc", "lib"])
def test_a_link_that_appears_while_hooks_are_placed_leads_nowhere(
    home: Home, victim: Path, what: str, moment: str
) -> None:
    prefix = home.make("old", noted=False)
    before = tree(victim)

    def attack() -> None:
        (prefix / what).mkdir(exist_ok=True)
        swap(prefix / what, victim / what)

    run_with(home, moment, attack, days=0)
    assert tree(victim) == before


@pytest.mark.parametrize("what", [".conda/envs/old", ".conda/envs", ".conda"])
@pytest.mark.parametrize("moment", ["open", "stat", "rename"])
def test_a_link_that_appears_while_it_is_set_aside_leads_nowhere(
    home: Home, victim: Path, what: str, moment: str
) -> None:
    home.make("old")
    home.clean()
    before = tree(victim.parent)
    target = victim if what.endswith("old") else victim.parent

    def attack() -> None:
        swap(home.home / what, target)

    run_with(home, moment, attack, days=11)
    assert tree(victim.parent) == before


@pytest.mark.parametrize("moment", ["stat", "rename"])
@pytest.mark.parametrize("removed", [False, True])
def test_another_directory_that_takes_its_place_stays(home: Home, moment: str, removed: bool) -> None:
    prefix = home.make("old")
    home.clean()
    if removed:
        home.clean(days=11)
        (prefix,) = home.aside
    other = home.home / "thesis"
    other.mkdir()
    (other / "text").write_text("precious")
    home.own(other)

    def attack() -> None:
        prefix.rename(home.home / "hidden")
        other.rename(prefix)

    run_with(home, moment, attack, days=21)
    assert (prefix / "text").read_text() == "precious"
    assert (home.home / "hidden/conda-meta").is_dir()


@pytest.mark.parametrize("moment", ["open", "stat", "rename", "unlink", "rmdir"])
@pytest.mark.parametrize("what", ["", "bin", "lib/python3.10"])
def test_a_link_that_appears_while_it_is_removed_leads_nowhere(
    home: Home, victim: Path, moment: str, what: str
) -> None:
    home.make("old")
    home.clean()
    home.clean(days=11)
    (place,) = home.aside
    before = tree(victim)

    def attack() -> None:
        now = next(path for path in (place, Path(f"{place}.removing")) if path.is_dir())
        if (now / what).is_dir():
            swap(now / what, victim / what)

    run_with(home, moment, attack, days=21)
    assert tree(victim) == before


def test_only_what_its_owner_may_remove_is_removed(home: Home) -> None:
    prefix = home.make("old")
    (prefix / "root").mkdir(mode=0o755)
    (prefix / "root/file").write_text("of root")
    home.clean()
    home.clean(days=11)
    result = home.clean(days=21)
    assert "Permission denied" in result.problems[0]
    (place,) = home.aside
    assert (place / "root/file").read_text() == "of root"
    assert result.items[0].decision.action == "remove"
    shutil.rmtree(place / "root")
    assert home.clean(days=0).problems == []
    assert home.aside == []


@pytest.mark.parametrize("victim", [0], indirect=True)
def test_a_list_of_environments_that_belong_to_others_gives_nothing_away(home: Home, victim: Path) -> None:
    (home.home / ".conda/environments.txt").write_text(f"{victim}\n/etc\n/proc/self/root\n/\n..\n")
    (home.envs / "stolen").symlink_to(victim)
    home.own(home.home)
    before = tree(victim)
    for days in (0, 100, 100, 100):
        assert home.clean(days=days).items == []
    assert tree(victim) == before


def test_another_file_system_is_not_emptied(home: Home) -> None:
    home.make("old")
    home.clean()
    home.clean(days=11)
    (place,) = home.aside
    mounted = place / "mounted"
    mounted.mkdir()
    home.own(place)
    if subprocess.run(["mount", "-t", "tmpfs", "none", mounted], capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        (mounted / "data").write_text("far away")
        os.chown(mounted, NOBODY, NOBODY)
        os.chown(mounted / "data", NOBODY, NOBODY)
        assert home.clean(days=21).problems
        removing = Path(f"{place}.removing")
        assert (removing / "mounted/data").read_text() == "far away"
    finally:
        subprocess.run(["umount", mounted if mounted.exists() else Path(f"{place}.removing/mounted")], check=True)


def test_a_directory_nested_too_deep_is_told(home: Home) -> None:
    prefix = home.make("old")
    home.clean()
    home.clean(days=11)
    (place,) = home.aside
    nest = "import os\nfor _ in range(1500): os.mkdir('d'); os.chdir('d')"
    subprocess.run(["/usr/bin/python3", "-c", nest], user=NOBODY, group=NOBODY, cwd=place, check=True)
    assert home.clean(days=21).problems
    assert not prefix.exists()
    subprocess.run(["rm", "-rf", f"{place}.removing"], check=True)
    assert home.clean(days=0).items == []


def test_root_is_root_again_whatever_happens() -> None:
    def fail() -> None:
        with ownership.acting_as(NOBODY):
            assert (os.geteuid(), os.getegid()) == (NOBODY, 65534)
            assert 0 not in os.getgroups()
            os.listdir("/root")

    before = os.getresuid(), os.getresgid(), os.getgroups()
    with pytest.raises(PermissionError):
        fail()
    assert (os.getresuid(), os.getresgid(), os.getgroups()) == before
