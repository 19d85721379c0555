"""Specs and locks of public projects are read without loss, or give a clear error.

What has been read is compared with what other readers find: PyYAML, rattler and packaging. tests/corpus/sources.yml
says of every file where it is from and what is to become of it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.locks import Lock, Package
from ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils._lock_files import read_lock_file
from ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils._specs import Dependency, Wanted, read_spec
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CORPUS = Path(__file__).resolve().parent.parent / "corpus"
SOURCES: dict[str, dict[str, Any]] = {
    source["file"]: source for source in yaml.safe_load((CORPUS / "sources.yml").read_text(encoding="utf-8"))
}


def _cases(folder: str, *suffixes: str) -> list[Any]:
    """The files of *folder* that are to be read."""
    return [
        pytest.param(CORPUS / file, id=file)
        for file, source in SOURCES.items()
        if file.startswith(folder) and file.endswith(suffixes) and "error" not in source
    ]


def _plain(path: Path) -> Any:
    """What YAML says, all scalars being texts, and comments none."""
    return yaml.load(path.read_text(encoding="utf-8-sig"), Loader=yaml.BaseLoader)


def _read(path: Path) -> Any:
    return read_spec(str(path)).for_platform("linux-64") if path.parent.name == "specs" else read_lock_file(str(path))


def test_every_file_is_listed_with_its_source() -> None:
    there = {str(path.relative_to(CORPUS)) for folder in ("specs", "locks") for path in (CORPUS / folder).iterdir()}
    assert there == set(SOURCES)
    assert len([file for file, source in SOURCES.items() if source["repository"] != "own"]) >= 60
    for file, source in SOURCES.items():
        own = source["repository"] == "own"
        assert own == file.split("/")[1].startswith("own-")
        assert own or (source["path"] and re.fullmatch("[0-9a-f]{40}", source["commit"])), file
        text = "../../LICENSE" if source["licence"] == "GPL-3.0-or-later" else f"LICENSES/{source['licence']}.txt"
        assert (CORPUS / text).is_file(), file


@pytest.mark.parametrize("file", SOURCES)
def test_every_file_is_as_it_was_found(file: str) -> None:
    assert hashlib.sha256((CORPUS / file).read_bytes()).hexdigest() == SOURCES[file]["sha256"]


@pytest.mark.parametrize("file", [file for file, source in SOURCES.items() if "error" in source])
def test_what_cannot_be_locked_gives_a_clear_error(file: str) -> None:
    path = CORPUS / file
    with pytest.raises(CondaError) as caught:
        _read(path)
    message = str(caught.value)
    assert str(path) in message
    assert SOURCES[file]["error"] in message
    assert message.isprintable()
    # A reason, and more than that: what is there, or what to do.
    assert 20 < len(message.replace(str(path), "")) < 600


# Specs.


def _match_spec(text: str) -> Any:
    rattler = pytest.importorskip("rattler")
    return rattler.MatchSpec(text, strict=False)


def _channel(match_spec: Any) -> str:
    return match_spec.channel.base_url.rstrip("/") if match_spec.channel else ""


def _meant(match_spec: Any) -> tuple[Any, ...]:
    """All that rattler knows of a match spec."""
    version = str(match_spec.version or "*")
    return (match_spec.name.normalized, version, match_spec.build or "", _channel(match_spec), match_spec.subdir or "")


def _rendered(dependency: Dependency) -> str:
    place = "/".join(part for part in (dependency.channel, dependency.subdir) if part)
    return (
        f"{place}::{dependency.name} {dependency.constraint}" if place else f"{dependency.name} {dependency.constraint}"
    )


def _listed(document: dict[str, Any]) -> Iterator[str]:
    """The conda dependencies of a document, for whichever platform."""
    for entry in document["dependencies"]:
        if isinstance(entry, str):
            yield entry.split(" #")[0].strip()
        else:
            yield from (value for value in entry.values() if isinstance(value, str))


@pytest.mark.parametrize("path", _cases("specs", ".yml"))
def test_every_dependency_of_a_spec_is_in_it(path: Path) -> None:
    document, wanted = _plain(path), read_spec(str(path)).for_platform("linux-64")
    elsewhere = SOURCES[f"specs/{path.name}"].get("elsewhere", [])
    listed = [text for text in _listed(document) if _match_spec(text).name.normalized not in elsewhere]
    found = list(wanted.dependencies)
    if wanted.pip.requirements and not any(_match_spec(text).name.normalized == "pip" for text in listed):
        assert found.pop() == Dependency("pip")
    assert len(listed) == len(found)
    for text, dependency in zip(listed, found, strict=True):
        if "://" in dependency.constraint:
            assert dependency == Dependency(_match_spec(text).name.normalized, text)
        else:
            assert _meant(_match_spec(text)) == _meant(_match_spec(_rendered(dependency))), text


@pytest.mark.parametrize("path", _cases("specs", ".yml"))
def test_every_pip_line_of_a_spec_is_in_it(path: Path) -> None:
    document, pip = _plain(path), read_spec(str(path)).for_platform("linux-64").pip
    lines = [line for entry in document["dependencies"] if isinstance(entry, dict) for line in entry.get("pip", ())]
    requirements = [Requirement(line.partition(" --")[0]) for line in lines if not line.startswith("-")]
    assert [Requirement(text) for text in pip.requirements] == list(dict.fromkeys(requirements))
    options = [re.split(r"[ =]", line, maxsplit=1) for line in lines if line.startswith("-")]
    assert pip.extra_index_urls == tuple(option[1] for option in options if option[0] == "--extra-index-url")
    assert pip.find_links == tuple(option[1] for option in options if option[0] == "--find-links")
    assert pip.pre == (["--pre"] in options)
    hashes = [value for line in lines for value in re.findall(r"--hash=sha256:(\w+)", line)]
    assert [value for _name, value in pip.hashes] == hashes


@pytest.mark.parametrize("path", _cases("specs", ".yml"))
def test_all_else_of_a_spec_is_in_it(path: Path) -> None:
    document, spec = _plain(path), read_spec(str(path))
    wanted: Wanted = spec.for_platform("linux-64")
    channels = document.get("channels", [])
    named = [channel.rstrip("/") for channel in channels if channel not in ("defaults", "nodefaults")]
    assert wanted.channels == tuple(named)
    assert (wanted.defaults, wanted.nodefaults) == ("defaults" in channels, "nodefaults" in channels)
    assert wanted.variables == tuple(sorted(document.get("variables", {}).items()))
    assert spec.name == document.get("name", "").strip()
    assert spec.platforms == tuple(document.get("platforms", ()))


# Locks.


def _entry_of(package: Package) -> tuple[str, ...]:
    return (package.name, package.version, package.url, package.sha256, package.md5)


def _content(locks: dict[str, Lock]) -> dict[str, set[tuple[str, ...]]]:
    """Everything that the locks hold, by platform."""
    return {
        platform: {_entry_of(package) for package in lock.packages}
        | {(wheel.name, wheel.version, wheel.url, wheel.sha256, "") for wheel in lock.wheels}
        for platform, lock in locks.items()
    }


@pytest.mark.parametrize("path", _cases("locks", ".conda-lock.yml"))
def test_every_entry_of_a_conda_lock_file_is_in_the_lock(path: Path) -> None:
    expected: dict[str, set[tuple[str, ...]]] = {}
    for entry in _plain(path)["package"]:
        if entry["category"] == "main" and entry["optional"] == "false":
            name = canonicalize_name(entry["name"]) if entry["manager"] == "pip" else entry["name"]
            fields = (
                name,
                entry["version"],
                entry["url"],
                entry["hash"].get("sha256", ""),
                entry["hash"].get("md5", ""),
            )
            expected.setdefault(entry["platform"], set()).add(fields)
    assert _content(read_lock_file(str(path))) == expected


@pytest.mark.parametrize("path", _cases("locks", ".pixi.lock"))
def test_every_entry_of_a_pixi_lock_is_in_the_lock(path: Path) -> None:
    document = _plain(path)
    described = {entry.get("conda") or entry["pypi"]: entry for entry in document["packages"]}
    expected = {}
    for platform, listed in document["environments"]["default"]["packages"].items():
        urls = [entry.get("conda") or entry["pypi"] for entry in listed]
        expected[platform] = {(url, described[url]["sha256"], described[url].get("md5", "")) for url in urls}
    found = _content(read_lock_file(str(path)))
    assert {platform: {fields[2:] for fields in entries} for platform, entries in found.items()} == expected


@pytest.mark.parametrize("path", _cases("locks", ".pixi.lock"))
def test_rattler_finds_the_same_in_a_pixi_lock(path: Path) -> None:
    rattler = pytest.importorskip("rattler")
    document = _plain(path)
    if document["version"] == "7" and "platforms" not in document:
        pytest.skip("from before version 7 listed its platforms, which rattler insists on now")
    environment = rattler.LockFile.from_path(path).default_environment()
    expected = {
        platform.name: {
            (
                package.name,
                str(package.version),
                package.location,
                package.hashes.sha256.hex() if package.hashes.sha256 else "",
                package.hashes.md5.hex() if package.hashes.md5 else "",
            )
            for package in environment.packages(platform)
        }
        for platform in environment.platforms()
    }
    assert _content(read_lock_file(str(path))) == expected


@pytest.mark.parametrize("path", _cases("locks", ".txt"))
def test_every_line_of_an_explicit_list_is_in_the_lock(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("http")]
    stated = re.search("# platform: (.*)", text)
    ((platform, lock),) = read_lock_file(str(path)).items()
    assert stated is not None
    assert platform == stated[1].strip()
    for line, package in zip(lines, lock.packages, strict=True):
        url, _hash, anchor = line.partition("#")
        assert package.url == url
        assert anchor.rpartition(":")[2] == (package.sha256 or package.md5)
        assert len(package.sha256) in (0, 64)
        assert _match_spec(url).name.normalized == package.name
        assert url.endswith(f"/{package.subdir}/{package.name}-{package.version}-{package.build}{_extension(url)}")


def _extension(url: str) -> str:
    return ".tar.bz2" if url.endswith(".tar.bz2") else ".conda"
