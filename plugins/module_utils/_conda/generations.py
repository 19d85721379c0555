# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Environments as generations: each installed lock is a prefix that never changes, and a name is a link to one."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import pwd
import time
import typing as t

from . import construction, kernels, prefixes, wheels
from .access import Access, lock_identity
from .engines import Engine, forget, protect_cached, require_archives
from .environments import Environment, Places, finished_at
from .errors import CondaError
from .files import free_bytes, half_made, remove_tree, replace_link, sync_directory, write_file
from .locks import Lock
from .packing import Images, empty
from .pinning import pin
from .prefixes import Manifest
from .problems import Problem
from .processes import run
from .records import Record, compare_files, compare_with_lock, read_distributions, read_records
from .sealing import compare_variables, seal, tidy_modes
from .usage import Elsewhere, in_use

LEVELS = ("fast", "records", "full")
_LOCK = "conda-meta/envfleet.lock"  # not .json: conda takes every such file there for a package
_NO_ROOM = 2**20  # bytes
_MESSAGE = "Managed by envfleet.gpu_cluster: change the environment's lock file and run the site playbook."


@dataclasses.dataclass(frozen=True)
class Layout(Places):
    """Where environments are on a node, and what they are in."""

    images: Images = dataclasses.field(default_factory=Images)  #: what generations are in, if they are packed


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
    distributions, unreadable = read_distributions(prefix, records)
    if lock_identity(manifest.identity) == lock.identity:
        problems += [*compare_with_lock(records, lock, distributions), *compare_variables(prefix, lock)]
        # Of what somebody has installed by hand, there is nothing to tell but that.
        names = {wheel.name for wheel in lock.wheels}
        distributions = [distribution for distribution in distributions if distribution.name in names]
    directories = tuple(f"{distribution.directory}/" for distribution in distributions)
    problems += [problem for problem in unreadable if problem.subject.startswith(directories)]
    if level == "full":
        problems += compare_files(prefix, [*records, *distributions])
    return problems


def lock_of(layout: Places, name: str, generation: str, platform: str) -> Lock:
    """The lock that a generation of environment *name* was made from; *generation* is as for find().

    :raises CondaError: there is none, or it does not tell what it was made from.
    """
    path, identity = find(layout, name, generation)
    return _lock_of(path, lock_identity(identity), platform)


def find(layout: Places, name: str, generation: str) -> tuple[str, str]:
    """The path and the identity of a finished generation of environment *name*.

    :param generation: its identifier, or "previous" for the youngest that was made from something else than the live
        one.
    :raises CondaError: there is none.
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
            return path, identity
    there = ", ".join(os.path.basename(path) for _made, path, _identity in finished) or "none"
    raise CondaError(f"{name} has no generation {generation} on this node: there is {there}")


def _lock_of(prefix: str, identity: str, platform: str) -> Lock:
    path = os.path.join(prefix, _LOCK)
    try:
        with open(path, encoding="utf-8") as stream:
            lock = Lock.from_dict(json.load(stream))
        if lock.identity == identity and lock.platform == platform:
            return lock
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CondaError(f"{prefix} is damaged: the lock that it was made from cannot be read: {error}") from error
    raise CondaError(f"{prefix} is damaged: {path} is not the lock that it was made from")


@dataclasses.dataclass(frozen=True)
class Retention:
    """Which old generations stay when the name moves on. Those in use always do."""

    keep: int = 3  #: how many stay for the way back, the live one included
    min_age_seconds: float = 7 * 86400  #: none is removed that is younger


@dataclasses.dataclass(frozen=True)
class Plan:
    """What has to be done for an environment: nothing, a switch to a generation that is there, or a build before it."""

    environment: Environment
    lock: Lock  #: without packages where there is to be no such environment
    generation: str  #: what the name leads to in the end; empty: there is no name then
    build: bool
    switch: bool
    identity: str = ""  #: see identity_of(); empty where there is to be no such environment
    retired: tuple[str, ...] = ()  #: generations that the name leaves behind for good
    kept: tuple[str, ...] = ()  #: those that go later, because a process uses them
    access: Access = dataclasses.field(default_factory=Access)
    kernelspec: kernels.Kernelspec | None = None  #: what is there, if it must be written or removed
    kernel: str = ""  #: the text that it gets, or nothing where it goes
    images: Images = dataclasses.field(default_factory=Images)  #: what the generation is in, if it is packed
    mount: bool = False  #: is there an image of it already?

    def __bool__(self) -> bool:
        return bool(
            self.build or self.mount or self.switch or self.retired or self.kernelspec or self.environment.leftovers
        )

    def actions(self) -> list[str]:
        """The steps, in order, in the words of the domain."""
        name, link = self.environment.name, self.environment.link
        half_link = half_made(link)
        steps = [
            f"remove unfinished {'link' if path == half_link else 'generation'} {path} of {name}"
            for path in self.environment.leftovers
        ]
        if self.build:
            steps.append(f"build generation {self.generation} of {name} with {len(self.lock.packages)} packages")
            if self.images.directory:
                steps.append(f"pack it into {self.images.of(self.generation, self.identity)} and mount that")
        if self.mount:
            steps.append(f"mount {self.images.of(self.generation, self.identity)} as {self.generation}")
        if self.switch:
            steps.append(f"point {link} to {self.generation}" if self.generation else f"remove {link}")
        if self.kernelspec:
            steps.append(f"{'write' if self.kernel else 'remove'} kernelspec {self.kernelspec.path}")
        return steps + [f"remove old generation {path} of {name}" for path in self.retired]


def identity_of(lock: Lock, access: Access) -> str:
    """What tells generations apart: the lock's identity, and who may use them where that is not everybody."""
    return f"{lock.identity}{access.suffix}"


