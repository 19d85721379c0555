# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keeps a Python that was started through an environment's name in the generation that the name led to then.

Python takes its prefix from the path it was called by, so what a running job imports after a switch would come from the
new generation. Every Python of a generation imports this at its start, under the name _envfleet_pin.
"""

from __future__ import annotations

import os
import sys


def pin() -> None:
    """Put the generation in the place of the name wherever this process would look for code."""
    name = sys.base_prefix
    # Where the running binary is, and not where the name leads by now: a switch may have come in between.
    generation = os.path.dirname(os.path.dirname(os.path.realpath("/proc/self/exe")))
    # Without records it is another program, with a Python inside.
    if name == generation or not os.path.isdir(os.path.join(generation, "conda-meta")):
        return

    def moved(path: str) -> str:
        return generation + path[len(name) :] if path == name or path.startswith(name + os.sep) else path

    for attribute in ("prefix", "exec_prefix", "base_prefix", "base_exec_prefix", "executable", "_base_executable"):
        setattr(sys, attribute, moved(getattr(sys, attribute)))
    folders = [sys.path, getattr(sys.modules.get("site"), "PREFIXES", [])]
    # What is imported already would find its own parts through the name.
    folders += [getattr(module, "__path__", None) for module in list(sys.modules.values())]
    for paths in folders:
        if isinstance(paths, list):
            paths[:] = [moved(path) for path in paths]


if __name__ == "_envfleet_pin":
    pin()
