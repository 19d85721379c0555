# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Save the chosen environments of a node, each whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
import time
import typing as t

from .._conda import environments
from .._conda.errors import CondaError
from .._conda.files import write_file
from .._node.facts import system
from . import contents, records
from .config import Config
from .contents import Look, Manifest
from .errors import BackupError, LockedError, PartError
from .restic import Repository
from .selection import Chosen, choose, digest_of, owner_of

_ATTEMPTS = 3
# Snapshots that must go, for what they have was changed meanwhile, and since when one is made that is not proved yet.
_UNPROVED = "unproved.json"
Say = t.Callable[[str], None]


@dataclasses.dataclass
class Outcome:
    """What came of a run, or of a drill."""

    done: dict[str, dict[str, t.Any]] = dataclasses.field(default_factory=dict)  #: by key
    failed: dict[str, str] = dataclasses.field(default_factory=dict)  #: why, by key
    warnings: list[str] = dataclasses.field(default_factory=list)


def records_of(directory: str, key: str) -> str:
    """Where a node writes down what it saves of the environment *key*, below the *directory* of its backups."""
    return os.path.join(directory, "records", digest_of(key))


def save(config: Config, repository: Repository, outcome: Outcome, say: Say) -> None:
    """Save all that is to be saved, then drop what need not be kept.

    :raises BackupError: the repository cannot be used, or some environments could not be saved.
    """
    chosen, outcome.failed = choose(config)
    run = _Run(config, repository)
    run.take_over()
    for one in chosen:
        try:
            outcome.done[one.key] = run.save(one)
            say(f"saved {one.key}: {outcome.done[one.key]['added_bytes']} bytes added")
        except PartError as error:
            outcome.failed[one.key] = str(error)
        except BackupError:
            raise  # the repository is at fault, and no other environment would do better
        except (CondaError, OSError) as error:
            outcome.failed[one.key] = f"{one.name}: {error}"
    steps: list[tuple[str, t.Callable[[], None]]] = [
        ("dropping snapshots that are not whole", run.drop_torn),
        ("retention", lambda: repository.retain(config.host, config.keep, config.prune)),
    ]
    for what, step in steps:
        try:
            step()
        except LockedError as error:  # other nodes are at work: nothing is lost by doing it the next time
            outcome.warnings.append(f"{what}, and what comes after that, is left to the next run: {error}")
            break  # retention would take a snapshot that is not whole for the newest one
    if outcome.failed:
        raise PartError("; ".join(outcome.failed.values()))
    if not outcome.done:
        raise BackupError(
            "nothing was saved, for nothing is chosen: see env_backup_shared, env_backup_users, env_backup_paths and "
            "env_backup_marker"
        )


class _Run:
    """One run."""

    def __init__(self, config: Config, repository: Repository) -> None:
        self._config = config
        self._repository = repository
        self._platform = str(system()["platform"])
        self._file = os.path.join(config.directory, _UNPROVED)
        self._torn: list[str] = []

    def take_over(self) -> None:
        """Find what a run that was killed has left: a snapshot that nobody has proved is none."""
        try:
            with open(self._file, encoding="utf-8") as stream:
                known = json.load(stream)
            self._torn, key, since = list(known["torn"]), known["key"], known["since"]
        except (OSError, ValueError, KeyError, TypeError):
            return
        if key:
            left = self._repository.snapshots(self._config.host, key)
            self._torn += [one.id for one in left if one.time >= since]
            self._note()

    def save(self, chosen: Chosen) -> dict[str, t.Any]:
        """Save one environment: what was saved.

        :raises PartError: it was changed each time that it was tried.
        """
        reason = ""
        for _attempt in range(_ATTEMPTS):
            try:
                return self._try(chosen)
            except (FileNotFoundError, NotADirectoryError, _Changed) as error:
                reason = str(error)
        raise PartError(
            f"{chosen.name} was changed each time while it was saved ({reason}), so nothing of it was kept: what was "
            "saved before is still there, and the next run tries again"
        )

    def _try(self, chosen: Chosen) -> dict[str, t.Any]:
        prefix, identity = self._place(chosen)
        folder = records_of(self._config.directory, chosen.key)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        sums_path = f"{folder}.sums"
        seen = contents.look(prefix, records.read_sums(sums_path))
        manifest = Manifest(
            key=chosen.key,
            kind=chosen.kind,
            name=chosen.name,
            prefix=prefix,
            owner=owner_of(seen.entries[""].uid),
            identity=identity,
            left_out=records.write(prefix, chosen.name, self._platform, seen, folder),
            accounts=contents.accounts_of(seen.entries),
            entries=seen.entries,
        )
        manifest.write(os.path.join(folder, contents.MANIFEST))
        self._require_same(prefix, seen)  # what is known to be in vain need not be sent
        self._note(chosen.key)
        saved = self._repository.backup([prefix, folder], self._config.host, chosen.key)
        try:
            if not saved.complete:
                raise _Changed("not everything could be read")
            self._require_same(prefix, seen)
        except (_Changed, OSError):
            self._torn.append(saved.id)
            raise
        finally:
            self._note()
        write_file(sums_path, json.dumps(seen.sums()), 0o600)
        return {
            "snapshot": saved.id,
            "prefix": prefix,
            "added_bytes": saved.added_bytes,
            "files": len(seen.entries),
            "bytes": manifest.bytes,
            "left_out": manifest.left_out,
        }

    def _place(self, chosen: Chosen) -> tuple[str, str]:
        """Where the environment is now, and the identity of a generation."""
        if chosen.kind != "shared":
            return chosen.name, ""
        found = environments.look(self._config.places, chosen.name)
        for problem in found.problems:
            raise CondaError(
                f"is damaged: {problem.subject}: {problem.detail}: run the site playbook; what was saved stays"
            )
        if found.target is None or found.manifest is None:
            raise CondaError(f"{found.link} leads to no generation")
        return found.target, found.manifest.identity

    def _require_same(self, prefix: str, seen: Look) -> None:
        changed = contents.look(prefix, read=False).changed_since(seen)
        if changed:
            raise _Changed(f"{changed[0] or prefix} and {len(changed) - 1} more")

    def _note(self, key: str = "") -> None:
        """Write down which snapshots must go, and of which environment one is being made, for the case of a kill."""
        since = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) if key else ""
        write_file(self._file, json.dumps({"torn": self._torn, "key": key, "since": since}), 0o600)

    def drop_torn(self) -> None:
        """Drop the snapshots of environments that changed meanwhile."""
        if self._torn:
            there = [
                one.id for one in self._repository.snapshots(self._config.host) if one.id.startswith(tuple(self._torn))
            ]
            if there:
                self._repository.forget(there)
            self._torn = []
            self._note()


class _Changed(Exception):
    """An environment is not what it was a moment ago."""
