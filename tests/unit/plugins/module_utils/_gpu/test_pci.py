"""NVIDIA's devices on the PCI bus."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._gpu import pci

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Tree


@pytest.mark.parametrize(
    ("devices", "kinds", "architectures", "mig"),
    [
        ("v100", {"gpu": 4}, {"volta"}, {False}),
        ("a100", {"gpu": 2}, {"ampere"}, {True}),
        ("h100-hgx", {"gpu": 8, "nvswitch": 4}, {"hopper"}, {True}),
        ("rtx4090", {"gpu": 1, "other": 1}, {"ada"}, {False}),
        ("gb200", {"gpu": 4, "bridge": 4}, {"blackwell"}, {True}),
        ("b200-hgx", {"gpu": 8}, {"blackwell"}, {True}),
        ("passthrough", {"gpu": 1}, {"ampere"}, {True}),
        ("intel", {}, set(), set()),
    ],
)
def test_devices_are_told_apart(
    tree: Tree, devices: str, kinds: dict[str, int], architectures: set[str], mig: set[bool]
) -> None:
    found = pci.devices(str(tree(devices)))
    assert Counter(device["kind"] for device in found) == kinds
    gpus = [device for device in found if device["kind"] == "gpu"]
    assert {device["architecture"] for device in gpus} == architectures
    assert {device["mig"] for device in gpus} == mig
    others = [device for device in found if device["kind"] != "gpu"]
    assert {(device["architecture"], device["mig"]) for device in others} <= {("", False)}
    assert [device["address"] for device in found] == sorted(device["address"] for device in found)


def test_a_device_is_told_as_the_kernel_writes_it(tree: Tree) -> None:
    assert pci.devices(str(tree("passthrough"))) == [
        {
            "address": "0000:41:00.0",
            "vendor": "0x10de",
            "device": "0x20f1",
            "class": "0x030200",
            "kind": "gpu",
            "architecture": "ampere",
            "mig": True,
            "driver": "vfio-pci",
        }
    ]


@pytest.mark.parametrize(("devices", "manages"), [("b200-hgx", True), ("gb200", False), ("h100-hgx", False)])
def test_switches_of_nvlink_5_are_known_by_their_network_devices(tree: Tree, devices: str, manages: bool) -> None:
    assert pci.manages_nvlink_switches(str(tree(devices))) == manages


def test_a_node_without_a_pci_bus_has_no_devices(tmp_path: Path) -> None:
    assert pci.devices(str(tmp_path)) == []
    assert not pci.manages_nvlink_switches(str(tmp_path))


def test_a_device_that_goes_away_meanwhile_is_none(tree: Tree) -> None:
    root = tree("a100")
    (root / "sys/bus/pci/devices/0000:17:00.0/vendor").unlink()
    (root / "sys/bus/pci/devices/0000:ca:00.0/device").unlink()
    (found,) = pci.devices(str(root))
    assert (found["address"], found["device"], found["architecture"]) == ("0000:ca:00.0", "", "")
