"""Which settings podman gets on which machine, and what a failing podman looks like."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from pathlib import Path

import pytest

from lab.paths import Cache, LabError
from lab.podman import Host, Podman, containers_conf

PLAIN = Host(cgroup_hybrid=False, may_raise_limits=True, nofile=1048576, nproc=-1, runc=None)
LIMITS = "nofile=20000:20000"


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ({}, None),
        ({"runc": "/usr/sbin/runc"}, None),
        ({"nofile": 20000}, None),
        ({"may_raise_limits": False}, None),
        ({"may_raise_limits": False, "nofile": -1}, None),
        ({"cgroup_hybrid": True, "runc": "/usr/sbin/runc"}, {"engine": {"runtime": "runc"}}),
        (
            {"may_raise_limits": False, "nofile": 20000, "nproc": 96365},
            {"containers": {"default_ulimits": [LIMITS, "nproc=32768:32768"]}},
        ),
        (
            {"may_raise_limits": False, "nofile": 20000, "nproc": 1000},
            {"containers": {"default_ulimits": [LIMITS, "nproc=1000:1000"]}},
        ),
        (
            {"may_raise_limits": False, "nofile": 20000, "cgroup_hybrid": True, "runc": "/usr/sbin/runc"},
            {"containers": {"default_ulimits": [LIMITS, "nproc=32768:32768"]}, "engine": {"runtime": "runc"}},
        ),
    ],
)
def test_settings_are_only_those_the_machine_needs(differences: dict[str, object], expected: object) -> None:
    text = containers_conf(dataclasses.replace(PLAIN, **differences))  # type: ignore[arg-type]  # a table of fields
    assert (text and tomllib.loads(text)) == expected


def test_hybrid_cgroups_without_runc_name_the_fix() -> None:
    with pytest.raises(LabError, match="install runc"):
        containers_conf(dataclasses.replace(PLAIN, cgroup_hybrid=True))


@pytest.fixture
def podman_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Podman:
    """A command named podman that complains in two lines, or sleeps when asked to."""
    command = tmp_path / "podman"
    command.write_text(
        '#!/bin/sh\n[ "$1" = sleep ] && exec sleep 60\necho trouble >&2\necho "no such $1" >&2\nexit 125\n'
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CONTAINERS_CONF", "/one/of/my/own")
    return Podman(Cache(tmp_path))


def test_a_containers_conf_of_ones_own_is_respected(podman_says: Podman, tmp_path: Path) -> None:
    assert podman_says.environment == {}
    assert not (tmp_path / "containers.conf").exists()


def test_failure_carries_podmans_message_in_one_line(podman_says: Podman) -> None:
    with pytest.raises(LabError) as raised:
        podman_says.run("container", "inspect")
    assert str(raised.value) == "podman container failed (125): trouble | no such container"


def test_podman_that_hangs_is_given_up(podman_says: Podman) -> None:
    with pytest.raises(LabError, match="did not end within 0 s: sleep"):
        podman_says.run("sleep", seconds=0.2)


def test_missing_podman_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError, match="install podman"):
        Podman(Cache(tmp_path))
