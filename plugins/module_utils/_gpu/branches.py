# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Branches of NVIDIA's driver: how long each is kept, and which GPUs it runs with which kernel module."""

from __future__ import annotations

import typing as t

OPEN, PROPRIETARY = "open", "proprietary"
FLAVOURS = (OPEN, PROPRIETARY)

# docs.nvidia.com/datacenter/tesla/drivers/NUMBER/supported-drivers-and-cuda-toolkit-versions.html
_TABLE_620 = "NVIDIA Data Center Drivers 620, table CUDA and Drivers (November 2026)"
_TABLE_615 = "NVIDIA Data Center Drivers 615, table CUDA and Drivers (September 2026)"
_TABLE_580 = "NVIDIA Data Center Drivers 580, table CUDA and Drivers (August 2025)"
# It names branches whose life has ended, without saying when. So the month is the one in which it did.
_NOTE_580 = "NVIDIA Data Center Drivers 580, note below the table CUDA and Drivers (August 2025)"


class Branch(t.NamedTuple):
    """A branch of the driver, named by the first number of its versions."""

    number: int
    kind: str  #: long-term, production, or new-feature
    end_of_life: str  #: the last month with updates from NVIDIA, as 2026-06; empty where none is published
    max_cuda: int  #: the newest major version of CUDA that it runs without the forward compatibility package
    source: str


BRANCHES = {
    one.number: one
    for one in (
        Branch(470, "long-term", "2024-07", 11, "commonly known; no page of NVIDIA was found that still says it"),
        Branch(525, "production", "2025-08", 12, _NOTE_580),
        Branch(535, "long-term", "2026-06", 12, _TABLE_615),
        Branch(550, "production", "2025-08", 12, _NOTE_580),
        Branch(570, "production", "2026-02", 12, _TABLE_580),
        Branch(575, "new-feature", "2025-08", 12, _NOTE_580),
        Branch(580, "long-term", "2028-06", 13, _TABLE_620),
        Branch(590, "new-feature", "", 13, "NVIDIA Driver Installation Guide 590 (December 2025)"),
        Branch(595, "production", "2027-03", 13, _TABLE_620),
        Branch(610, "new-feature", "2026-08", 13, _TABLE_615),
        Branch(615, "new-feature", "", 13, "NVIDIA Data Center Drivers 615 (September 2026)"),
        Branch(620, "long-term", "2029-09", 13, _TABLE_620),
    )
}


class Support(t.NamedTuple):
    """Which drivers run an architecture, as the first and the last branch of each flavour; 0: none, or no end yet."""

    first: int
    last: int
    first_open: int  #: 0: the open module does not know it
    proprietary: bool
    source: str


_MATRIX = "NVIDIA Data Center Drivers, table CUDA Toolkit, Driver, and Architecture Matrix"
# developer.nvidia.com, NVIDIA Transitions Fully Towards Open-Source GPU Kernel Modules (July 2024): Turing and newer
# run with the open module, older ones do not, Grace Hopper and Blackwell run with nothing else.
_TRANSITION = f"{_MATRIX}; NVIDIA Transitions Fully Towards Open-Source GPU Kernel Modules (2024)"

ARCHITECTURES = {
    "maxwell": Support(346, 580, 0, True, _TRANSITION),
    "pascal": Support(367, 580, 0, True, _TRANSITION),
    "volta": Support(384, 580, 0, True, _TRANSITION),
    "turing": Support(410, 0, 515, True, _TRANSITION),
    "ampere": Support(450, 0, 515, True, _TRANSITION),
    "ada": Support(520, 0, 520, True, _TRANSITION),
    "hopper": Support(525, 0, 525, True, _TRANSITION),
    "blackwell": Support(570, 0, 570, False, _TRANSITION),
}

#: From this branch on, NVIDIA's packages bring the open module unless something speaks against it.
#: Source: NVIDIA Transitions Fully Towards Open-Source GPU Kernel Modules (2024).
OPEN_BY_DEFAULT = 560
#: From this branch on there is no proprietary module.
#: Source: NVIDIA Driver Installation Guide 620, Proprietary Kernel Modules Removed (November 2026).
OPEN_ALONE = 620


def of(number: int) -> Branch:
    """The branch *number*. One that the table does not have is taken for the newest kind that it has."""
    newest = BRANCHES[max(BRANCHES)]
    return BRANCHES.get(number) or Branch(number, "unknown", "", newest.max_cuda if number > newest.number else 0, "")


def ended(number: int, today: str) -> bool:
    """Whether NVIDIA supplies no more updates for the branch on *today*, as 2026-11-23."""
    last = of(number).end_of_life
    return bool(last) and today[:7] > last


def alive(today: str) -> list[int]:
    """The branches with a promised life that goes on beyond *today*, the one that is kept longest first."""
    kept = [one for one in BRANCHES.values() if one.end_of_life and not ended(one.number, today)]
    return [one.number for one in sorted(kept, key=lambda one: one.end_of_life, reverse=True)]


def flavours(architecture: str, number: int, machine: str = "x86_64") -> list[str]:
    """The flavours of the kernel module that run *architecture* in this branch; none: the branch does not know it.

    Of an architecture that the table does not have nothing is known, so nothing is ruled out.
    """
    support = ARCHITECTURES.get(architecture)
    found = []
    if support is None or (support.first <= number and (not support.last or number <= support.last)):
        # A Hopper beside a processor of Arm is a Grace Hopper.
        coherent = architecture == "hopper" and machine == "aarch64"
        if support is None or (support.first_open and number >= support.first_open):
            found.append(OPEN)
        if number < OPEN_ALONE and (support is None or support.proprietary) and not coherent:
            found.append(PROPRIETARY)
    return found


def common_flavours(architectures: t.Iterable[str], number: int, machine: str = "x86_64") -> list[str]:
    """The flavours that run all of *architectures*, the one to be preferred first."""
    possible = set(FLAVOURS)
    for architecture in architectures:
        possible &= set(flavours(architecture, number, machine))
    preferred = FLAVOURS if number >= OPEN_BY_DEFAULT else FLAVOURS[::-1]
    return [flavour for flavour in preferred if flavour in possible]
