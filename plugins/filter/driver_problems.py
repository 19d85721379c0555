# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a node may be given back after its driver was changed."""

from __future__ import annotations

import typing as t

from ..module_utils._node.findings import Finding


def driver_problems(node: t.Mapping[str, t.Any], findings: t.Sequence[t.Mapping[str, str]], gpus: int) -> list[str]:
    """See driver_problems.yml."""
    gpu = node["gpu"]
    problems = [Finding(**finding).text() for finding in findings if finding["severity"] == "error"]
    if gpu["reboot_needed"]:
        problems.append(f"the node must be started anew: {gpu['reboot_needed']}")
    elif gpu["present"] and not gpu["module"]["loaded"]:
        problems.append("the kernel has not loaded NVIDIA's module")
    if gpu["count"] != gpus:
        problems.append(f"the PCI bus shows {gpu['count']} GPUs, and should show {gpus}")
    return problems


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """By name."""
        return {"driver_problems": driver_problems}
