"""The installers, from the channel's build to an installed and updated base."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from lab.channel import ChannelInfo, build_channel, built
from lab.installer import InstallerInfo, build_installers
from lab.paths import lab_cache


def install(file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", file, *options], capture_output=True, text=True, timeout=300, check=False)


def versions(prefix: Path) -> dict[str, str]:
    records = (json.loads(path.read_text()) for path in (prefix / "conda-meta").glob("*.json"))
    return {record["name"]: record["version"] for record in records}


def damage(prefix: Path) -> list[str]:
    """The files that are missing, or not what the records say."""
    found = []
    for path in (prefix / "conda-meta").glob("*.json"):
        for entry in json.loads(path.read_text())["paths_data"]["paths"]:
            file = prefix / entry["_path"]
            if not os.path.lexists(file):
                found.append(f"missing: {entry['_path']}")
            elif entry["path_type"] != "softlink":
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
                if digest != entry.get("sha256_in_prefix", entry.get("sha256")):
                    found.append(f"changed: {entry['_path']}")
    return found


def test_a_killed_build_is_made_anew(tmp_path: Path) -> None:
    def killed(folder: Path, scratch: Path) -> None:
        (folder / "half").touch()
        raise KeyboardInterrupt

    def whole(folder: Path, scratch: Path) -> None:
        assert not list(folder.iterdir())
        (folder / "whole").touch()

    with pytest.raises(KeyboardInterrupt):
        built(tmp_path, "key", killed)
    directory = built(tmp_path, "key", whole)
    assert [path.name for path in directory.iterdir()] == ["whole"]
    assert built(tmp_path, "key", killed) == directory, "what is there is not made again"
    built(tmp_path, "other", whole)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


@pytest.fixture(scope="session")
def lab() -> tuple[ChannelInfo, list[InstallerInfo]]:
    """The lab's own channel and installers, made if they are not there yet."""
    cache = lab_cache().root
    channel = build_channel(cache, print)
    return channel, build_installers(cache, channel, print)


@pytest.mark.slow
def test_install_and_update(lab: tuple[ChannelInfo, list[InstallerInfo]], tmp_path: Path) -> None:
    channel, (old, new) = lab
    prefix = tmp_path / "base"
    done = install(old.file, "-b", "-p", str(prefix))
    assert done.returncode == 0, done.stderr
    assert damage(prefix) == []
    assert json.loads((prefix / ".installer.info").read_text())["version"] == old.version
    before = versions(prefix)
    assert before["python"] == channel.python
    assert {path.name for path in prefix.iterdir()} >= {"bin", "conda-meta", "condabin", "etc", "lib"}
    assert not (prefix / "pkgs").exists()
    assert not (prefix / "install_tmp").exists()
    urls = (prefix / "conda-meta" / "initial-state.explicit.txt").read_text().split("@EXPLICIT\n")[1].splitlines()
    assert len(urls) == len(before)
    check = "import sys, ssl, sqlite3, rattler, yaml, requests; print(sys.prefix)"
    python = [str(prefix / "bin" / "python"), "-I", "-c", check]
    assert subprocess.run(python, capture_output=True, text=True, timeout=60, check=True, env={}).stdout.strip() == str(
        prefix
    )
    assert (
        subprocess.run(
            [prefix / "bin" / "conda", "info", "--base"], capture_output=True, text=True, timeout=60, check=True
        ).stdout
        == f"{prefix}\n"
    )

    again = install(new.file, "-b", "-p", str(prefix))
    assert again.returncode == 1
    assert "already exists" in again.stderr
    assert versions(prefix) == before
    (prefix / "mine").touch()
    assert install(new.file, "-b", "-u", "-p", str(prefix)).returncode == 0
    after = versions(prefix)
    assert {name for name in before if before[name] != after[name]} == {"conda", "requests", "six"}
    assert damage(prefix) == []
    assert (prefix / "mine").exists()
    history = (prefix / "conda-meta" / "history").read_text()
    assert history.count("==> ") == 2
    assert install(new.file, "-b", "-u", "-p", str(prefix)).returncode == 0
    assert (prefix / "conda-meta" / "history").read_text() == history, "the same again is no revision"
    assert (
        subprocess.run(
            [prefix / "bin" / "python", "-m", "pip", "check"], capture_output=True, timeout=60, check=False
        ).returncode
        == 0
    )


@pytest.mark.slow
def test_damaged_installer_installs_nothing(lab: tuple[ChannelInfo, list[InstallerInfo]], tmp_path: Path) -> None:
    data = bytearray(lab[1][0].file.read_bytes())
    data[-1000] ^= 1
    (tmp_path / "bad.sh").write_bytes(data)
    done = install(tmp_path / "bad.sh", "-b", "-p", str(tmp_path / "base"))
    assert done.returncode == 1
    assert "damaged" in done.stderr
    assert not (tmp_path / "base").exists()


@pytest.mark.slow
def test_contract_of_the_options(lab: tuple[ChannelInfo, list[InstallerInfo]], tmp_path: Path) -> None:
    file = lab[1][0].file
    assert file.name == f"Labconda3-{lab[1][0].version}-Linux-x86_64.sh"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == lab[1][0].sha256
    assert install(file, "-h").returncode == 2
    assert install(file, "-Z").returncode == 1
    assert "spaces" in install(file, "-b", "-p", str(tmp_path / "a b")).stderr
    assert list(tmp_path.iterdir()) == []
