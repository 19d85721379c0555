# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring saved environments back to where they were, and prove in a drill that this could be done."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pwd
import random

from .._conda import construction, prefixes
from .._conda.access import Access
from .._conda.environments import Places
from .._conda.errors import CondaError
from .._conda.files import exclusive, free_bytes, remove_tree, sync_directory
from .._conda.processes import run
from . import contents
from .config import Config
from .contents import Manifest
from .errors import BackupError, DamagedError, FullError
from .restic import Repository, Snapshot
from .saving import Outcome, Say
from .selection import digest_of, key_of

_TOLD = 5
_SPARE = 1.1  # what directories and the records take besides
_SCRATCH = "scratch"
# As the user, so that no link in a home leads root anywhere. $1: what was restored, $2: where it goes.
_PLACE = r"""
set -eu
cd
parent=$(dirname -- "$2")
half="$parent/.$(basename -- "$2").restoring"
mkdir -p -- "$parent"
if test -e "$half"; then chmod -R u+rwX -- "$half"; rm -rf -- "$half"; fi
cp -a -- "$1" "$half"
if test -e "$2" || test -L "$2"; then rm -rf -- "$half"; echo "$2 is there by now" >&2; exit 1; fi
mv -T -- "$half" "$2"
list=.conda/environments.txt
mkdir -p .conda
grep -qxF -- "$2" "$list" 2>/dev/null || printf '%s\n' "$2" >>"$list"
"""


def pick(repository: Repository, kind: str, name: str, host: str = "", snapshot: str = "") -> Snapshot:
    """The newest snapshot of an environment, by any node or by *host*, or the one whose id begins with *snapshot*.

    :raises BackupError: there is none.
    """
    every = repository.snapshots(host)
    found = [one for one in every if one.key == key_of(kind, name) and one.id.startswith(snapshot)]
    if found:
        return found[-1]
    keys = sorted({one.key for one in every})
    raise BackupError(
        f"{'name' if kind == 'shared' else 'path'}: {repository.location} has no snapshot {snapshot} of {name}"
        f"{f' by {host}' if host else ''}, only of: {', '.join(keys) or 'nothing'}"
    )


def _records_in(snapshot: Snapshot) -> str:
    ending = f"/records/{digest_of(snapshot.key)}"
    for path in snapshot.paths:
        if path.endswith(ending):
            return path
    raise DamagedError(f"env_backup_repository: snapshot {snapshot.id[:8]} has no manifest, so it is not one of ours")


def _unpack(repository: Repository, snapshot: Snapshot, target: str, owners: bool) -> tuple[Manifest, str]:
    """Restore a snapshot below *target* and read every byte of it: its manifest, and where its prefix is now.

    :raises BackupError: that cannot be done, or what is there is not what was saved.
    """
    wanted = int(repository.size(snapshot.id) * _SPARE)
    free = free_bytes(target)
    if free < wanted:
        raise FullError(f"{target} has {free >> 20} MiB free, and {snapshot.key} takes {wanted >> 20}: free some space")
    repository.restore(snapshot.id, target)
    if repository.user and os.geteuid() == 0:
        os.chown(target, 0, 0)  # from now on, nobody else can change anything there
    manifest = Manifest.read(target + os.path.join(_records_in(snapshot), contents.MANIFEST))
    if manifest.key != snapshot.key or manifest.prefix not in snapshot.paths:
        raise DamagedError(f"env_backup_repository: snapshot {snapshot.id[:8]} has the manifest of {manifest.key}")
    prefix = target + manifest.prefix
    problems = contents.compare(prefix, manifest, owners)
    if problems:
        told = "; ".join(f"{problem.kind} {problem.subject}: {problem.detail}" for problem in problems[:_TOLD])
        raise DamagedError(
            f"env_backup_repository: what snapshot {snapshot.id[:8]} of {snapshot.key} holds is not what was saved, in "
            f"{len(problems)} places: {told}: restore another snapshot"
        )
    return manifest, prefix


