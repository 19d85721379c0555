# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Nodes with the same homes: what all of them together use of private environments."""

from __future__ import annotations

import typing as t

from ansible.module_utils.parsing.convert_bool import boolean

HostVars = t.Mapping[str, t.Mapping[str, t.Any]]

_LOOK = "__env_housekeeping_look"
_OPTION = "env_housekeeping_shared_homes"


def environments_in_use(
    hostvars: HostVars, hosts: t.Sequence[str], inventory: t.Iterable[str], limit: str = ""
) -> list[str] | None:
    """See environments_in_use.yml."""
    if limit:
        return None
    sharing = [host for host in inventory if boolean(hostvars[host].get(_OPTION, False), strict=False)]
    found: set[str] = set()
    for host in {*hosts, *sharing}:
        look = hostvars[host].get(_LOOK)
        in_use = look.get("in_use") if isinstance(look, t.Mapping) else None
        if in_use is None:
            return None
        found.update(in_use)
    return sorted(found)


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """By name."""
        return {"environments_in_use": environments_in_use}
