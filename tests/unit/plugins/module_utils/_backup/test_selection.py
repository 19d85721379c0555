"""Which environments are saved, and what they are called."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._backup.config import Config
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._backup.selection import choose, key_of
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda import inventory


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A node with two shared environments, and a user with two."""
    for name in ("ml", "web"):
        (tmp_path / f"generations/{name}/1").mkdir(parents=True)
        (tmp_path / "envs").mkdir(exist_ok=True)
        (tmp_path / f"envs/{name}").symlink_to(tmp_path / f"generations/{name}/1")
    (tmp_path / "generations/gone/1").mkdir(parents=True)
    for name in ("mine", "other"):
        (tmp_path / f"home/.conda/envs/{name}/conda-meta").mkdir(parents=True)
    (tmp_path / "home/.conda/envs/other/.backup").touch()
    uid = (tmp_path / "home").stat().st_uid
    (tmp_path / "passwd").write_text(f"ann:x:{uid}:{uid}::{tmp_path}/home:/bin/sh\n")
    monkeypatch.setattr(inventory, "PASSWD", str(tmp_path / "passwd"))
    return Config(
        repository="/repo",
        host="node",
        directory=str(tmp_path),
        envs_dir=str(tmp_path / "envs"),
        generations_dir=str(tmp_path / "generations"),
        shared=[],
        users=[],
        paths=[],
        marker="",
        keep={},
        prune=False,
        lock_timeout_seconds=0,
        drill="all",
        metrics_directory="",
    )


@pytest.mark.parametrize(
    ("wanted", "names", "missed"),
    [
        ({"shared": ["*"]}, ["ml", "web"], 0),
        ({"shared": ["web", "w*"]}, ["web"], 0),
        ({"shared": ["gone", "x*"]}, [], 1),
        ({"users": ["*"]}, ["mine", "other"], 0),
        ({"users": ["nobody-of-that-name"]}, [], 1),
        ({"marker": ".backup"}, ["other"], 0),
        ({"marker": ".backup", "users": ["*"]}, ["mine", "other"], 0),
        ({"paths": ["HOME/.conda/envs/m*"]}, ["mine"], 0),
        ({"paths": ["HOME/missing"]}, [], 1),
    ],
)
def test_what_is_chosen(config: Config, tmp_path: Path, wanted: dict[str, Any], names: list[str], missed: int) -> None:
    for option, value in wanted.items():
        if option == "paths":
            value = [path.replace("HOME", str(tmp_path / "home")) for path in value]
        object.__setattr__(config, option, value)
    chosen, left_out = choose(config)
    assert [os.path.basename(one.name) for one in chosen] == names
    assert len(left_out) == missed


def test_a_key_is_one_tag_whatever_the_path() -> None:
    assert key_of("shared", "ml") == "shared:ml"
    assert key_of("private", "/home/a, b/\udcff") == "private:/home/a%2C%20b/%FF"
