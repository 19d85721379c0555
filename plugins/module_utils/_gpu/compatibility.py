# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which CUDA a driver runs, as NVIDIA has published it. Pure: it asks nobody."""

from __future__ import annotations

import dataclasses
import typing as t

from .versions import branch, parsed

COMPATIBLE = "compatible"
PTX = "ptx"  #: runs, but code that the driver would have to compile while it runs may fail
INCOMPATIBLE = "incompatible"
_ORDER = (COMPATIBLE, PTX, INCOMPATIBLE)


class Toolkit(t.NamedTuple):
    """A release of CUDA and the oldest driver for Linux that NVIDIA names for it."""

    version: str  #: with the update as its third number: 12.4.1 is 12.4 Update 1
    driver: str
    source: str


# docs.nvidia.com/cuda/archive/11.0_GA/cuda-toolkit-release-notes, table CUDA Toolkit and Compatible Driver Versions
_NOTES_11_0 = "CUDA 11.0 release notes"
# docs.nvidia.com/cuda/cuda-toolkit-release-notes of December 2025, table CUDA Toolkit and Corresponding Driver Versions
_NOTES_13_1 = "CUDA 13.1 release notes"
_NOTES_13_2 = "CUDA 13.2 release notes, as others cite them"
# No published minimum, but what a distribution of clusters ships with this CUDA: the minimum may be lower.
_PAIRED = "stackhpc/ansible-slurm-appliance#1015 and #1033"

