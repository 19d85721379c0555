# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Environments as generations: each installed lock is a prefix that never changes, and a name is a link to one."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import glob
import os
import time
import typing as t

from . import construction, prefixes
from .engines import Engine, forget, require_archives
from .errors import CondaError
from .files import remove_tree, replace_link
from .locks import Lock, Package
from .pinning import pin
from .prefixes import Manifest
from .problems import Problem
from .processes import run
from .records import Record, compare_files, compare_with_lock, read_records
from .sealing import seal
from .usage import in_use

LEVELS = ("fast", "records", "full")
#: How the modules that need a Layout ask for it.
LAYOUT_OPTIONS = {
    "envs_dir": {"type": "path", "default": "/opt/envfleet/envs"},
    "generations_dir": {"type": "path", "default": "/opt/envfleet/generations"},
}
_MESSAGE = "Managed by envfleet.gpu_cluster: change the environment's lock file and run the site playbook."


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where environments are on a node."""

    envs_dir: str  #: the names people use
    generations_dir: str  #: NAME/ID for each installed lock

    def link(self, name: str) -> str:
        """The path that people activate."""
        return os.path.join(self.envs_dir, name)

    def new_generation(self, name: str, identity: str, leftovers: t.Collection[str]) -> str:
        """The first free path for a generation of *identity*: a damaged one may be in use and is built anew beside.

        The paths of *leftovers* will be free by then.
        """
        return construction.first_free(os.path.join(self.home(name), identity[:12]), leftovers)

    def generations(self, name: str) -> list[str]:
        """Everything that is or was to become a generation of *name*."""
        return sorted(glob.glob(os.path.join(glob.escape(self.home(name)), "*")))

    def home(self, name: str) -> str:
        """The directory of the generations of *name*."""
        return os.path.join(self.generations_dir, name)

    def leftovers(self, name: str) -> list[str]:
        """The prefixes whose builds did not end: the name has never led to one of them."""
        return construction.leftovers(self.home(name))

    @property
    def lock_file(self) -> str:
        """What a run holds while it changes anything here."""
        return os.path.join(self.generations_dir, ".lock")


@dataclasses.dataclass(frozen=True)
class Environment:
    """What there is of one environment on the node."""

    name: str
    link: str
    target: str | None  #: the prefix the name leads to, where it leads to one
    manifest: Manifest | None  #: of that prefix
    problems: tuple[Problem, ...]
    leftovers: tuple[str, ...]  #: prefixes that killed runs left unfinished

    def as_dict(self) -> dict[str, t.Any]:
        """For JSON."""
        return {
            "name": self.name,
            "link": self.link,
            "generation": self.target,
            "identity": self.manifest.identity if self.manifest else None,
            "created": self.manifest.created if self.manifest else None,
            "engine": self.manifest.engine if self.manifest else None,
            "problems": [problem.as_dict() for problem in self.problems],
            "leftovers": list(self.leftovers),
        }


def look(layout: Layout, name: str) -> Environment:
    """See what there is of environment *name*, with one walk over its live generation."""
    link = layout.link(name)
    home = os.path.join(os.path.realpath(layout.generations_dir), name)
    target, manifest, problems = prefixes.behind(link, "generation", home)
    return Environment(name, link, target, manifest, tuple(problems), tuple(layout.leftovers(name)))


def names(layout: Layout) -> list[str]:
    """Every environment there is anything of."""
    found: set[str] = set()
    for directory in (layout.envs_dir, layout.generations_dir):
        with contextlib.suppress(FileNotFoundError):
            found.update(name for name in os.listdir(directory) if not name.startswith("."))
    return sorted(found)


def verify(environment: Environment, lock: Lock, level: str) -> list[Problem]:
    """What is wrong with the live generation beyond what look() saw, at *level* records or full.

    A generation of another lock is held against its own records alone.
    """
    if level == "fast" or environment.target is None or environment.manifest is None:
        return []
    return _verify(environment.target, environment.manifest, lock, level)


def _verify(prefix: str, manifest: Manifest, lock: Lock, level: str) -> list[Problem]:
    if level == "fast":
        return []
    records, problems = read_records(prefix)
    if manifest.identity == lock.identity:
        problems += compare_with_lock(records, lock)
    if level == "full":
        problems += compare_files(prefix, records)
    return problems


def lock_of(layout: Layout, name: str, generation: str, platform: str) -> Lock:
    """The lock that a generation of environment *name* was made from.

    :param generation: its identifier, or "previous" for the youngest that was made from another lock than the live one.
    :raises CondaError: there is none, or its records are not those that it was made with.
    """
    finished = []
    for path in layout.generations(name):
        manifest = prefixes.read_manifest(path)
        if manifest and not os.path.islink(path):
            finished.append((os.lstat(os.path.join(path, prefixes.MANIFEST)).st_mtime, path, manifest.identity))
    finished.sort()
    live = os.path.realpath(layout.link(name))
    live_identity = next((identity for _made, path, identity in finished if os.path.realpath(path) == live), None)
    for _made, path, identity in reversed(finished):
        if generation == os.path.basename(path) or (generation == "previous" and identity != live_identity):
            return _lock_of(path, identity, platform)
    there = ", ".join(os.path.basename(path) for _made, path, _identity in finished) or "none"
    raise CondaError(f"{name} has no generation {generation} on this node: there is {there}")


def _lock_of(prefix: str, identity: str, platform: str) -> Lock:
    records, _problems = read_records(prefix)
    exact = Lock(
        platform, tuple(Package(r.name, r.version, r.build, r.subdir, r.url, r.sha256, r.md5) for r in records)
    )
    # A lock may have had nothing but md5 sums, while a record has both.
    by_md5 = Lock(platform, tuple(dataclasses.replace(package, sha256="") for package in exact.packages))
    for lock in (exact, by_md5):
        if lock.identity == identity:
            return lock
    raise CondaError(f"{prefix} is damaged: its records are not those of the lock that it was made from")


@dataclasses.dataclass(frozen=True)
class Retention:
    """Which old generations stay when the name moves on. Those in use always do."""

    keep: int = 3  #: how many stay for the way back, the live one included
    min_age_seconds: float = 7 * 86400  #: none is removed that is younger


@dataclasses.dataclass(frozen=True)
class Plan:
    """What has to be done for an environment: nothing, a switch to a generation that is there, or a build before it."""

    environment: Environment
    lock: Lock
    generation: str
    build: bool
    switch: bool
    retired: tuple[str, ...] = ()  #: generations that the name leaves behind for good

    def __bool__(self) -> bool:
        return self.build or self.switch or bool(self.environment.leftovers)

    def actions(self) -> list[str]:
        """The steps, in order, in the words of the domain."""
        name = self.environment.name
        steps = [f"remove unfinished generation {path} of {name}" for path in self.environment.leftovers]
        if self.build:
            steps.append(f"build generation {self.generation} of {name} with {len(self.lock.packages)} packages")
        if self.switch:
            steps.append(f"point {self.environment.link} to {self.generation}")
        return steps + [f"remove old generation {path} of {name}" for path in self.retired]


def plan(
    layout: Layout,
    environment: Environment,
    lock: Lock,
    problems: t.Sequence[Problem],
    level: str,
    retention: Retention,
) -> Plan:
    """Decide what brings *environment* to *lock*, when *problems* are all that is wrong with it at *level*.

    :raises CondaError: the place of its name is taken by something else than a link.
    """
    if os.path.lexists(environment.link) and not os.path.islink(environment.link):
        raise CondaError(f"{environment.link} exists and is no link of this collection: move it away, then run again")
    live = environment.target
    if live and environment.manifest and environment.manifest.identity == lock.identity and not problems:
        return Plan(environment, lock, live, build=False, switch=False)
    ready = _ready(layout, environment, lock, level)
    path = ready or layout.new_generation(environment.name, lock.identity, environment.leftovers)
    retired = _retired(layout, environment, path, retention)
    return Plan(environment, lock, path, build=ready is None, switch=True, retired=retired)


def _ready(layout: Layout, environment: Environment, lock: Lock, level: str) -> str | None:
    """A sound generation of *lock* that the name does not lead to, if there is one."""
    for path in layout.generations(environment.name):
        if os.path.realpath(path) == environment.target or path in environment.leftovers:
            continue
        manifest = prefixes.read_manifest(path)
        if not manifest or manifest.identity != lock.identity:
            continue
        if not prefixes.check(path, manifest) and not _verify(path, manifest, lock, level):
            return path
    return None


def _retired(layout: Layout, environment: Environment, next_live: str, retention: Retention) -> tuple[str, ...]:
    """The generations that go once the name leads to *next_live*: damaged ones first, then the oldest."""
    others = []
    for path in layout.generations(environment.name):
        if path == next_live or path in environment.leftovers:
            continue
        was_finished = os.path.lexists(os.path.join(path, prefixes.LISTING))
        if was_finished and not os.path.islink(path):
            live = os.path.realpath(path) == environment.target
            sound = prefixes.read_manifest(path) is not None and not (live and environment.problems)
            # What the name leads to now is the first way back.
            others.append((sound, live, os.lstat(os.path.join(path, prefixes.LISTING)).st_mtime, path))
    others.sort(reverse=True)
    youngest = time.time() - retention.min_age_seconds
    spare = [
        path
        for rank, (sound, _live, made, path) in enumerate(others, 2)
        if made <= youngest and (rank > retention.keep or not sound)
    ]
    used = in_use(spare)
    return tuple(path for path in spare if path not in used)


@dataclasses.dataclass(frozen=True)
class SmokeTest:
    """A command that must succeed in a generation before people get it."""

    argv: tuple[str, ...]
    user: str
    timeout_seconds: float


def apply(todo: Plan, engine: Engine | None, cache: str, smoke_test: SmokeTest) -> None:
    """Do what *todo* says. The caller holds the lock of the layout.

    :raises CondaError: it could not be done; the name is as it was, and an unfinished generation is gone.
    """
    for path in todo.environment.leftovers:
        construction.discard(path)
    if todo.build:
        if engine is None:
            raise AssertionError("a build needs an engine")
        try:
            _build(todo, engine, cache, smoke_test)
        except BaseException as error:
            construction.discard(todo.generation)
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise CondaError(f"the disk is full: {error.filename or todo.generation}") from error
            raise
    elif todo.switch:
        # It suited once, but the node or the test may have changed.
        _smoke(todo.generation, smoke_test)
    if todo.switch:
        replace_link(todo.environment.link, todo.generation)
    # A job may have begun in one of them while the new generation was built.
    for path in sorted(set(todo.retired) - in_use(todo.retired)):
        construction.discard(path)


def _build(todo: Plan, engine: Engine, cache: str, smoke_test: SmokeTest) -> None:
    prefix, lock = todo.generation, todo.lock
    os.makedirs(os.path.dirname(prefix), mode=0o755, exist_ok=True)
    construction.begin(prefix)
    require_archives(lock.packages)
    engine.install(lock.packages, prefix, cache)
    damaged = _damaged(prefix, lock)
    if damaged:
        # An edit in place of a file that is a hard link reaches the cache, and comes back from there.
        forget(damaged, cache)
        remove_tree(prefix)
        engine.install(lock.packages, prefix, cache)
        damaged = _damaged(prefix, lock)
        if damaged:
            raise CondaError(f"{damaged[0].label} is damaged in its own archive: its files are not what its list says")
    pin(prefix)
    seal(prefix, _MESSAGE)
    _smoke(prefix, smoke_test)
    prefixes.finish(prefix, lock.identity, engine.name)
    construction.end(prefix)


def _damaged(prefix: str, lock: Lock) -> list[Record]:
    """The packages whose files are not what they must be.

    :raises CondaError: the packages are not those of the lock.
    """
    records, problems = read_records(prefix)
    problems += compare_with_lock(records, lock)
    if problems:
        raise CondaError(f"the engine did not install the lock: {problems[0].subject}: {problems[0].detail}")
    return [record for record in records if compare_files(prefix, [record])]


def _smoke(prefix: str, smoke_test: SmokeTest) -> None:
    if not smoke_test.argv:
        return
    path = os.path.join(prefix, "bin")
    command = os.path.join(path, smoke_test.argv[0])
    argv = [command if os.path.exists(command) else smoke_test.argv[0], *smoke_test.argv[1:]]
    result = run(
        argv,
        environment={"CONDA_PREFIX": prefix},
        path=path,
        user=smoke_test.user if os.geteuid() == 0 else "",
        timeout_seconds=smoke_test.timeout_seconds,
    )
    if result.returncode != 0:
        raise CondaError(
            f"the smoke test failed with {result.returncode}: {' '.join(smoke_test.argv)}\n{result.tail()}"
        )
