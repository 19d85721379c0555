"""A stand-in for JAX's CUDA plugin, made by the lab of envfleet.gpu_cluster. It computes nothing."""

from __future__ import annotations

__version__ = "@VERSION@"
