# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""Lock files as a site's variables name them, read on the control node, which has a YAML parser."""

from __future__ import annotations

import functools
import os
import re
import typing as t

import yaml

from ..module_utils._conda.errors import CondaError
from ..module_utils._conda.locks import Lock, from_conda_lock, from_explicit, from_pixi_lock, require_channels

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_Loader: t.Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_lock_file(path: str, environment: str = "") -> dict[str, Lock]:
    """The locks in the file at *path*, by platform.

    :param environment: which of those in a pixi.lock, the default one if empty.
    :raises CondaError: it is missing, or cannot be installed exactly.
    """
    try:
        return _read(path, environment, os.stat(path).st_mtime_ns)
    except OSError as error:
        raise CondaError(f"the lock file {path} cannot be read: {error.strerror}") from error


@functools.lru_cache(maxsize=256)
def _read(path: str, environment: str, _modified: int) -> dict[str, Lock]:
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read()
    except UnicodeDecodeError as error:
        raise CondaError(f"{path} is no text: {error}") from error
    explicit = "@EXPLICIT" in text.split()
    try:
        document = None if explicit else yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise CondaError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if isinstance(document, dict) and "environments" in document:
        return from_pixi_lock(document, path, environment)
    if environment:
        raise CondaError(
            f"{path} is no pixi.lock, which alone has environments to choose from: take #{environment} off"
        )
    return from_explicit(text, path) if explicit else from_conda_lock(document, path)


def read_environments(
    environments: t.Any, directory: str, channels: t.Sequence[str], alias: str
) -> dict[str, dict[str, Lock]]:
    """The locks of all *environments*, by name and platform.

    :param environments: what the variable conda_envs_shared lists.
    :param directory: where relative paths of locks begin.
    :param channels: the channels that packages may come from: URLs, or names under *alias*.
    :raises CondaError: with the variable and the environment at fault.
    """
    allowed = [channel if "://" in channel else f"{alias.rstrip('/')}/{channel}" for channel in channels]
    result: dict[str, dict[str, Lock]] = {}
    for environment in environments:
        name = str(environment.get("name") or "")
        if not _NAME.fullmatch(name):
            raise CondaError(f"conda_envs_shared: {name!r} is no name for an environment: use letters, digits, _ . -")
        if name in result:
            raise CondaError(f"conda_envs_shared: {name} is listed twice")
        if not environment.get("lock"):
            raise CondaError(f"conda_envs_shared: {name} has no lock: name its lock file")
        file, _hash, chosen = str(environment["lock"]).partition("#")
        path = os.path.join(directory, file)
        try:
            locks = read_lock_file(path, chosen)
            for lock in locks.values():
                require_channels(lock, allowed, path, "conda_envs_channels")
        except CondaError as error:
            raise CondaError(f"conda_envs_shared: {name}: {error}") from error
        result[name] = locks
    return result
