# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The CUDA of shared environments held against a node's driver and GPUs."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError

from ..module_utils._conda.errors import CondaError
from ..module_utils._gpu.compatibility import COMPATIBLE
from ..plugin_utils._cuda_gate import Graphics, Verdict, verdicts
from ..plugin_utils._lock_files import plain, read_environments

Environments = t.Sequence[t.Mapping[str, t.Any]]


def cuda_compat(
    environments: Environments,
    node: t.Mapping[str, t.Any],
    driver: str = "",
    *,
    locks_dir: str,
    channels: t.Sequence[str],
    channel_alias: str,
    locking: t.Mapping[str, t.Any] | None = None,
) -> list[dict[str, str]]:
    """See cuda_compat.yml."""
    found = _verdicts(environments, node, driver, locks_dir, channels, channel_alias, locking)
    return [verdict.as_dict() for verdict in found]


def cuda_findings(
    node: t.Mapping[str, t.Any],
    environments: Environments,
    locks_dir: str,
    channels: t.Sequence[str],
    channel_alias: str,
    locking: t.Mapping[str, t.Any] | None = None,
    gate: str = "error",
) -> list[dict[str, str]]:
    """See cuda_findings.yml."""
    if gate == "off":
        return []
    found = _verdicts(environments, node, "", locks_dir, channels, channel_alias, locking)
    return [verdict.finding(gate).as_dict() for verdict in found if verdict.verdict != COMPATIBLE]


def _verdicts(
    environments: Environments,
    node: t.Mapping[str, t.Any],
    driver: str,
    locks_dir: str,
    channels: t.Sequence[str],
    channel_alias: str,
    locking: t.Mapping[str, t.Any] | None,
) -> list[Verdict]:
    try:
        if Graphics.of(node, driver) is None:
            return []  # without reading a lock
        listed = plain(environments)
        locks = read_environments(listed, locks_dir, channels, channel_alias, plain(locking or {}))
        return verdicts(listed, locks, node, driver)
    except CondaError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """By name."""
        return {"cuda_compat": cuda_compat, "cuda_findings": cuda_findings}
