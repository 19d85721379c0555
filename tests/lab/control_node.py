"""What nodes in the lab install with pip for a program of ours: the lab's mirror serves it, pinned."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lab import mirror
from lab.paths import Cache, LabError, fingerprint, locked, publish_tree, scratch_directory

CONTROL, SITE_MIRROR = "control", "mirror"
"""For whom: the role drift_schedule, and the role channel_mirror. requirements-NAME.txt has the pins."""

# Of the C library that the oldest supported control node has, or older.
_PLATFORMS = ("manylinux_2_34_x86_64", "manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def pip_options(name: str) -> str:
    """What makes pip on a node find them, and nothing else."""
    return f"--no-index --find-links {mirror.URL}/{name}-node/ --trusted-host {mirror.CONTAINER}"


PIP_OPTIONS = pip_options(CONTROL)


def publish_packages(cache: Cache, python: str, name: str = CONTROL) -> None:
    """Have the mirror serve the pinned wheels for a Python such as "3.11", from where pip is set up to look."""
    requirements = Path(__file__).with_name(f"requirements-{name}.txt")
    key = fingerprint(python, requirements)
    with locked(cache.root / "lab.lock"):
        parent = cache.root / f"{name}-node"
        folder = parent / key
        if not folder.is_dir():
            with scratch_directory(parent) as scratch:
                _download(python, requirements, scratch / "wheels")
                (scratch / "wheels").rename(folder)
        publish_tree(cache.www, f"{name}-node", key, folder)


def _download(python: str, requirements: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--python-version", python, *(f"--platform={platform}" for platform in _PLATFORMS)]
    command += ["--require-hashes", "--requirement", str(requirements), "--dest", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()[
            -3:
        ]
        raise LabError(f"pip cannot fetch the wheels that {requirements.name} pins: {' '.join(errors)}")
