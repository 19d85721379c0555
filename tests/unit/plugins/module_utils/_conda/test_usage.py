"""Which prefixes real processes use."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.usage import in_use


@pytest.fixture
def prefixes(sandbox: Path) -> dict[str, Path]:
    """Two generations, of which one's name begins with the other's."""
    made = {name: sandbox / name for name in ("0123", "0123-2")}
    for prefix in made.values():
        (prefix / "bin").mkdir(parents=True)
        shutil.copy2(shutil.which("sleep") or "/bin/sleep", prefix / "bin/sleep")
    return made


@pytest.fixture
def used(prefixes: dict[str, Path]) -> list[str]:
    """What is asked about, as text."""
    return [str(prefix) for prefix in prefixes.values()]


@pytest.mark.parametrize("name", ["0123", "0123-2"])
@pytest.mark.parametrize("way", ["exe", "cwd", "environ"])
def test_a_process_uses_just_its_own_prefix(prefixes: dict[str, Path], used: list[str], name: str, way: str) -> None:
    prefix = prefixes[name]
    program = str(prefix / "bin/sleep") if way == "exe" else "sleep"
    environment = {**os.environ, **({"CONDA_PREFIX": str(prefix)} if way == "environ" else {})}
    assert in_use(used) == set()
    with subprocess.Popen([program, "60"], cwd=prefix if way == "cwd" else "/", env=environment) as job:
        try:
            assert in_use(used) == {str(prefix)}
        finally:
            job.kill()
    assert in_use(used) == set()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a process of somebody else")
@pytest.mark.usefixtures("unprivileged")
def test_what_cannot_be_seen_may_be_in_use(used: list[str]) -> None:
    assert in_use(used) == set(used)


def test_nothing_is_looked_at_for_nothing(tmp_path: Path) -> None:
    assert in_use([], str(tmp_path / "nowhere")) == set()


def test_a_prefix_is_known_by_the_path_behind_a_link_too(prefixes: dict[str, Path], sandbox: Path) -> None:
    """A shared directory is often at another place than people write, and the kernel shows where it is."""
    link = sandbox / "link"
    link.symlink_to(sandbox)
    used = [str(link / name) for name in prefixes]
    with subprocess.Popen([link / "0123/bin/sleep", "60"], cwd="/") as job:
        try:
            assert in_use(used) == {str(link / "0123")}
        finally:
            job.kill()
