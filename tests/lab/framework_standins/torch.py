"""A stand-in for PyTorch, made by the lab of envfleet.gpu_cluster. It computes nothing."""

from __future__ import annotations

from types import SimpleNamespace

__version__ = "@VERSION@"
_built_with = "@CUDA@"
version = SimpleNamespace(cuda=_built_with or None)
cuda = SimpleNamespace(is_available=lambda: False)


def lab_standin() -> str:
    """What this is."""
    return str(__doc__)
