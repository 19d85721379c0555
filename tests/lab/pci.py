"""GPUs that a node sees on its PCI bus: a list of devices, written as the kernel shows one in sysfs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lab.paths import Cache, LabError, fingerprint, scratch_directory

LISTS = Path(__file__).with_name("pci")
DEVICES = "/sys/bus/pci/devices"
_BRIDGE = 0x0604
_RESOURCES = {False: 13, True: 17}
"""How many lines the kernel writes, for a device and for a bridge."""


@dataclass(frozen=True)
class Device:
    """A PCI device. The numbers are as `lspci -n` prints them: hexadecimal, without a prefix."""

    address: str
    id: str
    """Vendor and device, with a colon."""
    type: str
    """The class, six digits."""
    subsystem: str = "0000:0000"
    revision: str = "00"
    driver: str = ""
    """The driver that it is bound to, if any."""
    vpd: str = ""
    """Its vital product data, if any."""

    @property
    def is_bridge(self) -> bool:
        return int(self.type, 16) >> 8 == _BRIDGE


def read_list(path: Path) -> list[Device]:
    """The devices of a list: entries with `at`, their addresses, and else the fields of Device."""
    try:
        return [device for entry in yaml.safe_load(path.read_text()) for device in _devices(entry)]
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise LabError(f"{path}: no list of PCI devices: {error!r}") from error


def _devices(entry: Mapping[str, Any]) -> Iterator[Device]:
    fields = {name: str(value) for name, value in entry.items() if name != "at"}
    for address in entry["at"]:
        device = Device(str(address), **fields)
        config_space(device)  # every number must be one
        yield device


def config_space(device: Device) -> bytes:
    """The standard header of the device's configuration space, and nothing behind it."""

    def numbers(pair: str) -> bytes:
        vendor, _colon, number = pair.partition(":")
        return int(vendor, 16).to_bytes(2, "little") + int(number, 16).to_bytes(2, "little")

    space = bytearray(256)
    space[0x00:0x04] = numbers(device.id)
    space[0x08] = int(device.revision, 16)
    space[0x09:0x0C] = int(device.type, 16).to_bytes(3, "little")
    space[0x0E] = 1 if device.is_bridge else 0
    if not device.is_bridge:
        space[0x2C:0x30] = numbers(device.subsystem)
    return bytes(space)


def write_tree(directory: Path, devices: Sequence[Device]) -> None:
    """Make `directory` look as /sys/bus/pci/devices does where these are all the devices."""
    directory.mkdir()
    for device in devices:
        vendor, number = device.id.split(":")
        subsystem_vendor, subsystem = device.subsystem.split(":")
        place = directory / device.address
        place.mkdir()
        for name, text in {
            "vendor": f"0x{vendor}",
            "device": f"0x{number}",
            "class": f"0x{device.type}",
            "subsystem_vendor": f"0x{subsystem_vendor}",
            "subsystem_device": f"0x{subsystem}",
            "revision": f"0x{device.revision}",
            "irq": "0",
            "resource": "\n".join(["0x0000000000000000 " * 2 + "0x0000000000000000"] * _RESOURCES[device.is_bridge]),
        }.items():
            (place / name).write_text(f"{text}\n")
        (place / "config").write_bytes(config_space(device))
        if device.vpd:
            (place / "vpd").write_text(device.vpd)
        if device.driver:
            (place / "driver").symlink_to(f"../../../bus/pci/drivers/{device.driver}")


def tree(cache: Cache, name: str) -> Path:
    """The directory in the cache that stands for /sys/bus/pci/devices of a node with `lab_pci: NAME`."""
    source = LISTS / f"{name}.yml"
    if not source.is_file():
        known = ", ".join(sorted(path.stem for path in LISTS.glob("*.yml")))
        raise LabError(f"lab_pci: there is no {source}; it is one of {known}")
    place = cache.root / "pci" / f"{name}-{fingerprint(source, Path(__file__))}"
    if not place.is_dir():
        with scratch_directory(cache.root / "pci") as scratch:
            write_tree(scratch / "tree", read_list(source))
            (scratch / "tree").rename(place)
    return place
