# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""What several nodes use together of something that they share."""

from __future__ import annotations

import typing as t

from ansible.module_utils.parsing.convert_bool import boolean

HostVars = t.Mapping[str, t.Mapping[str, t.Any]]


def used_by_all(
    hostvars: HostVars,
    hosts: t.Iterable[str],
    inventory: t.Iterable[str],
    option: str,
    used: t.Callable[[t.Mapping[str, t.Any]], t.Iterable[str] | None],
) -> list[str] | None:
    """What *used* tells of *hosts*, and of each host of the *inventory* whose variable *option* is true.

    None where one of them has not told.
    """
    sharing = [host for host in inventory if boolean(hostvars[host].get(option, False), strict=False)]
    found: set[str] = set()
    for host in {*hosts, *sharing}:
        told = used(hostvars[host])
        if told is None:
            return None
        found.update(told)
    return sorted(found)
