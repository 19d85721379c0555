"""Is a prefix still what was installed?"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda import prefixes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CONTENT = b"some content\n"


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """A finished prefix without any package."""
    root = tmp_path / "prefix"
    for folder in ("conda-meta", "bin", "lib/empty"):
        (root / folder).mkdir(parents=True)
    (root / "bin" / "tool").write_bytes(CONTENT)
    (root / "bin" / "tool").chmod(0o755)
    (root / "bin" / "link").symlink_to("tool")
    (root / "conda-meta" / "history").write_bytes(CONTENT)
    prefixes.finish(str(root), "lock@1", "rattler")
    return root


def problems(prefix: Path) -> list[tuple[str, str]]:
    manifest = prefixes.read_manifest(str(prefix))
    assert manifest
    return [(problem.kind, problem.subject) for problem in prefixes.check(str(prefix), manifest)]


def test_a_finished_prefix_says_what_it_is(prefix: Path) -> None:
    manifest = prefixes.read_manifest(str(prefix))
    assert manifest
    assert (manifest.identity, manifest.engine) == ("lock@1", "rattler")
    assert problems(prefix) == []
    for path in (prefixes.MANIFEST, prefixes.LISTING):
        assert (prefix / path).stat().st_mode & 0o777 == 0o644
        assert not path.endswith(".json")
    assert sorted(os.listdir(prefix / "conda-meta")) == ["envfleet.files", "envfleet.manifest", "history"]


def replace(path: Path, make: Callable[[Path], object]) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    make(path)


def both(*changes: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda prefix: [change(prefix) for change in changes]


def edit(path: Path) -> None:
    """Change the content alone: size, time and inode stay."""
    info = path.stat()
    path.write_bytes(CONTENT.upper())
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


CHANGES: dict[str, tuple[Callable[[Path], object], list[tuple[str, str]]]] = {
    "file removed": (lambda p: (p / "bin/tool").unlink(), [("missing", "bin/tool")]),
    "file longer": (lambda p: (p / "bin/tool").write_bytes(CONTENT * 2), [("changed", "bin/tool")]),
    "file touched": (lambda p: os.utime(p / "bin/tool"), [("changed", "bin/tool")]),
    "mode of a file": (lambda p: (p / "bin/tool").chmod(0o777), [("changed", "bin/tool")]),
    "set-uid": (lambda p: (p / "bin/tool").chmod(0o4755), [("changed", "bin/tool")]),
    "mode of a directory": (lambda p: (p / "lib/empty").chmod(0o1777), [("changed", "lib/empty")]),
    "file added": (lambda p: (p / "bin/new").write_text(""), [("unexpected", "bin/new")]),
    "empty directory added": (lambda p: (p / "new").mkdir(), [("unexpected", "new")]),
    "tree added": (lambda p: shutil.copytree(p / "bin", p / "copy"), [("unexpected", "copy")]),
    "empty directory removed": (lambda p: (p / "lib/empty").rmdir(), [("missing", "lib/empty")]),
    "link moved": (lambda p: replace(p / "bin/link", lambda x: x.symlink_to("/bin/sh")), [("changed", "bin/link")]),
    "link made a file": (lambda p: replace(p / "bin/link", lambda x: x.write_text("tool")), [("changed", "bin/link")]),
    "file made a link": (lambda p: replace(p / "bin/tool", lambda x: x.symlink_to("x")), [("changed", "bin/tool")]),
    "file made a pipe": (lambda p: replace(p / "bin/tool", os.mkfifo), [("changed", "bin/tool")]),
    "file made a directory": (lambda p: replace(p / "bin/tool", Path.mkdir), [("changed", "bin/tool")]),
    "directory made a file": (lambda p: replace(p / "bin", Path.touch), [("changed", "bin")]),
    "tree removed": (lambda p: shutil.rmtree(p / "lib"), [("missing", "lib")]),
    "listing removed": (
        both(lambda p: (p / prefixes.LISTING).unlink(), lambda p: (p / "x").touch()),
        [("manifest", prefixes.LISTING)],
    ),
    "listing changed": (
        both(lambda p: (p / prefixes.LISTING).write_text(""), lambda p: (p / "x").touch()),
        [("manifest", prefixes.LISTING)],
    ),
    "listing damaged": (
        both(lambda p: (p / prefixes.LISTING).write_bytes(b"\xff"), lambda p: (p / "x").touch()),
        [("manifest", prefixes.LISTING)],
    ),
    "name that is no text": (
        lambda p: Path(os.fsdecode(os.fsencode(p) + b"/bin/\xff")).touch(),
        [("unexpected", "bin/\udcff")],
    ),
    "content alone": (lambda p: edit(p / "bin/tool"), []),
    "byte code added": (
        both(lambda p: (p / "bin/__pycache__").mkdir(), lambda p: (p / "bin/__pycache__/x.pyc").touch()),
        [],
    ),
    "listing alone": (lambda p: (p / prefixes.LISTING).unlink(), [("manifest", prefixes.LISTING)]),
    "manifest for all to write": (lambda p: (p / prefixes.MANIFEST).chmod(0o666), [("manifest", prefixes.MANIFEST)]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_one_walk_finds_what_changed(name: str, prefix: Path) -> None:
    change, expected = CHANGES[name]
    change(prefix)
    assert problems(prefix) == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("path", ["bin/tool", "bin/link", "bin"])
@pytest.mark.parametrize("owner", [(65534, -1), (-1, 65534)])
def test_another_owner_is_found(path: str, owner: tuple[int, int], prefix: Path) -> None:
    os.chown(prefix / path, *owner, follow_symlinks=False)
    assert problems(prefix) == [("changed", path)]


def test_a_change_is_told_in_words(prefix: Path) -> None:
    (prefix / "bin/tool").chmod(0o777)
    manifest = prefixes.read_manifest(str(prefix))
    assert manifest
    (problem,) = prefixes.check(str(prefix), manifest)
    owner = f"{os.geteuid()}:{os.getegid()}"
    assert f"expected file 0755 {owner}, {len(CONTENT)} bytes" in problem.detail
    assert f"found file 0777 {owner}, {len(CONTENT)} bytes" in problem.detail


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[]", b"null", b"1", b"\xff", b'{"format": 1}', b'{"format": 1, "x": 1}']
)
def test_a_prefix_without_a_whole_manifest_is_not_finished(content: bytes | None, prefix: Path) -> None:
    if content is None:
        (prefix / prefixes.MANIFEST).unlink()
    else:
        (prefix / prefixes.MANIFEST).write_bytes(content)
    assert prefixes.read_manifest(str(prefix)) is None


def test_a_manifest_of_another_format_is_not_believed(prefix: Path) -> None:
    path = prefix / prefixes.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    assert prefixes.read_manifest(str(prefix)) is None


def test_a_copy_that_kept_times_and_owners_is_as_good(prefix: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(prefix, copy, symlinks=True)
    assert problems(copy) == []


NAME = st.text(min_size=1, max_size=8).filter(lambda name: name not in (".", "..") and not set(name) & set("/\0"))
TREE = st.recursive(
    st.one_of(st.binary(max_size=5), st.text("ab/.", min_size=1, max_size=5)),
    lambda children: st.dictionaries(NAME, children, max_size=4),
    max_leaves=12,
).filter(lambda tree: isinstance(tree, dict))


def plant(folder: Path, tree: dict[str, Any]) -> int:
    """Make *tree*: bytes are files, text is the target of a link. How many entries it has."""
    count = 0
    for name, value in tree.items():
        try:
            path = os.fsencode(folder / name)
        except UnicodeEncodeError:
            continue  # half a pair of surrogates is no name
        if os.path.lexists(path):
            continue
        count += 1
        if isinstance(value, dict):
            os.mkdir(path)
            count += plant(Path(os.fsdecode(path)), value)
        elif isinstance(value, bytes):
            Path(os.fsdecode(path)).write_bytes(value)
        else:
            os.symlink(value, path)
    return count


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(TREE, st.randoms(use_true_random=False))
def test_every_tree_is_known_again_and_every_loss_is_seen(tree: dict[str, Any], random: Any) -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        count = plant(root, {name: value for name, value in tree.items() if name != "conda-meta"})
        (root / "conda-meta").mkdir()
        manifest = prefixes.finish(directory, "x", "test")
        assert prefixes.read_manifest(directory) == manifest
        assert prefixes.check(directory, manifest) == []
        listing = prefixes.read_listing(directory, manifest)
        assert listing == prefixes.scan(directory)
        assert len(listing) == count + 1
        leaves = [path for path in listing if not any(other.startswith(f"{path}/") for other in listing)]
        lost = random.choice(sorted(set(leaves) - {"conda-meta"}) or ["conda-meta"])
        if lost != "conda-meta":
            path = root / lost
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
            found = [problem.subject for problem in prefixes.check(directory, manifest)]
            assert found == ([] if "__pycache__" in lost.split("/") else [lost])
