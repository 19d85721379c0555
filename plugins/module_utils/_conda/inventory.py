# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""All environments of a node, shared and private, from files alone.

Root looks into directories here that users may fill as they like. So an environment counts as a user's only where the
user owns it, whatever links lead to it, and a file is read only where it is a regular one in the directory it was
listed in: no link is followed from there, and no pipe waited for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pwd
import stat
import time
import typing as t

from . import environments, prefixes, use_notes
from .errors import CondaError
from .footprint import Footprint, Inode, inode_of, measure
from .lock_writing import public_url
from .problems import Problem
from .usage import in_use

PASSWD = "/etc/passwd"
_MOST_BYTES = 64 << 20  # of a file that is read: the records of the largest packages have some MiB
_NO_FILE = (FileNotFoundError, NotADirectoryError)


@dataclasses.dataclass(frozen=True)
class Account:
    """A user who may have environments."""

    name: str
    uid: int
    home: str


def local_accounts() -> list[Account]:
    """The users in the file of users. To list those of a directory service may take minutes."""
    accounts = []
    with open(PASSWD, encoding="utf-8", errors="surrogateescape") as stream:
        for line in stream:
            fields = line.rstrip("\n").split(":")
            if len(fields) == 7 and fields[2].isdigit() and os.path.isabs(fields[5]):
                accounts.append(Account(fields[0], int(fields[2]), fields[5]))
    return accounts


def account_of(name: str) -> Account:
    """The user *name*, of whatever service.

    :raises CondaError: there is none.
    """
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise CondaError(f"users: this node has no user {name!r}: correct the name, or leave it out") from None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_dir)


@dataclasses.dataclass(frozen=True)
class Prefix:
    """A directory with an environment in it."""

    path: str  #: without links
    inode: Inode
    uid: int


@dataclasses.dataclass(frozen=True)
class Found:
    """An environment, before anything in it is looked at."""

    kind: str
    name: str
    prefix: Prefix | None  #: what people get now
    aliases: tuple[str, ...] = ()  #: other paths that processes may know it by
    generations: tuple[Prefix, ...] = ()
    problems: tuple[Problem, ...] = ()
    account: Account | None = None  #: whose it is, if it is private

    @property
    def prefixes(self) -> list[Prefix]:
        """All directories that belong to it, the live one first."""
        return list(dict.fromkeys([*([self.prefix] if self.prefix else []), *self.generations]))

    @property
    def paths(self) -> list[str]:
        """Each path that a process which uses it may show."""
        return [*self.aliases, *(prefix.path for prefix in self.prefixes)]


@dataclasses.dataclass(frozen=True)
class _Content:
    """What the conda-meta directory of a prefix says."""

    packages: list[dict[str, str]]
    channels: list[str]
    changed: float | None  #: when conda last changed the prefix
    problems: list[Problem]
    notes: use_notes.Notes = dataclasses.field(default_factory=use_notes.Notes)


@dataclasses.dataclass(frozen=True)
class Use:
    """The latest use that is known of, and what tells."""

    at: float | None = None
    evidence: str | None = None  #: process, start, history
    noted_since: float | None = None  #: from when on each start is noted


