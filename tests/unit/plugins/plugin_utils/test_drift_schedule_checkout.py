"""The site's repository, with a real git."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils._drift_schedule.checkout import Checkout
from ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils._drift_schedule.config import Git, ScheduleError

ENVIRONMENT = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@b",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@b",
}


class Site:
    """A repository that people commit to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.git("init", "--quiet", "--initial-branch=main", str(path))

    def git(self, *arguments: str) -> str:
        environment = os.environ | ENVIRONMENT
        command = ["git", *(() if arguments[0] == "init" else ("-C", str(self.path))), *arguments]
        return subprocess.run(
            command, env=environment, check=True, capture_output=True, text=True, timeout=60
        ).stdout.strip()

    def commit(self, **files: str) -> str:
        """Commit these files and no others."""
        for name in self.git("ls-files").splitlines():
            (self.path / name).unlink()
        for name, text in files.items():
            (self.path / name).write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message=x")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A repository."""
    return Site(tmp_path / "site")


def checkout(tmp_path: Path, url: str | Path, ref: str = "main") -> Checkout:
    return Checkout(str(tmp_path / "project"), Git(str(url), ref, "hosts"), ENVIRONMENT)


def files(checkout: Checkout) -> dict[str, str]:
    return {path.name: path.read_text() for path in Path(checkout.path).iterdir()}


def test_each_run_has_the_last_commit_and_no_file_of_the_one_before(tmp_path: Path, site: Site) -> None:
    this = checkout(tmp_path, site.path)
    first = site.commit(hosts="one", old="x")
    assert this.update() == ""
    assert (this.commit, files(this)) == (first, {"hosts": "one", "old": "x"})
    second = site.commit(hosts="two")
    assert this.update() == ""
    assert (this.commit, files(this)) == (second, {"hosts": "two"})
    assert {path.name for path in (tmp_path / "project").iterdir()} == {"repository.git", "current", second}


def test_tag_and_commit_can_be_asked_for(tmp_path: Path, site: Site) -> None:
    first = site.commit(hosts="one")
    site.git("tag", "--annotate", "--message=x", "v1")
    site.commit(hosts="two")
    this = checkout(tmp_path, site.path, "v1")
    assert this.update() == ""
    assert (this.commit, files(this)) == (first, {"hosts": "one"})


def test_fetch_that_fails_goes_on_with_the_last_good_checkout_and_says_why(tmp_path: Path, site: Site) -> None:
    first = site.commit(hosts="one")
    checkout(tmp_path, site.path).update()
    this = checkout(tmp_path, tmp_path / "gone")
    assert "git failed" in this.update()
    assert (this.commit, files(this)) == (first, {"hosts": "one"})


def test_first_fetch_that_fails_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ScheduleError, match="git failed"):
        checkout(tmp_path, tmp_path / "gone").update()


def test_what_a_killed_run_left_is_no_obstacle(tmp_path: Path, site: Site) -> None:
    site.commit(hosts="one")
    this = checkout(tmp_path, site.path)
    this.update()
    second = site.commit(hosts="two")
    project = tmp_path / "project"
    for name in ("shallow.lock", "refs/heads/fetched.lock", "config.lock"):
        (project / "repository.git" / name).touch()
    (project / second).mkdir()  # half of it
    (project / f".{second}").mkdir()
    assert this.update() == ""
    assert (this.commit, files(this)) == (second, {"hosts": "two"})
    assert {path.name for path in project.iterdir()} == {"repository.git", "current", second}


def test_half_made_repository_is_made_anew(tmp_path: Path, site: Site) -> None:
    first = site.commit(hosts="one")
    (tmp_path / "project" / "repository.git" / "objects").mkdir(parents=True)
    this = checkout(tmp_path, site.path)
    assert this.update() == ""
    assert this.commit == first


def test_repository_that_lost_what_was_in_it_is_fetched_anew(tmp_path: Path, site: Site) -> None:
    first = site.commit(hosts="one", same="x")
    checkout(tmp_path, site.path).update()
    second = site.commit(hosts="two", same="x")
    for path in (tmp_path / "project" / "repository.git" / "objects").glob("[0-9a-f][0-9a-f]/*"):
        path.chmod(0o644)
        path.write_bytes(b"")  # as a power loss leaves a file

    away = checkout(tmp_path, tmp_path / "gone")
    assert "git failed" in away.update()
    assert (away.commit, files(away)) == (first, {"hosts": "one", "same": "x"})

    this = checkout(tmp_path, site.path)
    assert this.update() == ""
    assert (this.commit, files(this)) == (second, {"hosts": "two", "same": "x"})


def test_blob_that_was_lost_is_fetched_anew(tmp_path: Path, site: Site) -> None:
    site.commit(hosts="one", same="x")
    this = checkout(tmp_path, site.path)
    this.update()
    blob = site.git("rev-parse", "HEAD:same")
    second = site.commit(hosts="two", same="x")
    lost = tmp_path / "project" / "repository.git" / "objects" / blob[:2] / blob[2:]
    lost.chmod(0o644)
    lost.write_bytes(b"")
    assert this.update() == ""
    assert (this.commit, files(this)) == (second, {"hosts": "two", "same": "x"})
