"""What of a package cache nobody would miss, with real links."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._housekeeping import caches
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._housekeeping.caches import Cache

from unit.plugins.homes import NOBODY, Home, tree

LATER = time.time() + 1000


@pytest.fixture
def cache(sandbox: Path) -> Cache:
    """A cache with a package, unpacked, and its archive."""
    pkgs = sandbox / "home/.conda/pkgs"
    add(pkgs, "six-1.16.0-pyh_0")
    (pkgs / "urls.txt").touch()
    (pkgs / "cache").mkdir()
    (pkgs / "cache/repodata.json").touch()
    found = caches.find(str(pkgs), os.geteuid())
    assert found
    return found


def add(pkgs: Path, name: str) -> Path:
    package = pkgs / name
    (package / "info").mkdir(parents=True)
    (package / "info/index.json").write_text("{}")
    (package / "site-packages").mkdir()
    (package / "site-packages/six.py").write_text("x" * 10000)
    (pkgs / f"{name}.conda").write_text("y" * 10000)
    return package


def names(cache: Cache, oldest: float = LATER, links: tuple[str, ...] = ()) -> list[str]:
    return [one.name for one in caches.removable(cache, oldest, lambda: links)]


def test_packages_that_nobody_needs_can_go_and_nothing_else(cache: Cache) -> None:
    assert names(cache) == ["six-1.16.0-pyh_0", "six-1.16.0-pyh_0.conda"]
    assert names(cache, oldest=time.time() - 1000) == []
    found = caches.removable(cache, LATER, lambda: ())
    assert found[0].inodes == 5
    assert found[0].bytes >= 10000
    for one in found:
        caches.remove(one)
    assert sorted(os.listdir(cache.path)) == ["cache", "urls.txt"]


def test_what_shares_files_with_an_environment_stays(cache: Cache, sandbox: Path) -> None:
    os.link(Path(cache.path, "six-1.16.0-pyh_0/site-packages/six.py"), sandbox / "six.py")
    assert names(cache) == ["six-1.16.0-pyh_0.conda"]
    (sandbox / "six.py").unlink()
    # Just now it was still needed, as the time of the change of the inode tells.
    assert names(cache, oldest=time.time() - 10) == []


@pytest.mark.parametrize("what", ["site-packages/six.py", "site-packages"])
@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("chain", [False, True])
def test_what_symbolic_links_lead_to_stays(cache: Cache, sandbox: Path, what: str, relative: bool, chain: bool) -> None:
    prefix = sandbox / "env/lib"
    prefix.mkdir(parents=True)
    target = os.path.join(cache.path, "six-1.16.0-pyh_0", what)
    if chain:
        (sandbox / "middle").symlink_to(target)
        target = str(sandbox / "middle")
    (prefix / "link").symlink_to(os.path.relpath(target, prefix) if relative else target)
    (sandbox / "alias").symlink_to(cache.path)
    links = caches.links_of([str(sandbox / "env")])
    assert names(cache, links=tuple(links)) == ["six-1.16.0-pyh_0.conda"]


def test_a_link_through_another_name_of_the_cache_counts(cache: Cache, sandbox: Path) -> None:
    (sandbox / "alias").symlink_to(cache.path)
    (sandbox / "env").mkdir()
    (sandbox / "env/link").symlink_to(sandbox / "alias/six-1.16.0-pyh_0/site-packages/six.py")
    links = caches.links_of([str(sandbox / "env")])
    assert names(cache, links=tuple(links)) == ["six-1.16.0-pyh_0.conda"]


def test_a_link_through_the_cache_to_somewhere_else_counts(cache: Cache, sandbox: Path) -> None:
    (sandbox / "real").touch()
    (sandbox / "env").mkdir()
    within = Path(cache.path, "six-1.16.0-pyh_0/site-packages/link")
    within.symlink_to(sandbox / "real")
    (sandbox / "env/link").symlink_to(within)
    assert names(cache, links=tuple(caches.links_of([str(sandbox / "env")]))) == ["six-1.16.0-pyh_0.conda"]


@pytest.mark.parametrize(
    ("path", "text", "softly"),
    [
        (".condarc", "channels: [a]\nalways_softlink: true\n", True),
        (".conda/.condarc", "allow_softlinks:  True\n", True),
        (".config/conda/.condarc", "allow_softlinks: yes\n", True),
        (".condarc", "allow_softlinks: false\n# always_softlink: true\n", False),
        ("elsewhere", "always_softlink: true\n", False),
    ],
)
def test_a_condarc_that_links_softly_is_known(sandbox: Path, path: str, text: str, softly: bool) -> None:
    (sandbox / path).parent.mkdir(parents=True, exist_ok=True)
    (sandbox / path).write_text(text)
    assert caches.links_softly(str(sandbox)) == softly


@pytest.mark.skipif(os.geteuid() != 0, reason="needs files of two users, and to see all processes")
def test_a_cache_of_somebody_else_is_none_of_the_users(home: Home, sandbox: Path) -> None:
    add(sandbox / "pkgs", "six-1.16.0-pyh_0")
    (home.home / ".conda/pkgs").symlink_to(sandbox / "pkgs")
    before = tree(sandbox / "pkgs")
    home.now = LATER
    assert home.clean(cache_unused_days=0.001, days=0).packages == []
    assert tree(sandbox / "pkgs") == before
    assert caches.find(str(home.home / ".conda/pkgs"), NOBODY) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs files of two users, and to see all processes")
@pytest.mark.parametrize("act", [False, True])
def test_caches_of_users_and_of_shared_environments_are_cleaned(home: Home, sandbox: Path, act: bool) -> None:
    packages = [add(home.home / ".conda/pkgs", "a-1-0"), add(sandbox / "shared/pkgs", "b-1-0")]
    (sandbox / "shared/generations").mkdir()
    home.own(home.home)
    home.now = LATER
    result = home.clean(cache_unused_days=0.001, days=0, act=act, pkgs_dir=str(sandbox / "shared/pkgs"))
    assert result.problems == []
    assert [one.path for one in result.packages] == [f"{one}{end}" for one in packages for end in ("", ".conda")]
    assert [one.exists() for one in packages] == [not act, not act]


def test_what_a_killed_run_left_goes_first(cache: Cache) -> None:
    left = Path(cache.path, ".envfleet-removing-b-1-0")
    left.mkdir()
    (found,) = caches.removable(cache, 0, lambda: ())
    caches.remove(found)
    assert not left.exists()