class Search:
    """Finds each environment once, by whatever path it is met first."""

    def __init__(self) -> None:
        self.found: list[Found] = []
        self.noted_at_home: dict[str, float] = {}  #: see use_notes.read_home()
        self.left_out: list[dict[str, str]] = []
        self.known: set[Inode] = set()

    def shared(self, layout: environments.Places) -> None:
        """The environments of this collection. A damaged one is still there."""
        try:
            names = environments.names(layout)
        except OSError as error:
            self._leave_out(error.filename or layout.envs_dir, error)
            return
        for name in names:
            link = layout.link(name)
            problems, live = [], None
            try:
                if os.path.lexists(link):
                    live = _directory(link)
                    if not os.path.islink(link):
                        problems.append(Problem("obstacle", link, "is no link of this collection"))
                    elif live is None:
                        problems.append(Problem("link", link, f"leads to {os.readlink(link)}, where nothing is"))
                    elif os.path.dirname(live.path) != os.path.realpath(layout.home(name)):
                        problems.append(
                            Problem("link", link, f"leads to {live.path}, which is no generation of {name}")
                        )
                homes = [_directory(path) for path in layout.generations(name)]
            except OSError as error:
                self._leave_out(link, error)
                continue
            ordered = {prefix.inode: prefix for prefix in homes if prefix}
            if live is None and not problems and not ordered:
                continue
            self.known.update(ordered)
            if live:
                self.known.add(live.inode)
            self.found.append(Found("shared", name, live, (link,), tuple(ordered.values()), tuple(problems)))

    def private(self, account: Account) -> None:
        """The environments that are *account*'s own."""
        try:
            if os.stat(account.home).st_uid != account.uid:
                return  # no home, but some directory that a service account has been given
            listed = self._named(account) + self._registered(account)
            self._note(account)
        except _NO_FILE:
            return
        except OSError as error:
            self._leave_out(account.home, error, account.name)
            return
        for path in listed:
            try:
                prefix = _environment(path)
            except OSError as error:
                self._leave_out(path, error, account.name)
                continue
            if prefix is None or prefix.uid != account.uid:
                continue  # a leftover, or somebody else's: it is found where it belongs
            at_home = prefix.path.startswith(os.path.join(os.path.realpath(account.home), ""))
            private = account.uid != 0 or at_home
            self._add("private" if private else "other", path, prefix, account if private else None)

    def other(self, path: str) -> None:
        """An environment that somebody asked for."""
        try:
            prefix = _environment(path)
        except OSError as error:
            self._leave_out(path, error)
            return
        if prefix is None:
            self._leave_out(path, CondaError("is no environment: it has no directory conda-meta"))
        else:
            self._add("other", path, prefix)

    def _add(self, kind: str, path: str, prefix: Prefix, account: Account | None = None) -> None:
        if prefix.inode not in self.known:
            self.known.add(prefix.inode)
            self.found.append(Found(kind, os.path.basename(os.path.normpath(path)), prefix, (path,), account=account))

    def _note(self, account: Account) -> None:
        """When *account* used environments of others."""
        with contextlib.suppress(OSError), _opened(os.path.join(account.home, ".conda"), os.O_DIRECTORY) as folder:
            if os.fstat(folder).st_uid == account.uid:
                for name, at in use_notes.read_home(folder, account.uid).items():
                    self.noted_at_home[name] = max(at, self.noted_at_home.get(name, at))

    def use(self, found: Found, in_use: bool | None, changed: float | None, notes: use_notes.Notes) -> Use:
        """The latest use of an environment: of several witnesses, the last one counts."""
        if in_use:
            return Use(time.time(), "process", notes.since)
        at_home = self.noted_at_home.get(use_notes.home_name(found.prefix.path)) if found.prefix else None
        witnesses = [(changed, "history"), (notes.used, "start"), (at_home, "start")]
        at, evidence = max(((at, name) for at, name in witnesses if at is not None), default=(None, None))
        return Use(at, evidence, notes.since)

    def _leave_out(self, path: str, reason: Exception, user: str = "") -> None:
        text = reason.strerror if isinstance(reason, OSError) else None
        self.left_out.append({"path": path, "user": user, "reason": text or str(reason)})

    def _named(self, account: Account) -> list[str]:
        directory = os.path.join(account.home, ".conda/envs")
        try:
            return [os.path.join(directory, name) for name in sorted(os.listdir(directory)) if name[0] != "."]
        except _NO_FILE:
            return []
        except OSError as error:
            self._leave_out(directory, error, account.name)
            return []

    def _registered(self, account: Account) -> list[str]:
        """Where conda has noted the environments that were made at other places."""
        path = os.path.join(account.home, ".conda/environments.txt")
        try:
            # Not opened before it is known what it is: with a device, that alone may do something.
            with _opened(path, os.O_PATH) as place:
                info = os.fstat(place)
                if info.st_uid != account.uid or not stat.S_ISREG(info.st_mode):
                    return []
                with _opened(f"/proc/self/fd/{place}") as descriptor:
                    lines = _read(descriptor).decode("utf-8", "surrogateescape").splitlines()
        except _NO_FILE:
            return []
        except (OSError, CondaError) as error:
            self._leave_out(path, error, account.name)
            return []
        return [line for line in dict.fromkeys(lines) if os.path.isabs(line) and "\0" not in line]


