"""A node in a directory: tiny real packages, a channel of them, and the real engine that installs them."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import os
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.convergence import (
    Outcome,
    Settings,
    Wanted,
    converge,
)
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.generations import Layout, SmokeTest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.locks import Lock, Package

from lab.packages import PLACEHOLDER, Entry, index_of, write_package

NO_SMOKE_TEST = SmokeTest((), "nobody", 60)


@dataclass(frozen=True)
class Channel:
    """A directory of packages, which a URL of it leads to."""

    directory: Path
    url: str

    def add(self, name: str, version: str, entries: Sequence[Entry], *, build: str = "0") -> Package:
        """Write a package, and say how a lock lists it."""
        path = write_package(self.directory, index_of(name, version, build, []), entries, binary_prefixes=True)
        return self.listed(path)

    def add_tool(self, name: str = "tool", version: str = "1.0") -> Package:
        """A package with a program that knows its prefix, some data, and a link."""
        script = f'#!/bin/sh\necho {name} {version} "$@"\ntest -d {PLACEHOLDER}\n'
        entries = [
            Entry(f"bin/{name}", script.encode(), 0o755),
            Entry(f"bin/{name}-link", link=name),
            Entry(f"share/{name}/data", f"data of {version}\n".encode()),
        ]
        return self.add(name, version, entries)

    def listed(self, path: Path) -> Package:
        """The package in the archive at *path*."""
        url = f"{self.url}/{path.parent.name}/{path.name}"
        return Package.from_url(url, hashlib.sha256(path.read_bytes()).hexdigest())


@dataclass(frozen=True)
class Node:
    """The directories of a node, made by the first run."""

    root: Path

    @property
    def layout(self) -> Layout:
        """Where its environments are."""
        return Layout(str(self.root / "envs"), str(self.root / "generations"))

    @property
    def pkgs(self) -> Path:
        """Its package cache."""
        return self.root / "pkgs"

    def settings(self, **changes: Any) -> Settings:
        """All defaults but *changes*. The base is the virtual environment of the tests, which has py-rattler."""
        return Settings(
            **{
                "layout": self.layout,
                "pkgs_dir": str(self.pkgs),
                "base_prefix": sys.prefix,
                "engine": "auto",
                "verify": "fast",
                "min_free_mb": 1,
                "lock_timeout_seconds": 60.0,
                **changes,
            }
        )

    def converge(self, *wanted: Wanted, check_mode: bool = False, **changes: Any) -> list[Outcome]:
        """Bring the node to *wanted*."""
        return converge(wanted, self.settings(**changes), check_mode)

    @staticmethod
    def want(*packages: Package, name: str = "ml", smoke_test: SmokeTest = NO_SMOKE_TEST) -> Wanted:
        """An environment of *packages*."""
        return Wanted(name, Lock("linux-64", packages), smoke_test)

    def install(self, *packages: Package, name: str = "ml", smoke_test: SmokeTest = NO_SMOKE_TEST) -> Path:
        """Bring environment *name* to *packages*, and say which generation it has then."""
        self.converge(self.want(*packages, name=name, smoke_test=smoke_test))
        return self.generation(name)

    def link(self, name: str = "ml") -> Path:
        """The name that people use."""
        return self.root / "envs" / name

    def generation(self, name: str = "ml") -> Path:
        """Where the name leads to."""
        return Path(os.readlink(self.link(name)))

    def generations(self, name: str = "ml") -> list[str]:
        """The names of all that is in the home of an environment, hidden or not."""
        home = self.root / "generations" / name
        return sorted(os.listdir(home)) if home.is_dir() else []

    def snapshot(self) -> dict[str, tuple[object, ...]]:
        """Everything on the node that a change would change. Times of access are none."""
        found: dict[str, tuple[object, ...]] = {}
        for folder, folders, files in os.walk(self.root):
            for path in (Path(folder), *(Path(folder, name) for name in folders + files)):
                info = path.lstat()
                target = os.readlink(path) if path.is_symlink() else None
                identity = (info.st_ino, info.st_mode, info.st_uid, info.st_gid, info.st_size)
                found[str(path)] = (*identity, info.st_mtime_ns, info.st_ctime_ns, target)
        return found


@dataclass
class Audit:
    """What the interpreter did that starts processes, talks to the network, or changes files."""

    events: list[str] = field(default_factory=list)

    _CHANGES = frozenset(
        {
            "os.chmod",
            "os.chown",
            "os.exec",
            "os.fork",
            "os.link",
            "os.mkdir",
            "os.posix_spawn",
            "os.remove",
            "os.rename",
            "os.rmdir",
            "os.symlink",
            "os.system",
            "os.truncate",
            "os.utime",
            "socket.connect",
            "subprocess.Popen",
        }
    )
    _WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note *event* when it is one of those."""
        if event in self._CHANGES or (event == "open" and (arguments[2] or 0) & self._WRITE):
            self.events.append(f"{event} {arguments!r}")


_AUDITS: list[Audit] = []


@functools.cache
def _install_audit_hook() -> None:
    """Once, for the interpreter never forgets a hook."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        for audit in _AUDITS:
            audit.see(event, arguments)

    sys.addaudithook(hook)


@contextlib.contextmanager
def _audited() -> Iterator[Audit]:
    _install_audit_hook()
    audit = Audit()
    _AUDITS.append(audit)
    try:
        yield audit
    finally:
        _AUDITS.remove(audit)


@pytest.fixture(scope="session")
def audited() -> Callable[[], contextlib.AbstractContextManager[Audit]]:
    """Watch what the body of a `with` does."""
    return _audited


@pytest.fixture
def sandbox() -> Iterator[Path]:
    """A directory that every user may enter: pytest's own are for their owner alone."""
    with tempfile.TemporaryDirectory(prefix="envfleet-test-", dir="/var/tmp") as directory:
        path = Path(directory)
        path.chmod(0o755)
        yield path
        for folder, _folders, _files in os.walk(path):
            os.chmod(folder, stat.S_IMODE(os.lstat(folder).st_mode) | stat.S_IRWXU)


@pytest.fixture
def channel(sandbox: Path) -> Channel:
    """An empty channel with a file: URL."""
    pytest.importorskip("rattler", reason="py-rattler is what installs packages in these tests")
    directory = sandbox / "channel"
    directory.mkdir()
    return Channel(directory, directory.as_uri())


@pytest.fixture
def node(sandbox: Path) -> Node:
    """A node with nothing on it."""
    return Node(sandbox / "node")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def mirror(channel: Channel) -> Iterator[Channel]:
    """The same channel by http."""
    handler = functools.partial(_Quiet, directory=str(channel.directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield Channel(channel.directory, f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def restore_umask() -> Iterator[None]:
    """A run sets the umask of its process."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Run the test as an ordinary user: root may read and write everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
