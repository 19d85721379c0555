"""Lock files as a site's variables name them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError
from ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils._lock_files import (
    read_environments,
    read_lock_file,
    read_wanted,
)

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


def with_variables(variables: Any) -> dict[str, Any]:
    return {"name": "ml", "lock": "env.txt", "variables": variables}


def test_variables_are_part_of_the_lock(tmp_path: Path) -> None:
    (tmp_path / "env.txt").write_text(EXPLICIT)
    plain = read(tmp_path, with_variables({}))["ml"]["linux-64"]
    lock = read(tmp_path, with_variables({"THREADS": 8, "A": "x  y=1"}))["ml"]["linux-64"]
    assert (plain.variables, lock.variables) == ((), (("A", "x  y=1"), ("THREADS", "8")))
    assert plain.identity == read(tmp_path, {"name": "x", "lock": "env.txt"})["x"]["linux-64"].identity
    assert (
        len({plain.identity, lock.identity, read(tmp_path, with_variables({"A": "x"}))["ml"]["linux-64"].identity}) == 3
    )


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PATH": "/x"}, "PATH belongs to the activation itself"),
        ({"PYTHONHOME": "/x"}, "PYTHONHOME belongs to"),
        ({"CONDA_PREFIX": "/x"}, "CONDA_PREFIX belongs to"),
        ({"a b": "x"}, "'a b' is no name of a variable"),
        ({"1A": "x"}, "'1A' is no name"),
        ({"X;reboot": "x"}, "is no name"),
        ({7: "x"}, "7 is no name"),
        ({"A": True}, "A has a value that is no text: write it in quotes"),
        ({"A": 1.5}, "A has a value that is no text"),
        ({"A": None}, "A has a value that is no text"),
        # conda would write these into the code of people's shells as they are
        ({"A": "'; reboot; '"}, "A: .* would not reach every shell as it is"),
        ({"A": "$HOME"}, "would not reach every shell"),
        ({"A": 'a"b'}, "would not reach every shell"),
        ({"A": "a`b`"}, "would not reach every shell"),
        ({"A": "a\\b"}, "would not reach every shell"),
        ({"A": "a\nb"}, "would not reach every shell"),
        ({"A": "a\0b"}, "would not reach every shell"),
        ({"A": "***unset***"}, "would not reach every shell"),
        (["A=1"], "are no names with values"),
    ],
)
def test_variables_that_would_not_arrive_as_they_are_written_are_refused(
    variables: Any, message: str, tmp_path: Path
) -> None:
    (tmp_path / "env.txt").write_text(EXPLICIT)
    with pytest.raises(CondaError, match=rf"^conda_envs_shared: ml: variables: .*{message}"):
        read(tmp_path, with_variables(variables))


def wanted(directory: Path, *environments: Any) -> Any:
    policy = (str(directory), (CHANNEL,), "https://conda.example.org/")
    return read_wanted(environments, "linux-64", *policy)


def test_what_is_wanted_has_the_types_that_the_module_would_give(tmp_path: Path) -> None:
    (tmp_path / "env.txt").write_text(EXPLICIT)
    entry = {"name": "ml", "lock": "env.txt", "kernel": "yes", "repair": "no", "mode": "0750", "keep_generations": "2"}
    (one, gone), unlocked = wanted(tmp_path, entry, {"name": "old", "state": "absent"})
    assert (one.kernel, one.repair, one.access.top, one.retention.keep) == (True, False, 0o750, 2)
    assert one.identity == f"{read(tmp_path, entry)['ml']['linux-64'].identity}@: 0750 0022"
    assert (gone.name, gone.state, gone.lock.packages, unlocked) == ("old", "absent", (), [])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"stat": "absent"}, "ml: .*stat"),
        ({"state": "gone"}, "ml: value of state must be one of: present, absent, verified, got: gone"),
        ({"mode": "0777"}, "ml: mode: 0777 must"),
        ({"lock": "env.txt", "kernel": "perhaps"}, "ml: .*kernel"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(entry: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "env.txt").write_text(EXPLICIT)
    with pytest.raises(CondaError, match=rf"^conda_envs_shared: {message}"):
        wanted(tmp_path, {"name": "ml", "lock": "env.txt", **entry})


def test_a_number_is_a_name(tmp_path: Path) -> None:
    (tmp_path / "env.txt").write_text(EXPLICIT)
    assert set(read(tmp_path, {"name": 2026, "lock": "env.txt"})) == {"2026"}


@pytest.mark.parametrize(
    ("environments", "message"),
    [
        ([{"name": "ml"}], "conda_envs_shared: ml: has no lock: name its lock file"),
        ([{"name": "ml", "lock": ""}], "ml: has no lock"),
        ([{"name": "ml", "state": "absent"}, {"name": "ml", "lock": "env.txt"}], "ml is listed twice"),
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


def through(directory: Path, mirrors: dict[str, str], channel: str = CHANNEL) -> Any:
    """The URL of the package, and the identity of the lock, where channels have these mirrors."""
    (directory / "explicit.txt").write_text(EXPLICIT)
    environments = [{"name": "tools", "lock": "explicit.txt"}]
    alias = "https://conda.example.org/"
    locks = read_environments(environments, str(directory), [channel], alias, {"channel_mirrors": mirrors})
    lock = locks["tools"]["linux-64"]
    return lock.packages[0].url, lock.identity


@pytest.mark.parametrize("below", [CHANNEL, f"{CHANNEL}/", CHANNEL.rpartition("/")[0]])
def test_packages_come_from_the_mirror_and_the_lock_stays_the_same(tmp_path: Path, below: str) -> None:
    direct, identity = through(tmp_path, {})
    mirror = "https://mirror.example.org/conda" + CHANNEL[len(below.rstrip("/")) :]
    # The site may call the channel by what it is, or by the mirror.
    for channel in (CHANNEL, mirror):
        url, same = through(tmp_path, {below: "https://mirror.example.org/conda/"}, channel)
        assert url == mirror + direct[len(CHANNEL) :]
        assert same == identity


def test_a_mirror_of_another_channel_or_of_one_whose_name_goes_on_is_none(tmp_path: Path) -> None:
    direct = through(tmp_path, {})
    assert through(tmp_path, {CHANNEL[:-1]: "https://mirror.example.org/x"}) == direct
    longest = {CHANNEL.rpartition("/")[0]: "https://short.example.org", CHANNEL: "https://long.example.org/c"}
    assert through(tmp_path, longest)[0].startswith("https://long.example.org/c/")
    with pytest.raises(
        CondaError, match=r"comes from https://m\.example\.org/c, which conda_envs_channels does not allow"
    ):
        through(tmp_path, {CHANNEL: "https://m.example.org/c"}, "https://conda.example.org/other")


@pytest.mark.parametrize(
    "mirrors", [{"{{ upstream }}/forge": "https://m.example.org"}, {CHANNEL: "m.example.org/forge"}]
)
def test_a_mirror_that_is_no_url_is_told(tmp_path: Path, mirrors: dict[str, str]) -> None:
    with pytest.raises(CondaError, match=r"conda_envs_channel_mirrors: .* is no URL"):
        through(tmp_path, mirrors)
