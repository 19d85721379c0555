"""The digest changes with what a file or a directory holds, and with nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.envfleet.gpu_cluster.plugins.filter.tree_digest import tree_digest


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """An inventory."""
    root = tmp_path / "inventory"
    (root / "group_vars").mkdir(parents=True)
    (root / "hosts.yml").write_text("all:")
    (root / "group_vars" / "all.yml").write_text("a: 1")
    return root


def test_copy_has_the_same_digest(tree: Path, tmp_path: Path) -> None:
    (tree / "link.yml").symlink_to("hosts.yml")
    shutil.copytree(tree, tmp_path / "other" / "place")  # with a file in the place of the link
    assert tree_digest(str(tree)) == tree_digest(str(tmp_path / "other" / "place"))


def test_every_change_changes_the_digest(tree: Path) -> None:
    seen = [tree_digest(str(tree))]
    (tree / "hosts.yml").write_text("all: ")
    seen.append(tree_digest(str(tree)))
    (tree / "hosts.yml").chmod(0o755)
    seen.append(tree_digest(str(tree)))
    (tree / "hosts.yml").rename(tree / "hosts2.yml")
    seen.append(tree_digest(str(tree)))
    (tree / ".envfleet").mkdir()
    (tree / ".envfleet" / "lock").touch()
    seen.append(tree_digest(str(tree)))
    assert len(set(seen)) == len(seen)


def test_digest_of_a_file_is_of_its_content(tree: Path) -> None:
    before = tree_digest(str(tree / "hosts.yml"))
    shutil.copy(tree / "hosts.yml", tree / "other.yml")
    assert tree_digest(str(tree / "other.yml")) == before
    (tree / "hosts.yml").write_text("x")
    assert tree_digest(str(tree / "hosts.yml")) != before


def test_what_is_not_there_is_an_error_that_names_it(tree: Path) -> None:
    (tree / "dangling").symlink_to("nowhere")
    for path in (tree, tree / "gone"):
        with pytest.raises(AnsibleFilterError, match=f"{path}.*No such file"):
            tree_digest(str(path))


def test_directory_that_is_hardly_meant_is_refused(tree: Path) -> None:
    with (tree / "image").open("wb") as stream:
        stream.truncate(201 * 2**20)
    with pytest.raises(AnsibleFilterError, match="a directory of its own"):
        tree_digest(str(tree))
