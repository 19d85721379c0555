# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The repository, and restic, which does the work on it: storage, encryption, deduplication and locks are its own."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pwd
import random
import re
import time
import typing as t

from .._conda.errors import CondaError
from .._conda.files import exclusive
from .._conda.processes import Result, run
from .errors import BackupError, DamagedError, FullError, LockedError, MissingError, PasswordError

#: The tag of all snapshots of this collection. Others in the same repository are never touched.
TAG = "envfleet"
# What restores need to give files their owners, in the hands of the user whom files in the repository belong to.
_RIGHTS = "-all,+chown,+fowner,+dac_override"
_INCOMPLETE = 3  # restic's status where it could not read everything
# In the order in which they count: the first that is found in what restic says tells what is wrong.
_SIGNS: tuple[tuple[str, type[BackupError], str], ...] = (
    (r"no space left on device|disk quota exceeded", FullError, "{location} or this node has no room left: {said}"),
    (r"wrong password or no key found", PasswordError, "the password in it does not open {location}"),
    (r"already locked", LockedError, "{location} is locked by another node or run: {said}"),
    (
        r"Is there a repository|config file does not exist|unable to open config file: .*(?:no such file|not exist)",
        MissingError,
        "there is no repository at {location}: see whether its file system is mounted; where it is lost, "
        "name another place in env_backup_repository, and the role env_backup makes one there",
    ),
    (
        r"ciphertext verification failed|invalid data returned|not found in repository|does not match id|Unmarshal"
        r"|could not load|unable to load|unexpected EOF|load(?:ing)? tree|^panic: |invalid character|hash mismatch",
        DamagedError,
        "{location} is damaged: {said}",
    ),
)
_VARIABLES: t.Mapping[type[BackupError], str] = {PasswordError: "env_backup_password_file"}
_STATUS: t.Mapping[int, type[BackupError]] = {error.code: error for error in (MissingError, LockedError, PasswordError)}


#: How the modules that need a repository ask for it.
OPTIONS = {
    "repository": {"type": "str", "required": True},
    "password_file": {"type": "path", "required": True, "no_log": False},
    "user": {"type": "str", "default": ""},
    "environment_file": {"type": "path", "default": ""},
    "lock_timeout": {"type": "float", "default": 600},
}


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """What was saved at one time of one environment."""

    id: str
    time: str  #: UTC, as restic writes it, to be compared as text
    host: str
    tags: tuple[str, ...]
    paths: tuple[str, ...]

    @property
    def key(self) -> str:
        """Which environment it is of."""
        return next((tag for tag in self.tags if tag != TAG), "")


@dataclasses.dataclass(frozen=True)
class Saved:
    """What came of saving something."""

    id: str
    added_bytes: int
    complete: bool  #: could everything be read?


