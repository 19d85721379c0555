# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which environments of a node are saved."""

from __future__ import annotations

import dataclasses
import fnmatch
import glob
import hashlib
import os
import pwd
import urllib.parse

from .._conda import environments, inventory
from .._conda.errors import CondaError
from .config import Config

_ALL = "*"


@dataclasses.dataclass(frozen=True)
class Chosen:
    """An environment that is to be saved."""

    key: str
    kind: str  #: shared or private
    name: str  #: of a shared one, the path of any other


def key_of(kind: str, name: str) -> str:
    """What tells an environment from all others, in a form that restic takes as a tag."""
    return f"{kind}:{urllib.parse.quote(os.fsencode(name), safe='/:@+~._-')}"


def digest_of(key: str) -> str:
    """A name for files that belong to an environment."""
    return hashlib.sha256(key.encode("utf-8")).hexdigest()[:16]


def choose(config: Config) -> tuple[list[Chosen], dict[str, str]]:
    """The environments that are saved, and why some are not: by key or path.

    Shared ones come first, since nothing that a user does to an environment can keep them from being saved.
    """
    missed: dict[str, str] = {}
    there = [name for name in environments.names(config.places) if os.path.lexists(config.places.link(name))]
    names: list[str] = []
    for pattern in config.shared:
        found = fnmatch.filter(there, pattern)
        names += found
        if not found and not glob.has_magic(pattern):
            missed[key_of("shared", pattern)] = f"env_backup_shared: this node has no shared environment {pattern}"
    chosen = [Chosen(key_of("shared", name), "shared", name) for name in dict.fromkeys(names)]
    private, left_out = _private(config)
    missed.update((key_of("private", one["path"]), f"{one['path']}: {one['reason']}") for one in left_out)
    return chosen + [Chosen(key_of("private", path), "private", path) for path in private], missed


def _private(config: Config) -> tuple[list[str], list[dict[str, str]]]:
    accounts, left_out = [], []
    local = inventory.local_accounts() if config.marker or _ALL in config.users else []
    for user in config.users:
        try:
            accounts += local if user == _ALL else [inventory.account_of(user)]
        except CondaError:
            left_out.append({"path": user, "reason": "env_backup_users: this node has no such user"})
    paths = []
    for pattern in config.paths:
        found = sorted(glob.glob(pattern))
        paths += found
        if not found and not glob.has_magic(pattern):
            left_out.append({"path": pattern, "reason": "env_backup_paths: is not there"})
    wanted, unseen = inventory.private_prefixes(accounts, paths)
    left_out += unseen
    prefixes = [path for path, _uid in wanted]
    if config.marker:
        others, _unseen = inventory.private_prefixes(local, [])
        prefixes += [path for path, _uid in others if os.path.lexists(os.path.join(path, config.marker))]
    return list(dict.fromkeys(prefixes)), left_out


def owner_of(uid: int) -> str:
    """What a user is called, or an empty string."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""
