# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Nodes with the same homes: what all of them together use of private environments."""

from __future__ import annotations

import typing as t

from ..plugin_utils._sharing import HostVars, used_by_all

_LOOK = "__env_housekeeping_look"
_OPTION = "env_housekeeping_shared_homes"


def environments_in_use(
    hostvars: HostVars, hosts: t.Sequence[str], inventory: t.Iterable[str], limit: str = ""
) -> list[str] | None:
    """See environments_in_use.yml."""
    if limit:
        return None
    return used_by_all(hostvars, hosts, inventory, _OPTION, _in_use)


def _in_use(variables: t.Mapping[str, t.Any]) -> list[str] | None:
    look = variables.get(_LOOK)
    return look.get("in_use") if isinstance(look, t.Mapping) else None


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """By name."""
        return {"environments_in_use": environments_in_use}