def plan(
    layout: Layout,
    environment: Environment,
    lock: Lock,
    problems: t.Sequence[Problem],
    level: str,
    retention: Retention,
    access: Access | None = None,
    elsewhere: Elsewhere | None = None,
) -> Plan:
    """Decide what brings *environment* to *lock*, when *problems* are all that is to be mended of it at *level*.

    :param access: who may use it; None: all.
    :param elsewhere: what other nodes use of the generations; None: they are this node's own.
    :raises CondaError: the place of its name is taken by something else than a link.
    """
    _require_place(environment)
    access = access or Access()
    identity = identity_of(lock, access)
    live = environment.target
    if live and environment.manifest and environment.manifest.identity == identity and not problems:
        return Plan(environment, lock, live, build=False, switch=False, identity=identity, access=access)
    ready = _ready(layout, environment, lock, identity, level)
    images = layout.images
    freed = set(environment.leftovers)
    if images.directory:
        freed.update(filter(empty, layout.generations(environment.name)))  # nothing is mounted there
    path = ready or layout.new_generation(environment.name, identity, freed)
    mount = ready is None and images.has(path, identity)
    build = ready is None and not mount
    retired = _retired(layout, environment, path, retention, elsewhere)
    return Plan(environment, lock, path, build, True, identity, retired, access=access, images=images, mount=mount)


def plan_removal(layout: Layout, environment: Environment, elsewhere: Elsewhere | None = None) -> Plan:
    """Decide what takes *environment* away: its name, and each generation that no process uses.

    :param elsewhere: what other nodes use of the generations; None: they are this node's own.
    :raises CondaError: the place of its name is taken by something else than a link.
    """
    _require_place(environment)
    there = [path for path in layout.generations(environment.name) if path not in environment.leftovers]
    there = [path for path in there if finished_at(path) is not None or os.path.realpath(path) == environment.target]
    used = in_use(there)
    if elsewhere:
        used.update(path for path in there if not _may_go(path, environment, elsewhere))
    return Plan(
        environment,
        Lock("", ()),
        "",
        build=False,
        switch=os.path.islink(environment.link),
        retired=tuple(path for path in there if path not in used),
        kept=tuple(path for path in there if path in used),
        images=layout.images,
    )


def _may_go(path: str, environment: Environment, elsewhere: Elsewhere | None) -> bool:
    """Can no process on another node use the generation at *path*?

    Where the name leads to now, one may have begun since the other nodes were asked.
    """
    return elsewhere is None or not (os.path.realpath(path) == environment.target or elsewhere.may_use(path))