# The page speaks of x86_64. NVIDIA's installers for arm64-sbsa, which began with 11.0, name the same drivers
# (cuda_11.6.0_510.39.01_linux_sbsa.run, cuda_13.1.0_590.44.01_linux_sbsa.run).
TOOLKITS = (
    Toolkit("7.0.0", "346.46", _NOTES_11_0),
    Toolkit("7.5.0", "352.31", _NOTES_11_0),
    Toolkit("8.0.0", "367.48", _NOTES_11_0),
    Toolkit("8.0.1", "375.26", _NOTES_11_0),
    Toolkit("9.0.0", "384.81", _NOTES_11_0),
    Toolkit("9.1.0", "390.46", _NOTES_11_0),
    Toolkit("9.2.0", "396.26", _NOTES_11_0),
    Toolkit("9.2.1", "396.37", _NOTES_11_0),
    Toolkit("10.0.0", "410.48", _NOTES_11_0),
    Toolkit("10.1.0", "418.39", _NOTES_11_0),
    Toolkit("10.2.0", "440.33", _NOTES_11_0),
    Toolkit("11.0.2", "450.51.05", _NOTES_13_1),  # the first 11.0 that was no candidate
    Toolkit("11.0.3", "450.51.06", _NOTES_13_1),
    Toolkit("11.1.0", "455.23", _NOTES_13_1),
    Toolkit("11.1.1", "455.32", _NOTES_13_1),
    Toolkit("11.2.0", "460.27.03", _NOTES_13_1),
    Toolkit("11.2.1", "460.32.03", _NOTES_13_1),
    Toolkit("11.2.2", "460.32.03", _NOTES_13_1),
    Toolkit("11.3.0", "465.19.01", _NOTES_13_1),
    Toolkit("11.3.1", "465.19.01", _NOTES_13_1),
    Toolkit("11.4.0", "470.42.01", _NOTES_13_1),
    Toolkit("11.4.1", "470.57.02", _NOTES_13_1),
    Toolkit("11.4.2", "470.57.02", _NOTES_13_1),
    Toolkit("11.4.3", "470.82.01", _NOTES_13_1),
    Toolkit("11.4.4", "470.82.01", _NOTES_13_1),
    Toolkit("11.5.0", "495.29.05", _NOTES_13_1),
    Toolkit("11.5.1", "495.29.05", _NOTES_13_1),
    Toolkit("11.5.2", "495.29.05", _NOTES_13_1),
    Toolkit("11.6.0", "510.39.01", _NOTES_13_1),
    Toolkit("11.6.1", "510.47.03", _NOTES_13_1),
    Toolkit("11.6.2", "510.47.03", _NOTES_13_1),
    Toolkit("11.7.0", "515.43.04", _NOTES_13_1),
    Toolkit("11.7.1", "515.48.07", _NOTES_13_1),
    Toolkit("11.8.0", "520.61.05", _NOTES_13_1),
    Toolkit("12.0.0", "525.60.13", _NOTES_13_1),
    Toolkit("12.0.1", "525.85.12", _NOTES_13_1),
    Toolkit("12.1.0", "530.30.02", _NOTES_13_1),
    Toolkit("12.1.1", "530.30.02", _NOTES_13_1),
    Toolkit("12.2.0", "535.54.03", _NOTES_13_1),
    Toolkit("12.2.1", "535.86.09", _NOTES_13_1),
    Toolkit("12.2.2", "535.104.05", _NOTES_13_1),
    Toolkit("12.3.0", "545.23.06", _NOTES_13_1),
    Toolkit("12.3.1", "545.23.08", _NOTES_13_1),
    Toolkit("12.4.0", "550.54.14", _NOTES_13_1),
    Toolkit("12.4.1", "550.54.15", _NOTES_13_1),
    Toolkit("12.5.0", "555.42.02", _NOTES_13_1),
    Toolkit("12.5.1", "555.42.06", _NOTES_13_1),
    Toolkit("12.6.0", "560.28.03", _NOTES_13_1),
    Toolkit("12.6.1", "560.35.03", _NOTES_13_1),
    Toolkit("12.6.2", "560.35.03", _NOTES_13_1),
    Toolkit("12.6.3", "560.35.05", _NOTES_13_1),
    # There was no 12.7.
    Toolkit("12.8.0", "570.26", _NOTES_13_1),
    Toolkit("12.8.1", "570.124.06", _NOTES_13_1),
    Toolkit("12.9.0", "575.51.03", _NOTES_13_1),
    Toolkit("12.9.1", "575.57.08", _NOTES_13_1),
    Toolkit("13.0.0", "580.65.06", _NOTES_13_1),
    Toolkit("13.0.1", "580.82.07", _NOTES_13_1),
    Toolkit("13.0.2", "580.95.05", _NOTES_13_1),
    Toolkit("13.1.0", "590.44.01", _NOTES_13_1),
    Toolkit("13.1.1", "590.48.01", _NOTES_13_2),
    Toolkit("13.2.0", "595.45.04", _NOTES_13_2),
    Toolkit("13.2.1", "595.58.03", _NOTES_13_2),
    Toolkit("13.3.1", "610.57.04", _PAIRED),
    Toolkit("13.4.1", "615.71.09", _PAIRED),
)

#: Minor-version compatibility: the oldest driver that runs anything of a major version. Before 11 there is none.
# docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html, with the numbers of the release notes
FLOORS = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}

