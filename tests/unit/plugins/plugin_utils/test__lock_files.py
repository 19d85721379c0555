"""Lock files as a site's variables name them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError
from ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils._lock_files import read_environments, read_lock_file

CHANNEL = "https://conda.example.org/forge"
URL = f"{CHANNEL}/linux-64/six-1.17.0-0.conda"
EXPLICIT = f"@EXPLICIT\n{URL}#{'a' * 64}\n"
CONDA_LOCK = f"""
version: 1
package:
  - name: six
    version: 1.17.0
    manager: conda
    platform: linux-64
    url: {URL}
    hash: {{sha256: {"a" * 64}}}
"""
PIXI_LOCK = f"""
version: 6
environments:
  default:
    channels: [{{url: {CHANNEL}/}}]
    packages:
      linux-64:
        - conda: {URL}
  next:
    channels: [{{url: {CHANNEL}/}}]
    packages:
      linux-64:
        - conda: {URL.replace("1.17.0", "1.18.0")}
packages:
  - conda: {URL}
    sha256: {"a" * 64}
  - conda: {URL.replace("1.17.0", "1.18.0")}
    sha256: {"b" * 64}
"""


def read(directory: Path, *environments: Any, channels: tuple[str, ...] = (CHANNEL,)) -> dict[str, Any]:
    return read_environments(environments, str(directory), channels, "https://conda.example.org/")


def test_all_formats_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "explicit.txt").write_text(EXPLICIT)
    (tmp_path / "conda-lock.yml").write_text(CONDA_LOCK)
    (tmp_path / "pixi.lock").write_text(PIXI_LOCK)
    locks = read(
        tmp_path,
        {"name": "a", "lock": "explicit.txt"},
        {"name": "b", "lock": str(tmp_path / "conda-lock.yml")},
        {"name": "c", "lock": "pixi.lock"},
    )
    assert list(locks) == ["a", "b", "c"]
    assert len({lock["linux-64"].identity for lock in locks.values()}) == 1


def test_an_environment_of_a_pixi_lock_is_named_behind_its_path(tmp_path: Path) -> None:
    (tmp_path / "pixi.lock").write_text(PIXI_LOCK)
    locks = read(
        tmp_path,
        {"name": "live", "lock": "pixi.lock"},
        {"name": "same", "lock": "pixi.lock#default"},
        {"name": "next", "lock": "pixi.lock#next"},
    )
    versions = {name: lock["linux-64"].packages[0].version for name, lock in locks.items()}
    assert versions == {"live": "1.17.0", "same": "1.17.0", "next": "1.18.0"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (EXPLICIT, "env.txt is no pixi.lock, .*: take #cuda off"),
        (CONDA_LOCK, "env.txt is no pixi.lock, .*: take #cuda off"),
        (PIXI_LOCK, "env.txt has no environment called cuda, only default, next"),
    ],
)
def test_an_environment_that_is_not_in_the_file_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "env.txt").write_text(content)
    with pytest.raises(CondaError, match=rf"^conda_envs_shared: ml: .*{message}"):
        read(tmp_path, {"name": "ml", "lock": "env.txt#cuda"})


def test_a_lock_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "env.txt"
    path.write_text(EXPLICIT)
    first = read_lock_file(str(path))["linux-64"]
    path.write_text(EXPLICIT.replace("1.17.0", "1.18.0"))
    os.utime(path, ns=(1, 1))
    assert read_lock_file(str(path))["linux-64"].identity != first.identity


@pytest.mark.parametrize("channel", ["forge", CHANNEL, f"{CHANNEL}/"])
def test_a_channel_is_a_url_or_a_name_under_the_alias(channel: str, tmp_path: Path) -> None:
    (tmp_path / "env.txt").write_text(EXPLICIT)
    assert set(read(tmp_path, {"name": "ml", "lock": "env.txt"}, channels=("other", channel))) == {"ml"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "the lock file .*/env.txt cannot be read: No such file or directory"),
        (b"version: 1\npackage: [", "env.txt is no YAML: .*line [23]"),
        (b"version: 1\npackage:\n\t- x\n", "env.txt is no YAML: "),
        (b"!!python/object/apply:os.system [touch pwned]", "env.txt is no YAML: "),
        (b"", "neither an @EXPLICIT list nor a conda-lock file"),
        (b"@EXPLICIT\n\xff\n", "env.txt is no text"),
        (b"version: 8\nenvironments: {}\n", "env.txt is a pixi.lock of version 8, and only 6 and 7 can be read"),
        (f"@EXPLICIT\n{URL}\n".encode(), "line 2: .* has no hash"),
        (EXPLICIT.replace(CHANNEL, "https://evil.example.org/forge").encode(), "conda_envs_channels does not allow"),
    ],
)
def test_every_fault_names_the_variable_the_environment_and_the_file(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "env.txt").write_bytes(content)
    with pytest.raises(CondaError, match=rf"^conda_envs_shared: ml: .*{message}"):
        read(tmp_path, {"name": "ml", "lock": "env.txt"})
    assert not Path("pwned").exists()


def test_a_directory_is_no_lock(tmp_path: Path) -> None:
    with pytest.raises(CondaError, match=r"cannot be read: Is a directory"):
        read(tmp_path, {"name": "ml", "lock": "."})


@pytest.mark.parametrize("name", ["", None, "../etc", "a/b", ".hidden", "-x", "a b", "ä"])
def test_a_name_that_is_no_plain_file_name_is_refused(name: str | None, tmp_path: Path) -> None:
    with pytest.raises(CondaError, match=r"is no name for an environment: use letters, digits"):
        read(tmp_path, {"name": name, "lock": "env.txt"})


def test_a_number_is_a_name(tmp_path: Path) -> None:
    (tmp_path / "env.txt").write_text(EXPLICIT)
    assert set(read(tmp_path, {"name": 2026, "lock": "env.txt"})) == {"2026"}


@pytest.mark.parametrize(
    ("environments", "message"),
    [
        ([{"name": "ml"}], "conda_envs_shared: ml: has no lock: name its lock file"),
        ([{"name": "ml", "lock": ""}], "ml: has no lock"),
        (
            [{"name": "ml", "lock": "env.txt"}, {"name": "ml", "lock": "env.txt"}],
            "conda_envs_shared: ml is listed twice",
        ),
    ],
)
def test_an_environment_needs_one_name_and_a_lock(environments: list[Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "env.txt").write_text(EXPLICIT)
    with pytest.raises(CondaError, match=message):
        read(tmp_path, *environments)