@dataclasses.dataclass(frozen=True)
class Repository:
    """A repository of restic."""

    location: str
    password_file: str
    user: str = ""  #: whom its files belong to, if that is not who runs this, who must be root then
    variables: t.Mapping[str, str] = dataclasses.field(default_factory=dict)  #: for restic's environment
    cache: str = ""  #: a directory; empty: everything is read from the repository itself
    lock_timeout_seconds: float = 0

    @classmethod
    def of(cls, options: t.Mapping[str, t.Any], foretold: bool = False) -> Repository:
        """The repository that *options*, which has those of OPTIONS, names.

        :param foretold: need its user be there? If not, whoever runs this looks instead.
        :raises CondaError: there is no such user, or no such file.
        """
        user = options["user"]
        try:
            pwd.getpwnam(user or "root")
        except KeyError:
            if not foretold:
                raise BackupError(f"env_backup_user: this node has no user {user}: run the role env_backup") from None
            user = ""
        if not os.path.isfile(options["password_file"]):
            raise BackupError(
                f"env_backup_password_file: there is no file {options['password_file']} on this node: put it there"
            )
        variables = read_variables(options["environment_file"]) if options["environment_file"] else {}
        return cls(
            options["repository"],
            options["password_file"],
            user,
            variables,
            lock_timeout_seconds=options["lock_timeout"],
        )

    @property
    def directory(self) -> str:
        """Where it is on this node, or an empty string where it is not on a file system."""
        return self.location if self.location.startswith("/") else ""

    def backup(self, paths: t.Sequence[str], host: str, key: str) -> Saved:
        """Save *paths* as a snapshot of the environment *key*."""
        tags = ["--tag", TAG, "--tag", key]
        done = self._run("backup", "--json", "--one-file-system", "--host", host, *tags, "--", *paths)
        summary = json.loads(done.stdout.strip().splitlines()[-1])
        return Saved(summary["snapshot_id"], summary["data_added"], done.returncode == 0)

    def snapshots(self, host: str = "", key: str = "") -> list[Snapshot]:
        """All snapshots of this collection, the oldest first."""
        tags = f"{TAG},{key}" if key else TAG
        done = self._run("snapshots", "--json", "--tag", tags, *(["--host", host] if host else []))
        found = [
            Snapshot(one["id"], one["time"], one["hostname"], tuple(one.get("tags") or ()), tuple(one["paths"]))
            for one in json.loads(done.stdout or "[]") or []
        ]
        return sorted(found, key=lambda snapshot: snapshot.time)

    def restore(self, snapshot: str, target: str) -> None:
        """Write all of a snapshot below *target*."""
        self._run("restore", snapshot, "--target", target)

    def size(self, snapshot: str) -> int:
        """How many bytes restoring a snapshot takes."""
        return int(json.loads(self._run("stats", "--json", "--mode", "restore-size", snapshot).stdout)["total_size"])

    def forget(self, snapshots: t.Iterable[str]) -> None:
        """Drop these snapshots. What only they have takes its room until the next prune()."""
        self._run("forget", "--quiet", *snapshots)

    def retain(self, host: str, keep: t.Mapping[str, int], prune: bool) -> None:
        """Drop the snapshots of *host* that are not to be kept; *keep* has a number for daily, weekly and so on.

        :param prune: and if there were any, give the room free that no snapshot needs any more.
        """
        more = ["--prune"] if prune else []
        numbers = [f"--keep-{period}={number}" for period, number in keep.items() if number > 0]
        self._run("forget", "--quiet", "--host", host, "--tag", TAG, "--group-by", "host,tags", *numbers, *more)

    def exists(self) -> bool:
        """Is there a repository that opens with the password?"""
        try:
            self._run("cat", "--no-lock", "config")
        except MissingError:
            return False
        return True

    def is_there(self) -> bool:
        """Can a repository be seen, without restic?"""
        return not self.directory or os.path.lexists(os.path.join(self.directory, "config"))

    def create(self) -> None:
        """Make the repository, if there is none. Two nodes that do so at once get one.

        :raises BackupError: it cannot be made.
        """
        directory = self.directory
        if not directory:
            if not self.exists():
                self._run("init", "--quiet")
            return
        parent = os.path.dirname(directory)
        if not os.path.isdir(parent):
            raise MissingError(
                f"env_backup_repository: {parent} is not there: mount the file system with it, or make that directory"
            )
        with contextlib.ExitStack() as held:
            # Two inits at once could both succeed, and one key would be lost with all that it opens.
            if os.access(parent, os.W_OK):
                lock = os.path.join(parent, f".{os.path.basename(directory)}.lock")
                held.enter_context(exclusive(lock, 60, "env_backup_lock_timeout_seconds"))
            if not os.path.isdir(directory):
                os.mkdir(directory, 0o700)
                if self.user:
                    account = pwd.getpwnam(self.user)
                    os.chown(directory, account.pw_uid, account.pw_gid)
            if not self.exists():
                self._run("init", "--quiet")

    def _run(self, *arguments: str) -> Result:
        """Run restic, and again while another holds the lock that it needs.

        :raises BackupError: of the kind that tells what is wrong.
        """
        deadline, pause = time.monotonic() + self.lock_timeout_seconds, 0.0
        while True:
            try:
                return self._once(*arguments)
            except LockedError:
                if time.monotonic() + pause > deadline:
                    raise
            # Of runs that were killed: on this node, and on others after half an hour. Nobody else's.
            self._once("unlock", "--quiet")
            time.sleep(pause)
            pause = random.uniform(1, 10)  # nodes that wait for each other must not meet again and again

    def _once(self, *arguments: str) -> Result:
        done = run(self._command(*arguments), environment=self._environment(), keep_lock=True)
        return self._judged(done, arguments[0])

    def _command(self, *arguments: str) -> list[str]:
        become = []
        if self.user and os.geteuid() == 0:
            rights = [f"--{kind}-caps={_RIGHTS}" for kind in ("inh", "ambient")]
            account = pwd.getpwnam(self.user)
            ids = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
            become = ["setpriv", *ids, *rights, "--"]
        place = ["--repo", self.location, "--password-file", self.password_file]
        cache = ["--cache-dir", self.cache] if self.cache else ["--no-cache"]
        return [*become, "restic", *place, *cache, *arguments]

    def _environment(self) -> dict[str, str]:
        return {**self.variables, "TZ": "UTC"}  # so that times can be compared as text

    def _judged(self, done: Result, command: str) -> Result:
        said = done.stderr.strip()
        # restic leaves out what it cannot read of a list, and calls that a success.
        if done.returncode == 0 and "could not load" not in said:
            return done
        if command == "backup" and done.returncode == _INCOMPLETE and '"summary"' in done.stdout:
            return done
        kind, text = _STATUS.get(done.returncode, BackupError), "restic failed on {location}: {said}"
        for sign, error, form in _SIGNS:
            if re.search(sign, said, re.MULTILINE):
                kind, text = error, form
                break
        told = text.format(location=self.location, said=_short(said))
        raise kind(f"{_VARIABLES.get(kind, 'env_backup_repository')}: {told}")


def _short(said: str) -> str:
    """The lines of restic that tell most, as one."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    fatal = [line for line in lines if line.startswith(("Fatal", "panic"))]
    return "; ".join(dict.fromkeys([*lines[:2], *fatal[:1]]))[:400] or "it said nothing"


def read_variables(path: str) -> dict[str, str]:
    """The variables in a file of lines NAME=VALUE, as systemd reads them too.

    :raises CondaError: it cannot be read.
    """
    variables = {}
    try:
        with open(path, encoding="utf-8") as stream:
            for line in stream:
                name, equals, value = line.strip().partition("=")
                if equals and not name.startswith("#"):
                    variables[name.strip()] = value.strip().strip("\"'")
    except (OSError, ValueError) as error:
        raise CondaError(f"env_backup_environment_file: {path} cannot be read: {error}") from error
    return variables
