# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""From a spec and the lock before to the lock after, without solving where nothing that counts has changed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import typing as t

import yaml

from ..module_utils._conda.errors import CondaError
from ..module_utils._conda.lock_writing import Entry, conda_lock_text, public_url
from ..module_utils._conda.locks import Lock, Package, Wheel, from_conda_lock, normalized
from ._lock_files import load_yaml
from ._solving import Options, effective_channels, solve
from ._specs import Spec

_FORMAT = 1  # of what the content hash is made of


@dataclasses.dataclass(frozen=True)
class Changes:
    """How two locks for one platform differ, in labels: name, version and build."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    up: tuple[tuple[str, str], ...] = ()  #: before and after
    down: tuple[tuple[str, str], ...] = ()
    rebuilt: tuple[tuple[str, str], ...] = ()  #: the same version, but another build or archive

    def __bool__(self) -> bool:
        return any(dataclasses.astuple(self))

    def as_dict(self) -> dict[str, list[t.Any]]:
        """For JSON."""
        moved = {
            key: [{"before": before, "after": after} for before, after in getattr(self, key)]
            for key in ("up", "down", "rebuilt")
        }
        return {"added": list(self.added), "removed": list(self.removed), **moved}

    def lines(self) -> list[str]:
        """For people."""
        lines = [f"added    {label}" for label in self.added] + [f"removed  {label}" for label in self.removed]
        for key in ("up", "down", "rebuilt"):
            lines += [f"{key:8} {before} -> {after}" for before, after in getattr(self, key)]
        return lines


@dataclasses.dataclass(frozen=True)
class Locking:
    """What came of locking a spec."""

    text: str  #: of the conda-lock file
    previous: str  #: the text before, empty if there was none
    locks: t.Mapping[str, Lock]  #: by platform
    changes: t.Mapping[str, Changes]  #: by platform, and of platforms that are gone
    solved: tuple[str, ...]  #: the platforms that were not up to date
    updated: frozenset[str]  #: those of Options.update that were in the lock before
    moved_too: tuple[str, ...]  #: names that were not to move, but had to


def content_hash(spec: Spec, options: Options, platform: str) -> str:
    """sha256 over all that decides what the lock for *platform* has, whatever the channels offer by now.

    It is the same wherever the spec lies, and has nothing of passwords.

    :raises CondaError: the spec or an option is not well written.
    """
    wanted = spec.for_platform(platform)
    options.newest()
    content = {
        "format": _FORMAT,
        "wanted": dataclasses.asdict(wanted),
        "channels": effective_channels(wanted, options, spec.source),
        "virtual_packages": options.virtual(platform),
        "channel_priority": options.channel_priority,
        "exclude_newer": options.exclude_newer.strip(),
    }
    if wanted.pip.requirements:
        # Directories are where wheels happen to lie on one machine.
        urls = (options.index_url, *options.extra_index_urls, *options.find_links)
        content["indexes"] = [public_url(url) for url in urls if not url.startswith(("/", "file:"))]
    text = json.dumps(content, sort_keys=True)
    if spec.directory:
        text = text.replace(json.dumps(spec.directory)[1:-1], "")
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def make_lock(spec: Spec, options: Options, previous: str = "", *, sources: t.Sequence[str] = ()) -> Locking:
    """Lock *spec* for all platforms, or see that *previous* is up to date.

    A platform whose content hash is the one in *previous* is not solved, unless *options* ask for an update. Where it
    is, the packages of *previous* stay as far as the spec lets them. Nothing is written.

    :param previous: the text of the lock before, empty if there is none.
    :param sources: what the lock says it was made from, relative to it.
    :raises CondaError: it cannot be locked, or *previous* cannot be read.
    """
    before = _Before.of(previous, spec.source, options.update_all)
    present = {package.name for lock in before.locks.values() for package in _packages(lock)}
    updated = frozenset(options.update) & present
    options = dataclasses.replace(options, update=tuple(sorted(updated)))
    entries: dict[str, t.Sequence[Entry]] = {}
    hashes, channels, variables, solved = {}, {}, {}, []
    for platform in sorted(set(options.platforms or spec.platforms or ("linux-64",))):
        wanted = spec.for_platform(platform)
        hashes[platform] = content_hash(spec, options, platform)
        variables[platform] = wanted.variables
        channels.update(dict.fromkeys(effective_channels(wanted, options, spec.source)))
        if before.hashes.get(platform) == hashes[platform] and not (updated or options.update_all):
            entries[platform] = before.entries(platform)
            continue
        if not wanted.dependencies:
            raise CondaError(f"{spec.source}: dependencies: there is nothing to lock for {platform}: list a package")
        entries[platform] = solve(wanted, platform, options, before.locks.get(platform), spec.source).entries
        solved.append(platform)
    if len(set(variables.values())) != 1:
        raise CondaError(f"{spec.source}: variables: they differ by platform, and a lock has room for one set of them")
    text = conda_lock_text(
        entries,
        channels=tuple(channels),
        content_hash=hashes,
        sources=sources,
        variables=dict(variables.popitem()[1]),
    )
    document = load_yaml(text)
    if document == before.document:
        text = previous  # which a person may have formatted
    locks = from_conda_lock(document, spec.source)
    changes = {name: _compare(before.locks.get(name), locks.get(name)) for name in sorted({*before.locks, *locks})}
    moved = {
        old.partition(" ")[0]
        for change in changes.values()
        for old, _new in (*change.up, *change.down, *change.rebuilt)
    }
    moved_too = tuple(sorted(moved - updated)) if updated else ()
    return Locking(text, previous, locks, changes, tuple(solved), updated, moved_too)


@dataclasses.dataclass(frozen=True)
class _Before:
    """The lock before."""

    document: t.Mapping[str, t.Any]
    locks: t.Mapping[str, Lock]
    hashes: t.Mapping[str, str]  #: content hash by platform, of the platforms that there are packages for

    @classmethod
    def of(cls, text: str, source: str, forget: bool) -> _Before:
        """What *text* says; with *forget*, nothing if it cannot be read."""
        if not text:
            return cls({}, {}, {})
        try:
            document = load_yaml(text)
            locks = from_conda_lock(document, "the lock before")
            stated = (document.get("metadata") or {}).get("content_hash") or {}
            return cls(document, locks, {platform: stated[platform] for platform in locks if platform in stated})
        except (yaml.YAMLError, AttributeError, CondaError, RecursionError, TypeError, ValueError) as error:
            if forget:
                return cls({}, {}, {})
            said = " ".join(str(error).split())
            raise CondaError(
                f"{source}: the lock before cannot be read: {said}: remove it, or set update_all"
            ) from error

    def entries(self, platform: str) -> tuple[Entry, ...]:
        """Its packages for *platform*, with what they depend on."""
        depends = {
            (entry["manager"] == "pip", normalized(entry["name"])): entry.get("dependencies") or {}
            for entry in self.document["package"]
            if entry["platform"] == platform
        }
        return tuple(
            Entry(package, depends[isinstance(package, Wheel), normalized(package.name)])
            for package in _packages(self.locks[platform])
        )


def _packages(lock: Lock | None) -> tuple[Package | Wheel, ...]:
    return (*lock.packages, *lock.wheels) if lock else ()


def _compare(before: Lock | None, after: Lock | None) -> Changes:
    old, new = (
        {(isinstance(package, Wheel), package.name): package for package in _packages(lock)} for lock in (before, after)
    )
    moved: dict[str, list[tuple[str, str]]] = {"up": [], "down": [], "rebuilt": []}
    for key in sorted(old.keys() & new.keys()):
        if old[key].key != new[key].key:
            order = _order(new[key].version, old[key].version)
            moved["up" if order > 0 else "down" if order < 0 else "rebuilt"].append((old[key].label, new[key].label))
    added, removed = sorted(new.keys() - old.keys()), sorted(old.keys() - new.keys())
    return Changes(
        tuple(new[key].label for key in added),
        tuple(old[key].label for key in removed),
        *(tuple(pairs) for pairs in moved.values()),
    )


def _order(one: str, other: str) -> int:
    """Positive where version *one* is the newer, negative where it is the older."""
    from packaging.version import InvalidVersion, Version  # see _specs.py

    try:
        left, right = Version(one), Version(other)
        return (left > right) - (left < right)
    except InvalidVersion:
        parts = [
            [
                (part.isdigit(), int(part) if part.isdigit() else 0, part)
                for part in re.findall(r"\d+|[a-z]+", text.lower())
            ]
            for text in (one, other)
        ]
        return (parts[0] > parts[1]) - (parts[0] < parts[1])
