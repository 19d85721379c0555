# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The driver of a node, as the look saw it, against what is wanted. Pure: it runs on the control node."""

from __future__ import annotations

import dataclasses
import typing as t

from .._node.findings import Finding, of_files
from . import branches
from .versions import branch as branch_of

NOT_RUNNING = "not running"
_USER_SPACE = "user space"


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a role wants of the driver."""

    branch: str = ""
    version: str = ""
    flavour: str = "auto"
    headers: bool = True  #: the role sees to headers, so that modules are built
    drained: bool = False  #: nobody uses the node, so what needs that can be done now
    pins_paths: tuple[str, ...] = ()  #: one of these keeps the packages at their versions, by package manager
    files: tuple[dict[str, str], ...] = ()  #: files of known content

    @property
    def anything(self) -> bool:
        """Whether there is anything to manage."""
        return bool(self.branch or self.version)


def of_driver(node: t.Mapping[str, t.Any], wanted: Wanted) -> list[Finding]:
    """What differs; nothing on a node without an NVIDIA GPU, or where nothing is wanted."""
    gpu = node["gpu"]
    if not gpu["present"] or not wanted.anything:
        return []
    findings = [*_of_version(gpu, wanted)]
    # All else is held against the user space, so another one would be told again and again.
    if not findings or not gpu["user_space"]:
        findings += [*_of_module(gpu, wanted, node["system"]["architecture"]), *_of_daemons(gpu)]
    findings += [*_of_files(node, wanted), *_of_others(gpu)]
    if gpu["reboot_needed"] and not any(one.fix == "drain" or one.subject == _USER_SPACE for one in findings):
        findings.append(
            Finding("driver", "node", "the installed driver in use", gpu["reboot_needed"], "warning", "drain")
        )
    # What changes a driver that is loaded waits until nobody uses the node. To start a daemon needs no wait.
    waits = bool(gpu["module"]["loaded"]) and not wanted.drained
    return [
        dataclasses.replace(one, fix="drain") if waits and one.fix == "auto" and one.actual != NOT_RUNNING else one
        for one in findings
    ]


def is_wanted(version: str, wanted: Wanted) -> bool:
    """Whether this version of the driver will do."""
    if wanted.version:
        return version == wanted.version
    return bool(version) and branch_of(version) == branch_of(wanted.branch)


def _of_version(gpu: t.Mapping[str, t.Any], wanted: Wanted) -> t.Iterator[Finding]:
    expected = wanted.version or f"branch {wanted.branch}"
    if not is_wanted(gpu["user_space"], wanted):
        yield Finding("driver", _USER_SPACE, expected, gpu["user_space"] or "absent")


def _of_module(gpu: t.Mapping[str, t.Any], wanted: Wanted, machine: str) -> t.Iterator[Finding]:
    module, user_space, kernel = gpu["module"], gpu["user_space"], gpu["kernel"]["next"]
    loaded = module["loaded"]
    if loaded and user_space and loaded != user_space:
        yield Finding("driver", "loaded kernel module", user_space, f"{loaded}: reboot needed", fix="drain")
    number = branch_of(wanted.version or wanted.branch)
    possible = branches.common_flavours(gpu["architectures"], number, machine)
    flavour = wanted.flavour if wanted.flavour != "auto" else (possible[0] if possible else "")
    if loaded and flavour and module["flavour"] and module["flavour"] != flavour:
        yield Finding("driver", "loaded kernel module", f"the {flavour} one", f"the {module['flavour']} one")
    installed = module["installed"].get(kernel, "")
    if user_space and installed != user_space:
        actual = installed or ("absent" if kernel in gpu["kernel"]["headers"] else "not built: its headers are absent")
        # Without headers nothing can be built, and a module that failed to build with them fails again.
        fix = "auto" if wanted.headers and kernel not in gpu["kernel"]["headers"] else "human"
        yield Finding("driver", f"kernel module for {kernel}", user_space, actual, fix=fix)


def _of_daemons(gpu: t.Mapping[str, t.Any]) -> t.Iterator[Finding]:
    running = bool(gpu["module"]["loaded"])  # no daemon starts before the module is loaded
    if gpu["nvswitch"]:
        found, version = gpu["fabric_manager"], gpu["user_space"]
        if version and found["version"] != version:
            yield Finding("driver", "fabric manager", version, found["version"] or "absent")
        elif running and not found["running"]:
            yield Finding("driver", "fabric manager", "running", NOT_RUNNING)
    if gpu["user_space"] and not gpu["persistence"]["version"]:
        yield Finding("driver", "persistence daemon", "present", "absent", "warning")
    elif running and not gpu["persistence"]["running"]:
        yield Finding("driver", "persistence daemon", "running", NOT_RUNNING, "warning")


def _of_files(node: t.Mapping[str, t.Any], wanted: Wanted) -> t.Iterator[Finding]:
    for finding in of_files(node, wanted.files):
        yield dataclasses.replace(finding, component="driver")
    states = {path: node["files"][path]["state"] for path in wanted.pins_paths}
    if states and "file" not in states.values():
        yield Finding("driver", wanted.pins_paths[0], "the pins of the set", "absent")


def _of_others(gpu: t.Mapping[str, t.Any]) -> t.Iterator[Finding]:
    for name in gpu["nouveau"]:
        yield Finding("driver", name, "not loaded", "loaded: reboot needed", fix="drain")
