# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Nodes that share the file system of their environments: which of them installs, and what they use of it."""

from __future__ import annotations

import typing as t

from ..plugin_utils._sharing import HostVars, used_by_all

#: Where the look at a node may have been registered.
_LOOKS = ("gpu_cluster_look", "__conda_envs_look")
_OPTION = "conda_envs_install_once"


def installing_host(hostvars: HostVars, host: str, hosts: t.Sequence[str]) -> str:
    """See installing_host.yml."""
    place = (_usage(hostvars[host]) or {}).get("generations_dir")
    for candidate in hosts:
        usage = _usage(hostvars[candidate])
        if usage and usage["in_use"] is not None and usage["generations_dir"] == place:
            return candidate
    return host


def generations_in_use(
    hostvars: HostVars, hosts: t.Sequence[str], inventory: t.Iterable[str], limit: str = ""
) -> list[str] | None:
    """See generations_in_use.yml."""
    if limit:
        return None
    return used_by_all(hostvars, hosts, inventory, _OPTION, lambda variables: (_usage(variables) or {}).get("in_use"))


def _usage(variables: t.Mapping[str, t.Any]) -> t.Mapping[str, t.Any] | None:
    """What the look at a host told of its processes, or None where nobody has looked."""
    for name in _LOOKS:
        look = variables.get(name)
        if isinstance(look, t.Mapping) and "node" in look:
            usage: t.Mapping[str, t.Any] | None = look["node"].get("usage")
            return usage
    return None


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """By name."""
        return {"generations_in_use": generations_in_use, "installing_host": installing_host}
