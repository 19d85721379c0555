"""What a node's files say of its GPUs and their driver."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._gpu import facts

if TYPE_CHECKING:
    from .conftest import Tree

OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (dvs-builder@U22)\n"
CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.309.01  Tue Jun  6 22:20:39 UTC 2025\nGCC version:  gcc\n"
SECURE_BOOT = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
# As Debian 12 has it, with what is not NVIDIA's, what is not there any more, and what is half there.
STATUS = """\
Package: libc6
Status: install ok installed
Version: 2.36-9

Package: libcuda1
Status: hold ok installed
Priority: optional
Conffiles:
 /etc/x 0123
Description: NVIDIA CUDA Driver Library
 Status: this is no field
Architecture: amd64
Version: 535.309.01-0+deb12u1

Package: libcuda1
Status: install ok installed
Architecture: i386
Version: 535.309.01-0+deb12u1

Package: nvidia-persistenced
Status: install ok installed
Version: 535.171.04-1~deb12u1

Package: nvidia-fabricmanager-580
Status: install ok installed
Version: 580.95.05-1

Package: nvidia-container-toolkit
Status: install ok installed
Version: 1.18.0-1

Package: nvidia-smi
Status: deinstall ok config-files
Version: 525.1-1

Package: nvidia-kernel-dkms
Status: install ok half-configured
Version: 535.309.01-0+deb12u1

Package: libcudart11.0
Status: install ok installed
Version: 11.8.89~11.8.0-5
"""


def process(pid: int, name: str, *opened: str) -> dict[str, str | Path]:
    links = {f"proc/{pid}/fd/{number}": Path(target) for number, target in enumerate(opened)}
    return {f"proc/{pid}/comm": f"{name}\n", **links}


def test_a_debian_node_tells_everything(tree: Tree) -> None:
    root = tree(
        "v100",
        {
            "proc/sys/kernel/osrelease": "6.1.0-41-amd64\n",
            "boot/vmlinuz-6.1.0-42-amd64": "",
            "lib/modules/6.1.0-41-amd64/build": None,
            "sys/module/nvidia/version": "535.309.01\n",
            "proc/driver/nvidia/version": CLOSED,
            "var/lib/dkms/nvidia-current/kernel-6.1.0-41-amd64-x86_64": Path("535.309.01/6.1.0-41-amd64/x86_64"),
            "usr/lib/x86_64-linux-gnu/libcuda.so.1": Path("/etc/alternatives/nvidia--libcuda.so.1-x86_64-linux-gnu"),
            "etc/alternatives/nvidia--libcuda.so.1-x86_64-linux-gnu": Path(
                "/usr/lib/x86_64-linux-gnu/nvidia/current/libcuda.so.1"
            ),
            "usr/lib/x86_64-linux-gnu/nvidia/current/libcuda.so.1": Path("libcuda.so.535.309.01"),
            SECURE_BOOT: b"\x06\0\0\0\x01",
            "var/lib/dpkg/status": STATUS,
            "run/cdi/nvidia.yaml": 'cdiVersion: 0.5.0\nkind: nvidia.com/gpu\nx: "/usr/lib/libcuda.so.535.309.01"\n',
            "etc/cdi/nvidia.json": '{"kind": "nvidia.com/gpu"}',
            "etc/cdi/other.yaml": "kind: example.com/nic\nx: libcuda.so.1.2\n",
            **process(7, "nvidia-persiste", "/dev/nvidiactl", "/dev/nvidia0"),
            **process(300, "python", "/dev/null", "/dev/nvidia-uvm"),
            **process(31, "python", "/dev/nvidia3"),
            **process(8, "bash", "/dev/pts/0"),
        },
    )
    found = facts.gpu(str(root))
    assert len(found.pop("devices")) == 4
    assert found == {
        "present": True,
        "count": 4,
        "architectures": ["volta"],
        "nvswitch": False,
        "kernel": {"running": "6.1.0-41-amd64", "next": "6.1.0-42-amd64", "headers": ["6.1.0-41-amd64"]},
        "module": {
            "loaded": "535.309.01",
            "flavour": "proprietary",
            "installed": {"6.1.0-41-amd64": "535.309.01"},
        },
        "user_space": "535.309.01",
        "nouveau": [],
        "secure_boot": True,
        "persistence": {"version": "535.171.04", "running": True},
        "fabric_manager": {"version": "580.95.05", "running": False},
        "toolkit": {
            "version": "1.18.0",
            "cdi": [
                {"path": "/etc/cdi/nvidia.json", "version": ""},
                {"path": "/run/cdi/nvidia.yaml", "version": "535.309.01"},
            ],
        },
        "packages": {
            "libcuda1": {"version": "535.309.01-0+deb12u1", "hold": True},
            "nvidia-persistenced": {"version": "535.171.04-1~deb12u1", "hold": False},
            "nvidia-fabricmanager-580": {"version": "580.95.05-1", "hold": False},
            "nvidia-container-toolkit": {"version": "1.18.0-1", "hold": False},
        },
        "in_use": [31, 300],
        "reboot_needed": "",
    }


def test_the_open_module_is_told(tree: Tree) -> None:
    files = {"sys/module/nvidia/version": "580.95.05\n", "proc/driver/nvidia/version": OPEN}
    found = facts.gpu(str(tree("h100-hgx", files)))
    assert (found["module"]["flavour"], found["nvswitch"], found["count"]) == ("open", True, 8)


@pytest.mark.parametrize(
    ("devices", "nvswitch"), [("a100", False), ("rtx4090", False), ("gb200", False), ("b200-hgx", True)]
)
def test_the_fabric_manager_is_needed_where_the_node_has_switches(tree: Tree, devices: str, nvswitch: bool) -> None:
    assert facts.gpu(str(tree(devices)))["nvswitch"] == nvswitch


def test_a_gpu_given_away_is_listed_and_counts_for_nothing(tree: Tree) -> None:
    root = str(tree("passthrough", {"sys/module/nvidia/version": "580.95.05", "var/lib/dpkg/status": STATUS}))
    found = facts.gpu(root)
    assert [device["driver"] for device in found["devices"]] == ["vfio-pci"]
    assert (found["present"], found["count"], found["architectures"]) == (False, 0, [])
    assert (found["module"]["loaded"], found["packages"]) == ("", {})


def test_without_a_gpu_every_key_is_there(tree: Tree) -> None:
    root = tree("intel", {"var/lib/dpkg/status": STATUS})
    empty = facts.gpu(str(root))
    device = root / "sys/bus/pci/devices/0000:00:02.0"
    (device / "vendor").write_text("0x10de\n")
    assert list(facts.gpu(str(root))) == list(empty)
    assert {key: type(value) for key, value in empty.items() if key != "secure_boot"} == {
        key: type(value) for key, value in facts.gpu(str(root)).items() if key != "secure_boot"
    }


@pytest.mark.parametrize("devices", ["intel", "passthrough"])
def test_without_a_gpu_nothing_is_read_but_the_pci_bus(tree: Tree, devices: str) -> None:
    root = tree(devices, {"var/lib/dpkg/status": STATUS, "sys/module/nvidia/version": "1.0"})
    script = f"""
