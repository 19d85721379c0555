"""Nodes with GPUs, in a directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from lab import pci

Tree = Callable[..., Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Make the file system of a node with the PCI devices of a list and these files; a path is the target of a link."""

    def make(devices: str, files: Mapping[str, str | bytes | Path | None] | None = None) -> Path:
        root = tmp_path / "node"
        (root / "sys/bus/pci").mkdir(parents=True)
        pci.write_tree(root / "sys/bus/pci/devices", pci.read_list(pci.LISTS / f"{devices}.yml"))
        for name, content in (files or {}).items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                path.symlink_to(content)
            elif content is None:
                path.mkdir()
            else:
                path.write_bytes(content.encode() if isinstance(content, str) else content)
        return root

    return make