def private_prefixes(
    accounts: t.Iterable[Account], paths: t.Iterable[str]
) -> tuple[list[tuple[str, int]], list[dict[str, str]]]:
    """Path and owner of each environment of *accounts* and at *paths*, unread, and what could not be looked at."""
    search = Search()
    for account in dict.fromkeys(accounts):
        search.private(account)
    for path in paths:
        search.other(path)
    return [(found.prefix.path, found.prefix.uid) for found in search.found if found.prefix], search.left_out


def look(
    layout: environments.Places, accounts: t.Iterable[Account], paths: t.Iterable[str], list_packages: bool
) -> dict[str, t.Any]:
    """Every environment of *layout*, of *accounts* and at *paths*, and what could not be looked at.

    Each prefix is walked over once, all processes are looked at once, and each file on disk is counted once.
    """
    search = Search()
    search.shared(layout)
    for account in dict.fromkeys(accounts):
        search.private(account)
    for path in paths:
        search.other(path)
    report = _Report(search, list_packages)
    described = [report.of(found) for found in search.found]
    return {"environments": [one for one in described if one], "left_out": search.left_out}


class _Report:
    """Tells of environments, one after the other, without counting a file twice."""

    def __init__(self, search: Search, list_packages: bool) -> None:
        self._search = search
        self._known = search.known
        self._list_packages = list_packages
        self._counted: set[Inode] = set()
        self._owners: dict[int, str] = {}
        self._nowhere = f"/{os.urandom(16).hex()}"  # no process knows this path
        self._used = in_use({self._nowhere}.union(*(environment.paths for environment in search.found)))

    def of(self, found: Found) -> dict[str, t.Any] | None:
        """One environment as it is returned, or None where it has vanished."""
        live = found.prefix
        content = _Content([], [], None, [])
        if live:
            try:
                content = _read_content(live)
            except _NO_FILE:
                if found.kind != "shared":
                    return None
        problems = [*found.problems, *content.problems]
        footprints, whole = {}, Footprint()
        for prefix in found.prefixes:
            footprints[prefix], unreadable = measure(prefix.path, self._known)
            whole.merge(footprints[prefix])
            problems += unreadable
        size, sizes = whole.size(self._counted), {}
        for prefix, footprint in footprints.items():
            sizes[prefix] = footprint.size(self._counted)
            self._counted.update(footprint.linked)
        using = content.notes.shells or self._in_use(found.paths)
        use = self._search.use(found, using, content.changed if found.kind != "shared" else None, content.notes)
        at = _utc(use.at) if use.at is not None else None
        return {
            "name": found.name,
            "kind": found.kind,
            "prefix": live.path if live else None,
            "owner": self._owner(live.uid) if live else None,
            "generations": [self._generation(prefix, prefix == live, sizes[prefix]) for prefix in found.generations],
            "in_use": using,
            "last_used": {"at": at, "evidence": use.evidence if at else None},
            "noted_since": _utc(use.noted_since) if use.noted_since is not None else None,
            "package_count": len(content.packages),
            **({"packages": content.packages} if self._list_packages else {}),
            "channels": content.channels,
            "size": size,
            "problems": [problem.as_dict() for problem in problems],
        }

    def _generation(self, prefix: Prefix, live: bool, size: dict[str, int]) -> dict[str, t.Any]:
        manifest = prefixes.read_manifest(prefix.path)
        return {
            "prefix": prefix.path,
            "identity": manifest.identity if manifest else None,
            "created": manifest.created if manifest else None,
            "engine": manifest.engine if manifest else None,
            "live": live,
            "in_use": self._in_use([prefix.path]),
            "size": size,
        }

    def _in_use(self, paths: t.Iterable[str]) -> bool | None:
        """Whether a process uses one of *paths*, or None where not all processes could be looked at."""
        if self._nowhere in self._used:
            return None  # what cannot be seen counts as using everything
        return not self._used.isdisjoint(paths)

    def _owner(self, uid: int) -> str:
        if uid not in self._owners:
            try:
                self._owners[uid] = pwd.getpwuid(uid).pw_name
            except KeyError:
                self._owners[uid] = str(uid)
        return self._owners[uid]


def _utc(seconds: float) -> str | None:
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    except (ValueError, OverflowError, OSError):
        return None  # a user may give a file any time