import json, sys, {facts.__name__} as facts
touched = []
def note(event, arguments):
    if event in ("open", "os.listdir", "os.scandir", "glob.glob", "subprocess.Popen", "os.fork"):
        touched.append(str(arguments[0]))
sys.addaudithook(note)
facts.gpu({str(root)!r})
print(json.dumps(touched))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    touched: list[str] = json.loads(done.stdout)
    assert touched
    assert [path for path in touched if not path.startswith(f"{root}/sys/bus/pci/devices")] == []


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, False),
        ({"sys/firmware/efi/efivars": None}, None),
        ({SECURE_BOOT: b"\x06\0\0\0\0"}, False),
        ({SECURE_BOOT: b"\x06\0\0\0\x01"}, True),
    ],
)
def test_secure_boot_is_what_the_firmware_says(tree: Tree, files: Any, expected: bool | None) -> None:
    assert facts.gpu(str(tree("a100", files)))["secure_boot"] is expected


def test_other_drivers_are_told(tree: Tree) -> None:
    found = facts.gpu(str(tree("a100", {"sys/module/nouveau": None, "sys/module/nova_core": None})))
    assert found["nouveau"] == ["nouveau", "nova_core"]


@pytest.mark.parametrize("broken", ["Package: nvidia-smi", "Package: nvidia-smi\nStatus\nVersion", "\n\n\n", "\0\xff"])
def test_a_damaged_status_file_is_no_package(tree: Tree, broken: str) -> None:
    assert facts.gpu(str(tree("a100", {"var/lib/dpkg/status": broken})))["packages"] == {}


@pytest.mark.parametrize(
    ("loaded", "installed", "user_space", "nouveau", "expected"),
    [
        ("", {}, "", [], ""),
        ("", {}, "", ["nouveau"], ""),
        ("1.2", {"k": "1.2"}, "1.2", [], ""),
        ("1.2", {}, "1.2", [], ""),
        ("1.2", {"k": "1.3"}, "1.3", [], "The loaded module is 1.2, the user space 1.3."),
        ("1.2", {"k": "1.3"}, "1.2", [], "The loaded module is 1.2, that on disk 1.3."),
        ("", {"k": "1.2"}, "1.2", [], "The module 1.2 is installed and not loaded."),
        ("", {"k": "1.2"}, "1.2", ["nova"], "The module 1.2 is installed and not loaded, but nova is."),
        ("", {"j": "1.2"}, "1.2", [], "The running kernel k has no module, but j has."),
    ],
)
def test_why_a_reboot_is_needed(
    loaded: str, installed: dict[str, str], user_space: str, nouveau: list[str], expected: str
) -> None:
    module = {"loaded": loaded, "flavour": "", "installed": installed}
    assert facts.reboot_needed(module, "k", user_space, nouveau) == expected
