"""The lab's cache: keys, locks and writing in one step."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from lab import paths


def test_fingerprint_tells_apart_where_parts_end() -> None:
    assert paths.fingerprint("ab", "c") != paths.fingerprint("a", "bc")


def test_fingerprint_of_a_path_is_that_of_its_content(tmp_path: Path) -> None:
    (tmp_path / "recipe").write_bytes(b"FROM base")
    assert paths.fingerprint(tmp_path / "recipe") == paths.fingerprint(b"FROM base") == paths.fingerprint("FROM base")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"ENVFLEET_LAB_CACHE": "own", "XDG_CACHE_HOME": "xdg"}, "own"),
        ({"XDG_CACHE_HOME": "xdg"}, "xdg/envfleet-lab"),
        ({"HOME": "home"}, "home/.cache/envfleet-lab"),
    ],
)
def test_cache_is_where_the_environment_says(
    environment: dict[str, str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ENVFLEET_LAB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    assert paths.lab_cache().root == tmp_path / expected
    assert (tmp_path / expected).is_dir()


def test_cache_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ENVFLEET_LAB_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(paths.LabError, match="ENVFLEET_LAB_CACHE"):
        paths.lab_cache()


def test_lock_is_waited_for(tmp_path: Path) -> None:
    order, waiting = [], threading.Event()

    def second() -> None:
        with paths.locked(tmp_path / "lock", waiting.set):
            order.append("second")

    thread = threading.Thread(target=second)
    with paths.locked(tmp_path / "lock"):
        thread.start()
        assert waiting.wait(timeout=10)
        order.append("first")
    thread.join(timeout=10)
    assert order == ["first", "second"]


def test_scratch_directory_clears_what_a_killed_run_left(tmp_path: Path) -> None:
    (tmp_path / ".scratch-killed").mkdir()
    (tmp_path / ".scratch-killed" / "half").write_text("half")
    with paths.scratch_directory(tmp_path) as scratch:
        assert list(tmp_path.iterdir()) == [scratch]
    assert list(tmp_path.iterdir()) == []


def test_write_text_says_whether_it_changed_anything(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    assert [paths.write_text(path, text) for text in ("one", "one", "two")] == [True, False, True]
    assert path.read_text() == "two"
    assert list(path.parent.iterdir()) == [path]


def channel(path: Path, content: str) -> Path:
    (path / "noarch").mkdir(parents=True)
    (path / "noarch" / "repodata.json").write_text(content)
    return path


def test_published_tree_is_switched_and_the_old_one_removed(tmp_path: Path) -> None:
    www = tmp_path / "www"
    assert paths.publish_tree(www, "lab", "k1", channel(tmp_path / "a", "first"))
    assert not paths.publish_tree(www, "lab", "k1", tmp_path / "a")
    assert paths.publish_tree(www, "lab", "k2", channel(tmp_path / "b", "second"))
    assert (www / "lab" / "noarch" / "repodata.json").read_text() == "second"
    assert [path.name for path in (www / ".trees").iterdir()] == ["lab-k2"]


def test_published_tree_resolves_where_only_www_is_mounted(tmp_path: Path) -> None:
    paths.publish_tree(tmp_path / "www", "lab", "k1", channel(tmp_path / "a", "first"))
    (tmp_path / "www").rename(tmp_path / "mounted")
    assert (tmp_path / "mounted" / "lab" / "noarch" / "repodata.json").read_text() == "first"


def test_publishing_goes_on_where_a_kill_left_it(tmp_path: Path) -> None:
    www, source = tmp_path / "www", channel(tmp_path / "a", "first")
    paths.publish_tree(www, "lab", "k1", source)
    (www / "lab").unlink()
    (www / ".trees" / ".scratch-killed").mkdir()
    assert paths.publish_tree(www, "lab", "k1", source)
    assert (www / "lab" / "noarch" / "repodata.json").read_text() == "first"
    assert [path.name for path in (www / ".trees").iterdir()] == ["lab-k1"]
