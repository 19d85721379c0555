"""Lock a spec against the lab's channel: solve on this machine, write URLs as the nodes see them.

As a program (``python -m lab.locks``) this is the solving child: a JSON request on its input, a JSON list of packages
on its output. It is a process of its own because the interpreter can die at exit after py-rattler has worked.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lab import mirror
from lab.paths import LabError, fingerprint, write_text

Say = Callable[[str], None]

FORMATS = ("conda-lock", "explicit")
_PLATFORM = "linux-64"
_VIRTUAL_PACKAGES = (
    ("__unix", "0", "0"),
    ("__linux", "5.10", "0"),
    ("__glibc", "2.36", "0"),
    ("__archspec", "1", "x86_64"),
)
_SOLVE_SECONDS = 300


@dataclass(frozen=True)
class Spec:
    """What the lab understands of an environment.yml."""

    source: str
    """The file's name."""
    channels: tuple[str, ...]
    dependencies: tuple[str, ...]


def read_spec(path: Path) -> Spec:
    """The spec at `path`; LabError for anything that the lab's channel cannot serve."""
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise LabError(f"cannot read the spec {path}: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("dependencies"), list):
        raise LabError(f"{path}: `dependencies` is missing or no list")
    channels = tuple(str(channel).rstrip("/") for channel in content.get("channels") or [mirror.CHANNEL_URL])
    if others := set(channels) - {mirror.CHANNEL_URL, "nodefaults"}:
        raise LabError(f"{path}: channels {sorted(others)} are not the lab's: use {mirror.CHANNEL_URL}")
    if unknown := [entry for entry in content["dependencies"] if not isinstance(entry, str)]:
        raise LabError(f"{path}: dependencies: the lab locks conda packages only, not {unknown[0]!r}")
    return Spec(path.name, channels, tuple(content["dependencies"]))


def write_lock(spec_path: Path, output: Path, channel: mirror.Channel, form: str, say: Say) -> bool:
    """Write the lock of a spec unless it is up to date; say whether it was written."""
    spec = read_spec(spec_path)
    made_from = json.dumps([spec.dependencies, _VIRTUAL_PACKAGES, form])
    key = fingerprint(made_from, mirror.channel_key(channel), Path(__file__))
    # Both formats carry the key in their text.
    if output.exists() and key in output.read_text():
        return False
    say(f"locking {spec_path}")
    packages = solve(spec, channel.directory)
    return write_text(output, explicit(packages, key) if form == "explicit" else conda_lock(spec, packages, key))


def conda_lock(spec: Spec, packages: Sequence[Mapping[str, Any]], key: str) -> str:
    """The packages in the format of conda-lock.yml, version 1."""
    document = {
        "version": 1,
        "metadata": {
            "content_hash": {
                _PLATFORM: hashlib.sha256(json.dumps([spec.channels, spec.dependencies]).encode()).hexdigest()
            },
            "channels": [{"url": mirror.CHANNEL_URL, "used_env_vars": []}],
            "platforms": [_PLATFORM],
            "sources": [spec.source],
            "custom_metadata": {"lab_key": key},
        },
        "package": [
            {
                "name": package["name"],
                "version": package["version"],
                "manager": "conda",
                "platform": _PLATFORM,
                "dependencies": dict(depend.partition(" ")[::2] for depend in package["depends"]),
                "url": package["url"],
                "hash": {kind: package[kind] for kind in ("md5", "sha256") if package[kind]},
                "build": package["build"],
                "category": "main",
                "optional": False,
            }
            for package in packages
        ],
    }
    return "---\n" + yaml.safe_dump(document, sort_keys=False, width=1000)


def explicit(packages: Sequence[Mapping[str, Any]], key: str) -> str:
    """The packages as an @EXPLICIT list with sha256 hashes."""
    lines = [f"# platform: {_PLATFORM}", f"# lab key: {key}", "@EXPLICIT"]
    return "\n".join(lines + [f"{package['url']}#{package['sha256']}" for package in packages]) + "\n"


def solve(spec: Spec, channel: Path) -> list[dict[str, Any]]:
    """The packages that `spec` needs, by name, with URLs as the nodes see them."""
    with tempfile.TemporaryDirectory(prefix="envfleet-lab-solve-") as cache:
        request = {"channel": channel.as_uri(), "dependencies": spec.dependencies, "cache": cache}
        done = subprocess.run(
            [sys.executable, "-m", "lab.locks"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=_SOLVE_SECONDS,
            check=False,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        )
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"the solver ended with {done.returncode}"
        raise LabError(f"{spec.source}: {said[:1000]}")
    packages: list[dict[str, Any]] = json.loads(done.stdout)
    base = f"{channel.as_uri()}/"
    for package in packages:
        package["url"] = f"{mirror.CHANNEL_URL}/{package['url'].removeprefix(base)}"
    return packages


async def _solve(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    import rattler  # only the child loads it

    records = await rattler.solve(
        sources=[request["channel"]],
        # Strings would be parsed strictly, which refuses what environment.yml allows.
        specs=[rattler.MatchSpec(text) for text in request["dependencies"]],
        gateway=rattler.Gateway(cache_dir=request["cache"]),
        platforms=["linux-64", "noarch"],
        virtual_packages=[
            rattler.GenericVirtualPackage(
                rattler.PackageName(name), rattler.Version(version), rattler.BuildString(build)
            )
            for name, version, build in _VIRTUAL_PACKAGES
        ],
    )
    return [
        {
            "name": record.name.normalized,
            "version": str(record.version),
            "build": str(record.build),
            "depends": record.depends,
            "url": record.url,
            "md5": record.md5.hex() if record.md5 else "",
            "sha256": record.sha256.hex() if record.sha256 else "",
        }
        for record in sorted(records, key=lambda record: record.name.normalized)
    ]


def _child() -> int:
    try:
        packages = asyncio.run(_solve(json.load(sys.stdin)))
    except Exception as error:  # whatever it is, the parent prints it
        print(error, file=sys.stderr, flush=True)
        return 1
    print(json.dumps(packages), flush=True)
    return 0


if __name__ == "__main__":
    os._exit(_child())
