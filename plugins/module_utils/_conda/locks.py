# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Locks: exactly which packages, by hash, for which platform.

Reads @EXPLICIT lists (CEP 23), conda-lock files of version 1 (CEP 37), and pixi.lock of versions 6 and 7.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import typing as t

from .errors import CondaError

_ARCHIVES = (".conda", ".tar.bz2")
_ANCHOR = re.compile(r"(?:sha256:)?(?P<sha256>[0-9a-f]{64})|(?:md5:)?(?P<md5>[0-9a-f]{32})")
_DIGITS = {"sha256": 64, "md5": 32}
_PIXI_VERSIONS = (6, 7)
_PIXI_KINDS = frozenset(("conda", "conda_source", "pypi"))


@dataclasses.dataclass(frozen=True)
class Package:
    """One conda package of a lock."""

    name: str
    version: str
    build: str
    subdir: str
    url: str
    sha256: str = ""
    md5: str = ""

    @property
    def label(self) -> str:
        """Name, version and build, as people write them."""
        return f"{self.name} {self.version} {self.build}"

    @property
    def record_name(self) -> str:
        """The file in conda-meta that tells of this package."""
        return f"{self.name}-{self.version}-{self.build}.json"

    @property
    def file_name(self) -> str:
        """The archive's name in its channel."""
        return self.url.rsplit("/", 1)[-1]

    @property
    def channel(self) -> str:
        """The URL of the channel the archive comes from."""
        return self.url.rsplit("/", 2)[0]

    @property
    def key(self) -> tuple[str, ...]:
        """What makes it this package wherever it was fetched from: a mirror changes the URL and nothing else."""
        return (self.name, self.version, self.build, self.subdir, self.sha256 or self.md5)

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_url(cls, url: str, sha256: str = "", md5: str = "") -> Package:
        """The package whose archive is at *url*: the name of the file says the rest.

        :raises CondaError: *url* is not that of a conda package.
        """
        parts = url.rsplit("/", 2)
        extension = next((suffix for suffix in _ARCHIVES if url.endswith(suffix)), None)
        if len(parts) != 3 or extension is None or "://" not in url:
            raise CondaError(f"{url!r} is no URL of a conda package")
        fields = parts[2][: -len(extension)].rsplit("-", 2)
        if len(fields) != 3 or not all(fields):
            raise CondaError(
                f"{url!r} is no URL of a conda package: its file is not called NAME-VERSION-BUILD{extension}"
            )
        return cls(fields[0], fields[1], fields[2], parts[1], url, sha256, md5)


@dataclasses.dataclass(frozen=True)
class Lock:
    """The packages of one environment on one platform."""

    platform: str
    packages: tuple[Package, ...]

    @property
    def identity(self) -> str:
        """sha256 over what is installed, not over how the file is written: the same set has the same identity."""
        content = json.dumps([self.platform, sorted(package.key for package in self.packages)])
        return hashlib.sha256(content.encode("utf-8")).hexdigest()

    @property
    def labels(self) -> dict[str, str]:
        """Name to label of each package."""
        return {package.name: package.label for package in self.packages}

    def as_dict(self) -> dict[str, t.Any]:
        """For JSON."""
        return {"platform": self.platform, "packages": [package.as_dict() for package in self.packages]}

    @classmethod
    def from_dict(cls, content: t.Mapping[str, t.Any]) -> Lock:
        """What as_dict() gave."""
        return cls(content["platform"], tuple(Package(**package) for package in content["packages"]))


def from_explicit(text: str, source: str) -> dict[str, Lock]:
    """Read an @EXPLICIT list; *source* is its path, for messages.

    :raises CondaError: a line is no URL of a package, or has no hash.
    """
    packages = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith(("#", "@")):
            continue
        url, _hash, anchor = line.partition("#")
        match = _ANCHOR.fullmatch(anchor)
        if match is None:
            raise CondaError(
                f"{source}, line {number}: {url} has no hash: write the list with hashes "
                "(conda list --explicit --sha256)"
            )
        try:
            packages.append(Package.from_url(url, match["sha256"] or "", match["md5"] or ""))
        except CondaError as error:
            raise CondaError(f"{source}, line {number}: {error}") from error
    stated = re.search(r"^# platform: (\S+)", text, re.MULTILINE)
    return _by_platform(packages, {stated[1]} if stated else set(), source)


def from_conda_lock(document: t.Any, source: str) -> dict[str, Lock]:
    """Read a parsed conda-lock v1 file; *source* is its path, for messages.

    :raises CondaError: it is not one, or has entries that cannot be installed exactly.
    """
    if not isinstance(document, dict) or document.get("version") != 1 or not isinstance(document.get("package"), list):
        raise CondaError(
            f"{source} is neither an @EXPLICIT list nor a conda-lock file of version 1 "
            "nor a pixi.lock of version 6 or 7"
        )
    locks: dict[str, list[Package]] = {}
    for entry in document["package"]:
        try:
            name, manager, platform, url = (str(entry[field]) for field in ("name", "manager", "platform", "url"))
            hashes = _hashes(entry.get("hash") or {})
        except KeyError as error:
            raise CondaError(f"{source}: an entry has no {error}: {entry!r}"[:300]) from error
        except (AttributeError, TypeError) as error:
            raise CondaError(f"{source}: an entry is not written as conda-lock writes it: {entry!r}"[:300]) from error
        if entry.get("category", "main") != "main" or entry.get("optional", False):
            continue
        if manager != "conda":
            raise CondaError(f"{source}: {name} is a {manager} package, which cannot be installed from a lock yet")
        locks.setdefault(platform, []).append(_exact(url, name, hashes, source))
    result = {}
    for platform, packages in locks.items():
        result.update(_by_platform(packages, {platform}, source))
    if not result:
        raise CondaError(f"{source} has no package")
    return result


