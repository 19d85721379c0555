"""What all unit tests share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the checkout, which is the root of the collection."""
    return Path(__file__).resolve().parent.parent.parent
