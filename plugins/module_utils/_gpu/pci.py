# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""NVIDIA's devices on the PCI bus, as sysfs shows them. It needs neither lspci nor a driver."""

from __future__ import annotations

import contextlib
import os
import typing as t

from .architectures import architecture, can_be_divided

DEVICES = "sys/bus/pci/devices"
#: The driver that gives a device to a virtual machine.
GIVEN_AWAY = "vfio-pci"

_NVIDIA = "0x10de"
_MELLANOX = "0x15b3"
# By the first four digits of the class. NVIDIA makes no "other bridge" but NVSwitches (GA100: 1af1, GH100: 22a3).
_KINDS = {"0x0300": "gpu", "0x0302": "gpu", "0x0680": "nvswitch", "0x0604": "bridge"}
# What the vital product data of the ConnectX devices says through which NVSwitches of NVLink 5 are managed, where the
# switches are in the node itself (https://github.com/NVIDIA/gpu-operator/issues/2781).
_SWITCH_MANAGEMENT = b"SW_MNG"
_VPD_BYTES = 4096


def devices(root: str = "/") -> list[dict[str, t.Any]]:
    """All devices of NVIDIA by address, each as node_facts returns it. Of other devices the vendor alone is read."""
    found = []
    for address in _addresses(root):
        place = os.path.join(root, DEVICES, address)
        if _read(place, "vendor") != _NVIDIA:
            continue
        device, pci_class = _read(place, "device"), _read(place, "class")
        kind = _KINDS.get(pci_class[:6], "other")
        number = int(device, 16) if kind == "gpu" and device else 0
        driver = ""
        with contextlib.suppress(OSError):
            driver = os.path.basename(os.readlink(os.path.join(place, "driver")))
        found.append(
            {
                "address": address,
                "vendor": _NVIDIA,
                "device": device,
                "class": pci_class,
                "kind": kind,
                "architecture": architecture(number),
                "mig": can_be_divided(number),
                "driver": driver,
            }
        )
    return found


def manages_nvlink_switches(root: str = "/") -> bool:
    """Is there a ConnectX device through which NVSwitches of this node are managed, as on boards with NVLink 5?

    Nodes whose NVSwitches are elsewhere, as those of GB200 NVL72, have none.
    """
    for address in _addresses(root):
        place = os.path.join(root, DEVICES, address)
        if _read(place, "vendor") == _MELLANOX:
            with contextlib.suppress(OSError), open(os.path.join(place, "vpd"), "rb") as stream:
                if _SWITCH_MANAGEMENT in stream.read(_VPD_BYTES):
                    return True
    return False


def _addresses(root: str) -> list[str]:
    try:
        return sorted(os.listdir(os.path.join(root, DEVICES)))
    except OSError:
        return []


def _read(place: str, name: str) -> str:
    """What a file of a device says, or nothing where the device goes away meanwhile."""
    try:
        with open(os.path.join(place, name), encoding="utf-8", errors="replace") as stream:
            return stream.read().strip()
    except OSError:
        return ""
