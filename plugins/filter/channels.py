# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which packages are from channels that a site does not allow."""

from __future__ import annotations

import typing as t

from ..module_utils._node.channels import of_channels


def channel_findings(
    environments: t.Sequence[t.Mapping[str, t.Any]], channels: t.Sequence[str], channel_alias: str
) -> list[dict[str, str]]:
    """See channel_findings.yml."""
    return [finding.as_dict() for finding in of_channels(environments, channels, channel_alias)]


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """By name."""
        return {"channel_findings": channel_findings}
