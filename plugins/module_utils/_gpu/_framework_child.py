# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The child process that computes on each GPU with a framework. It is run as source text by an environment's Python."""

from __future__ import annotations

import importlib
import json
import sys
import typing as t

_SIDE = 512


def torch(library: t.Any) -> list[float]:
    """The sum of the product of two matrices of ones, from each GPU."""
    sums = []
    for index in range(library.cuda.device_count() if library.cuda.is_available() else 0):
        ones = library.ones(_SIDE, _SIDE, device=f"cuda:{index}")
        sums.append(float((ones @ ones).sum().item()))
    return sums


def tensorflow(library: t.Any) -> list[float]:
    """As torch()."""
    sums = []
    for index in range(len(library.config.list_physical_devices("GPU"))):
        with library.device(f"/GPU:{index}"):
            ones = library.ones((_SIDE, _SIDE))
            sums.append(float(library.reduce_sum(library.matmul(ones, ones)).numpy()))
    return sums


def jax(library: t.Any) -> list[float]:
    """As torch()."""
    if library.default_backend() == "cpu":
        return []
    sums = []
    for device in library.local_devices():
        ones = library.device_put(library.numpy.ones((_SIDE, _SIDE)), device)
        sums.append(float((ones @ ones).sum()))
    return sums


def compute() -> dict[str, t.Any]:
    """Compute with the first framework that is there."""
    for name, use in (("torch", torch), ("tensorflow", tensorflow), ("jax", jax)):
        try:
            library = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name == name:
                continue
            return {"error": f"{name} cannot be imported: {error}"}
        except Exception as error:  # pylint: disable=broad-except  # whatever a framework raises is the answer
            return {"error": f"{name} cannot be imported: {error}"}
        found = {"framework": name, "version": str(library.__version__), "devices": 0}
        try:
            sums = use(library)
        except Exception as error:  # pylint: disable=broad-except
            return {**found, "error": f"{name} fails on a GPU: {error}"}
        if any(one != float(_SIDE**3) for one in sums):
            return {**found, "error": f"{name} computed something wrong: {sums}"}
        return {**found, "devices": len(sums)}
    return {"error": "there is no torch, tensorflow or jax"}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(compute()) + "\n")
