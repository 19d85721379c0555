"""A tiny channel, and the stand-in conda in a root of its own."""

from __future__ import annotations

import functools
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab.channel import STANDIN, write_repodata
from lab.packages import PLACEHOLDER, Entry, index_of, write_package

RUNNER = """\
#!{python}
import sys
from pathlib import Path
sys.path.insert(0, {source!r})
from conda_standin.cli import main
sys.exit(main(sys.argv[1:], root=Path({root!r}), etc=Path({etc!r})))
"""


@dataclass(frozen=True)
class Conda:
    """The stand-in, with its root, home and /etc below one directory."""

    base: Path

    @property
    def root(self) -> Path:
        return self.base / "root"

    @property
    def home(self) -> Path:
        return self.base / "home"

    @property
    def etc(self) -> Path:
        return self.base / "node"

    @property
    def environ(self) -> dict[str, str]:
        return {"HOME": str(self.home), "PATH": "/usr/bin:/bin"}

    def env(self, name: str) -> Path:
        return self.root / "envs" / name

    def run(self, *argv: str, **variables: str) -> subprocess.CompletedProcess[str]:
        program = str(self.root / "bin" / "conda")
        environ = self.environ | variables
        return subprocess.run([program, *argv], capture_output=True, text=True, timeout=60, env=environ, check=False)

    def ok(self, *argv: str, **variables: str) -> str:
        """Standard output of a call that must work."""
        done = self.run(*argv, **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def json(self, *argv: str, **variables: str) -> Any:
        return json.loads(self.ok(*argv, "--json", **variables))

    def error(self, *argv: str, code: int = 1, **variables: str) -> dict[str, Any]:
        """The JSON of a call that must fail."""
        done = self.run(*argv, "--json", **variables)
        assert done.returncode == code, done.stdout + done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def condarc(self, text: str, place: str = "etc/conda/condarc.d/10-policy.yml") -> None:
        """Write a condarc on the node."""
        path = self.etc / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def tiny(
    channel: Path,
    name: str,
    version: str,
    *depends: str,
    noarch: str | None = "python",
    build: str = "pyh_0",
    entry_points: list[str] | None = None,
) -> Path:
    """A package of one file that holds its version, and of one that holds the prefix."""
    where = "site-packages" if noarch == "python" else "share"
    entries = [
        Entry(f"{where}/{name}.txt", f"{version}\n".encode()),
        Entry(f"etc/{name}.conf", f"prefix = {PLACEHOLDER}\n".encode()),
    ]
    if name == "python":
        # rattler looks at the version alone; commands that run python get this machine's.
        entries.append(Entry("bin/python", f'#!/bin/sh\nexec {sys.executable} "$@"\n'.encode(), 0o755))
    index = index_of(name, version, build, depends, noarch=noarch) | {"license": "MIT"}
    return write_package(channel, index, entries, entry_points=(entry_points or []) if noarch == "python" else None)


@pytest.fixture(scope="session")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A channel of a few tiny packages: two builds of six, and attrs that needs no more than python."""
    directory = tmp_path_factory.mktemp("srv") / "channel"
    tiny(directory, "python", "3.10.13", noarch=None, build="0_cpython")
    tiny(directory, "pip", "26.3", "python >=3.10")
    tiny(directory, "six", "1.16.0", "python >=2.7")
    tiny(directory, "six", "1.17.0", "python >=2.7")
    tiny(directory, "attrs", "23.1.0", "python >=3.7")
    tiny(directory, "app", "1.0", "six >=1.17", "python")
    tiny(directory, "tool", "1.0", "python", entry_points=["tool = tool:main"])
    write_repodata(directory)
    return directory


@pytest.fixture(scope="session")
def http_channel(channel: Path) -> Iterator[str]:
    """The channel's URL on a server of this process."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None: ...

    handler = functools.partial(Quiet, directory=str(channel.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/channel"
        server.shutdown()
        thread.join()


@pytest.fixture
def conda(tmp_path: Path, channel: Path) -> Conda:
    """A stand-in that is set up to use the tiny channel."""
    made = Conda(tmp_path)
    for place in ("root/conda-meta", "root/bin", "root/etc/profile.d", "home"):
        (tmp_path / place).mkdir(parents=True)
    (made.root / "conda-meta" / "history").touch()
    program = made.root / "bin" / "conda"
    program.write_text(
        RUNNER.format(python=sys.executable, source=str(STANDIN), root=str(made.root), etc=str(made.etc))
    )
    program.chmod(0o755)
    hook = (STANDIN / "etc" / "profile.d" / "conda.sh").read_text().replace("@PREFIX@", str(made.root))
    (made.root / "etc" / "profile.d" / "conda.sh").write_text(hook)
    made.condarc(f"channels: [{channel.as_uri()}]\n")
    return made


@pytest.fixture
def no_root(conda: Conda) -> None:
    """Skip what root's rights would make pointless."""
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
