# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The system condarc: what conda may do on a node, as text.

conda reads /etc/conda/.condarc before every other file, and a key marked ``#!final`` there can be changed by nothing
that is read later: no file, no ``CONDA_*`` variable, no option. So the keys that say where packages may come from are
final, with those that could give an allowed name another meaning. The keys that are a matter of taste (solver, own
directories) are only defaults, which people may add to or override.
"""

from __future__ import annotations

import json
import re
import typing as t

from .errors import CondaError

HEADER = "# Managed by envfleet.gpu_cluster (role miniconda): changes made here are undone."
FINAL = "  #!final"

# What YAML reads as the same string without quotes.
_PLAIN = re.compile(r"[A-Za-z/~][\w./~@%+=-]*(:[\w./~@%+=-]+)*", re.ASCII)
_NOT_STRINGS = frozenset({"~", "null", "true", "false", "yes", "no", "on", "off", "y", "n"})


def render(policy: t.Mapping[str, t.Any]) -> str:
    """The text of the system condarc for *policy*.

    *policy* has the values of the role's variables without their prefix: ``channels``, ``allowed_channels`` (empty:
    any), ``channel_alias``, ``solver``, ``envs_dirs``, ``pkgs_dirs``, and ``version``, the token of the installer.

    :raises CondaError: a value is of the wrong kind, or would leave conda without a usable channel.
    """
    channels = _strings(policy, "channels")
    allowed = _strings(policy, "allowed_channels")
    alias = _string(policy, "channel_alias")
    if "://" not in alias:
        raise CondaError(f"miniconda_channel_alias: {alias!r} is no URL: write for example https://conda.anaconda.org")
    _check_channels(channels, allowed, alias)

    def same(names: list[str]) -> set[str]:
        return {url_of(name, alias) for name in names}

    lines = [HEADER, "# Nothing can override a key marked final: no other condarc, no variable, no option."]
    # Where the allow-list has more than the default channels, people choose among them with -c or a condarc of their
    # own. Where it has not, a stray channel in an old ~/.condarc is passed over rather than failing every command.
    lines += _sequence("channels", channels, final=same(allowed) == same(channels))
    lines += _sequence("allowlist_channels", allowed, final=True)
    lines.append(f"channel_alias: {_scalar(alias)}{FINAL}")
    # Left open, these would let a name on the allow-list stand for another place.
    lines.append(f"custom_channels: {{}}{FINAL}")
    lines.append(f"custom_multichannels: {{}}{FINAL}")
    lines.append(f"migrated_custom_channels: {{}}{FINAL}")
    # Without this, `defaults` stands for Anaconda's channels, which most organisations need a licence for.
    lines += _sequence("default_channels", [], final=True)
    lines.append("channel_priority: strict")
    lines.append(f"solver: {_scalar(_string(policy, 'solver'))}")
    lines += _sequence("envs_dirs", _strings(policy, "envs_dirs"))
    lines += _sequence("pkgs_dirs", _strings(policy, "pkgs_dirs"))
    lines.append(f"{auto_activate_key(_string(policy, 'version'))}: false")
    lines.append("notify_outdated_conda: false")
    # Not final, as conda does not honour the mark below `plugins`: here it only says what is wanted.
    lines += ["plugins:", "  auto_accept_tos: false"]
    return "\n".join(lines) + "\n"


def auto_activate_key(version: str) -> str:
    """The key that keeps ``conda init`` from activating base, as the conda of installer *version* spells it.

    Both at once are refused by conda, as one is the other's alias. A token without a conda version is taken for new.
    """
    found = re.search(r"(?:^|_)(\d+)\.(\d+)", version)
    old = found is not None and (4, 4) <= (int(found[1]), int(found[2])) < (25, 5)
    return "auto_activate_base" if old else "auto_activate"


def _check_channels(channels: list[str], allowed: list[str], alias: str) -> None:
    if not channels:
        raise CondaError("miniconda_channels: it is empty, so conda could install nothing: name a channel")
    for option, names in (("miniconda_channels", channels), ("miniconda_allowed_channels", allowed)):
        if "defaults" in names:
            raise CondaError(
                f"{option}: 'defaults' is switched off here, as it stands for channels under Anaconda's licence: "
                "name a channel, or the URLs (https://repo.anaconda.com/pkgs/main) where you have that licence"
            )
    known = {url_of(name, alias) for name in allowed}
    strays = [name for name in channels if known and url_of(name, alias) not in known]
    if strays:
        raise CondaError(
            f"miniconda_allowed_channels: it lacks {', '.join(strays)} of miniconda_channels, so conda would refuse "
            "every command: add it, or take it from miniconda_channels"
        )


def url_of(channel: str, alias: str) -> str:
    """The URL of a channel that is told as a URL, or as a name below *alias*."""
    url = channel if "://" in channel else f"{alias.rstrip('/')}/{channel}"
    return url.rstrip("/")


def _string(policy: t.Mapping[str, t.Any], key: str) -> str:
    value = policy.get(key)
    if not isinstance(value, str) or not value:
        raise CondaError(f"miniconda_{key}: a text is wanted, not {value!r}")
    return value


def _strings(policy: t.Mapping[str, t.Any], key: str) -> list[str]:
    values = policy.get(key)
    if not isinstance(values, (list, tuple)) or not all(isinstance(value, str) and value for value in values):
        raise CondaError(f"miniconda_{key}: a list of texts is wanted, not {values!r}")
    return list(values)


def _sequence(key: str, values: list[str], final: bool = False) -> list[str]:
    mark = FINAL if final else ""
    if not values:
        return [f"{key}: []{mark}"]
    return [f"{key}:{mark}", *(f"  - {_scalar(value)}" for value in values)]


def _scalar(value: str) -> str:
    """*value* as a YAML scalar: plain where YAML reads it back as that string, else in JSON's quotes."""
    if _PLAIN.fullmatch(value) and value.lower() not in _NOT_STRINGS:
        return value
    return json.dumps(value)
