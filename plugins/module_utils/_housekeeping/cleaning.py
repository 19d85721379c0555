# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One run of the clean-up: look at all private environments, decide, and do it where that is wanted."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import stat
import time
import typing as t

from .._conda import inventory
from .._conda.environments import Places
from .._conda.errors import CondaError
from .._conda.files import exclusive
from .._conda.footprint import measure
from .._conda.inventory import Account, Found, Prefix, Search
from .._conda.usage import Elsewhere, in_use
from .._conda.use_notes import Notes
from . import caches, hooks, messages, ownership, policy
from .journal import Clock, Journal, Mark, Moved
from .policy import Decision, Facts, Policy

_MOVED = re.compile(r"\.(?P<name>.+)\.unused-\d{8}T\d{6}Z(?P<removing>\.removing)?", re.DOTALL)
_REMOVING = ".removing"
Witnesses = tuple[t.Optional[float], Notes]  #: see inventory.witnesses()
_NOWHERE = f"/{os.urandom(16).hex()}"  # no process knows this path


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a run is to do."""

    layout: Places
    accounts: tuple[Account, ...]
    policy: Policy
    state_dir: str
    cache_unused_days: float = 0  #: 0: caches stay as they are
    home_caches: tuple[str, ...] = (".conda/pkgs",)  #: relative to each home
    pkgs_dir: str = ""  #: the package cache of shared environments
    elsewhere: Elsewhere | None = None  #: what other nodes use; None: homes are this node's own
    listed: frozenset[str] | None = None  #: the names of all shared environments that are wanted; None: not known
    notify_command: tuple[str, ...] = ()
    lock_timeout_seconds: float = 600

    @property
    def journal(self) -> str:
        """The file that says what was done."""
        return os.path.join(self.state_dir, "journal.json")


@dataclasses.dataclass
class Item:
    """One environment, and what becomes of it."""

    path: str  #: where it belongs
    place: str  #: where it is
    account: Account
    prefix: Prefix
    facts: Facts
    evidence: str | None
    exclusive_bytes: int
    decision: Decision
    aliases: tuple[str, ...] = ()
    noted: bool = True  #: are all hooks there?
    witnesses: Witnesses = (None, Notes())  #: as they were at the look

    @property
    def is_whole(self) -> bool:
        """Was its removal not begun?"""
        return not self.prefix.path.endswith(_REMOVING)

    @property
    def is_set_aside(self) -> bool:
        """Is it out of the way of its owner?"""
        return self.place != self.path

    @property
    def paths(self) -> list[str]:
        """Each path that a process which uses it may show."""
        return [self.place, self.path, *self.aliases]


@dataclasses.dataclass
class Result:
    """What was found, done, or would be done."""

    items: list[Item] = dataclasses.field(default_factory=list)
    packages: list[caches.Removable] = dataclasses.field(default_factory=list)
    unlisted: list[dict[str, t.Any]] = dataclasses.field(default_factory=list)
    actions: list[str] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)
    in_use: list[str] | None = None  #: of the places of all items, on this node; None: not all processes can be seen


def clean(settings: Settings, act: bool, clock: Clock | None = None) -> Result:
    """Look, and do what is due where *act* says so.

    :raises CondaError: nothing could be done at all.
    """
    with _journal(settings, act) as journal:
        return _Run(settings, journal, clock or Clock.read(), act).run()


def restore(settings: Settings, wanted: t.Sequence[str], act: bool, clock: Clock | None = None) -> Result:
    """Bring environments back that were set aside, by the paths where they belong.

    :raises CondaError: one cannot be.
    """
    with _journal(settings, act) as journal:
        run = _Run(settings, journal, clock or Clock.read(), act)
        run.see()
        return run.restore(wanted)


def withdraw(settings: Settings, act: bool, clock: Clock | None = None) -> Result:
    """Bring everything back that was set aside, and stop noting the use of environments.

    :raises CondaError: something set aside cannot be brought back, and all else is as it was.
    """
    with _journal(settings, act) as journal:
        run = _Run(settings, journal, clock or Clock.read(), act)
        run.see()
        run.restore(sorted(moved.path for place, moved in journal.moved.items() if _number(place) == moved.number))
        run.finish_removals()
        return run.withdraw()


@contextlib.contextmanager
def _journal(settings: Settings, act: bool) -> t.Iterator[Journal]:
    if not act:
        yield Journal.load(settings.journal)
        return
    try:
        os.makedirs(settings.state_dir, mode=0o755, exist_ok=True)
    except OSError as error:
        raise CondaError(f"{settings.state_dir} cannot be made: {error.strerror}") from error
    lock = os.path.join(settings.state_dir, ".lock")
    with exclusive(lock, settings.lock_timeout_seconds, "env_housekeeping_lock_timeout_seconds"):
        yield Journal.load(settings.journal)


class _Run:
    """A run, from the look to the report."""

    def __init__(self, settings: Settings, journal: Journal, clock: Clock, act: bool) -> None:
        self._settings = settings
        self._journal = journal
        self._clock = clock
        self._now = clock.now
        self._act = act
        self._search = Search()
        self._used: set[str] = set()
        self._result = Result()

    def run(self) -> Result:
        """All of it."""
        result = self._result
        if self._journal.clock and self._clock.was_set(self._journal.clock):
            self._journal.date_anew(self._now)
            result.problems.append("the clock was set since the last run: every wait begins again")
        self._journal.clock = self._clock
        self.see()
        result.problems += [f"{one['path']}: {one['reason']}" for one in self._search.left_out]
        result.items = [*self._in_place(), *self._set_aside()]
        if _NOWHERE not in self._used:
            result.in_use = sorted(item.place for item in result.items if not self._used.isdisjoint(item.paths))
        result.unlisted = self._unlisted()
        result.packages = self._packages()
        self._plan()
        if self._act:
            self._do()
        return result

    # The look

    def see(self) -> None:
        """Which environments there are, and what has become of those that were set aside."""
        settings, journal = self._settings, self._journal
        self._search.shared(settings.layout)
        for account in dict.fromkeys(settings.accounts):
            self._search.private(account)
        self._adopt()
        for place, moved in list(journal.moved.items()):
            there = next((path for path in (place, place + _REMOVING) if _number(path) == moved.number), None)
            if there is None:
                del journal.moved[place]
                if _number(moved.path) == moved.number:
                    # Moved back by its owner, or never moved since the run was killed.
                    journal.returned[moved.path] = Mark(moved.number, self._now)
        for marks in (journal.warned, journal.returned):
            for path, mark in list(marks.items()):
                if _number(path) != mark.number:
                    del marks[path]

    def _adopt(self) -> None:
        """Take over what was set aside by a run whose journal is lost."""
        for account in dict.fromkeys(self._settings.accounts):
            parents = {os.path.realpath(os.path.join(account.home, ".conda/envs"))}
            private = [found for found in self._search.found if found.account == account and found.prefix]
            parents.update(os.path.dirname(found.prefix.path) for found in private if found.prefix)
            for parent in sorted(parents):
                with contextlib.suppress(OSError):
                    for name in sorted(os.listdir(parent)):
                        self._adopt_one(os.path.join(parent, name), account)

    def _adopt_one(self, place: str, account: Account) -> None:
        match = _MOVED.fullmatch(os.path.basename(place))
        if not match:
            return
        info = os.lstat(place)
        place = place[: -len(_REMOVING)] if match["removing"] else place
        if stat.S_ISDIR(info.st_mode) and info.st_uid == account.uid and place not in self._journal.moved:
            path = os.path.join(os.path.dirname(place), match["name"])
            self._journal.moved[place] = Moved(path, info.st_ino, account.uid, self._now)

    def _in_place(self) -> list[Item]:
        """The private environments where they belong."""
        private = [found for found in self._search.found if found.kind == "private"]
        places = [path for found in private for path in found.paths]
        self._used = in_use({_NOWHERE, *places, *self._journal.moved, *(m.path for m in self._journal.moved.values())})
        return [item for item in map(self._item, private) if item]

    def _item(self, found: Found) -> Item | None:
        prefix, account = found.prefix, found.account
        if prefix is None or account is None:
            return None
        path = prefix.path
        try:
            changed, notes = inventory.witnesses(prefix)
            noted = hooks.complete(prefix)
        except OSError as error:
            self._result.problems.append(f"{path}: {error.strerror or error}")
            return None
        using = self._uses(found.paths) or notes.shells
        if notes.shells:
            self._used.add(path)
        use = self._search.use(found, using, changed, notes)
        last_use = use.at
        returned = self._journal.returned.get(path)
        if returned and not using:
            last_use = max(returned.at, last_use or 0)
        # Without all of its hooks, there may have been a use that was not noted.
        facts, exclusive_bytes = self._facts(path, account, using, last_use, use.noted_since if noted else None)
        warned = self._journal.warned.get(path)
        decision = policy.of_environment(facts, self._settings.policy, warned.at if warned else None, self._now)
        aliases = tuple(alias for alias in found.aliases if alias != path)
        return Item(
            path,
            path,
            account,
            prefix,
            facts,
            use.evidence,
            exclusive_bytes,
            decision,
            aliases,
            noted,
            (changed, notes),
        )

    def _facts(
        self, place: str, account: Account, using: bool, last_use: float | None, since: float | None
    ) -> tuple[Facts, int]:
        elsewhere = self._settings.elsewhere
        footprint, unreadable = measure(place, self._search.known)
        self._result.problems += [f"{problem.subject} {problem.detail}" for problem in unreadable]
        total = footprint.size(frozenset())
        facts = Facts(
            owner=account.name,
            in_use=using or bool(elsewhere and elsewhere.may_use(place)),
            last_use=last_use,
            noted_since=since,
            bytes=total["bytes"],
            inodes=total["inodes"],
            kept=os.path.lexists(os.path.join(place, ".keep")),
            holds=self._holds(place),
        )
        return facts, total["exclusive_bytes"]

    def _holds(self, place: str) -> str:
        """What else is in an environment: a base has others in it, and their use is not its own."""
        inside = os.path.join(place, "")
        prefixes = [prefix.path for found in self._search.found for prefix in found.prefixes]
        if any(path.startswith(inside) for path in (*prefixes, *self._journal.moved)):
            return "another environment is"
        if any(os.path.join(account.home, "").startswith(inside) for account in self._settings.accounts):
            return "a home is"
        with contextlib.suppress(OSError):
            if os.listdir(os.path.join(place, "envs")):
                return "environments are"
        return ""

    def _set_aside(self) -> list[Item]:
        """Those that were set aside."""
        accounts = {account.uid: account for account in reversed(self._settings.accounts)}
        items = []
        for place, moved in self._journal.moved.items():
            account = accounts.get(moved.uid)
            if account is None:
                self._result.problems.append(f"{place}: user {moved.uid} is not among those who are looked at")
                continue
            there = place if _number(place) == moved.number else place + _REMOVING
            try:
                info = os.lstat(there)
            except OSError:
                continue
            using = self._uses([place, moved.path] if there == place else [there])
            _changed, notes = self._witnesses(there)
            using |= notes.shells
            moved.at = max(moved.at, min(notes.used or 0, self._now))  # who uses it there needs it
            facts, exclusive_bytes = self._facts(there, account, using, None, None)
            decision = policy.of_set_aside(facts, self._settings.policy, moved.at, self._now)
            if there != place and not using:
                decision = Decision("remove", "a run was ended while it was removed")
            prefix = Prefix(there, (info.st_dev, info.st_ino), info.st_uid)
            items.append(Item(moved.path, place, account, prefix, facts, None, exclusive_bytes, decision))
        return items

    def _uses(self, paths: t.Iterable[str]) -> bool:
        return _NOWHERE in self._used or not self._used.isdisjoint(paths)

    def _unlisted(self) -> list[dict[str, t.Any]]:
        """Shared environments that nobody has declared any more."""
        if self._settings.listed is None:
            return []
        shared = [found for found in self._search.found if found.kind == "shared"]
        unlisted = [found for found in shared if found.name not in self._settings.listed]
        used = in_use({path for found in unlisted for path in found.paths})
        described = []
        for found in unlisted:
            sizes = [measure(prefix.path, self._search.known)[0].size(frozenset()) for prefix in found.prefixes]
            total = sum(size["exclusive_bytes"] for size in sizes)
            described.append({"name": found.name, "in_use": not used.isdisjoint(found.paths), "exclusive_bytes": total})
        return described

    def _packages(self) -> list[caches.Removable]:
        """What can go from the package caches."""
        settings = self._settings
        if not settings.cache_unused_days:
            return []
        found = []
        for account in dict.fromkeys(settings.accounts):
            if account.name in settings.policy.exempt_users or os.path.realpath(account.home) == "/":
                continue
            for name in settings.home_caches:
                cache = caches.find(os.path.join(account.home, name), account.uid)
                if cache and caches.links_softly(account.home):
                    self._result.problems.append(f"{cache.path}: is left, for its owner's condarc allows soft links")
                elif cache:
                    found.append(cache)
        shared = caches.find(settings.pkgs_dir, os.geteuid()) if settings.pkgs_dir else None
        found += [shared] if shared else []
        used = in_use({_NOWHERE, *(cache.path for cache in found)}) if found else set()
        oldest = self._now - settings.cache_unused_days * policy.DAY
        links: list[set[str]] = []

        def linked() -> set[str]:
            if not links:
                everywhere = [prefix.path for one in self._search.found for prefix in one.prefixes]
                links.append(caches.links_of([*everywhere, *self._journal.moved]))
            return links[0]

        packages = []
        for cache in {cache.number: cache for cache in found}.values():
            if cache.path in used:
                continue
            try:
                packages += caches.removable(cache, oldest, linked)
            except OSError as error:
                self._result.problems.append(f"{cache.path}: {error.strerror or error}")
        return packages

    # What is to be done

    def _plan(self) -> None:
        words = {"warn": "warn {owner} of {path}", "set_aside": "set {path} aside", "remove": "remove {place}"}
        actions = self._result.actions
        for item in self._result.items:
            if self._is_noteless(item):
                actions.append(f"note the use of {item.path}")
            if item.decision.action in words:
                text = words[item.decision.action]
                actions.append(text.format(owner=item.facts.owner, path=item.path, place=item.place))
        actions += [f"remove package {one.path}" for one in self._result.packages]

    def _is_noteless(self, item: Item) -> bool:
        exempt = item.account.name in self._settings.policy.exempt_users
        return not (item.noted or item.is_set_aside or exempt)

    def _do(self) -> None:
        told = self._result.items
        self._note([item for item in told if not item.is_set_aside])
        new = [item for item in told if item.decision.action == "warn"]
        for item in told:
            action = item.decision.action
            if action == "warn":
                self._journal.warned[item.path] = Mark(item.prefix.inode[1], self._now)
            elif action == "keep" and not item.is_set_aside:
                self._journal.warned.pop(item.path, None)
        self._save()
        new += self._move([item for item in told if item.decision.action == "set_aside"])
        self._remove([item for item in told if item.decision.action == "remove"])
        self._remove_packages()
        self._save()
        self._result.problems += messages.deliver(
            self._settings.state_dir,
            told,
            new,
            self._journal,
            self._settings.policy,
            self._settings.notify_command,
        )

    def _save(self) -> None:
        self._journal.save(self._settings.journal)

    @contextlib.contextmanager
    def _trying(self, item: Item) -> t.Iterator[None]:
        """Do something as the owner of *item*. What cannot be done is told, and the next one is tried."""
        try:
            with ownership.acting_as(item.prefix.uid):
                yield
        except (OSError, CondaError, RecursionError) as error:
            text = error.strerror if isinstance(error, OSError) else None
            self._result.problems.append(f"{item.place}: {text or error}")

    def _note(self, items: t.Iterable[Item]) -> None:
        for item in items:
            if self._is_noteless(item):
                with self._trying(item):
                    hooks.place(item.prefix)
            elif item.noted:
                with contextlib.suppress(OSError, CondaError), ownership.acting_as(item.prefix.uid):
                    hooks.shorten(item.prefix)

    def _move(self, items: list[Item]) -> list[Item]:
        """Set *items* aside, but for those that somebody has begun to use."""
        items = self._unused_still(items)
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._now))
        for item in items:
            parent, name = os.path.split(item.path)
            item.place = os.path.join(parent, f".{name}.unused-{stamp}")
            self._journal.moved[item.place] = Moved(item.path, item.prefix.inode[1], item.prefix.uid, self._now)
        if items:
            self._save()
        for item in items:
            with self._trying(item):
                self._rename(item, item.path, item.place)
        # Whoever has begun meanwhile gets it back before there is time to miss anything.
        moved = [item for item in items if _number(item.place) == item.prefix.inode[1]]
        unused = self._unused_still(moved)
        for item in moved:
            if item not in unused:
                with self._trying(item):
                    self._rename(item, item.place, item.path)
        for item in items:
            if _number(item.place) == item.prefix.inode[1]:
                self._journal.warned.pop(item.path, None)
            elif _number(item.path) == item.prefix.inode[1]:
                del self._journal.moved[item.place]
                item.place = item.path
        return [item for item in items if item.is_set_aside]

    @staticmethod
    def _rename(item: Item, old: str, new: str) -> None:
        parent = os.path.dirname(old)
        with ownership.directory(parent) as folder:
            ownership.move(folder, os.path.basename(old), os.path.basename(new), item.prefix.inode[1])

    def _unused_still(self, items: list[Item]) -> list[Item]:
        """Those of *items* that nobody has used since they were looked at; the others are told."""
        used = in_use({path for item in items for path in item.paths})
        unused = []
        for item in items:
            if used.isdisjoint(item.paths) and self._witnesses(item.place) == item.witnesses:
                unused.append(item)
            else:
                self._result.problems.append(f"{item.path}: somebody uses it again, so it stays")
        return unused

    @staticmethod
    def _witnesses(path: str) -> Witnesses:
        with contextlib.suppress(OSError):
            info = os.lstat(path)
            return inventory.witnesses(Prefix(path, (info.st_dev, info.st_ino), info.st_uid))
        return None, Notes()

    def _remove(self, items: list[Item]) -> None:
        """Remove *items* for good, but for those that somebody has begun to use."""
        still = in_use({item.place for item in items})
        for item in items:
            if item.place in still:
                continue
            removing = item.place + _REMOVING
            with self._trying(item):
                if item.is_whole:
                    # From here on it must not be brought back.
                    self._rename(item, item.place, removing)
                with ownership.directory(os.path.dirname(removing)) as folder:
                    ownership.remove(folder, os.path.basename(removing))
                del self._journal.moved[item.place]

    def _remove_packages(self) -> None:
        shared = self._settings.pkgs_dir
        for one in self._result.packages:
            with contextlib.ExitStack() as stack:
                try:
                    if shared and one.cache.path == os.path.realpath(shared):
                        # Nothing is installed from it meanwhile.
                        lock, seconds = self._settings.layout.lock_file, self._settings.lock_timeout_seconds
                        stack.enter_context(exclusive(lock, seconds, "env_housekeeping_lock_timeout_seconds"))
                    stack.enter_context(ownership.acting_as(one.cache.uid))
                    caches.remove(one)
                except (OSError, CondaError, RecursionError) as error:
                    text = error.strerror if isinstance(error, OSError) else None
                    self._result.problems.append(f"{one.path}: {text or error}")

    # The way back

    def restore(self, wanted: t.Sequence[str]) -> Result:
        """Bring back what belongs at the paths *wanted*.

        :raises CondaError: nothing was set aside there, or it cannot be brought back.
        """
        whole = {moved.path: place for place, moved in self._journal.moved.items() if _number(place) == moved.number}
        for path in wanted:
            if path not in whole:
                there = ", ".join(sorted(whole)) or "nothing"
                raise CondaError(f"env_housekeeping_restore: {path} was not set aside on this node: there is {there}")
            place = whole[path]
            moved = self._journal.moved[place]
            self._result.actions.append(f"restore {path}")
            if os.path.lexists(path):
                raise CondaError(f"env_housekeeping_restore: there is something at {path} already: move it away")
            if not self._act:
                continue
            parent, name = os.path.split(path)
            try:
                with ownership.acting_as(moved.uid), ownership.directory(parent) as folder:
                    ownership.move(folder, os.path.basename(place), name, moved.number)
            except OSError as error:
                raise CondaError(f"env_housekeeping_restore: {path}: {error.strerror or error}") from error
            del self._journal.moved[place]
            self._journal.returned[path] = Mark(moved.number, self._now)
            self._save()
        return self._result

    def finish_removals(self) -> None:
        """Remove what a killed run has left of environments that it removed."""
        self._used = in_use({_NOWHERE, *self._journal.moved})
        items = [item for item in self._set_aside() if not item.is_whole]
        self._result.actions += [f"remove {item.place}" for item in items]
        if self._act:
            self._remove(items)

    def withdraw(self) -> Result:
        """Take the hooks out of all environments, and remove what this node remembers."""
        search = Search()  # with what has just come back
        for account in dict.fromkeys(self._settings.accounts):
            search.private(account)
        for found in search.found:
            prefix = found.prefix
            if found.kind != "private" or prefix is None:
                continue
            with contextlib.suppress(OSError):
                _changed, notes = inventory.witnesses(prefix)
                if notes.since is None and not hooks.complete(prefix):
                    continue
                self._result.actions.append(f"stop noting the use of {prefix.path}")
                if self._act:
                    try:
                        with ownership.acting_as(prefix.uid):
                            hooks.withdraw(prefix)
                    except (OSError, CondaError) as error:
                        self._result.problems.append(f"{prefix.path}: {error}")
        return self._result


def _number(path: str) -> int | None:
    """The inode of the directory at *path*, if there is one."""
    try:
        info = os.lstat(path)
    except OSError:
        return None
    return info.st_ino if stat.S_ISDIR(info.st_mode) else None
