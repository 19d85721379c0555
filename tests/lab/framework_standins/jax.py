"""A stand-in for JAX, made by the lab of envfleet.gpu_cluster. It computes nothing."""

from __future__ import annotations

__version__ = "@VERSION@"


def default_backend() -> str:
    """The processor: nothing here could use another."""
    return "cpu"


def lab_standin() -> str:
    """What this is."""
    return str(__doc__)
