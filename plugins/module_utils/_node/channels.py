# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Packages from channels that a site does not allow, in all environments of a node. Pure, on the control node."""

from __future__ import annotations

import typing as t

from .._conda.condarc import url_of
from .findings import Finding

#: How many packages of one channel are named one by one.
_NAMED = 10


def of_channels(
    environments: t.Iterable[t.Mapping[str, t.Any]], channels: t.Iterable[str], alias: str
) -> list[Finding]:
    """Each environment and channel that is not one of *channels*, with the packages from there.

    A rule against channels cannot keep everything out: explicit lists and archives of packages pass by it. What came
    from where is in the packages' records all the same.

    :param environments: as conda_env_info tells them, with their packages.
    :param channels: names below *alias*, or URLs.
    """
    allowed = {url_of(channel, alias) for channel in channels}
    findings = []
    for environment in environments:
        strays: dict[str, list[str]] = {}
        for package in environment["packages"]:
            if package["channel"].rstrip("/") not in allowed:
                strays.setdefault(package["channel"], []).append(f"{package['name']} {package['version']}")
        where = f"{environment['prefix']} of {environment['owner']}"
        for channel, packages in sorted(strays.items()):
            told = f"{_listed(sorted(packages))} from {channel or 'no channel'}"
            component = f"environment {environment['name']}"
            findings.append(Finding(component, where, "packages of allowed channels", told, fix="human"))
    return findings


def _listed(names: t.Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
