"""The wheels of a lock in a real prefix: fetched by hash, kept, and installed by a real pip."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda import wheels
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.engines import RattlerEngine
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.locks import Lock, Package, Wheel
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.processes import Result
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.records import (
    compare_files,
    read_distributions,
)
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.wheels import Sources

from lab.packages import Entry
from unit.plugins.pip_part import SITE, add_python, listed, write_wheel

if TYPE_CHECKING:
    from unit.plugins.conftest import Channel

BASE = Sources(base_prefix=sys.prefix)
GONE = "http://127.0.0.1:9"


@dataclass
class Place:
    """Where wheels are served, and prefixes to put them into."""

    root: Path
    server: Channel
    python: Package

    @property
    def directory(self) -> Path:
        """What is served."""
        return self.server.directory / "wheels"

    @property
    def cache(self) -> Path:
        """The package cache of the node."""
        return self.root / "pkgs"

    def add(self, name: str, version: str = "1.0", files: dict[str, bytes] | None = None, **more: Any) -> Wheel:
        """Serve a wheel."""
        return listed(write_wheel(self.directory, name, version, files, **more), f"{self.server.url}/wheels")

    def index(self, *listed_there: Wheel) -> str:
        """Serve an index of these wheels, and say where."""
        for wheel in listed_there:
            page = self.server.directory / "simple" / wheel.name / "index.html"
            page.parent.mkdir(parents=True)
            page.write_text(f'<a href="/wheels/{wheel.file_name}#sha256={wheel.sha256}">{wheel.file_name}</a>')
        return f"{self.server.url}/simple"

    def prefix(self, *packages: Package, name: str = "prefix") -> Path:
        """A prefix with the conda packages of a lock."""
        path = self.root / name
        RattlerEngine(sys.executable).install((self.python, *packages), str(path), str(self.cache))
        return path

    def install(
        self, *found: Wheel, prefix: Path | None = None, packages: Sequence[Package] = (), sources: Sources = BASE
    ) -> Path:
        """Put wheels into a prefix."""
        prefix = prefix or self.prefix(*packages)
        lock = Lock("linux-64", (self.python, *packages), found)
        wheels.install(lock, str(prefix), str(self.cache), sources)
        return prefix

    def stop(self) -> None:
        """Take everything off the server."""
        for path in self.directory.glob("*.whl"):
            path.unlink()


@pytest.fixture
def place(sandbox: Path, mirror: Channel) -> Place:
    """A server, and a Python to install."""
    return Place(sandbox / "node", mirror, add_python(mirror))


def names(prefix: Path) -> list[str]:
    distributions, problems = read_distributions(str(prefix))
    assert problems == []
    return [distribution.label for distribution in distributions]


def test_wheels_are_installed_as_the_lock_says_and_work(place: Place) -> None:
    tiny, other = place.add("Tiny.Tool", files={"tiny/data": b"x"}), place.add("other", "2.0.post1+cu118")
    prefix = place.install(tiny, other)
    assert (tiny.name, other.version) == ("tiny-tool", "2.0.post1+cu118")
    assert names(prefix) == ["tiny-tool 1.0 pypi", "other 2.0.post1+cu118 pypi"]
    script = prefix / "bin" / "other"
    assert script.read_text().startswith(f"#!{prefix}/bin/python\n")
    assert subprocess.run([script], capture_output=True, text=True, check=True).stdout == "other 2.0.post1+cu118\n"
    assert compare_files(str(prefix), read_distributions(str(prefix))[0]) == []
    for distribution in read_distributions(str(prefix))[0]:
        assert (distribution.installer, distribution.direct_url) == ("pip", None)
        assert f"bin/{'other' if distribution.name == 'other' else 'Tiny.Tool'}" in distribution.sums


def test_nothing_but_the_wheels_is_written(place: Place) -> None:
    """Byte code is for sealing to write; requirements and downloads are for nobody."""
    prefix = place.prefix()
    before = set(prefix.rglob("*"))
    place.install(place.add("tiny"), prefix=prefix)
    added = {str(path.relative_to(prefix)) for path in set(prefix.rglob("*")) - before}
    info = f"{SITE}/tiny-1.0.dist-info"
    files = ("INSTALLER", "METADATA", "RECORD", "REQUESTED", "WHEEL", "entry_points.txt")
    assert added == {"bin/tiny", f"{SITE}/tiny.py", info, *(f"{info}/{file}" for file in files)}
    assert sorted(os.listdir(place.cache / "wheels")) == [place.add("tiny").sha256]


def test_what_is_in_the_cache_needs_no_network(place: Place) -> None:
    tiny = place.add("tiny")
    place.install(tiny)
    place.stop()
    moved = dataclasses.replace(tiny, url=f"{GONE}/{tiny.file_name}")
    assert names(place.install(moved, prefix=place.prefix(name="again"))) == ["tiny 1.0 pypi"]


@pytest.mark.parametrize("content", [b"", b"evil"])
def test_a_cached_file_that_is_not_the_wheel_is_fetched_again(content: bytes, place: Place) -> None:
    tiny = place.add("tiny")
    cached = Path(wheels.cached(tiny, str(place.cache)))
    cached.parent.mkdir(parents=True)
    cached.write_bytes(content)
    assert names(place.install(tiny)) == ["tiny 1.0 pypi"]
    assert cached.stat().st_size > len(content)


def test_an_index_may_be_asked_instead_of_the_urls(place: Place) -> None:
    tiny = place.add("tiny", "1.0+local.2")
    index = place.index(tiny)
    moved = dataclasses.replace(tiny, url=f"{GONE}/{tiny.file_name}")
    prefix = place.install(moved, sources=dataclasses.replace(BASE, index_url=index))
    assert names(prefix) == ["tiny 1.0+local.2 pypi"]


def test_a_directory_may_be_used_instead_of_any_network(place: Place) -> None:
    tiny = listed(write_wheel(place.root / "wheels", "tiny"), GONE)
    sources = dataclasses.replace(BASE, wheels_dir=str(place.root / "wheels"))
    assert names(place.install(tiny, sources=sources)) == ["tiny 1.0 pypi"]
    assert (place.root / "wheels" / tiny.file_name).exists()


def test_what_the_directory_lacks_comes_from_the_index_or_nowhere(place: Place) -> None:
    here, there = listed(write_wheel(place.root / "wheels", "here"), GONE), place.add("there")
    sources = dataclasses.replace(BASE, wheels_dir=str(place.root / "wheels"))
    with pytest.raises(
        CondaError, match=r"^there 1.0 pypi: conda_envs_wheels_dir: .*/wheels has no there-1.0-py3-none-any.whl: put it"
    ):
        place.install(here, there, sources=sources)
    both = dataclasses.replace(sources, index_url=place.index(there))
    prefix = place.install(here, there, prefix=place.prefix(name="both"), sources=both)
    assert names(prefix) == ["here 1.0 pypi", "there 1.0 pypi"]


@pytest.mark.parametrize("source", ["url", "index", "directory", "file"])
def test_another_file_than_the_locks_is_refused(source: str, place: Place) -> None:
    tiny = place.add("tiny")
    sources = BASE
    if source == "index":
        sources = dataclasses.replace(BASE, index_url=place.index(tiny))
    elif source == "directory":
        sources = dataclasses.replace(BASE, wheels_dir=str(place.directory))
    elif source == "file":
        tiny = dataclasses.replace(tiny, url=(place.directory / tiny.file_name).as_uri())
    good = place.add("good")
    write_wheel(place.directory, "tiny", files={"evil.py": b"evil"})
    told = dataclasses.replace(tiny, sha256="0" * 64) if source == "index" else tiny
    if source == "directory":
        write_wheel(place.directory, "good")
    with pytest.raises(CondaError, match=r"^tiny 1.0 pypi(:| cannot be fetched:) .*(hash|HASH).*") as refused:
        place.install(told, good, sources=sources)
    assert told.sha256 in str(refused.value)
    assert not Path(wheels.cached(told, str(place.cache))).exists()
    assert names(place.root / "prefix") == []


def test_a_wheel_that_is_nowhere_is_named(place: Place) -> None:
    tiny, good = place.add("tiny"), place.add("good")
    (place.directory / tiny.file_name).unlink()
    with pytest.raises(CondaError, match=r"^tiny 1.0 pypi cannot be fetched: pip: .*404") as missing:
        place.install(good, tiny)
    assert "\n" not in str(missing.value)
    sources = dataclasses.replace(BASE, index_url=place.index(good))
    with pytest.raises(CondaError, match=r"^tiny 1.0 pypi cannot be fetched: pip: .*tiny==1.0"):
        place.install(good, tiny, prefix=place.prefix(name="again"), sources=sources)


@pytest.mark.parametrize("through", ["url", "index"])
def test_a_server_that_is_down_is_told(through: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    # A site's pip.conf would say how often to try again, and how to pass a proxy.
    monkeypatch.setitem(wheels._PIP, "PIP_RETRIES", "0")
    tiny = dataclasses.replace(place.add("tiny"), url=f"{GONE}/tiny-1.0-py3-none-any.whl")
    sources = dataclasses.replace(BASE, index_url=f"{GONE}/simple") if through == "index" else BASE
    with pytest.raises(CondaError, match=r"^tiny 1.0 pypi cannot be fetched: pip: "):
        place.install(tiny, sources=sources)


def test_credentials_of_an_index_are_not_told(place: Place) -> None:
    tiny = place.add("tiny")
    server = place.server.url.replace("http://", "http://someone:secret@")
    lost = dataclasses.replace(tiny, url=f"{server}/nowhere/{tiny.file_name}")
    with pytest.raises(CondaError, match=r"^tiny 1.0 pypi cannot be fetched") as refused:
        place.install(lost)
    assert "secret" not in str(refused.value)


def test_a_wheel_for_another_python_is_refused_by_name(place: Place) -> None:
    demanding = place.add("demanding", metadata="Requires-Python: <3\n")
    with pytest.raises(CondaError, match=r"^demanding 1.0 pypi cannot be .*requires a different Python"):
        place.install(demanding)


def test_a_source_archive_of_the_same_version_is_never_built(place: Place) -> None:
    tiny = place.add("tiny")
    page = Path(place.server.directory, "simple", "tiny", "index.html")
    place.index(tiny)
    source = place.directory / "tiny-1.0.tar.gz"
    source.write_bytes(b"")
    page.write_text(f'<a href="/wheels/{source.name}#sha256={tiny.sha256}">{source.name}</a>')
    sources = dataclasses.replace(BASE, index_url=f"{place.server.url}/simple")
    with pytest.raises(CondaError, match=r"^tiny 1.0 pypi cannot be fetched: pip: .*No matching distribution"):
        place.install(tiny, sources=sources)


def conda_numpy(place: Place) -> Package:
    """A conda package with a Python distribution in it, under another name than its own."""
    info = f"{SITE}/Num_Py-1.0.dist-info"
    entries = [Entry(f"{info}/METADATA", b"Name: Num.Py\nVersion: 1.0\n"), Entry(f"{SITE}/numpy/core.py", b"conda\n")]
    return place.server.add("numpy-base", "1.0", entries)


def test_a_distribution_that_conda_has_installed_is_not_overwritten(place: Place) -> None:
    conda = conda_numpy(place)
    message = r"^num-py 2.0 pypi is in the conda package numpy-base 1.0 0 too, whose files pip would overwrite"
    with pytest.raises(CondaError, match=message):
        place.install(place.add("num_py", "2.0"), packages=(conda,))
    assert (place.root / "prefix" / SITE / "numpy/core.py").read_text() == "conda\n"


def test_a_file_that_conda_has_installed_is_not_overwritten_in_silence(place: Place) -> None:
    conda = conda_numpy(place)
    message = rf"^cuckoo 1.0 pypi and the conda package numpy-base 1.0 0 both have {SITE}/numpy/core.py: keep one"
    with pytest.raises(CondaError, match=message):
        place.install(place.add("cuckoo", files={"numpy/core.py": b"pip\n"}), packages=(conda,))
    same = place.add("twin", files={"numpy/core.py": b"conda\n"})
    prefix = place.install(same, prefix=place.prefix(conda, name="same"), packages=(conda,))
    assert names(prefix) == ["twin 1.0 pypi"]


def test_wheels_may_have_a_file_in_common(place: Place) -> None:
    one, two = (place.add(name, files={"tests/__init__.py": name.encode()}) for name in ("one", "two"))
    prefix = place.install(one, two)
    assert compare_files(str(prefix), read_distributions(str(prefix))[0]) == []


def test_a_wheel_that_contradicts_itself_is_refused(place: Place) -> None:
    liar = place.add("liar", files={"data": b"x"}, sums={"data": "sha256=" + "A" * 43})
    with pytest.raises(CondaError, match=rf"^a wheel contradicts its own list of files: {SITE}/data: file of liar 1.0"):
        place.install(liar)


def test_the_environment_may_have_the_only_pip(place: Place) -> None:
    tiny = place.add("tiny")
    pip = Path(sys.prefix) / SITE / "pip"
    entries = [
        Entry(f"{SITE}/{path.relative_to(pip.parent)}", path.read_bytes())
        for path in pip.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    ]
    conda_pip = place.server.add("pip", "1.0", entries)
    prefix = place.install(tiny, packages=(conda_pip,), sources=Sources())
    assert names(prefix) == ["tiny 1.0 pypi"]
    assert not list(prefix.rglob("__pycache__"))


def test_without_any_pip_there_is_one_clear_error(place: Place) -> None:
    tiny = place.add("tiny")
    for number, base in enumerate(("", "/nowhere", str(place.prefix(name="bare")))):
        with pytest.raises(CondaError, match=r"there is no pip to install them: .* add pip to its packages"):
            place.install(tiny, prefix=place.prefix(name=f"p{number}"), sources=Sources(base_prefix=base))


def test_a_lock_without_wheels_starts_nothing(place: Place) -> None:
    assert names(place.install(sources=Sources(base_prefix="/nowhere"))) == []
    assert not (place.cache / "wheels").exists()


def test_more_wheels_are_fetched_than_one_pip_takes(place: Place) -> None:
    found = [place.add(f"tiny{index}") for index in range(wheels._AT_ONCE + 1)]
    assert names(place.install(*found)) == [f"{wheel.name} 1.0 pypi" for wheel in found]


def test_a_full_disk_is_told_as_such() -> None:
    said = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n"
    failure = wheels._failure(Result(1, "", said), [], "cannot be fetched")
    assert str(failure).startswith("the disk is full: ")
