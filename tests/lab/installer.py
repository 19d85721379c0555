"""Self-extracting installers that keep the contract of Miniconda's: Labconda3-VERSION-Linux-x86_64.sh."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import channel as lab_channel
from lab import packages
from lab.channel import STANDIN, ChannelInfo, built, standin_version
from lab.mirror import CHANNEL_URL
from lab.packages import TIMESTAMP, Entry, read_tree
from lab.paths import LabError, fingerprint, locked

Say = Callable[[str], None]

NAME = "Labconda3"
_MARKER = "/opt/labconda3-not-installed-yet"
"""The prefix in the payload's text files. No package of ours has its prefix in a binary, where length would matter."""
_SPARE_KB = 50 * 1024
_GZIP_LEVEL = 6
_EXPLICIT_HEAD = """\
# This file may be used to create an environment using:
# $ conda create --name <env> --file <this file>
# platform: linux-64
@EXPLICIT
"""


@dataclass(frozen=True)
class InstallerInfo:
    """An installer on disk."""

    version: str
    file: Path
    sha256: str


@dataclass(frozen=True)
class _Plan:
    """What one installer holds."""

    version: str
    specs: tuple[str, ...]
    conda_version: str


def build_installers(cache: Path, channel: ChannelInfo, say: Say) -> list[InstallerInfo]:
    """Two installers, oldest first, built if their inputs changed since the last call.

    The second has a newer stand-in conda, requests and six.
    """
    plans = _plans(channel)
    sources = [Path(__file__), Path(packages.__file__), Path(lab_channel.__file__)]
    sources += [STANDIN / "installer" / name for name in ("header.sh", "finish.py")]
    key = fingerprint(channel.directory.name, repr(plans), CHANNEL_URL, *sources)

    def make(folder: Path, scratch: Path) -> None:
        say(f"making the installers {', '.join(f'{NAME} {plan.version}' for plan in plans)}")
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda plan: _write_installer(folder, plan, channel, scratch / plan.version), plans))

    with locked(cache / "installers.lock", lambda: say("waiting for another build of the installers")):
        directory = built(cache / "installers", key, make)
    files = [(plan, directory / _file_name(plan)) for plan in plans]
    return [InstallerInfo(plan.version, file, Path(f"{file}.sha256").read_text().strip()) for plan, file in files]


def _plans(channel: ChannelInfo) -> list[_Plan]:
    tag = "py" + "".join(channel.python.split(".")[:2])
    common = (f"python={channel.python}", "pip", "py-rattler", "pyyaml")
    older = ("requests=2.32.5", "six=1.16.0")
    return [
        _Plan(f"{tag}_1.0-1", (*common, *older, f"conda={standin_version(1)}"), "26.7.1+lab.1"),
        _Plan(f"{tag}_1.1-1", (*common, "requests", "six", f"conda={standin_version(2)}"), "26.7.1+lab.2"),
    ]


def _file_name(plan: _Plan) -> str:
    return f"{NAME}-{plan.version}-Linux-x86_64.sh"


def _write_installer(folder: Path, plan: _Plan, channel: ChannelInfo, work: Path) -> None:
    prefix = work / "prefix"
    _make_prefix(prefix, plan, channel, work / "pkgs")
    # rattler marks what it makes as a cache, which backups may then leave out.
    (prefix / "CACHEDIR.TAG").unlink(missing_ok=True)
    records = {path.stem: json.loads(path.read_text()) for path in (prefix / "conda-meta").glob("*.json")}
    _compile(prefix, records)
    entries = [entry for entry in read_tree(prefix) if not entry.path.startswith("conda-meta/")]
    for dist, record in records.items():
        _publish_record(record, channel)
        entries.append(Entry(f"conda-meta/{dist}.json", json.dumps(record, indent=2).encode()))
    explicit = "".join(f"{record['url']}#{record['md5']}\n" for record in _in_order(records))
    entries.append(Entry("conda-meta/initial-state.explicit.txt", (_EXPLICIT_HEAD + explicit).encode()))
    manifest = {
        "conda_version": plan.conda_version,
        "installer_info": {"name": NAME, "version": plan.version, "platform": "linux-64", "type": "sh"},
        "marker": _MARKER,
        "packages": sorted(records),
        "specs": list(plan.specs),
    }
    entries.append(Entry("install_tmp/manifest.json", json.dumps(manifest).encode()))
    entries.append(Entry("install_tmp/finish.py", (STANDIN / "installer" / "finish.py").read_bytes()))
    payload = _tar_gz(sorted(entries, key=lambda entry: entry.path))
    size_kb = sum(len(entry.data) for entry in entries) // 1024 + _SPARE_KB
    file = folder / _file_name(plan)
    content = _header(plan, channel, records, payload, size_kb) + payload
    file.write_bytes(content)
    file.chmod(0o755)
    Path(f"{file}.sha256").write_text(hashlib.sha256(content).hexdigest() + "\n")