@dataclasses.dataclass(frozen=True)
class Restored:
    """What is there now, or would be."""

    changed: bool
    prefix: str
    snapshot: Snapshot | None = None


def restore_shared(
    repository: Repository, places: Places, name: str, snapshot: Snapshot, lock_timeout_seconds: float, check_mode: bool
) -> Restored:
    """Bring the generation of a snapshot back to its place. No name leads to it yet.

    It is restored beside its place, read whole, and moved there with one rename(2). Until then a mark tells every other
    run that it is not finished.
    """
    records = _records_in(snapshot)
    prefix = next(path for path in snapshot.paths if path != records)
    home = places.home(name)
    if os.path.realpath(os.path.dirname(prefix)) != os.path.realpath(home):
        raise BackupError(
            f"conda_envs_generations_dir: {name} was saved at {prefix}, and its path is in its files, so it can be "
            f"restored to there alone and not to {home}: set conda_envs_generations_dir to what it was, or build it "
            "from its lock"
        )
    if _is_there(prefix):
        return Restored(False, prefix, snapshot)
    if check_mode:
        return Restored(True, prefix, snapshot)
    os.umask(0o022)
    os.makedirs(home, mode=0o755, exist_ok=True)
    staging = f"{prefix}.restoring"
    with exclusive(
        places.lock_file, lock_timeout_seconds, "conda_envs_lock_timeout_seconds", "conda_envs_generations_dir"
    ):
        if _is_there(prefix):  # another run has done it while this one waited
            return Restored(False, prefix, snapshot)
        try:
            construction.discard(staging)
            construction.begin(staging)
            os.mkdir(staging, 0o700)
            _give(staging, repository)
            manifest, unpacked = _unpack(repository, snapshot, staging, owners=True)
            _require_usable(manifest, unpacked)
            construction.discard(prefix)  # what a killed build has left there
            os.rename(unpacked, prefix)
            sync_directory(home)
        finally:
            with contextlib.suppress(OSError):  # marked as it is, the next run finds it
                construction.discard(staging)
    return Restored(True, prefix, snapshot)


def _is_there(prefix: str) -> bool:
    """Is the generation there, and as it was made?

    :raises BackupError: something else is, or it is damaged: a process may be using it.
    """
    if not os.path.lexists(prefix) or prefix in construction.leftovers(os.path.dirname(prefix)):
        return False
    manifest = prefixes.read_manifest(prefix)
    problems = prefixes.check(prefix, manifest) if manifest else []
    if manifest is None or problems:
        why = f"{problems[0].subject} {problems[0].detail}" if problems else "it has no whole manifest"
        raise BackupError(
            f"{prefix} is there and is not as it was made ({why}), and what is there is never overwritten: run the "
            "site playbook, which builds it anew beside it, or move it away"
        )
    return True


def _require_usable(manifest: Manifest, unpacked: str) -> None:
    """Refuse a generation that would not be one here."""
    own = prefixes.read_manifest(unpacked)
    problems = prefixes.check(unpacked, own) if own else []
    if own is None or own.identity != manifest.identity or problems:
        raise DamagedError(f"env_backup_repository: what was restored is no whole generation of {manifest.name}")
    access = Access.of(own.identity)
    top = os.lstat(unpacked)
    here = access.accounts()
    if access.suffix and here != (top.st_uid, top.st_gid):
        raise BackupError(
            f"{manifest.name} was saved as one of {access.text()} with the numbers {top.st_uid}:{top.st_gid}, which "
            f"are {here[0]}:{here[1]} on this node: give the accounts their old numbers, or build it from its lock"
        )


