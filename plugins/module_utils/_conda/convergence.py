# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bring all environments of a node to their locks in one go: look first, and act only on what differs."""

from __future__ import annotations

import dataclasses
import os
import typing as t

from . import engines, generations
from .errors import CondaError
from .files import exclusive, require_free_space
from .generations import Environment, Layout, Plan, Retention, SmokeTest
from .locks import Lock
from .problems import Problem
from .records import read_records


@dataclasses.dataclass(frozen=True)
class Wanted:
    """One environment as it should be."""

    name: str
    lock: Lock
    smoke_test: SmokeTest
    retention: Retention = dataclasses.field(default_factory=Retention)


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


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What was, or in check mode would be, done for one environment."""

    before: Environment
    todo: Plan
    problems: tuple[Problem, ...]
    packages: t.Mapping[str, str]  #: name to label of what the name leads to before

    def as_dict(self) -> dict[str, t.Any]:
        """For JSON."""
        before, after = self.packages, self.todo.lock.labels
        return {
            "name": self.before.name,
            "generation": self.todo.generation,
            "previous": self.before.target,
            "identity": self.todo.lock.identity,
            "actions": self.todo.actions(),
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
            "after_header": f"{name} ({self.todo.generation})",
            "before": "".join(f"{line}\n" for line in [*sorted(self.packages.values()), *wrong]),
            "after": "".join(f"{line}\n" for line in sorted(self.todo.lock.labels.values())),
        }


def converge(wanted: t.Sequence[Wanted], settings: Settings, check_mode: bool) -> list[Outcome]:
    """Bring every environment of *wanted* to its lock, or tell what that would take.

    :raises CondaError: what cannot be done, before any change where that can be known before.
    """
    outcomes = [_observe(environment, settings) for environment in wanted]
    if check_mode or not any(outcome.todo for outcome in outcomes):
        return outcomes
    layout = settings.layout
    engine = None
    if any(outcome.todo.build for outcome in outcomes):
        engine = _engine(settings)
    os.umask(0o022)
    for option, directory in (
        ("envs_dir", layout.envs_dir),
        ("generations_dir", layout.generations_dir),
        ("pkgs_dir", settings.pkgs_dir),
    ):
        try:
            os.makedirs(directory, mode=0o755, exist_ok=True)
        except OSError as error:
            raise CondaError(f"conda_envs_{option}: {directory} cannot be made: {error.strerror}") from error
    with exclusive(layout.lock_file, settings.lock_timeout_seconds, "conda_envs_lock_timeout_seconds"):
        for index, (environment, seen) in enumerate(zip(wanted, outcomes)):
            if not seen.todo:
                continue
            # Another run may have done it while this one waited for the lock.
            outcomes[index] = outcome = _observe(environment, settings)
            try:
                if outcome.todo.build and engine is None:
                    engine = _engine(settings)
                if outcome.todo:
                    generations.apply(outcome.todo, engine, settings.pkgs_dir, environment.smoke_test)
            except (CondaError, OSError) as error:
                raise CondaError(f"conda_envs_shared: {environment.name}: {error}") from error
    return outcomes


def _engine(settings: Settings) -> engines.Engine:
    """The engine for a build, for which there is room."""
    engine = engines.select(settings.engine, settings.base_prefix, "conda_envs_engine")
    require_free_space(settings.layout.generations_dir, settings.min_free_mb, "conda_envs_min_free_mb")
    return engine


def _observe(wanted: Wanted, settings: Settings) -> Outcome:
    environment = generations.look(settings.layout, wanted.name)
    found = [*environment.problems, *generations.verify(environment, wanted.lock, settings.verify)]
    problems = tuple(dict.fromkeys(found))
    try:
        todo = generations.plan(settings.layout, environment, wanted.lock, problems, settings.verify, wanted.retention)
    except CondaError as error:
        raise CondaError(f"conda_envs_shared: {wanted.name}: {error}") from error
    # Read now, for the old generation may be gone afterwards, and only where the lock does not tell the same.
    records = read_records(environment.target)[0] if todo and environment.target else []
    labels = {record.name: record.label for record in records} if todo else wanted.lock.labels
    return Outcome(environment, todo, problems, labels)
