# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bring all environments of a node to their locks in one go: look first, and act only on what differs."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
import typing as t

from . import engines, environments, generations, kernels
from .access import Access
from .environments import Environment
from .errors import CondaError
from .files import exclusive, require_cluster_lock, require_free_space
from .generations import Layout, Plan, Retention, SmokeTest
from .locks import Lock
from .problems import Problem
from .records import read_distributions, read_records
from .usage import Elsewhere
from .wheels import Sources

#: What an environment may be: there as its lock says, gone, or only looked at.
STATES = ("present", "absent", "verified")
_LOCK_TIMEOUT = "conda_envs_lock_timeout_seconds"
#: What becomes of a generation in which somebody has installed something.
FOREIGN = ("rebuild", "report")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """One environment as it should be."""

    name: str
    lock: Lock  #: without packages where the environment is to be gone
    smoke_test: SmokeTest
    retention: Retention = dataclasses.field(default_factory=Retention)
    state: str = "present"  #: one of STATES
    access: Access = dataclasses.field(default_factory=Access)
    repair: bool = True  #: is a damaged generation built anew?
    foreign_packages: str = "rebuild"  #: one of FOREIGN
    kernel: bool | None = False  #: does Jupyter offer it? None: as it does now

    @classmethod
    def of(cls, entry: t.Mapping[str, t.Any], lock: Lock, min_age_seconds: float = 0) -> Wanted:
        """What *entry* says of an environment, where each option has a value of its type.

        :raises CondaError: an option has no value that makes sense.
        """
        return cls(
            name=entry["name"],
            lock=lock,
            smoke_test=SmokeTest(tuple(entry["smoke_test"]), entry["smoke_test_user"], entry["smoke_test_timeout"]),
            retention=Retention(entry["keep_generations"], min_age_seconds),
            state=entry["state"],
            access=Access(*(entry[option] for option in ("owner", "group", "mode", "umask"))),
            repair=entry["repair"],
            foreign_packages=entry["foreign_packages"],
            kernel=entry["kernel"] if entry["generation"] else bool(entry["kernel"]),
        )

    @property
    def identity(self) -> str:
        """What the generation has that the name must lead to."""
        return generations.identity_of(self.lock, self.access)

    def to_mend(self, found: Environment, problems: t.Iterable[Problem]) -> list[Problem]:
        """Those of *problems* that are a reason for a new generation, if the lock is none."""
        if found.manifest is None:
            return list(problems)
        if not self.repair:
            return []
        return [problem for problem in problems if self.foreign_packages == "rebuild" or problem.kind != "foreign"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What holds for all environments of a node."""

    layout: Layout
    pkgs_dir: str
    base_prefix: str
    engine: str
    verify: str
    min_free_mb: int
    lock_timeout_seconds: float
    kernels_dir: str = ""  #: where Jupyter looks for kernelspecs; empty: nowhere
    index_url: str = ""  #: see wheels.Sources
    wheels_dir: str = ""  #: see wheels.Sources
    elsewhere: Elsewhere | None = None  #: what other nodes use of the generations; None: they are this node's own
    install: bool = True  #: False: another node does, and this one sees what becomes of it
    see_seconds: float = 75  #: how long that may take: NFS keeps what it knows of a directory for 60 seconds


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What was, or in check mode would be, done for one environment."""

    before: Environment
    todo: Plan
    problems: tuple[Problem, ...]
    packages: t.Mapping[str, str]  #: name to label of what the name leads to before
    act: bool = True  #: is it to be done, and not only told?

    @property
    def changed(self) -> bool:
        """Was anything done, or would it be without check mode?"""
        return self.act and bool(self.todo)

    def of_this_node(self) -> Outcome:
        """What is left of it where another node installs: the kernelspec, which may be in a place of this node."""
        before = dataclasses.replace(self.before, leftovers=())
        todo = dataclasses.replace(self.todo, environment=before, build=False, switch=False, retired=())
        return dataclasses.replace(self, before=before, todo=todo)

    def as_dict(self) -> dict[str, t.Any]:
        """For JSON."""
        before, after = self.packages, self.todo.lock.labels
        return {
            "name": self.before.name,
            "generation": self.todo.generation or None,
            "previous": self.before.target,
            "identity": self.todo.identity or None,
            "actions": self.todo.actions(),
            "kept": list(self.todo.kept),
            "added": [after[name] for name in sorted(after.keys() - before.keys())],
            "removed": [before[name] for name in sorted(before.keys() - after.keys())],
            "changed": [
                {"name": name, "before": before[name], "after": after[name]}
                for name in sorted(before.keys() & after.keys())
                if before[name] != after[name]
            ],
            "problems": [problem.as_dict() for problem in self.problems],
        }

    def diff(self) -> dict[str, str]:
        """For --diff: the packages, and what is wrong now."""
        wrong = [f"{problem.kind} {problem.subject}: {problem.detail}" for problem in self.problems]
        name = self.before.name
        return {
            "before_header": f"{name} ({self.before.target or 'absent'})",
            "after_header": f"{name} ({self.todo.generation or 'absent'})",
            "before": "".join(f"{line}\n" for line in [*sorted(self.packages.values()), *wrong]),
            "after": "".join(f"{line}\n" for line in sorted(self.todo.lock.labels.values())),
        }


def converge(wanted: t.Sequence[Wanted], settings: Settings, check_mode: bool) -> list[Outcome]:
    """Bring every environment of *wanted* to what is wanted of it, or tell what that would take.

    :raises CondaError: what cannot be done, before any change where that can be known before.
    """
    outcomes = _observe_all(wanted, settings, check_mode)
    if check_mode or not any(outcome.changed for outcome in outcomes):
        return outcomes
    layout = settings.layout
    if settings.elsewhere:
        require_cluster_lock(layout.generations_dir, "conda_envs_generations_dir")
    engine = None
    if any(outcome.changed and (outcome.todo.build or outcome.todo.mount) for outcome in outcomes):
        layout.images.require(any(outcome.changed and outcome.todo.build for outcome in outcomes))
    if any(outcome.changed and outcome.todo.build for outcome in outcomes):
        engine = _engine(settings)
    os.umask(0o022)
    directories = [
        ("dir", layout.envs_dir),
        ("generations_dir", layout.generations_dir),
        ("pkgs_dir", settings.pkgs_dir),
    ]
    if not settings.install:
        directories = []
    if any(outcome.changed and outcome.todo.kernel for outcome in outcomes):
        directories.append(("kernels_dir", settings.kernels_dir))
    for option, directory in directories:
        try:
            os.makedirs(directory, mode=0o755, exist_ok=True)
        except OSError as error:
            raise CondaError(f"conda_envs_{option}: {directory} cannot be made: {error.strerror}") from error
    sources = Sources(settings.index_url, settings.wheels_dir, settings.base_prefix)
    settings = dataclasses.replace(settings, see_seconds=0)  # nobody waits with the lock in hand
    with exclusive(layout.lock_file, settings.lock_timeout_seconds, _LOCK_TIMEOUT, "conda_envs_generations_dir"):
        for index, (environment, seen) in enumerate(zip(wanted, outcomes)):
            if not seen.changed:
                continue
            # Another run may have done it while this one waited for the lock.
            outcomes[index] = outcome = _observe_all([environment], settings, check_mode)[0]
            try:
                with contextlib.ExitStack() as held:
                    if outcome.todo.build:
                        held.enter_context(
                            layout.images.packing(outcome.todo.generation, settings.lock_timeout_seconds, _LOCK_TIMEOUT)
                        )
                        if layout.images.directory:
                            # Another node may have packed it while this one waited.
                            outcomes[index] = outcome = _observe(environment, settings)
                    if outcome.todo.build and engine is None:
                        engine = _engine(settings)
                    if outcome.todo:
                        generations.apply(outcome.todo, engine, settings.pkgs_dir, environment.smoke_test, sources)
            except (CondaError, OSError) as error:
                raise CondaError(f"conda_envs_shared: {environment.name}: {error}") from error
    return outcomes


def _observe_all(wanted: t.Sequence[Wanted], settings: Settings, check_mode: bool) -> list[Outcome]:
    """What is to be done for each environment. Where another node installs, that is waited for.

    :raises CondaError: what another node has installed is not to be seen here.
    """
    deadline = time.monotonic() + settings.see_seconds
    while True:
        outcomes = [_observe(environment, settings) for environment in wanted]
        if settings.install:
            return outcomes
        behind = next((one for one in outcomes if one.act and (one.todo.build or one.todo.switch)), None)
        if behind is None or check_mode:
            return [outcome.of_this_node() for outcome in outcomes]
        there = os.path.exists(settings.layout.lock_file)
        if not there or time.monotonic() >= deadline:
            cause = (
                "what the file system shows here is stale, or that node has failed"
                if there
                else f"the file system with {settings.layout.generations_dir} is not mounted here"
            )
            raise CondaError(
                f"conda_envs_install_once: {behind.before.name}: this node does not see what another has installed, "
                f"{behind.before.link} leading to {behind.todo.generation or 'nothing'}: {cause}"
            )
        time.sleep(1)


def _engine(settings: Settings) -> engines.Engine:
    """The engine for a build, for which there is room."""
    engine = engines.select(settings.engine, settings.base_prefix, "conda_envs_engine")
    require_free_space(settings.layout.generations_dir, settings.min_free_mb, "conda_envs_min_free_mb")
    return engine


def _observe(wanted: Wanted, settings: Settings) -> Outcome:
    try:
        return _compare(wanted, settings)
    except (CondaError, OSError) as error:
        raise CondaError(f"conda_envs_shared: {wanted.name}: {error}") from error


def _compare(wanted: Wanted, settings: Settings) -> Outcome:
    environment = environments.look(settings.layout, wanted.name)
    kernelspec = kernels.look(settings.kernels_dir, wanted.name)
    act = wanted.state != "verified"
    problems: list[Problem] = []
    if wanted.state == "absent":
        todo = generations.plan_removal(settings.layout, environment, settings.elsewhere)
    else:
        found = [*environment.problems, *generations.verify(environment, wanted.lock, settings.verify)]
        problems = list(dict.fromkeys(found))
        if not act and any(problem.kind == "obstacle" for problem in problems):
            # No run could do anything about it.
            nothing = Plan(environment, wanted.lock, "", build=False, switch=False)
            return Outcome(environment, nothing, tuple(problems), {}, act)
        mended = wanted.to_mend(environment, problems)
        todo = generations.plan(
            settings.layout,
            environment,
            wanted.lock,
            mended,
            settings.verify,
            wanted.retention,
            wanted.access,
            settings.elsewhere,
        )
        if todo.build:
            wanted.access.accounts()
            wanted.smoke_test.groups(wanted.access)
    text = kernels.expected(wanted.name, todo.generation, wanted.kernel, wanted.lock, kernelspec)
    if act:
        kernels.require(kernelspec, text, wanted.lock)
    if todo.generation == environment.target:
        problems += kernels.compare(kernelspec, text)
    if kernels.differs(kernelspec, text):
        todo = dataclasses.replace(todo, kernelspec=kernelspec, kernel=text)
    # Read now, for the old generation may be gone afterwards, and only where the lock does not tell the same.
    labels = _installed(environment.target) if todo else wanted.lock.labels
    return Outcome(environment, todo, tuple(problems), labels, act)


def _installed(prefix: str | None) -> dict[str, str]:
    """The label of each package in *prefix*, by name, as a lock has them."""
    records = read_records(prefix)[0] if prefix else []
    labels = {record.name: record.label for record in records}
    wheels = read_distributions(prefix, records)[0] if prefix else []
    return {**labels, **{f"pypi:{wheel.name}": wheel.label for wheel in wheels}}
