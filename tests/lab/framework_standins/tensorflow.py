"""A stand-in for TensorFlow, made by the lab of envfleet.gpu_cluster. It computes nothing."""

from __future__ import annotations

from types import SimpleNamespace

__version__ = "@VERSION@"
sysconfig = SimpleNamespace(
    get_build_info=lambda: {"cuda_version": "@CUDA@", "cudnn_version": "8", "is_cuda_build": bool("@CUDA@")}
)
config = SimpleNamespace(list_physical_devices=lambda device_type: [])


def lab_standin() -> str:
    """What this is."""
    return str(__doc__)