def _make_prefix(prefix: Path, plan: _Plan, channel: ChannelInfo, pkgs: Path) -> None:
    """Install the packages into `prefix`, in a child process: rattler's runtime can bring its process down at exit."""
    job = {"prefix": str(prefix), "pkgs": str(pkgs), "channel": channel.directory.as_uri(), "specs": plan.specs}
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-m", "lab.installer"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        check=False,
    )
    if done.returncode:
        raise LabError(f"cannot make the base environment of {NAME} {plan.version}: {done.stderr.strip()}")


async def _install(job: dict[str, Any]) -> None:
    """The work of the child process."""
    import rattler

    specs = [rattler.MatchSpec(spec) for spec in job["specs"]]
    records = await rattler.solve(
        [job["channel"]],
        specs,
        platforms=["linux-64", "noarch"],
        virtual_packages=rattler.VirtualPackage.detect(),
    )
    await rattler.install(
        records,
        target_prefix=job["prefix"],
        cache_dir=Path(job["pkgs"]),
        show_progress=False,
        alternative_target_prefix=_MARKER,
        requested_specs=[spec._match_spec for spec in specs],  # what 0.28 really takes
    )


def _compile(prefix: Path, records: dict[str, Any]) -> None:
    """Compile all modules, since users of a shared base cannot; but for those that the installer will still change.

    Unchecked: the payload's time stamps are not those of the sources.
    """
    options = ["-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash"]
    command = [str(prefix / "bin" / "python"), "-I", *options, str(prefix / "lib")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise LabError(f"cannot compile the modules of the base environment: {done.stdout.strip()[:500]}")
    for record in records.values():
        for entry in record["paths_data"]["paths"]:
            if "prefix_placeholder" in entry and entry["_path"].endswith(".py"):
                path = prefix / entry["_path"]
                for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
                    compiled.unlink()


def _publish_record(record: dict[str, Any], channel: ChannelInfo) -> None:
    """Let the record name the channel where nodes find it, and check what the installer relies on."""
    here = channel.directory.as_uri()
    for field in ("url", "channel"):
        record[field] = record[field].replace(here, CHANNEL_URL).rstrip("/")
    if any(entry.get("file_mode") == "binary" for entry in record["paths_data"]["paths"]):
        raise LabError(f"the package {record['name']} has its prefix in a binary file; the installer cannot change it")


def _in_order(records: dict[str, Any]) -> list[dict[str, Any]]:
    """The records with python first, as conda lists what others need before them."""
    return sorted(records.values(), key=lambda record: (record["name"] != "python", record["name"]))


def _tar_gz(entries: list[Entry]) -> bytes:
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=_GZIP_LEVEL, mtime=TIMESTAMP) as packed:
        packed.write(packages.tar(entries))
    return buffer.getvalue()


def _header(plan: _Plan, channel: ChannelInfo, records: dict[str, Any], payload: bytes, size_kb: int) -> bytes:
    python = next(record for record in records.values() if record["name"] == "python")
    glibc = next(spec for spec in python["depends"] if spec.startswith("__glibc"))
    values = {
        "FILE": _file_name(plan),
        "PYTHON": channel.python,
        "VERSION": plan.version,
        "SHA256": hashlib.sha256(payload).hexdigest(),
        "SIZE_KB": str(size_kb),
        "GLIBC_MINOR": glibc.rpartition(".")[2],
    }
    text = (STANDIN / "installer" / "header.sh").read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    # The mark is as wide as the comment-padded number that takes its place, so the size stays what it was.
    mark = "@HEADER_BYTES@"
    return text.replace(mark, f"{len(text.encode())} #".ljust(len(mark), ".")).encode()


if __name__ == "__main__":
    asyncio.run(_install(json.load(sys.stdin)))
    os._exit(0)
