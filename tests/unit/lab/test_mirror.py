"""What the mirror serves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lab.mirror import publish
from lab.paths import Cache


@dataclass(frozen=True)
class Channel:
    directory: Path
    python: str = "3.10.13"


@dataclass(frozen=True)
class Installer:
    version: str
    file: Path
    sha256: str


def channel(directory: Path, repodata: str) -> Channel:
    for subdir in ("linux-64", "noarch"):
        (directory / subdir).mkdir(parents=True, exist_ok=True)
        (directory / subdir / "repodata.json").write_text(repodata)
    return Channel(directory)


def installer(directory: Path, version: str) -> Installer:
    file = directory / f"Base-{version}.sh"
    file.write_text(version)
    return Installer(version, file, f"hash of {version}")


def served(cache: Cache) -> dict[str, str]:
    return {
        str(path.relative_to(cache.www)): path.read_text()
        for name in ("lab", "installers", "own")
        for path in (cache.www / name).rglob("*")
        if path.is_file()
    }


def test_publishing_again_brings_new_content_and_keeps_what_tests_added(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    publish(cache, channel(tmp_path / "c1", "one"), [installer(tmp_path, "1.0")])
    (cache.www / "own").mkdir()
    (cache.www / "own" / "file").write_text("kept")
    publish(cache, channel(tmp_path / "c2", "two"), [installer(tmp_path, "1.0"), installer(tmp_path, "2.0")])
    assert served(cache) == {
        "lab/linux-64/repodata.json": "two",
        "lab/noarch/repodata.json": "two",
        "installers/Base-1.0.sh": "1.0",
        "installers/Base-2.0.sh": "2.0",
        "own/file": "kept",
    }
