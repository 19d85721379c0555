"""Locking specs against a channel: repodata written here, solved for real."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import locks
from lab.paths import LabError

URL = "http://envfleet-lab-mirror:8080/lab"


@dataclass(frozen=True)
class Channel:
    directory: Path
    python: str = "3.10.13"


def package(name: str, version: str, depends: Iterable[str] = (), subdir: str = "noarch") -> tuple[str, dict[str, Any]]:
    entry = {
        "name": name,
        "version": version,
        "build": "h0_0",
        "build_number": 0,
        "subdir": subdir,
        "depends": [*depends],
    }
    digest = f"{name}{version}".encode().hex().rjust(64, "0")[:64]
    return f"{name}-{version}-h0_0.conda", {**entry, "size": 1, "sha256": digest, "md5": digest[-32:]}


def write_channel(directory: Path, *packages: tuple[str, dict[str, Any]]) -> Channel:
    for subdir in ("linux-64", "noarch"):
        chosen = {name: entry for name, entry in packages if entry["subdir"] == subdir}
        repodata = {"info": {"subdir": subdir}, "packages": {}, "packages.conda": chosen}
        (directory / subdir).mkdir(parents=True, exist_ok=True)
        (directory / subdir / "repodata.json").write_text(json.dumps(repodata))
    return Channel(directory)


@pytest.fixture
def channel(tmp_path: Path) -> Channel:
    return write_channel(
        tmp_path / "channel",
        package("python", "3.10.13", ["__glibc >=2.36"], "linux-64"),
        package("python", "3.12.1", ["__glibc >=2.99"], "linux-64"),
        package("numpy", "1.26.4", ["python >=3.10,<3.11.0a0"], "linux-64"),
        package("tool", "1.0", ["numpy"]),
    )


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "environment.yml"
    path.write_text(f"name: x\nchannels: [{URL}]\ndependencies: [python=3.10, tool]\n")
    return path


def write(spec: Path, channel: Channel, form: str = "conda-lock") -> tuple[bool, str]:
    output = spec.with_name(f"lock.{form}")
    written = locks.write_lock(spec, output, channel, form, lambda _: None)
    return written, output.read_text()


def test_conda_lock_names_every_package_as_nodes_see_it(spec: Path, channel: Channel) -> None:
    document = yaml.safe_load(write(spec, channel)[1])
    assert document["version"] == 1
    assert document["metadata"]["platforms"] == ["linux-64"]
    assert document["metadata"]["channels"] == [{"url": URL, "used_env_vars": []}]
    packages = document["package"]
    assert [one["name"] for one in packages] == ["numpy", "python", "tool"]
    assert packages[0] == {
        "name": "numpy",
        "version": "1.26.4",
        "manager": "conda",
        "platform": "linux-64",
        "dependencies": {"python": ">=3.10,<3.11.0a0"},
        "url": f"{URL}/linux-64/numpy-1.26.4-h0_0.conda",
        "hash": {"md5": packages[0]["hash"]["sha256"][-32:], "sha256": b"numpy1.26.4".hex().rjust(64, "0")},
        "build": "h0_0",
        "category": "main",
        "optional": False,
    }


def test_explicit_lock_is_a_url_and_a_sha256_per_line(spec: Path, channel: Channel) -> None:
    lines = write(spec, channel, "explicit")[1].splitlines()
    listed = lines[lines.index("@EXPLICIT") + 1 :]
    assert listed[1] == f"{URL}/linux-64/python-3.10.13-h0_0.conda#{b'python3.10.13'.hex().rjust(64, '0')}"
    assert len(listed) == 3


@pytest.mark.parametrize("form", locks.FORMATS)
def test_a_lock_is_rewritten_only_for_a_new_spec_or_channel(form: str, spec: Path, channel: Channel) -> None:
    assert write(spec, channel, form)[0]
    assert not write(spec, channel, form)[0]
    spec.write_text(spec.read_text().replace("tool", "numpy"))
    assert write(spec, channel, form)[0]
    newer = package("numpy", "1.26.5", ["python >=3.10,<3.11.0a0"], "linux-64")
    write_channel(channel.directory, package("python", "3.10.13", [], "linux-64"), newer)
    written, text = write(spec, channel, form)
    assert written
    assert "numpy-1.26.5-h0_0.conda" in text


def test_virtual_packages_are_those_of_a_node(spec: Path, channel: Channel) -> None:
    spec.write_text("dependencies: [python=3.12]\n")
    with pytest.raises(LabError, match="__glibc"):
        write(spec, channel)


def test_an_unsolvable_spec_leaves_the_old_lock(spec: Path, channel: Channel) -> None:
    before = write(spec, channel)[1]
    spec.write_text("dependencies: [python=3.10, nosuchthing]\n")
    with pytest.raises(LabError, match="nosuchthing"):
        write(spec, channel)
    assert spec.with_name("lock.conda-lock").read_text() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dependencies: [", "cannot read the spec"),
        ("name: x\n", "`dependencies` is missing"),
        ("channels: [conda-forge]\ndependencies: [python]\n", r"\['conda-forge'\] are not the lab's"),
        ("dependencies: [python, pip: [requests]]\n", "conda packages only, not {'pip'"),
    ],
)
def test_what_the_lab_cannot_lock_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "environment.yml").write_text(text)
    with pytest.raises(LabError, match=message):
        locks.read_spec(tmp_path / "environment.yml")
