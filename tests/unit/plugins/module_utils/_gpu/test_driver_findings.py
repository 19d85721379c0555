"""What the look saw of a driver, against what is wanted."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._gpu.driver_findings import Wanted, of_driver

KERNEL = "6.1.0-40-amd64"
PINS = "/etc/apt/preferences.d/envfleet-nvidia"


def node(present: bool = True, **gpu: Any) -> dict[str, Any]:
    """An H100 with everything right: 580.95.05, open, loaded."""
    healthy = {
        "present": present,
        "architectures": ["hopper"],
        "nvswitch": False,
        "kernel": {"running": KERNEL, "next": KERNEL, "headers": [KERNEL]},
        "module": {"loaded": "580.95.05", "flavour": "open", "installed": {KERNEL: "580.95.05"}},
        "user_space": "580.95.05",
        "nouveau": [],
        "persistence": {"version": "580.95.05", "running": True},
        "fabric_manager": {"version": "", "running": False},
        "reboot_needed": "",
    }
    return {"gpu": {**healthy, **gpu}, "system": {"architecture": "x86_64"}, "files": {PINS: {"state": "file"}}}


def told(seen: dict[str, Any], **wanted: Any) -> list[tuple[str, str, str]]:
    """Subject, what is there, and the fix of each finding."""
    found = of_driver(seen, Wanted(**{"branch": "580", "pins_paths": (PINS,), **wanted}))
    assert {one.component for one in found} <= {"driver"}
    return [(one.subject, one.actual, one.fix) for one in found]


NOT_LOADED = {"loaded": "", "flavour": "", "installed": {}}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, []),
        ({"branch": "", "version": "580.95.05"}, []),
        ({"branch": ""}, []),
        ({"branch": "595"}, [("user space", "580.95.05", "drain")]),
        ({"branch": "595", "drained": True}, [("user space", "580.95.05", "auto")]),
        ({"version": "580.82.07"}, [("user space", "580.95.05", "drain")]),
        ({"flavour": "proprietary"}, [("loaded kernel module", "the open one", "drain")]),
    ],
)
def test_a_healthy_node(wanted: dict[str, Any], expected: list[Any]) -> None:
    assert told(node(), **wanted) == expected


def test_a_node_without_a_gpu_is_left_alone() -> None:
    assert of_driver({"gpu": {"present": False}}, Wanted(branch="580")) == []


def test_nothing_is_installed() -> None:
    seen = node(user_space="", module=NOT_LOADED, persistence={"version": "", "running": False})
    assert told(seen) == [("user space", "absent", "auto")]


def test_user_space_that_moved_on_needs_a_reboot() -> None:
    module = {"loaded": "580.82.07", "flavour": "open", "installed": {KERNEL: "580.95.05"}}
    why = "The loaded module is 580.82.07, the user space 580.95.05."
    assert told(node(module=module, reboot_needed=why)) == [
        ("loaded kernel module", "580.82.07: reboot needed", "drain"),
    ]


def test_module_for_the_kernel_that_will_boot() -> None:
    upgraded = {"running": KERNEL, "next": "6.1.0-41-amd64", "headers": [KERNEL]}
    subject = "kernel module for 6.1.0-41-amd64"
    absent = "not built: its headers are absent"
    # The driver itself is in use and stays; headers can only come with it, so this waits too.
    assert told(node(kernel=upgraded)) == [(subject, absent, "drain")]
    assert told(node(kernel=upgraded, module=NOT_LOADED)) == [(subject, absent, "auto")]
    assert told(node(kernel=upgraded, module=NOT_LOADED), headers=False) == [(subject, absent, "human")]
    # With headers, somebody must see why it failed to build.
    upgraded["headers"] = [KERNEL, "6.1.0-41-amd64"]
    assert told(node(kernel=upgraded, module=NOT_LOADED)) == [(subject, "absent", "human")]


def test_fabric_manager_where_there_are_switches() -> None:
    assert told(node(nvswitch=True)) == [("fabric manager", "absent", "drain")]
    other = {"version": "580.82.07", "running": True}
    assert told(node(nvswitch=True, fabric_manager=other)) == [("fabric manager", "580.82.07", "drain")]
    stopped = {"version": "580.95.05", "running": False}
    # To start it needs no empty node.
    assert told(node(nvswitch=True, fabric_manager=stopped)) == [("fabric manager", "not running", "auto")]


def test_persistence_daemon() -> None:
    assert told(node(persistence={"version": "580.95.05", "running": False})) == [
        ("persistence daemon", "not running", "auto")
    ]
    # Before the module is loaded, no daemon can run.
    seen = node(
        persistence={"version": "580.95.05", "running": False},
        module={**NOT_LOADED, "installed": {KERNEL: "580.95.05"}},
    )
    assert told(seen) == []


def test_pins_and_files() -> None:
    seen = node()
    seen["files"] = {PINS: {"state": "absent"}, "/etc/modprobe.d/x.conf": {"state": "absent"}}
    files = ({"path": "/etc/modprobe.d/x.conf", "content": "blacklist nouveau\n"},)
    assert told(seen, files=files) == [("/etc/modprobe.d/x.conf", "absent", "drain"), (PINS, "absent", "drain")]


def test_nouveau_in_the_way() -> None:
    assert told(node(nouveau=["nouveau"], module={**NOT_LOADED, "installed": {KERNEL: "580.95.05"}})) == [
        ("nouveau", "loaded: reboot needed", "drain")
    ]


def test_a_branch_that_is_no_number() -> None:
    with pytest.raises(ValueError, match="'new' is no version"):
        told(node(), branch="new")
