# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Versions of NVIDIA's driver and of CUDA, which are numbers with dots and nothing else."""

from __future__ import annotations

import re

_NUMBERS = re.compile(r"[0-9]+(\.[0-9]+)*")


def parsed(version: str) -> tuple[int, ...]:
    """The numbers of *version*, to be compared: 535.54.03 is (535, 54, 3).

    Raises ValueError for anything else.
    """
    if not _NUMBERS.fullmatch(version):
        raise ValueError(f"{version!r} is no version: it must be numbers with dots, as 535.54.03")
    return tuple(int(number) for number in version.split("."))


def branch(version: str) -> int:
    """The driver's branch, the first number: 535 for 535.54.03."""
    return parsed(version)[0]


def upstream(package_version: str) -> str:
    """NVIDIA's version in a package's: 535.309.01 of 1:535.309.01-0+deb12u1; empty where there is none."""
    found = _NUMBERS.match(package_version.rpartition(":")[2])
    return found[0] if found else ""
