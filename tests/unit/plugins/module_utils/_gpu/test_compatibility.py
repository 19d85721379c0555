"""NVIDIA's table of CUDA and drivers, row by row, and what lies between the rows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._gpu import compatibility
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._gpu.compatibility import (
    FLOORS,
    TOOLKITS,
    Toolkit,
    of_architecture,
    of_bound,
    of_driver,
    own_driver,
)
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._gpu.versions import parsed

PUBLISHED = Path(__file__).with_name("published_drivers.txt")
COMPATIBLE, PTX, INCOMPATIBLE = "compatible", "ptx", "incompatible"


def below(driver: str) -> str:
    """The driver before *driver*."""
    *numbers, last = parsed(driver)
    if last:
        return ".".join(map(str, (*numbers, last - 1)))
    return below(".".join(map(str, numbers))) + ".99"


def above(driver: str) -> str:
    """A driver of the same branch after *driver*."""
    *numbers, last = parsed(driver)
    return ".".join(map(str, (*numbers, last + 1)))


@pytest.mark.parametrize("row", TOOLKITS, ids=lambda row: row.version)
def test_every_row_of_the_table(row: Toolkit) -> None:
    assert row.source
    floor = FLOORS.get(parsed(row.version)[0])
    assert of_driver(row.version, row.driver).verdict == COMPATIBLE
    assert of_driver(row.version, above(row.driver)).verdict == COMPATIBLE
    older = below(row.driver)
    # Before CUDA 11, and below what CUDA 11, 12 and 13 began with, each needs a driver of its own.
    runs = floor is not None and parsed(older) >= parsed(floor)
    judgement = of_driver(row.version, older)
    assert judgement.verdict == (PTX if runs else INCOMPATIBLE)
    assert row.driver in judgement.reason or (floor or "none") in judgement.reason


def test_the_table_is_the_published_one() -> None:
    published = {}
    for label, update, driver in re.findall(r"^([\d.]+) (GA|Update \d) >=(\S+)$", PUBLISHED.read_text(), re.MULTILINE):
        number = label if label.count(".") == 2 else f"{label}.{0 if update == 'GA' else update.split()[1]}"
        published[number] = driver
    assert len(published) == 62
    # What nobody has published a minimum for is in no published table.
    ours = {row.version: row.driver for row in TOOLKITS if "#" not in row.source}
    assert ours == published


def test_the_rows_are_in_order() -> None:
    for column in ([parsed(row.version) for row in TOOLKITS], [parsed(row.driver) for row in TOOLKITS]):
        assert column == sorted(column)
    assert len({row.version for row in TOOLKITS}) == len(TOOLKITS)


@pytest.mark.parametrize(
    ("major", "last", "floor"), [(11, "11.8", "450.80.02"), (12, "12.9", "525.60.13"), (13, "13.4", "580.65.06")]
)
def test_within_a_major_version_the_first_driver_runs_the_last_toolkit(major: int, last: str, floor: str) -> None:
    assert FLOORS[major] == floor
    assert of_driver(last, floor).verdict == PTX
    assert of_driver(last, below(floor)).verdict == INCOMPATIBLE


@pytest.mark.parametrize(
    ("cuda", "driver", "verdict"),
    [
        # What the documents of NVIDIA name as examples, and what people meet.
        ("11.8", "580.95.05", COMPATIBLE),  # a driver runs all that came before it
        ("12.4", "535.129.03", PTX),
        ("12.4", "520.61.05", INCOMPATIBLE),  # the last of CUDA 11
        ("13.0", "575.57.08", INCOMPATIBLE),  # the last of CUDA 12
        ("12.9", "580.65.06", COMPATIBLE),
        ("10.2", "418.39", INCOMPATIBLE),  # 10.1's
        ("11.0", "450.51.05", COMPATIBLE),  # its own, though older than what all of 11 needs
        ("11.1", "450.51.05", INCOMPATIBLE),
        ("12.4.1", "550.54.14", PTX),
        ("12.4", "550.54.14", COMPATIBLE),
        ("12", "525.60.13", COMPATIBLE),
        ("12.7", "565.57.01", PTX),  # there was no such toolkit: as 12.8
        ("13.9", "615.71.09", PTX),
        ("13.9", "999.1", PTX),
        ("14.0", "615.71.09", INCOMPATIBLE),
        ("14.0", "999.1", PTX),
    ],
)
def test_drivers_between_the_rows(cuda: str, driver: str, verdict: str) -> None:
    assert of_driver(cuda, driver).verdict == verdict


@pytest.mark.parametrize(
    ("cuda", "driver", "verdict"),
    [
        ("12.2", "535.54.03", COMPATIBLE),
        ("12.2.140", "535.54.03", COMPATIBLE),
        ("12.4", "535.129.03", INCOMPATIBLE),  # no compatibility of versions where a package asks for the driver
        ("12", "525.60.13", COMPATIBLE),
        ("12", "520.61.05", INCOMPATIBLE),
        ("9.0", "340.108", INCOMPATIBLE),
        ("13.9", "615.71.09", INCOMPATIBLE),
        ("13.9", "700.1", PTX),
    ],
)
def test_what_a_package_demands_of_the_driver_itself(cuda: str, driver: str, verdict: str) -> None:
    assert of_bound(cuda, driver).verdict == verdict


@pytest.mark.parametrize(
    ("architecture", "cuda", "verdict"),
    [
        ("maxwell", "12.9", COMPATIBLE),
        ("maxwell", "13.0", INCOMPATIBLE),
        ("pascal", "7.5", PTX),
        ("pascal", "13.0", INCOMPATIBLE),
        ("volta", "9.0", COMPATIBLE),
        ("volta", "13.2.1", INCOMPATIBLE),
        ("turing", "9.0", COMPATIBLE),  # Volta's code
        ("turing", "13.0", COMPATIBLE),
        ("ampere", "10.2", PTX),
        ("ada", "11.7", COMPATIBLE),  # Ampere's code
        ("hopper", "11.7", PTX),
        ("hopper", "11.8.0", COMPATIBLE),
        ("hopper", "11", COMPATIBLE),  # no more is known than that it is some 11
        ("hopper", "10", PTX),
        ("blackwell", "12.6.3", PTX),
        ("blackwell", "12.8", COMPATIBLE),
        ("", "13.0", COMPATIBLE),
    ],
)
def test_toolkits_and_gpus(architecture: str, cuda: str, verdict: str) -> None:
    assert of_architecture(cuda, architecture).verdict == verdict


def test_the_newest_cuda_of_a_driver() -> None:
    known = {"340.108": "", "535.129.03": "12.2", "565.57.01": "12.6", "580.95.05": "13.0", "999.1": "13.4"}
    assert {driver: compatibility.cuda_of(driver) for driver in known} == known
    assert own_driver("14.0") == ""
