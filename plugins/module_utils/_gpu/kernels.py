# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kernels of a node, and which version of NVIDIA's module lies on disk for each, as files tell."""

from __future__ import annotations

import contextlib
import glob
import mmap
import os
import re
import struct
import typing as t

from .versions import upstream

# Where a kernel's modules of NVIDIA are when they are not from DKMS: Ubuntu's prebuilt ones, RHEL's, and what lost its
# entry in DKMS's tree. Compressed ones are not looked into.
_PREBUILT = ("kernel/nvidia-*", "extra/nvidia*", "extra/drivers/video/nvidia", "weak-updates/nvidia*", "updates/dkms")
_NAMES = ("nvidia.ko", "nvidia-current.ko")
_SAVED = re.compile(r"^saved_entry=(?:[0-9a-f]{32}-)?(?P<kernel>.+)$", re.MULTILINE)
_LINKS = 40


def resolved(root: str, path: str) -> str:
    """Where *path*, relative to *root*, leads to: absolute links lead to places below *root* too."""
    place = os.path.join(root, path)
    for _step in range(_LINKS):
        try:
            target = os.readlink(place)
        except OSError:
            break
        place = (
            os.path.join(root, target[1:]) if target.startswith("/") else os.path.join(os.path.dirname(place), target)
        )
    return place


def kernels(root: str) -> dict[str, t.Any]:
    """The running kernel, the one that will boot next, and those with headers to build modules against."""
    running = read(root, "proc/sys/kernel/osrelease")
    installed = _below(root, "lib/modules")
    return {
        "running": running,
        "next": _next(root) or running,
        "headers": [name for name in installed if os.path.isdir(resolved(root, f"lib/modules/{name}/build"))],
    }


def _next(root: str) -> str:
    """The kernel that the boot loader takes: the one that is saved as its default, else the newest."""
    bootable = [name[len("vmlinuz-") :] for name in _below(root, "boot") if name.startswith("vmlinuz-")]
    bootable = [name for name in bootable if "rescue" not in name]
    for place in ("boot/grub2/grubenv", "boot/grub/grubenv"):
        saved = _SAVED.search(read(root, place))
        if saved and saved["kernel"] in bootable:
            return saved["kernel"]
    return max(bootable, key=_natural, default="")


def _natural(name: str) -> list[tuple[int, str]]:
    """A key under which 6.1.0-9 comes before 6.1.0-40."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"\d+|\D+", name)]


def installed_modules(root: str) -> dict[str, str]:
    """The version of NVIDIA's module on disk, by kernel."""
    found: dict[str, str] = {}
    for kernel in _below(root, "lib/modules"):
        for directory in _PREBUILT:
            for name in _NAMES:
                for path in glob.glob(os.path.join(glob.escape(root), "lib/modules", kernel, directory, name)):
                    found.setdefault(kernel, module_version(path))
    # For what it has installed, DKMS keeps a link `kernel-KERNEL-ARCHITECTURE` to VERSION/KERNEL/ARCHITECTURE.
    for link in glob.glob(os.path.join(glob.escape(root), "var/lib/dkms/nvidia*/kernel-*")):
        with contextlib.suppress(OSError, ValueError):
            version, kernel, _architecture = os.readlink(link).rstrip("/").split("/")[-3:]
            found[kernel] = upstream(version)
    return {kernel: version for kernel, version in sorted(found.items()) if version}


def module_version(path: str) -> str:
    """The version that a kernel module says it has; empty for what is no module, or says none."""
    entries: list[bytes] = []
    # Nothing of an image but its headers and that section is read: it has some 50 MB.
    with contextlib.suppress(OSError, ValueError, struct.error), open(path, "rb") as stream:
        entries = _modinfo(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)).split(b"\0")
    versions = (entry[len(b"version=") :] for entry in entries if entry.startswith(b"version="))
    return next(versions, b"").decode("ascii", "replace")


def _modinfo(image: mmap.mmap) -> bytes:
    """The section .modinfo of an ELF file with 64 bits and the low byte first; empty where there is none."""
    if image[:6] != b"\x7fELF\x02\x01":
        return b""
    (table,) = struct.unpack_from("<Q", image, 0x28)
    size, count, names = struct.unpack_from("<3H", image, 0x3A)

    def section(number: int) -> tuple[int, int, int]:
        """Its name's place among the names, where it is, and its size."""
        name, _type, _flags, _address, offset, length = struct.unpack_from("<2I4Q", image, table + number * size)
        return name, offset, length

    _name, strings, _length = section(names)
    for number in range(count):
        name, offset, length = section(number)
        if image[strings + name : strings + name + 9] == b".modinfo\0":
            return image[offset : offset + length]
    return b""


def _below(root: str, path: str) -> list[str]:
    try:
        return sorted(os.listdir(os.path.join(root, path)))
    except OSError:
        return []


def read(root: str, path: str) -> str:
    """The text of a file below *root*, without the white space around it; empty where it cannot be read."""
    try:
        with open(os.path.join(root, path), encoding="utf-8", errors="replace") as stream:
            return stream.read().strip()
    except OSError:
        return ""