# The first CUDA that made code which these GPUs run as it is, and not only PTX, which the driver has to compile. Code
# for one runs on later ones with the same first number of the compute capability: Volta's on Turing, Ampere's on Ada.
# docs.nvidia.com/cuda/{volta,turing,ampere,ada,hopper,blackwell}-compatibility-guide
_FIRST = {
    "pascal": "8.0",
    "volta": "9.0",
    "turing": "9.0",
    "ampere": "11.0",
    "ada": "11.0",
    "hopper": "11.8",
    "blackwell": "12.8",
}
# The last major version that has anything for these GPUs. Kepler needs no line: its last driver, 470, runs no CUDA 12.
# CUDA 13.0 release notes, deprecated and dropped features
_LAST_MAJOR = {"maxwell": 12, "pascal": 12, "volta": 12}


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What comes of a CUDA on a driver or a GPU."""

    verdict: str  #: compatible, ptx or incompatible
    reason: str


def worst(judgements: t.Iterable[Judgement]) -> Judgement:
    """The one that decides; of equal ones the first."""
    return max(judgements, key=lambda judgement: _ORDER.index(judgement.verdict))


def own_driver(cuda: str) -> str:
    """The driver that came with *cuda*, such as 12.4 or 12.4.1, or empty if that is newer than all that is known here.

    A version that never was is taken for the next.
    """
    return next((toolkit.driver for toolkit in TOOLKITS if parsed(toolkit.version) >= parsed(cuda)), "")


def cuda_of(driver: str) -> str:
    """The newest CUDA that *driver* knows itself, which conda calls __cuda, as 12.4; empty below the oldest known."""
    known = [toolkit.version for toolkit in TOOLKITS if parsed(toolkit.driver) <= parsed(driver)]
    return ".".join(known[-1].split(".")[:2]) if known else ""


def _is_newer_than_known(driver: str) -> bool:
    return parsed(driver) > parsed(TOOLKITS[-1].driver)


def of_driver(cuda: str, driver: str) -> Judgement:
    """Does *driver* run what was made with the toolkit *cuda*?"""
    own, floor = own_driver(cuda), FLOORS.get(branch(cuda), "")
    if own and parsed(driver) >= parsed(own):
        return Judgement(COMPATIBLE, f"driver {driver} is as new as CUDA {cuda}")
    if floor and parsed(driver) >= parsed(floor):
        came = f"came with driver {own}" if own else "is newer than what is known here"
        text = f"driver {driver} runs CUDA {branch(cuda)}, but {cuda} {came}"
        return Judgement(PTX, f"{text}: what must be compiled at run time may fail")
    if not own and not floor and _is_newer_than_known(driver):
        return Judgement(PTX, f"CUDA {cuda} and driver {driver} are newer than what is known here")
    oldest = min(filter(None, (own, floor)), key=parsed, default="")
    needed = f"{oldest} or newer" if oldest else f"one newer than {TOOLKITS[-1].driver}"
    return Judgement(INCOMPATIBLE, f"CUDA {cuda} does not run with driver {driver}: it needs {needed}")


def of_bound(cuda: str, driver: str) -> Judgement:
    """Does *driver* itself know *cuda*, as a package may demand by __cuda? Here no compatibility of versions counts."""
    known = cuda_of(driver)
    if known and parsed(known) >= parsed(cuda)[:2]:
        return Judgement(COMPATIBLE, f"driver {driver} knows CUDA {known}")
    if _is_newer_than_known(driver):
        return Judgement(PTX, f"whether driver {driver} knows CUDA {cuda} is not known here")
    own = own_driver(cuda)
    needed = f"{own} or newer" if own else f"one newer than {TOOLKITS[-1].driver}"
    text = f"driver {driver} knows CUDA {known}" if known else f"driver {driver} is older than all that is known here"
    return Judgement(INCOMPATIBLE, f"{text}, and one is demanded that knows {cuda}: it takes {needed}")


def of_architecture(cuda: str, architecture: str) -> Judgement:
    """Do GPUs of *architecture*, such as hopper, run what was made with the toolkit *cuda*? One not known here does."""
    last, first = _LAST_MAJOR.get(architecture), _FIRST.get(architecture)
    if last and branch(cuda) > last:
        return Judgement(INCOMPATIBLE, f"CUDA {cuda} has nothing for {architecture.title()}: the last was CUDA {last}")
    # A major version alone may stand for any of its releases.
    if first and parsed(cuda) < parsed(first)[: len(parsed(cuda))]:
        text = f"CUDA {cuda} is older than {architecture.title()}, which {first} began with: only what has PTX runs"
        return Judgement(PTX, text)
    return Judgement(COMPATIBLE, f"CUDA {cuda} knows {architecture.title() or 'the GPUs'}")
