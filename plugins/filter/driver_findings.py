# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The drift of a node's driver as data: the look of node_facts held against what the role nvidia_driver wants."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError

from ..module_utils._gpu import driver_findings as findings


def driver_findings(
    node: t.Mapping[str, t.Any],
    branch: str = "",
    version: str = "",
    flavour: str = "auto",
    headers: bool = True,
    drained: bool = False,
    pins_paths: t.Sequence[str] = (),
    files: t.Sequence[t.Mapping[str, str]] = (),
) -> list[dict[str, str]]:
    """See driver_findings.yml."""
    try:
        known = tuple(dict(one) for one in files)
        wanted = findings.Wanted(str(branch), str(version), flavour, headers, drained, tuple(pins_paths), known)
        return [finding.as_dict() for finding in findings.of_driver(node, wanted)]
    except ValueError as error:
        raise AnsibleFilterError(f"nvidia_driver_branch, nvidia_driver_version: {error}") from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """By name."""
        return {"driver_findings": driver_findings}
