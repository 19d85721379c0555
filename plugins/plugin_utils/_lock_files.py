# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""Lock files as a site's variables name them, read on the control node, which has a YAML parser."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import typing as t

import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ..module_utils._conda.condarc import url_of
from ..module_utils._conda.convergence import Wanted
from ..module_utils._conda.errors import CondaError, shown
from ..module_utils._conda.locks import (
    Lock,
    for_platform,
    from_conda_lock,
    from_explicit,
    from_pixi_lock,
    mirrored,
    require_channels,
    through_mirrors,
)
from ..modules.conda_env import ENVIRONMENT

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_URL = re.compile(r"[a-z]+://[^\s{}]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Activation itself and what keeps a job in its generation depend on these.
_RESERVED = frozenset(("PATH", "PYTHONHOME", "PYTHONEXECUTABLE"))
_RESERVED_PREFIXES = ("CONDA_", "_CONDA_", "__CONDA_", "_CE_")
# conda puts values between quotes as they are, and not between the same quotes for every shell.
_QUOTES = frozenset("'\"`$\\")
_Loader: t.Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# A lock has no more than six. Some thousands make the loader in C crash.
_MAX_LEVELS = 50


def read_lock_file(path: str, environment: str = "") -> dict[str, Lock]:
    """The locks in the file at *path*, by platform.

    :param environment: which of those in a pixi.lock, the default one if empty.
    :raises CondaError: it is missing, or cannot be installed exactly.
    """
    try:
        return _read(path, environment, os.stat(path).st_mtime_ns)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CondaError(f"the lock file {path} cannot be read: {reason}") from error


@functools.lru_cache(maxsize=256)
def _read(path: str, environment: str, _modified: int) -> dict[str, Lock]:
    try:
        with open(path, encoding="utf-8-sig") as stream:
            text = stream.read()
    except UnicodeDecodeError as error:
        raise CondaError(f"{path} is no text: {error}") from error
    explicit = "@EXPLICIT" in text.split()
    try:
        document = None if explicit else load_yaml(text)
    except yaml.YAMLError as error:
        raise CondaError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    except (RecursionError, ValueError) as error:
        raise CondaError(f"{path} cannot be read as YAML: {error}") from error
    if isinstance(document, dict) and "environments" in document:
        return from_pixi_lock(document, path, environment)
    if environment:
        raise CondaError(
            f"{path} is no pixi.lock, which alone has environments to choose from: take #{environment} off"
        )
    return from_explicit(text, path) if explicit else from_conda_lock(document, path)


def plain(value: t.Any) -> t.Any:
    """*value* without Ansible's containers that make their content when asked for it: a copy of one copies Ansible."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


@dataclasses.dataclass(frozen=True)
class _Site:
    """What holds for all environments: see read_environments()."""

    directory: str
    channels: t.Sequence[str]
    alias: str
    locking: t.Mapping[str, t.Any]
    solve: str

    @property
    def mirrors(self) -> dict[str, str]:
        """URLs of channels, and where they are mirrored.

        :raises CondaError: one is no URL, which would change nothing and say nothing.
        """
        mirrors = {str(url): str(mirror) for url, mirror in (self.locking.get("channel_mirrors") or {}).items()}
        for text in (*mirrors, *mirrors.values()):
            if not _URL.fullmatch(text):
                raise CondaError(
                    f"conda_envs_channel_mirrors: {shown(text)} is no URL (Ansible evaluates no expression in a key)"
                )
        return mirrors

    def allowed(self) -> list[str]:
        """The URLs of the channels, as packages have them that come from a mirror."""
        return [mirrored(url_of(channel, self.alias), self.mirrors) for channel in self.channels]


def load_yaml(text: str) -> t.Any:
    """What YAML says in *text*.

    :raises ValueError: it is nested deeper than any lock.
    """
    levels = 0
    for event in yaml.parse(text, Loader=_Loader):
        levels += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if levels > _MAX_LEVELS:
            raise ValueError(f"it is nested more than {_MAX_LEVELS} levels deep")
    return yaml.load(text, Loader=_Loader)


def read_wanted(
    environments: t.Any,
    platform: str,
    directory: str,
    channels: t.Sequence[str],
    alias: str,
    locking: t.Mapping[str, t.Any] | None = None,
) -> tuple[list[Wanted], list[str]]:
    """What is wanted of *environments* on a node of *platform*, and the names of those that are not locked yet.

    Nothing is solved. The rest is as for read_environments().

    :raises CondaError: with the variable and the environment at fault.
    """
    validator = ArgumentSpecValidator(ENVIRONMENT)
    entries = []
    for environment in environments:
        validated = validator.validate(plain(environment))
        if validated.error_messages:
            raise CondaError(f"conda_envs_shared: {environment.get('name')}: {'; '.join(validated.error_messages)}")
        entries.append(validated.validated_parameters)
    wanted, unlocked = [], []
    locks = read_environments(entries, directory, channels, alias, plain(locking or {}))
    for entry, (name, found) in zip(entries, locks.items(), strict=True):
        absent = entry["state"] == "absent"
        if not (found or absent):
            unlocked.append(name)
            continue
        lock = Lock(platform, ()) if absent else for_platform(found, platform, name)
        try:
            wanted.append(Wanted.of(entry, lock))
        except CondaError as error:
            raise CondaError(f"conda_envs_shared: {name}: {error}") from error
    return wanted, unlocked


def read_environments(
    environments: t.Any,
    directory: str,
    channels: t.Sequence[str],
    alias: str,
    locking: t.Mapping[str, t.Any] | None = None,
    solve: str = "never",
) -> dict[str, dict[str, Lock]]:
    """The locks of all *environments*, by name and platform; none of one that needs none, or that has none yet.

    :param environments: what the variable conda_envs_shared lists.
    :param directory: where relative paths of specs and locks begin.
    :param channels: the channels that packages may come from: URLs, or names under *alias*.
    :param locking: how specs without a lock are solved, and which channels have mirrors.
    :param solve: what has no lock yet: "never", to "see" what the lock would be, or to "keep" that.
    :raises CondaError: with the variable and the environment at fault.
    """
    site = _Site(directory, channels, alias, locking or {}, solve)
    result: dict[str, dict[str, Lock]] = {}
    for environment in environments:
        name = str(environment.get("name") or "")
        if not _NAME.fullmatch(name):
            raise CondaError(f"conda_envs_shared: {name!r} is no name for an environment: use letters, digits, _ . -")
        if name in result:
            raise CondaError(f"conda_envs_shared: {name} is listed twice")
        try:
            result[name] = _read_environment(name, environment, site)
        except CondaError as error:
            raise CondaError(f"conda_envs_shared: {name}: {error}") from error
    return result


def _read_environment(name: str, environment: t.Mapping[str, t.Any], site: _Site) -> dict[str, Lock]:
    lock, generation = environment.get("lock"), environment.get("generation")
    if environment.get("state") == "absent":
        if generation:
            raise CondaError("generation: an environment that is to be absent leads to none: take it out")
        return {}
    if generation:
        return {}  # it tells itself what it was made from
    if environment.get("packages") and (lock or environment.get("spec")):
        raise CondaError("packages: there is a lock or a spec too: keep one of them")
    variables = _checked_variables(environment.get("variables") or {})
    if lock:
        file, _hash, chosen = str(lock).partition("#")
        path = os.path.join(site.directory, file)
        locks: t.Mapping[str, Lock] = read_lock_file(path, chosen)
    elif environment.get("spec") or environment.get("packages"):
        solved = _read_kept(name, environment, site)
        if solved is None:
            return {}
        path, locks = solved
    else:
        raise CondaError("has no lock: name its lock file, or a spec")
    result = {}
    for platform, found in locks.items():
        found = through_mirrors(found, site.mirrors)
        require_channels(found, site.allowed(), path, "conda_envs_channels")
        merged = tuple(sorted({**_checked_variables(dict(found.variables)), **variables}.items()))
        result[platform] = dataclasses.replace(found, variables=merged) if merged != found.variables else found
    return result


def _read_kept(name: str, environment: t.Mapping[str, t.Any], site: _Site) -> tuple[str, t.Mapping[str, Lock]] | None:
    """Where the lock is that was made from a spec, and what it has; None where there is none, and none may be made."""
    # Not every control node locks, and only those that do need what solving needs.
    from ._kept_locks import KeptLocks
    from ._solving import Options
    from ._specs import read_spec, spec_from_packages

    def place(path: str) -> str:
        return path if "://" in path else os.path.join(site.directory, path)

    how = site.locking
    options = Options(
        channels=tuple(site.channels),
        channel_alias=site.alias,
        platforms=tuple(environment.get("platforms") or how.get("platforms") or ()),
        virtual_packages={**(how.get("virtual_packages") or {}), **(environment.get("virtual_packages") or {})},
        channel_priority=how.get("channel_priority") or "strict",
        exclude_newer=str(how.get("exclude_newer") or ""),
        index_url=how.get("index_url") or "",
        extra_index_urls=tuple(how.get("extra_index_urls") or ()),
        find_links=tuple(place(path) for path in how.get("find_links") or ()),
    )
    if environment.get("spec"):
        spec = read_spec(place(str(environment["spec"])))
    else:
        spec = spec_from_packages(environment["packages"], source="packages")
    kept = KeptLocks(os.path.join(site.directory, ".envfleet"))
    path = kept.of(name, spec, options)
    if not os.path.exists(path):
        if site.solve == "never":
            return None
        if site.solve == "see" or environment.get("state") == "verified":
            return spec.source, kept.solved(name, spec, options)
        kept.keep(name, spec, options)
    return path, read_lock_file(path)


def _checked_variables(variables: t.Any) -> dict[str, str]:
    """The variables that activation shall set.

    :raises CondaError: a name or a value that not every shell would take as it is written.
    """
    if not isinstance(variables, dict):
        raise CondaError(f"variables: {variables!r} are no names with values")
    result = {}
    for name, value in variables.items():
        if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
            raise CondaError(f"variables: {name!r} is no name of a variable: use letters, digits and _")
        if name in _RESERVED or name.startswith(_RESERVED_PREFIXES):
            raise CondaError(f"variables: {name} belongs to the activation itself: take it out")
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise CondaError(f"variables: {name} has a value that is no text: write it in quotes")
        text = str(value)
        if not text.isprintable() or _QUOTES & set(text) or text == "***unset***":
            raise CondaError(
                f"variables: {name}: {text!r} would not reach every shell as it is: "
                "leave quotes, $, backslashes and control characters out"
            )
        result[name] = text
    return result
