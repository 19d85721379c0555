"""The gate between drivers and environments: locks on disk held against what a look tells of a node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.envfleet.gpu_cluster.plugins.filter.cuda_compat import cuda_compat, cuda_findings

CHANNEL = "https://conda.anaconda.org/conda-forge"
SITE: dict[str, Any] = {"channels": ["conda-forge"], "channel_alias": "https://conda.anaconda.org"}
LOCKS = {
    "torch": ["cuda-version-12.4-h3060b56_3", "pytorch-2.4.0-cuda124py310h2a58b20_0"],
    "legacy": ["cudatoolkit-11.8.0-h4ba93d1_13"],
    "forward": ["cuda-version-12.4-h3060b56_3", "cuda-compat-12.4.1-hbc23b4c_0"],
    "newest": ["cuda-version-13.0-hc6ae7f4_3"],
    "plain": ["six-1.16.0-pyh6c4a22f_0"],
}
ALL = [{"name": name, "lock": f"{name}.txt"} for name in LOCKS]


@pytest.fixture
def locks_dir(tmp_path: Path) -> str:
    for name, packages in LOCKS.items():
        urls = [f"{CHANNEL}/linux-64/{package}.conda#{'a' * 64}" for package in packages]
        (tmp_path / f"{name}.txt").write_text("\n".join(["@EXPLICIT", *urls, ""]))
    return str(tmp_path)


def node(driver: str = "", *architectures: str, pci_class: str = "0x030200", **gpu: Any) -> dict[str, Any]:
    """What the look tells of a node with a GPU of each of *architectures*."""
    devices = [{"kind": "gpu", "class": pci_class, "driver": "nvidia"} for _one in architectures]
    found = {
        "present": True,
        "devices": devices,
        "architectures": sorted(architectures),
        "user_space": driver,
        "module": {"loaded": ""},
    }
    return {"system": {"platform": "linux-64"}, "gpu": found | gpu}


def verdicts(locks_dir: str, of: dict[str, Any], driver: str = "") -> dict[str, str]:
    found = cuda_compat(ALL, of, driver, locks_dir=locks_dir, **SITE)
    return {one["environment"]: one["verdict"] for one in found}


COMPATIBLE, PTX, INCOMPATIBLE = "compatible", "ptx", "incompatible"


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (node("580.95.05", "hopper"), [COMPATIBLE, COMPATIBLE, COMPATIBLE, COMPATIBLE]),
        (node("535.129.03", "ampere"), [PTX, COMPATIBLE, PTX, INCOMPATIBLE]),
        (node("470.256.02", "ampere"), [INCOMPATIBLE, PTX, PTX, INCOMPATIBLE]),
        # A GPU for a screen does not take the libraries of a newer driver.
        (node("470.256.02", "ampere", pci_class="0x030000"), [INCOMPATIBLE, PTX, INCOMPATIBLE, INCOMPATIBLE]),
        # A driver that knows all of them, and GPUs that do not.
        (node("580.95.05", "volta"), [COMPATIBLE, COMPATIBLE, COMPATIBLE, INCOMPATIBLE]),
        (node("580.95.05", "blackwell"), [PTX, PTX, PTX, COMPATIBLE]),
        (node("580.95.05", "hopper", "volta"), [COMPATIBLE, COMPATIBLE, COMPATIBLE, INCOMPATIBLE]),
        # No file tells the version of the library, so the loaded module does.
        (node("", "ampere", module={"loaded": "535.129.03"}), [PTX, COMPATIBLE, PTX, INCOMPATIBLE]),
    ],
)
def test_verdicts(locks_dir: str, of: dict[str, Any], expected: list[str]) -> None:
    assert verdicts(locks_dir, of) == dict(zip(LOCKS, [*expected, COMPATIBLE], strict=True))


@pytest.mark.parametrize(
    "of",
    [
        {"system": {"platform": "linux-64"}},
        {"system": {"platform": "linux-64"}, "gpu": {"present": False}},
        node("", "ampere"),  # a GPU without a driver
    ],
)
def test_of_a_node_without_gpu_or_driver_nothing_is_said_and_no_lock_is_read(of: dict[str, Any]) -> None:
    assert cuda_compat(ALL, of, locks_dir="/nonexistent", **SITE) == []
    assert cuda_findings(of, ALL, "/nonexistent", SITE["channels"], SITE["channel_alias"]) == []


def test_before_a_driver_changes(locks_dir: str) -> None:
    of = node("535.129.03", "ampere")
    assert verdicts(locks_dir, of, "580.95.05")["newest"] == COMPATIBLE
    assert verdicts(locks_dir, of, "470.256.02")["torch"] == INCOMPATIBLE
    # Where none is installed yet, what is to come counts too.
    assert verdicts(locks_dir, node("", "ampere"), "470.256.02")["torch"] == INCOMPATIBLE
    with pytest.raises(AnsibleFilterError, match="driver: '580-server' is no version"):
        verdicts(locks_dir, of, "580-server")


def test_what_is_told(locks_dir: str) -> None:
    (found,) = cuda_compat(ALL[:1], node("470.256.02", "ampere"), locks_dir=locks_dir, **SITE)
    assert found == {
        "environment": "torch",
        "verdict": INCOMPATIBLE,
        "needs": "12.4",
        "driver": "470.256.02",
        "reason": "CUDA 12.4 does not run with driver 470.256.02: it needs 525.60.13 or newer; "
        "cuda-version 12.4 h3060b56_3 asks for it",
    }


@pytest.mark.parametrize(
    ("gate", "expected"),
    [
        ("error", {"torch": "error", "legacy": "warning", "forward": "warning", "newest": "error"}),
        ("warn", {"torch": "warning", "legacy": "warning", "forward": "warning", "newest": "warning"}),
        ("off", {}),
    ],
)
def test_findings(locks_dir: str, gate: str, expected: dict[str, str]) -> None:
    of = node("470.256.02", "ampere")
    found = cuda_findings(of, ALL, locks_dir, SITE["channels"], SITE["channel_alias"], gate=gate)
    assert {one["component"].removeprefix("environment "): one["severity"] for one in found} == expected
    assert {(one["subject"], one["fix"]) for one in found} <= {("CUDA", "human")}


def test_environments_that_are_to_go_or_are_for_other_platforms_do_not_count(locks_dir: str) -> None:
    of = node("470.256.02", "ampere")
    gone = [{"name": "torch", "state": "absent"}]
    assert cuda_compat(gone, of, locks_dir=locks_dir, **SITE) == []
    arm = of | {"system": {"platform": "linux-aarch64"}}
    assert cuda_compat(ALL, arm, locks_dir=locks_dir, **SITE) == []
