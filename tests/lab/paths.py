"""Where the lab keeps what it builds, and how it writes there so that a kill or a second run does no harm."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path


class LabError(Exception):
    """Something a person has to see and can act on; the command line prints it as one line."""


@dataclass(frozen=True)
class Cache:
    """The places in the lab's cache."""

    root: Path

    @property
    def www(self) -> Path:
        """What the mirror serves. Directories that a test adds here are served too."""
        return self.root / "www"

    @property
    def ssh_key(self) -> Path:
        """The private key that opens every node as root and as alice."""
        return self.root / "ssh" / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        """The nodes' own host keys, read from the nodes through podman."""
        return self.root / "ssh" / "known_hosts"


def lab_cache() -> Cache:
    """The cache that the environment asks for, created if missing."""
    if named := os.environ.get("ENVFLEET_LAB_CACHE"):
        root = Path(named)
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "envfleet-lab"
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(
            f"cannot create the cache {root}: {error}; set ENVFLEET_LAB_CACHE to a writable place"
        ) from error
    return Cache(root.resolve())


def fingerprint(*parts: str | bytes | Path) -> str:
    """16 hex digits that change with any part; a Path stands for the content of that file."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def locked(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock file `path`; when another has it, call `on_wait` and wait. It is let go of when its holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def scratch_directory(parent: Path) -> Iterator[Path]:
    """A directory beside the final place, removed at the end. What a killed run left there goes first.

    Call it under a lock that covers `parent`: every other scratch directory in it is taken for a leftover.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for leftover in parent.glob(".scratch-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    path = Path(tempfile.mkdtemp(prefix=".scratch-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def write_text(path: Path, text: str, mode: int = 0o644) -> bool:
    """Replace `path` in one step; say whether its content changed."""
    with contextlib.suppress(FileNotFoundError):
        if path.read_text() == text:
            return False
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    temporary.chmod(mode)
    temporary.replace(path)
    return True


def publish_tree(www: Path, name: str, key: str, source: Path) -> bool:
    """Let `www/name` be the files of `source`, switched in one step; say whether it changed.

    `www/name` is a link to `www/.trees/name-key`, made of hard links to the source's files.
    """
    trees = www / ".trees"
    tree, link = trees / f"{name}-{key}", www / name
    target = os.path.relpath(tree, www)
    if tree.is_dir() and link.is_symlink() and os.readlink(link) == target:
        return False
    with scratch_directory(trees) as scratch:
        if not tree.is_dir():
            shutil.copytree(source, scratch / "tree", copy_function=os.link)
            (scratch / "tree").chmod(0o755)
            (scratch / "tree").rename(tree)
        (scratch / "link").symlink_to(target)
        (scratch / "link").replace(link)
    for old in trees.glob(f"{name}-*"):
        if old != tree:
            shutil.rmtree(old)
    return True