def _require_place(environment: Environment) -> None:
    if os.path.lexists(environment.link) and not os.path.islink(environment.link):
        raise CondaError(f"{environment.link} exists and is no link of this collection: move it away, then run again")


def _ready(layout: Layout, environment: Environment, lock: Lock, identity: str, level: str) -> str | None:
    """A sound generation of *identity*, made from *lock*, that the name does not lead to, if there is one."""
    for path in layout.generations(environment.name):
        if os.path.realpath(path) == environment.target or path in environment.leftovers:
            continue
        manifest = prefixes.read_manifest(path)
        if not manifest or manifest.identity != identity:
            continue
        damaged = prefixes.check(path, manifest) or Access.of(identity).compare(path)
        if not damaged and not _verify(path, manifest, lock, level):
            return path
    return None


def _retired(
    layout: Layout, environment: Environment, next_live: str, retention: Retention, elsewhere: Elsewhere | None
) -> tuple[str, ...]:
    """The generations that go once the name leads to *next_live*: damaged ones first, then the oldest."""
    others = []
    for path in layout.generations(environment.name):
        if path == next_live or path in environment.leftovers:
            continue
        made = finished_at(path)
        if made is not None:
            live = os.path.realpath(path) == environment.target
            sound = prefixes.read_manifest(path) is not None and not (live and environment.problems)
            # What the name leads to now is the first way back.
            others.append((sound, live, made, path))
    others.sort(reverse=True)
    youngest = time.time() - retention.min_age_seconds
    spare = [
        path
        for rank, (sound, _live, made, path) in enumerate(others, 2)
        if made <= youngest and (rank > retention.keep or not sound) and _may_go(path, environment, elsewhere)
    ]
    used = in_use(spare)
    return tuple(path for path in spare if path not in used)


@dataclasses.dataclass(frozen=True)
class SmokeTest:
    """A command that must succeed in a generation before people get it."""

    argv: tuple[str, ...]
    user: str
    timeout_seconds: float

    def groups(self, access: Access) -> list[int]:
        """The groups that its user needs besides its own to use a generation with *access*.

        :raises CondaError: there is no such user, or no group would let it in.
        """
        if not self.argv or os.geteuid() != 0:
            return []
        try:
            uid = pwd.getpwnam(self.user).pw_uid
        except KeyError:
            raise CondaError(f"smoke_test_user: there is no user {self.user} to run the smoke test as") from None
        owner, group = access.accounts()
        if uid in (0, owner) or access.lets_in("others"):
            return []
        if access.lets_in("group"):
            return [group]
        raise CondaError(
            f"smoke_test_user: {self.user} could not use the environment, which mode and umask leave to its owner: "
            "name the owner here, or let the group in"
        )


def apply(
    todo: Plan, engine: Engine | None, cache: str, smoke_test: SmokeTest, sources: wheels.Sources | None = None
) -> None:
    """Do what *todo* says. The caller holds the lock of the layout.

    :param sources: where wheels come from; None: from the URLs in the lock.
    :raises CondaError: it could not be done; the name is as it was, and an unfinished generation is gone.
    """
    for path in todo.environment.leftovers:
        todo.images.discard(path)
    if todo.build or todo.mount:
        try:
            if todo.mount:
                _mount(todo)
            elif engine is None:
                raise AssertionError("a build needs an engine")
            else:
                _build(todo, engine, todo.access.cache_below(cache), smoke_test, sources)
        except BaseException as error:
            full = free_bytes(todo.generation) < _NO_ROOM
            with contextlib.suppress(OSError):  # marked as it is, the next run finds it
                todo.images.discard(todo.generation)
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise CondaError(f"the disk is full: {error.filename or todo.generation}") from error
            if full and isinstance(error, CondaError) and "the disk is full" not in str(error):
                # Not every tool notices that what it has written is not there.
                raise CondaError(f"the disk is full: {error}") from error
            raise
    if todo.switch and todo.generation and not todo.build:
        # It suited once, but the node or the test may have changed.
        _smoke(todo, smoke_test)
    if todo.switch:
        if todo.generation:
            replace_link(todo.environment.link, todo.generation)
        else:
            os.unlink(todo.environment.link)
            sync_directory(os.path.dirname(todo.environment.link))
    if todo.kernelspec:
        kernels.change(todo.kernelspec, todo.kernel)
    # A job may have begun in one of them while the new generation was built.
    for path in sorted(set(todo.retired) - in_use(todo.retired)):
        todo.images.discard(path)
    if not todo.generation:
        for home in {os.path.dirname(path) for path in (*todo.retired, *todo.environment.leftovers)} - {
            os.path.dirname(todo.environment.link)
        }:
            with contextlib.suppress(OSError):  # a generation stays, or somebody has put something there
                os.rmdir(home)


