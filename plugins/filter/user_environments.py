# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What people get on a node, and how a node differs from it."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError

from ..module_utils._conda.errors import CondaError
from ..plugin_utils import _user_environments as environments

Settings = t.Mapping[str, t.Any]


def user_files(settings: Settings) -> list[dict[str, str]]:
    """See user_files.yml."""
    return _told(lambda: environments.files(settings))


def user_hooks(node: t.Mapping[str, t.Any], settings: Settings) -> list[dict[str, str]]:
    """See user_hooks.yml."""
    return _told(lambda: environments.hooks(node, settings))


def user_findings(node: t.Mapping[str, t.Any], settings: Settings) -> list[dict[str, str]]:
    """See user_findings.yml."""
    return [finding.as_dict() for finding in _told(lambda: environments.findings(node, settings))]


_T = t.TypeVar("_T")


def _told(work: t.Callable[[], _T]) -> _T:
    try:
        return work()
    except (environments.SettingsError, CondaError) as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """By name."""
        return {"user_files": user_files, "user_findings": user_findings, "user_hooks": user_hooks}
