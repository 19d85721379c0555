"""What a control node in the lab is made from: the mirror serves the packages that the role drift_schedule installs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lab import mirror
from lab.paths import Cache, LabError, fingerprint, locked, publish_tree, scratch_directory

REQUIREMENTS = Path(__file__).with_name("requirements-control.txt")
"""The pins."""
PIP_OPTIONS = f"--no-index --find-links {mirror.URL}/control-node/ --trusted-host {mirror.CONTAINER}"
"""What makes pip on a node find them, and nothing else."""

# Of the C library that the oldest supported control node has, or older.
_PLATFORMS = ("manylinux_2_34_x86_64", "manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def publish_packages(cache: Cache, python: str) -> None:
    """Have the mirror serve the pinned wheels for a Python such as "3.11", from where pip is set up to look."""
    key = fingerprint(python, REQUIREMENTS)
    with locked(cache.root / "lab.lock"):
        parent = cache.root / "control-node"
        folder = parent / key
        if not folder.is_dir():
            with scratch_directory(parent) as scratch:
                _download(python, scratch / "wheels")
                (scratch / "wheels").rename(folder)
        publish_tree(cache.www, "control-node", key, folder)


def _download(python: str, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--python-version", python, *(f"--platform={platform}" for platform in _PLATFORMS)]
    command += ["--require-hashes", "--requirement", str(REQUIREMENTS), "--dest", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()[
            -3:
        ]
        raise LabError(f"pip cannot fetch the wheels that {REQUIREMENTS.name} pins: {' '.join(errors)}")
