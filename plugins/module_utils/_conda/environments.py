# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What there is of each environment on a node. A look at all of them imports this and little more."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import typing as t

from . import construction, prefixes
from .access import Access
from .errors import CondaError
from .files import half_made
from .prefixes import Manifest
from .problems import Problem
from .usage import in_use

#: How the modules that need to know the places ask for it.
LAYOUT_OPTIONS = {
    "envs_dir": {"type": "path", "default": "/opt/envfleet/envs"},
    "generations_dir": {"type": "path", "default": "/opt/envfleet/generations"},
}


@dataclasses.dataclass(frozen=True)
class Places:
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
        home = self.home(name)
        try:
            found = os.listdir(home)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(os.path.join(home, entry) for entry in found if not entry.startswith("."))

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
    unused: tuple[str, ...] = ()  #: where there is no name: generations that no process uses

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
            "unused": list(self.unused),
        }


def look(places: Places, name: str) -> Environment:
    """See what there is of environment *name*, with one walk over its live generation."""
    link = places.link(name)
    home = os.path.join(os.path.realpath(places.generations_dir), name)
    target, manifest, problems = prefixes.behind(link, "generation", home)
    if target and manifest:
        try:
            problems += Access.of(manifest.identity).compare(target)
        except (CondaError, OSError) as error:
            problems.append(Problem("manifest", target, str(error)))
    leftovers = tuple(places.leftovers(name))
    if os.path.lexists(half_made(link)):
        leftovers += (half_made(link),)
    unused: tuple[str, ...] = ()
    if not os.path.lexists(link):
        there = (path for path in places.generations(name) if path not in leftovers)
        finished = [path for path in there if finished_at(path) is not None]
        unused = tuple(sorted(set(finished) - in_use(finished)))
    return Environment(name, link, target, manifest, tuple(problems), leftovers, unused)


def finished_at(path: str) -> float | None:
    """When the generation at *path* was finished, or None where none ever was."""
    if os.path.islink(path):
        return None
    with contextlib.suppress(OSError):
        return os.lstat(os.path.join(path, prefixes.LISTING)).st_mtime
    return None


def names(places: Places) -> list[str]:
    """Every environment there is anything of."""
    found: set[str] = set()
    for directory in (places.envs_dir, places.generations_dir):
        with contextlib.suppress(FileNotFoundError):
            found.update(name for name in os.listdir(directory) if not name.startswith("."))
    return sorted(found)
