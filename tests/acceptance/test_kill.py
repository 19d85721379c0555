"""Runs of kill.py: a short one, and the whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("rounds", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_runs_lose_nothing(rounds: int) -> None:
    script = Path(__file__).with_name("kill.py")
    subprocess.run([sys.executable, script, "--rounds", str(rounds), "--seed", "7"], check=True, timeout=300 * rounds)
