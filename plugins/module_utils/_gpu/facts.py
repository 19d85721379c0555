# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a node's files say of its GPUs and of the driver for them: no subprocess, no network, nothing changed."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import typing as t

from . import kernels, pci
from .kernels import read, resolved
from .versions import upstream

_LIBRARIES = ("usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib64", "usr/lib")
_OTHER_DRIVERS = ("nouveau", "nova", "nova_core", "nova_drm")
_EFIVARS = "sys/firmware/efi/efivars"
_SECURE_BOOT = f"{_EFIVARS}/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
# NVIDIA's own services, by the name of their process as the kernel shows it: 15 characters of it.
_PERSISTENCE, _FABRIC_MANAGER = "nvidia-persiste", "nv-fabricmanage"
_SERVICES = (_PERSISTENCE, _FABRIC_MANAGER, "nvidia-imex", "nv-hostengine", "nvidia-powerd")
_CDI = ("etc/cdi", "run/cdi")
_CDI_KIND = re.compile(r"""["']?kind["']?:\s*["']?nvidia\.com/""")
_CDI_DRIVER = re.compile(r"libcuda\.so\.(\d+\.\d[\d.]*\d)")
_STATUS = "var/lib/dpkg/status"
_OURS = re.compile(
    rb".*nvidia|libcuda1$|libcudadebugger|libnvcuvid|libnvoptix|cuda-(drivers|compat)|datacenter-gpu|nvlsm"
)


class _Processes(t.NamedTuple):
    """What the processes of a node have to do with its GPUs."""

    services: frozenset[str] = frozenset()  #: those of _SERVICES that run
    in_use: tuple[int, ...] = ()  #: others that have a device of NVIDIA open


def gpu(root: str = "/") -> dict[str, t.Any]:
    """The GPUs of a node, and the driver for them, as node_facts returns it.

    Without a GPU, nothing is looked at but the PCI bus, and all that would be told of a driver is empty.

    :param root: where the node's file system is.
    """
    devices = pci.devices(root)
    ours = [device for device in devices if device["driver"] != pci.GIVEN_AWAY]
    gpus = [device for device in ours if device["kind"] == "gpu"]
    architectures = sorted({device["architecture"] for device in gpus} - {""})
    nvswitch = bool(gpus) and (
        any(device["kind"] == "nvswitch" for device in ours)
        or ("blackwell" in architectures and pci.manages_nvlink_switches(root))
    )
    found = {
        "devices": devices,
        "present": bool(gpus),
        "count": len(gpus),
        "architectures": architectures,
        "nvswitch": nvswitch,
    }
    return {**found, **(_driver(root) if gpus else _NOTHING)}


def _driver(root: str) -> dict[str, t.Any]:
    kernel, module = kernels.kernels(root), _module(root)
    user_space, nouveau = _user_space(root), _other_drivers(root)
    packages, processes = _packages(root), _processes(root)
    return {
        "kernel": kernel,
        "module": module,
        "user_space": user_space,
        "nouveau": nouveau,
        "secure_boot": _secure_boot(root),
        "persistence": {
            "version": _version(packages, "nvidia-persistenced", "nvidia-compute-utils"),
            "running": _PERSISTENCE in processes.services,
        },
        "fabric_manager": {
            "version": _version(packages, "nvidia-fabricmanager", "nvidia-fabric-manager"),
            "running": _FABRIC_MANAGER in processes.services,
        },
        "toolkit": {
            "version": _version(packages, "nvidia-container-toolkit", "nvidia-container-toolkit-base"),
            "cdi": _cdi(root),
        },
        "packages": packages,
        "in_use": list(processes.in_use),
        "reboot_needed": reboot_needed(module, kernel["running"], user_space, nouveau),
    }


_NOTHING: dict[str, t.Any] = {
    "kernel": {"running": "", "next": "", "headers": []},
    "module": {"loaded": "", "flavour": "", "installed": {}},
    "user_space": "",
    "nouveau": [],
    "secure_boot": None,
    "persistence": {"version": "", "running": False},
    "fabric_manager": {"version": "", "running": False},
    "toolkit": {"version": "", "cdi": []},
    "packages": {},
    "in_use": [],
    "reboot_needed": "",
}