def from_pixi_lock(document: t.Mapping[str, t.Any], source: str, environment: str = "") -> dict[str, Lock]:
    """Read one environment of a parsed pixi.lock of version 6 or 7; *source* is its path, for messages.

    :param environment: its name. If empty, it is "default", or the only one there is.
    :raises CondaError: there is none, or it has entries that cannot be installed exactly.
    """
    if document.get("version") not in _PIXI_VERSIONS:
        raise CondaError(
            f"{source} is a pixi.lock of version {document.get('version')!r}, and only 6 and 7 can be read: "
            "lock it again with a pixi that writes one of these"
        )
    try:
        environments = {str(name): content["packages"] for name, content in document["environments"].items()}
        chosen = environment or (next(iter(environments)) if len(environments) == 1 else "default")
        listed = {
            str(platform): [_pixi_key(entry) for entry in entries]
            for platform, entries in environments.get(chosen, {}).items()
        }
        described = {_pixi_key(entry): (str(entry.get("name") or ""), _hashes(entry)) for entry in document["packages"]}
        subdirs = {str(entry["name"]): str(entry.get("subdir", "")) for entry in document.get("platforms", ())}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CondaError(f"{source} is not written as pixi writes it: {error!r}"[:300]) from error
    if chosen not in environments:
        raise CondaError(
            f"{source} has no environment called {chosen}, only {', '.join(sorted(environments)) or 'none'}: "
            "name the one to install behind the path, as #NAME"
        )
    locks: dict[str, Lock] = {}
    for platform, keys in listed.items():
        packages = []
        for kind, url in keys:
            if (kind, url) not in described:
                raise CondaError(f"{source}: {chosen} lists {url}, which is not among its packages: lock it again")
            name, hashes = described[kind, url]
            if kind != "conda":
                raise CondaError(
                    f"{source}: {name or url} is a {kind} package, which cannot be installed from a lock yet"
                )
            packages.append(_exact(url, name or url, hashes, source))
        subdir = subdirs.get(platform) or platform
        if subdir in locks:
            raise CondaError(
                f"{source}: {chosen} has several platforms for {subdir}, and a node cannot tell which to use"
            )
        if packages:
            locks.update(_by_platform(packages, {subdir}, source))
    if not locks:
        raise CondaError(f"{source} has no package for {chosen}")
    return locks


def _pixi_key(entry: t.Mapping[str, t.Any]) -> tuple[str, str]:
    """What kind of package it is and where it comes from: what a pixi.lock knows it by."""
    (kind,) = _PIXI_KINDS & entry.keys()
    return kind, str(entry[kind])


def _hashes(stated: t.Mapping[str, t.Any]) -> dict[str, str]:
    return {kind: str(stated.get(kind) or "") for kind in _DIGITS}


def _exact(url: str, name: str, hashes: t.Mapping[str, str], source: str) -> Package:
    """The package at *url*, provided that *hashes* say exactly which that is."""
    if not any(hashes.values()):
        raise CondaError(f"{source}: {name} has no hash: lock it again with a tool that writes sha256 sums")
    for kind, value in hashes.items():
        if value and not re.fullmatch(f"[0-9a-f]{{{_DIGITS[kind]}}}", value):
            raise CondaError(f"{source}: the {kind} of {name} is none: {value[:80]!r}")
    try:
        return Package.from_url(url, hashes["sha256"], hashes["md5"])
    except CondaError as error:
        raise CondaError(f"{source}: {error}") from error


def _by_platform(packages: t.Sequence[Package], stated: set[str], source: str) -> dict[str, Lock]:
    if not packages:
        raise CondaError(f"{source} has no package")
    platforms = stated | {package.subdir for package in packages} - {"noarch"}
    if len(platforms) != 1:
        named = ", ".join(sorted(platforms)) or "none, since all packages are noarch and no '# platform:' line says"
        raise CondaError(f"{source} must be for one platform, and names {named}")
    names: dict[str, Package] = {}
    for package in packages:
        if package.name in names:
            raise CondaError(f"{source} has {package.name} twice: {names[package.name].label}, {package.label}")
        names[package.name] = package
    platform = platforms.pop()
    return {platform: Lock(platform, tuple(packages))}


def require_channels(lock: Lock, channels: t.Sequence[str], source: str, option: str) -> None:
    """Refuse a lock that takes a package from a channel other than *channels*, which are URLs.

    :raises CondaError: naming the package, its channel and *option*, the variable that lists the channels.
    """
    trusted = {channel.rstrip("/") for channel in channels}
    for package in lock.packages:
        if package.channel not in trusted:
            raise CondaError(
                f"{source}: {package.name} comes from {package.channel}, which {option} does not allow "
                f"(it allows {', '.join(sorted(trusted)) or 'none'})"
            )


def for_platform(locks: t.Mapping[str, Lock], platform: str, name: str) -> Lock:
    """The lock of environment *name* for a node's *platform*.

    :raises CondaError: there is none.
    """
    if platform not in locks:
        raise CondaError(
            f"conda_envs_shared: {name}: the lock is for {', '.join(sorted(locks)) or 'no platform'}, "
            f"and the node is {platform}: lock the environment for this platform too"
        )
    return locks[platform]