def restore_private(
    repository: Repository, directory: str, path: str, snapshot: Snapshot, lock_timeout_seconds: float, check_mode: bool
) -> Restored:
    """Bring an environment of a user back to where it was, which must be free. *directory* is for this alone."""
    if os.path.lexists(path):
        raise BackupError(
            f"path: {path} is there, and what is there is never overwritten: move it away, then run again"
        )
    if check_mode:
        return Restored(True, path, snapshot)
    os.umask(0o022)
    os.makedirs(directory, mode=0o711, exist_ok=True)
    os.chmod(directory, 0o711)  # its owner goes through it, and nobody can look around
    staging = os.path.join(directory, "unpacked")
    with exclusive(os.path.join(directory, ".lock"), lock_timeout_seconds, "env_backup_lock_timeout_seconds"):
        try:
            remove_tree(staging)
            os.mkdir(staging, 0o711)
            _give(staging, repository)
            manifest, unpacked = _unpack(repository, snapshot, staging, owners=True)
            _place(manifest, unpacked, path)
        finally:
            remove_tree(staging)
    return Restored(True, path, snapshot)


def _place(manifest: Manifest, unpacked: str, path: str) -> None:
    """Give what was restored to its owner, who then copies it to its place."""
    try:
        account = pwd.getpwnam(manifest.owner)
    except KeyError:
        raise BackupError(
            f"path: this node has no user {manifest.owner or 'of that number'}, whose {path} is: make the user first"
        ) from None
    old = manifest.entries[""]
    for name, entry in manifest.entries.items():
        full = os.path.join(unpacked, name) if name else unpacked
        uid = account.pw_uid if entry.uid == old.uid else entry.uid
        gid = account.pw_gid if entry.gid == old.gid and account.pw_uid != old.uid else entry.gid
        if (uid, gid) != (entry.uid, entry.gid) and entry.kind != "other":
            mode = os.lstat(full).st_mode
            os.chown(full, uid, gid, follow_symlinks=False)
            if entry.kind != "link":
                os.chmod(full, mode & 0o7777)  # which a new owner would not have kept
    # The user needs a way in, whatever the directories above were like.
    parent = os.path.dirname(unpacked)
    for _directory in manifest.prefix.split(os.sep)[1:]:
        os.chmod(parent, 0o711)
        parent = os.path.dirname(parent)
    done = run(["sh", "-c", _PLACE, "sh", unpacked, path], environment={"HOME": account.pw_dir}, user=manifest.owner)
    if done.returncode:
        raise BackupError(f"path: {manifest.owner} cannot have {path}: {done.tail(500)}")
    for problem in contents.compare(path, manifest, owners=False):
        raise BackupError(f"path: {path} is not what was saved: {problem.subject}: {problem.detail}")


def _give(staging: str, repository: Repository) -> None:
    """Let restic write to *staging*, whoever it runs as."""
    if repository.user:
        account = pwd.getpwnam(repository.user)
        os.chown(staging, account.pw_uid, account.pw_gid)


def drill(config: Config, repository: Repository, outcome: Outcome, say: Say) -> None:
    """Restore the newest snapshot of each environment of this node, or of one, and read every byte. Nothing is run.

    :raises BackupError: the first thing that is wrong, with the worst of it first.
    """
    newest = {one.key: one for one in repository.snapshots(config.host)}
    if not newest:
        raise BackupError(
            f"env_backup_repository: {repository.location} has nothing of {config.host} yet: back it up first"
        )
    keys = sorted(newest) if config.drill == "all" else [random.choice(sorted(newest))]
    scratch = os.path.join(config.directory, _SCRATCH)
    worst: BackupError | None = None
    for key in keys:
        remove_tree(scratch)
        os.mkdir(scratch, 0o700)
        try:
            manifest, _prefix = _unpack(repository, newest[key], scratch, owners=os.geteuid() == 0)
            outcome.done[key] = {"snapshot": newest[key].id, "files": len(manifest.entries), "bytes": manifest.bytes}
            say(f"restored {key} of {newest[key].time[:19]}: all {len(manifest.entries)} entries are as they were")
        except BackupError as error:
            outcome.failed[key] = str(error)
            worst = error if worst is None or isinstance(error, DamagedError) else worst
        except (CondaError, OSError) as error:
            outcome.failed[key] = str(error)
            worst = worst or BackupError(f"{key} cannot be restored: {error}")
        finally:
            remove_tree(scratch)
    if worst:
        raise worst
