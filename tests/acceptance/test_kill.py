"""A short version of kill.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_killed_runs_lose_nothing() -> None:
    script = Path(__file__).with_name("kill.py")
    subprocess.run([sys.executable, script, "--rounds", "1", "--seed", "7"], check=True, timeout=900)
