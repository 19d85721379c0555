# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Locks as text: @EXPLICIT lists (CEP 23) and conda-lock files of version 1 (CEP 37).

What locks.py reads back is the same Lock, or it is not written. Equal input gives equal text, with one field a line and
packages by name, so that the difference of two locks can be reviewed.
"""

from __future__ import annotations

import dataclasses
import json
import re
import typing as t
import urllib.parse

from .errors import CondaError
from .locks import VARIABLE_KEY, Lock, Package, Wheel

# What every YAML reads as the same string without quotes: no number, date, truth value or null among it.
_PLAIN = re.compile(r"[A-Za-z0-9_/][\w./@+~=*!-]*(:[\w./@+~=*!-]+)*", re.ASCII)
_NUMBER = re.compile(r"[\d_.:+-]*(e[-+]?\d*)?|0[xob].*|\d[\dTtZz:._+-]*", re.ASCII | re.IGNORECASE)
_WORDS = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})


@dataclasses.dataclass(frozen=True)
class Entry:
    """One package of a lock with what it depends on, which is written for people and for other tools."""

    package: Package | Wheel
    dependencies: t.Mapping[str, str] = dataclasses.field(default_factory=dict)  #: name to constraint, "" for any


def explicit_text(lock: Lock) -> str:
    """*lock* as an @EXPLICIT list, which conda, mamba and pixi install.

    :raises CondaError: the format has no place for something in *lock*: wheels, variables, a package without a hash.
    """
    missing = {"pip packages": [wheel.name for wheel in lock.wheels], "variables": list(dict(lock.variables))}
    for kind, missed in missing.items():
        if missed:
            raise CondaError(
                f"an @EXPLICIT list has no place for {kind} ({', '.join(missed[:5])}): use a conda-lock file"
            )
    lines = ["# $ conda create --name <env> --file <this file>", f"# platform: {lock.platform}", "@EXPLICIT"]
    for package in sorted(lock.packages, key=lambda package: package.name):
        _require_hash(package)
        lines.append(f"{public_url(package.url)}#{package.sha256 or package.md5}")
    return "\n".join(lines) + "\n"


def conda_lock_text(
    entries: t.Mapping[str, t.Sequence[Entry]],
    *,
    channels: t.Sequence[str],
    content_hash: t.Mapping[str, str],
    sources: t.Sequence[str] = (),
    variables: t.Mapping[str, str] | None = None,
    custom: t.Mapping[str, str] | None = None,
) -> str:
    """A conda-lock file of version 1.

    :param entries: the packages by platform. No platform may be without any, for nothing would tell that it is there.
    :param channels: URLs of channels, first choice first.
    :param content_hash: by platform, what tells whether the lock is up to date.
    :param sources: the specs, relative to the lock.
    :param variables: what activation sets, on all platforms.
    :param custom: further metadata.
    :raises CondaError: a package has no hash.
    """
    metadata = {**(custom or {}), **{f"{VARIABLE_KEY}{name}": value for name, value in (variables or {}).items()}}
    lines = ["version: 1", "metadata:"]
    lines += _mapping("content_hash", {platform: content_hash[platform] for platform in sorted(entries)}, 2)
    lines += [*_empty("channels", channels, 2)]
    for channel in channels:
        lines += [f"    - url: {scalar(public_url(channel))}", "      used_env_vars: []"]
    for key, values in (("platforms", sorted(entries)), ("sources", sources)):
        lines += [*_empty(key, values, 2), *(f"    - {scalar(value)}" for value in values)]
    lines += _mapping("custom_metadata", metadata, 2) if metadata else []
    lines += _empty("package", [entry for listed in entries.values() for entry in listed], 0)
    # One package of all platforms stands together: an update then changes one place.
    ordered = sorted(
        ((entry, platform) for platform, listed in entries.items() for entry in listed),
        key=lambda pair: (pair[0].package.name, isinstance(pair[0].package, Wheel), pair[1]),
    )
    for entry, platform in ordered:
        lines += _entry(entry, platform)
    return "\n".join(lines) + "\n"


def dependencies_of(depends: t.Iterable[str]) -> dict[str, str]:
    """What a conda package's record lists as dependencies, as a conda-lock file has it: one constraint for each name.

    Of several constraints for one name all versions are kept, and the last build.
    """
    result: dict[str, str] = {}
    for text in depends:
        name, constraint = t.cast("re.Match[str]", re.fullmatch(r"([\w.-]*)\s*(.*)", text, re.DOTALL)).groups()
        before = result.get(name, "")
        if before and constraint and before != constraint:
            (old, _space, old_build), (new, _space, new_build) = before.partition(" "), constraint.partition(" ")
            constraint = f"{old},{new} {new_build or old_build}".strip()
        result[name] = constraint or before
    return result


def public_url(url: str, of_channel: bool = True) -> str:
    """*url* without user and password, and one of a channel or of a package in it without token.

    An empty string where *url* is none.
    """
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return ""
    path = parts.path
    if of_channel and parts.scheme != "file":  # a directory may be called t too
        path = re.sub(r"/t/[^/]*(?=/|$)", "", path, count=1)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], path=path))


def _entry(entry: Entry, platform: str) -> list[str]:
    package = entry.package
    _require_hash(package)
    manager = "pip" if isinstance(package, Wheel) else "conda"
    hashes = {"md5": getattr(package, "md5", ""), "sha256": package.sha256}
    lines = [f"  - name: {scalar(package.name)}", f"    version: {scalar(package.version)}"]
    lines += [f"    manager: {manager}", f"    platform: {scalar(platform)}"]
    lines += _mapping("dependencies", dict(sorted(entry.dependencies.items())), 4)
    lines += [f"    url: {scalar(public_url(package.url))}"]
    lines += _mapping("hash", {kind: value for kind, value in hashes.items() if value}, 4)
    return [*lines, "    category: main", "    optional: false"]


def _require_hash(package: Package | Wheel) -> None:
    if not (package.sha256 or getattr(package, "md5", "")):
        raise CondaError(f"{package.label} from {public_url(package.url)} has no hash, and a lock needs one")


def _empty(key: str, values: t.Sequence[t.Any], indent: int) -> list[str]:
    return [" " * indent + (f"{key}:" if values else f"{key}: []")]


def _mapping(key: str, values: t.Mapping[str, str], indent: int) -> list[str]:
    if not values:
        return [" " * indent + f"{key}: {{}}"]
    inner = " " * (indent + 2)
    return [" " * indent + f"{key}:", *(f"{inner}{scalar(name)}: {scalar(value)}" for name, value in values.items())]


def scalar(value: str) -> str:
    """*value* as a YAML scalar: plain where every YAML reads it back as that string, else in double quotes."""
    if _PLAIN.fullmatch(value) and not _NUMBER.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return quoted(value)


def quoted(value: str) -> str:
    """*value* as a YAML scalar in double quotes."""
    # As JSON, but for what YAML does not print, and for characters that JSON writes as two.
    text = json.dumps(value, ensure_ascii=False)
    return re.sub(r"[^\x20-\x7e]", lambda match: f"\\U{ord(match[0]):08x}", text)
