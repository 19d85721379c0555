"""The built archive holds what a user of the collection needs, and nothing else."""

from __future__ import annotations

import fnmatch
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from source_tree import copy_source, source_files

# What may lie at the top of the archive. What Ansible doesn't need there belongs in build_ignore of galaxy.yml.
EXPECTED = {
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "FILES.json",
    "LICENSE",
    "MANIFEST.json",
    "README.md",
    "changelogs",
    "docs",
    "meta",
    "playbooks",
    "plugins",
    "roles",
}
REQUIRED = {"CHANGELOG.md", "FILES.json", "LICENSE", "MANIFEST.json", "README.md", "meta", "plugins", "roles"}
# What the lab writes, and what the tools leave behind.
JUNK = ("*__pycache__*", "*.pyc", ".*", "*/.*", "*.tar.gz")


@pytest.fixture(scope="module")
def source(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the collection's source."""
    directory = tmp_path_factory.mktemp("source")
    copy_source(root, directory)
    return directory


@pytest.fixture(scope="module")
def names(source: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names of all files in the archive."""
    output = tmp_path_factory.mktemp("artifact")
    galaxy = Path(sys.executable).with_name("ansible-galaxy")
    command = [str(galaxy), "collection", "build", "--output-path", str(output), str(source)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=120)
    (archive,) = output.glob("envfleet-gpu_cluster-*.tar.gz")
    with tarfile.open(archive) as opened:
        return [member.name for member in opened.getmembers() if not member.isdir()]


def test_top_level_is_the_expected_one(names: list[str]) -> None:
    top = {name.split("/", 1)[0] for name in names}
    assert top - EXPECTED == set()
    assert REQUIRED - top == set()


def test_every_plugin_and_role_file_is_in_the_archive(root: Path, names: list[str]) -> None:
    wanted = {str(path) for path in source_files(root) if path.parts[0] in ("plugins", "roles", "playbooks", "meta")}
    assert wanted - set(names) == set()


def test_no_generated_file_is_in_the_archive(names: list[str]) -> None:
    assert [name for name in names for pattern in JUNK if fnmatch.fnmatch(name, pattern)] == []


def test_source_leaves_ignored_files_behind(tmp_path: Path) -> None:
    """The copy that the archive is built from takes new files along, but neither ignored nor deleted ones."""
    checkout, copy = tmp_path / "checkout", tmp_path / "copy"
    for name in ("kept.py", "deleted.py", ".venv/bin/python", "roles/a b/tasks/main.yml"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text(name)
    (checkout / ".gitignore").write_text("/.venv/\n")
    (checkout / "link").symlink_to("kept.py")
    for arguments in (["init", "--quiet"], ["add", "deleted.py"]):
        subprocess.run(["git", *arguments], cwd=checkout, check=True, timeout=60)
    (checkout / "deleted.py").unlink()

    copy_source(checkout, copy)

    files = {str(path.relative_to(copy)) for path in copy.rglob("*") if not path.is_dir()}
    assert files == {".gitignore", "kept.py", "link", "roles/a b/tasks/main.yml"}
    assert (copy / "link").is_symlink()
