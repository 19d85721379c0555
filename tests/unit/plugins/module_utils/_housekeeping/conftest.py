"""A home whose owner has environments."""

from __future__ import annotations

from pathlib import Path

import pytest

from unit.plugins.homes import Home


@pytest.fixture
def home(sandbox: Path) -> Home:
    """An empty one."""
    made = Home(sandbox)
    made.envs.mkdir(parents=True)
    made.own(made.home)
    return made
