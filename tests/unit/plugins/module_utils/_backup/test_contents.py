"""What a prefix consists of, and what tells that it is another one now."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._backup import contents
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._backup.contents import Manifest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._backup.errors import DamagedError


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """One of everything, and a pipe that nobody writes to."""
    top = tmp_path / "prefix"
    (top / "bin").mkdir(parents=True)
    (top / "bin/tool").write_text("tool")
    (top / "bin/tool").chmod(0o755)
    os.link(top / "bin/tool", top / "bin/again")
    (top / "link").symlink_to("/nowhere")
    os.mkfifo(top / "pipe")
    Path(os.fsdecode(os.fsencode(top) + b"/\xff\n")).write_text("odd")
    return top


def manifest(prefix: Path) -> Manifest:
    entries = contents.look(str(prefix)).entries
    return Manifest("private:/x", "private", "/x", str(prefix), "alice", "", {}, contents.accounts_of(entries), entries)


def test_a_manifest_is_read_as_it_was_written(prefix: Path, tmp_path: Path) -> None:
    written = manifest(prefix)
    written.write(str(tmp_path / "manifest.json"))
    assert Manifest.read(str(tmp_path / "manifest.json")) == written
    assert {path: entry.kind for path, entry in written.entries.items()} == {
        "": "directory",
        "bin": "directory",
        "bin/again": "file",
        "bin/tool": "file",
        "link": "link",
        "pipe": "other",
        "\udcff\n": "file",
    }
    assert written.entries["bin/tool"].same_as == "bin/again"
    assert written.entries["link"].content == "/nowhere"
    assert contents.compare(str(prefix), written) == []


@pytest.mark.parametrize("text", ["", "{}\n", '{"format": 2}\n', '{"format": 1, "key": "x"}\n["a"]\n', "\0"])
def test_what_is_no_manifest_is_damage(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DamagedError, match="env_backup_repository: the manifest"):
        Manifest.read(str(tmp_path / "manifest.json"))


def damage(prefix: Path, kind: str) -> None:
    tool = prefix / "bin/tool"
    if kind == "content":
        before = tool.stat()
        tool.write_text("fool")
        os.utime(tool, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif kind == "mode":
        tool.chmod(0o700)
    elif kind == "time":
        os.utime(tool, (1, 1))
    elif kind == "target":
        (prefix / "link").unlink()
        (prefix / "link").symlink_to("/elsewhere")
    elif kind == "missing":
        (prefix / "bin/again").unlink()
    elif kind == "unexpected":
        (prefix / "new").mkdir()
    elif kind == "copy":
        (prefix / "bin/again").unlink()
        (prefix / "bin/again").write_text("tool")
        (prefix / "bin/again").chmod(0o755)
        info = tool.stat()
        os.utime(prefix / "bin/again", ns=(info.st_atime_ns, info.st_mtime_ns))


@pytest.mark.parametrize("kind", ["content", "mode", "time", "target", "missing", "unexpected", "copy"])
def test_whatever_differs_is_told(prefix: Path, kind: str) -> None:
    saved, before = manifest(prefix), contents.look(str(prefix))
    damage(prefix, kind)
    assert contents.compare(str(prefix), saved)
    assert contents.look(str(prefix), read=False).changed_since(before)


def test_a_restore_that_is_nobodys_is_compared_but_for_its_owners(prefix: Path) -> None:
    saved = manifest(prefix)
    entries = {path: dataclasses.replace(entry, uid=1, gid=1) for path, entry in saved.entries.items()}
    theirs = dataclasses.replace(saved, entries=entries)
    assert contents.compare(str(prefix), theirs, owners=False) == []
    assert {problem.kind for problem in contents.compare(str(prefix), theirs)} == {"changed"}


def test_a_hard_link_elsewhere_is_no_change(prefix: Path, tmp_path: Path) -> None:
    before = contents.look(str(prefix))
    os.link(prefix / "bin/tool", tmp_path / "clone")
    assert contents.look(str(prefix), read=False).changed_since(before) == []


def test_what_was_read_once_is_not_read_again_unless_it_changed(prefix: Path) -> None:
    sums = contents.look(str(prefix)).sums()
    stale = {path: (signature, f"told {content}") for path, (signature, content) in sums.items()}
    (prefix / "bin/new").write_text("new")
    seen = contents.look(str(prefix), stale).entries
    assert seen["bin/tool"].content.startswith("told ")
    assert len(seen["bin/new"].content) == 64
    (prefix / "bin/tool").write_text("fool")
    assert len(contents.look(str(prefix), stale).entries["bin/tool"].content) == 64


def test_a_prefix_that_is_a_link_is_not_followed(prefix: Path, tmp_path: Path) -> None:
    (tmp_path / "trap").symlink_to(prefix)
    with pytest.raises(OSError, match="trap"):
        contents.look(str(tmp_path / "trap"))