def reboot_needed(module: t.Mapping[str, t.Any], running: str, user_space: str, nouveau: t.Sequence[str]) -> str:
    """Why the node does not run the driver that it has, in one sentence; empty where it does, or has none."""
    loaded, on_disk = module["loaded"], module["installed"].get(running, "")
    if loaded and user_space and loaded != user_space:
        return f"The loaded module is {loaded}, the user space {user_space}."
    if loaded and on_disk and loaded != on_disk:
        return f"The loaded module is {loaded}, that on disk {on_disk}."
    if not loaded and on_disk:
        return f"The module {on_disk} is installed and not loaded{f', but {nouveau[0]} is' if nouveau else ''}."
    others = sorted(set(module["installed"]) - {running})
    if not loaded and others:
        return f"The running kernel {running} has no module, but {others[-1]} has."
    return ""


def _module(root: str) -> dict[str, t.Any]:
    loaded = read(root, "sys/module/nvidia/version")
    flavour = ""
    if loaded:
        flavour = "open" if "Open Kernel Module" in read(root, "proc/driver/nvidia/version") else "proprietary"
    return {"loaded": loaded, "flavour": flavour, "installed": kernels.installed_modules(root)}


def _user_space(root: str) -> str:
    for directory in _LIBRARIES:
        name = os.path.basename(resolved(root, f"{directory}/libcuda.so.1"))
        if name != "libcuda.so.1":
            return name[len("libcuda.so.") :]
    return ""


def _other_drivers(root: str) -> list[str]:
    return [name for name in _OTHER_DRIVERS if os.path.isdir(os.path.join(root, "sys/module", name))]


def _secure_boot(root: str) -> bool | None:
    """Whether the firmware demands signed modules; None where it does not say."""
    if not os.path.isdir(os.path.join(root, "sys/firmware/efi")):
        return False
    try:
        with open(os.path.join(root, _SECURE_BOOT), "rb") as stream:
            value = stream.read()  # four bytes of attributes, then the value
    except OSError:
        return None
    return value[4:] == b"\x01"


def _packages(root: str) -> dict[str, dict[str, t.Any]]:
    """NVIDIA's packages that are wholly installed, as dpkg's status file has them."""
    found: dict[str, dict[str, t.Any]] = {}
    try:
        with open(os.path.join(root, _STATUS), "rb") as stream:
            entries = stream.read().split(b"\n\n")
    except OSError:
        return found
    for entry in entries:
        name, _newline, rest = entry.lstrip().partition(b"\n")
        if not _OURS.match(name, len(b"Package: ")):
            continue
        # Only lines that go on begin with a space, so what follows a newline is a field.
        fields = dict(line.split(b": ", 1) for line in rest.split(b"\n") if line[:1].isalpha() and b": " in line)
        status = fields.get(b"Status", b"").decode().split()
        if status[-1:] == ["installed"]:
            package = {"version": fields.get(b"Version", b"").decode(), "hold": status[0] == "hold"}
            found.setdefault(name[len(b"Package: ") :].decode(), package)
    return found


def _version(packages: t.Mapping[str, t.Mapping[str, t.Any]], *stems: str) -> str:
    """The upstream version of the first package that has one of these names, alone or with a branch behind."""
    for stem in stems:
        for name, package in packages.items():
            if re.fullmatch(rf"{stem}(-\d+(-server)?)?", name) and upstream(package["version"]):
                return upstream(package["version"])
    return ""


def _processes(root: str) -> _Processes:
    services, users = set(), []
    for pid in filter(str.isdigit, _listed(os.path.join(root, "proc"))):
        name = read(root, f"proc/{pid}/comm")
        if name in _SERVICES:
            services.add(name)
        elif _has_gpu_open(os.path.join(root, "proc", pid, "fd")):
            users.append(int(pid))
    return _Processes(frozenset(services), tuple(sorted(users)))


def _has_gpu_open(directory: str) -> bool:
    for descriptor in _listed(directory):
        with contextlib.suppress(OSError):
            if os.readlink(os.path.join(directory, descriptor)).startswith("/dev/nvidia"):
                return True
    return False


def _cdi(root: str) -> list[dict[str, str]]:
    """The CDI specs of NVIDIA, and the version of the driver that each was written for."""
    found = []
    for directory in _CDI:
        for path in sorted(glob.glob(os.path.join(glob.escape(root), directory, "*"))):
            relative = os.path.relpath(path, root)
            text = read(root, relative) if path.endswith((".yaml", ".yml", ".json")) else ""
            if _CDI_KIND.search(text):
                driver = _CDI_DRIVER.search(text)
                found.append({"path": f"/{relative}", "version": driver[1] if driver else ""})
    return found


def _listed(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []
