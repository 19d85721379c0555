"""Something to solve with: a channel of packages that depend on each other, and a directory of wheels."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils._solving import Options

from lab.channel import write_repodata
from lab.packages import Entry, index_of, write_package


@dataclass(frozen=True)
class Market:
    """What can be had, and the directory of a site."""

    root: Path

    @property
    def channel(self) -> str:
        """The URL of the channel."""
        return (self.root / "channel").as_uri()

    def offer(
        self,
        name: str,
        version: str,
        depends: Sequence[str] = (),
        *,
        build: str = "0",
        day: int = 0,
        to: str = "channel",
    ) -> None:
        """Put a conda package into a channel, published some days after the others.

        What needs a Python is a Python distribution too, under the name that PyPI has for it.
        """
        index = index_of(name, version, build, depends)
        index["timestamp"] += day * 86_400_000
        entries = [Entry(f"share/{name}", version.encode())]
        if any(text.startswith("python") for text in depends):
            stem = f"lib/python3.10/site-packages/{'torch' if name == 'pytorch' else name}-{version}.dist-info"
            entries.append(Entry(f"{stem}/METADATA", b"Metadata-Version: 2.1\n"))
        write_package(self.root / to, index, entries)
        write_repodata(self.root / to)

    def wheel(self, name: str, version: str, requires: Sequence[str] = (), tag: str = "py3-none-any") -> str:
        """Write a wheel, and say what its file is called."""
        stem = f"{name}-{version}"
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {requirement}" for requirement in requires]
        with zipfile.ZipFile(self.wheels / f"{stem}-{tag}.whl", "w") as archive:
            archive.writestr(f"{stem}.dist-info/METADATA", "\n".join(lines) + "\n")
            archive.writestr(f"{stem}.dist-info/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
            archive.writestr(f"{stem}.dist-info/RECORD", "")
        return f"{stem}-{tag}.whl"

    @property
    def wheels(self) -> Path:
        """The directory of wheels."""
        return self.root / "wheels"

    def options(self, **changes: Any) -> Options:
        """Options with this channel, those wheels, and a cache of its own."""
        return Options(
            **{
                "channels": (self.channel,),
                "cache_dir": str(self.root / "cache"),
                "find_links": (str(self.wheels),),
                **changes,
            }
        )


@pytest.fixture(scope="session")
def _stock(tmp_path_factory: pytest.TempPathFactory) -> Market:
    """Two versions of most things."""
    market = Market(tmp_path_factory.mktemp("stock"))
    market.wheels.mkdir()
    market.offer("python", "3.10.13")
    market.offer("pip", "24.0", ["python >=3.8"])
    for version, day in (("1.0", 0), ("2.0", 10)):
        market.offer("blas", version, day=day)
    for version, day in (("1.26.0", 0), ("1.26.4", 10)):
        market.offer("numpy", version, ["python >=3.10,<3.11.0a0", "blas >=1.0"], day=day)
    market.offer("pytorch", "2.0.1", ["python >=3.10", "numpy", "__cuda >=11.8"])
    return market


@pytest.fixture
def market(_stock: Market, tmp_path: Path) -> Market:
    """A stock of its own for each test."""
    pytest.importorskip("rattler", reason="py-rattler is what solves")
    shutil.copytree(_stock.root, tmp_path / "market")
    return Market(tmp_path / "market")
