# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Drift as data: the look of node_facts held against what a role wants."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError

from ..module_utils._conda.errors import CondaError
from ..module_utils._node import findings
from ..plugin_utils._lock_files import read_wanted

Finding = dict[str, str]


def base_findings(node: t.Mapping[str, t.Any], prefix: str, identity: str) -> list[Finding]:
    """See base_findings.yml."""
    return [finding.as_dict() for finding in findings.of_base(node, prefix, identity)]


def file_findings(node: t.Mapping[str, t.Any], files: t.Sequence[t.Mapping[str, t.Any]]) -> list[Finding]:
    """See file_findings.yml."""
    return [finding.as_dict() for finding in findings.of_files(node, files)]


def environment_findings(
    node: t.Mapping[str, t.Any],
    environments: t.Sequence[t.Mapping[str, t.Any]],
    envs_dir: str,
    locks_dir: str,
    channels: t.Sequence[str],
    channel_alias: str,
    locking: t.Mapping[str, t.Any] | None = None,
) -> list[Finding]:
    """See environment_findings.yml."""
    try:
        platform = node["system"]["platform"]
        wanted, unlocked = read_wanted(environments, platform, locks_dir, channels, channel_alias, locking)
    except CondaError as error:
        raise AnsibleFilterError(str(error)) from error
    found = findings.of_environments(node, wanted, envs_dir) + findings.of_unlocked(unlocked, envs_dir)
    return [finding.as_dict() for finding in found]


def finding_text(finding: Finding) -> str:
    """See finding_text.yml."""
    return findings.Finding(**finding).text()


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """By name."""
        return {
            "base_findings": base_findings,
            "environment_findings": environment_findings,
            "file_findings": file_findings,
            "finding_text": finding_text,
        }