def _build(
    todo: Plan, engine: Engine, cache: str, smoke_test: SmokeTest, sources: wheels.Sources | None = None
) -> None:
    prefix, lock = todo.generation, todo.lock
    os.makedirs(os.path.dirname(prefix), mode=0o755, exist_ok=True)
    construction.begin(prefix)
    require_archives(lock.packages)
    damaged = _install(todo, engine, cache)
    if damaged:
        # An edit in place of a file that is a hard link reaches the cache, and comes back from there.
        forget(damaged, cache)
        remove_tree(prefix)
        damaged = _install(todo, engine, cache)
        if damaged:
            raise CondaError(f"{damaged[0].label} is damaged in its own archive: its files are not what its list says")
    wheels.install(lock, prefix, cache, sources or wheels.Sources())
    write_file(os.path.join(prefix, _LOCK), json.dumps(lock.as_dict(), sort_keys=True) + "\n")
    pin(prefix)
    seal(prefix, _MESSAGE, lock.variables, todo.access)
    _smoke(todo, smoke_test)
    prefixes.finish(prefix, todo.identity, engine.name, packed=bool(todo.images.directory))
    if todo.images.directory:
        todo.images.pack(prefix, todo.identity)
        todo.images.mount(prefix, todo.identity)
    construction.end(prefix)


def _mount(todo: Plan) -> None:
    """Have the generation as it was packed, by this node or by another."""
    os.makedirs(os.path.dirname(todo.generation), mode=0o755, exist_ok=True)
    construction.begin(todo.generation)
    todo.images.mount(todo.generation, todo.identity)
    construction.end(todo.generation)


def _install(todo: Plan, engine: Engine, cache: str) -> list[Record]:
    """Have the engine install the conda packages: those whose files are not what they must be.

    An archive may have files that everybody can write to: they are closed before they are held against their sums.
    """
    engine.install(todo.lock.packages, todo.generation, cache)
    protect_cached(todo.lock.packages, cache)
    tidy_modes(todo.generation, todo.access)
    return _damaged(todo.generation, todo.lock)


def _damaged(prefix: str, lock: Lock) -> list[Record]:
    """The conda packages whose files are not what they must be.

    :raises CondaError: the packages are not those of the lock.
    """
    records, problems = read_records(prefix)
    problems += compare_with_lock(records, dataclasses.replace(lock, wheels=()))
    if problems:
        raise CondaError(f"the engine did not install the lock: {problems[0].subject}: {problems[0].detail}")
    return [record for record in records if compare_files(prefix, [record])]


def _smoke(todo: Plan, smoke_test: SmokeTest) -> None:
    if not smoke_test.argv:
        return
    path = os.path.join(todo.generation, "bin")
    command = os.path.join(path, smoke_test.argv[0])
    argv = [command if os.path.exists(command) else smoke_test.argv[0], *smoke_test.argv[1:]]
    result = run(
        argv,
        environment={**dict(todo.lock.variables), "CONDA_PREFIX": todo.generation},
        path=path,
        user=smoke_test.user if os.geteuid() == 0 else "",
        groups=smoke_test.groups(todo.access),
        timeout_seconds=smoke_test.timeout_seconds,
    )
    if result.returncode != 0:
        raise CondaError(
            f"the smoke test failed with {result.returncode}: {' '.join(smoke_test.argv)}\n{result.tail()}"
        )