def _directory(path: str) -> Prefix | None:
    """The directory that *path* leads to, if it does."""
    real = os.path.realpath(path)
    try:
        info = os.lstat(real)
    except _NO_FILE:
        return None
    return Prefix(real, inode_of(info), info.st_uid) if stat.S_ISDIR(info.st_mode) else None


def _environment(path: str) -> Prefix | None:
    """The environment that *path* leads to, if it does."""
    prefix = _directory(path)
    with contextlib.suppress(*_NO_FILE):
        if prefix and stat.S_ISDIR(os.lstat(os.path.join(prefix.path, "conda-meta")).st_mode):
            return prefix
    return None


def _read_content(prefix: Prefix) -> _Content:
    """What the records of *prefix* say: each is read once.

    :raises OSError: it is there no more.
    """
    packages, channels, problems, changed = [], set(), [], None
    notes = use_notes.Notes()
    no_link = os.O_DIRECTORY | os.O_NOFOLLOW
    try:
        with _opened(prefix.path, no_link) as top, _opened("conda-meta", no_link, top) as folder:
            if inode_of(os.fstat(top)) != prefix.inode:
                raise FileNotFoundError(prefix.path)  # another one has taken its place
            notes, changed = use_notes.read(folder), _changed(folder)
            for name in sorted(name for name in os.listdir(folder) if name.endswith(".json")):
                try:
                    package = _read_package(name, folder)
                except FileNotFoundError:
                    continue
                except CondaError as error:
                    problems.append(Problem("record", f"conda-meta/{name}", str(error)))
                    continue
                packages.append(package)
                channels.update([package["channel"]] if package["channel"] else [])
    except _NO_FILE:
        raise
    except OSError as error:
        problems.append(Problem("unreadable", "conda-meta", f"is not read: {error.strerror}"))
    return _Content(packages, sorted(channels), changed, problems, notes)


def _changed(folder: int) -> float | None:
    """When conda last changed the environment whose conda-meta is open as *folder*."""
    with contextlib.suppress(FileNotFoundError):
        history = os.stat("history", dir_fd=folder, follow_symlinks=False)
        return history.st_mtime if stat.S_ISREG(history.st_mode) else None
    return None


def witnesses(prefix: Prefix) -> tuple[float | None, use_notes.Notes]:
    """When conda last changed the environment at *prefix*, and what its notes say of its use.

    :raises OSError: it cannot be read, or is there no more.
    """
    no_link = os.O_DIRECTORY | os.O_NOFOLLOW
    with _opened(prefix.path, no_link) as top, _opened("conda-meta", no_link, top) as folder:
        if inode_of(os.fstat(top)) != prefix.inode:
            raise FileNotFoundError(prefix.path)  # another one has taken its place
        return _changed(folder), use_notes.read(folder)


def _read_package(name: str, folder: int) -> dict[str, str]:
    """The package that record *name* in the open directory *folder* tells of.

    :raises CondaError: it cannot be read, or is no record.
    :raises FileNotFoundError: it is there no more.
    """
    try:
        with _opened(name, os.O_NOFOLLOW, folder) as descriptor:
            content = json.loads(_read(descriptor))
        fields = {key: str(content[key]) for key in ("name", "version", "build")}
        return {**fields, "channel": _channel(content)}
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CondaError(f"cannot be read: {error}") from error


def _channel(content: t.Mapping[str, t.Any]) -> str:
    """The URL of the channel a package came from, without credentials, or what else the record calls it."""
    url = str(content.get("url") or "")
    where = url.rpartition("/")[0] or str(content.get("channel") or "")
    subdir = f"/{content.get('subdir')}"
    where = where[: -len(subdir)] if where.endswith(subdir) else where
    return public_url(where) if "://" in where else where


@contextlib.contextmanager
def _opened(path: str, flags: int = 0, folder: int | None = None) -> t.Iterator[int]:
    """A descriptor to read from: of what is no regular file, opening it waits for nobody."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | flags, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> bytes:
    """All of a regular file.

    :raises CondaError: it is none, or has no sensible size.
    """
    info = os.fstat(descriptor)
    if not stat.S_ISREG(info.st_mode):
        raise CondaError("is no regular file")
    if info.st_size > _MOST_BYTES:
        raise CondaError(f"has {info.st_size} bytes, more than {_MOST_BYTES}")
    with open(descriptor, "rb", closefd=False) as stream:
        return stream.read(_MOST_BYTES)
