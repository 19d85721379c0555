# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""One run: prove what is there, fetch what is wanted, publish the indexes, and remove what nobody wants any more.

Files are there before an index names them, and go after none does: so a node that reads at any moment finds what it
has been told of.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
import typing as t

from .._drift_schedule import journal
from . import channels
from .config import FILES, WHEELS, Config, File, MirrorError
from .fetching import PAUSES, Fetcher, Problem
from .tree import Known, Tree, simple_index, stamp

#: How the last run ended, for everybody who can read the mirror.
STATUS = "status.json"
#: For how long a file stays that no index names any more, since somebody may have read the index before, in days.
_UNLISTED_DAYS = 1.0
#: How many problems are told one by one.
_TOLD = 20
OK, FAILED, INCOMPLETE, UNREACHABLE = 0, 1, 3, 4
_STATES = {OK: "current", FAILED: "failed", INCOMPLETE: "incomplete", UNREACHABLE: "unreachable"}


class Update:
    """A run, with nobody else at work on *tree*."""

    def __init__(
        self,
        config: Config,
        tree: Tree,
        now: datetime.datetime | None = None,
        pauses: t.Sequence[float] = PAUSES,
    ) -> None:
        self._config = config
        self._tree = tree
        self._pauses = pauses
        self._now = now or datetime.datetime.now(datetime.UTC)
        self._problems: list[Problem] = []
        self._pages: set[str] = set()
        self._changes: dict[str, list[str]] = {"fetched": [], "repaired": [], "removed": [], "indexed": []}

    def run(self, fetch: bool = True) -> int:
        """All of it.

        :param fetch: whether upstream is asked for anything.
        :returns: the exit status.
        """
        message, code = "", OK
        known = None
        try:
            known = Known(self._tree)
            self._bring_up_to_date(known, fetch)
        except (MirrorError, OSError) as error:
            message, code = str(error), FAILED
            journal.warn(f"The run failed: {message}")
        for problem in self._problems[:_TOLD]:
            journal.warn(problem.text)
        if len(self._problems) > _TOLD:
            journal.warn(f"... and {len(self._problems) - _TOLD} more")
        if self._problems and code == OK:
            code = UNREACHABLE if all(problem.unreachable for problem in self._problems) else INCOMPLETE
        status = {
            "schema_version": 1,
            "state": _STATES[code],
            "exit_code": code,
            "message": message,
            "finished": stamp(datetime.datetime.now(datetime.UTC)),
            "files": len(known.files) if known else 0,
            "bytes": sum(max(file.size, 0) for file in known.files.values()) if known else 0,
            **self._changes,
            "problems": [problem.text for problem in self._problems],
        }
        try:
            self._tree.write(STATUS, (json.dumps(status, indent=1) + "\n").encode())
        except OSError as error:
            journal.warn(f"{STATUS} cannot be written: {error.strerror}")
        journal.say(_line(status))
        return code

    def _bring_up_to_date(self, known: Known, fetch: bool) -> None:
        wanted = self._wanted(known, fetch)
        # What nobody wants for the moment is looked after like the rest, while it is kept.
        held = {
            path: file for path, file in known.files.items() if path not in wanted and not self._is_over(path, known)
        }
        sums = {path: file.sha256 for path, file in {**held, **wanted}.items()}
        served = self._tree.served()
        sound = self._tree.sound({path: digest for path, digest in sums.items() if path in served})
        damaged = {path for path in sums if path in served and path not in sound and self._was(path, known, sums[path])}
        for path in sorted(damaged):
            journal.warn(f"{path} is damaged: its content is not what its sha256 says")
        for path in sound & wanted.keys():
            known.want(dataclasses.replace(wanted[path], size=os.path.getsize(self._tree.of(path))), self._now)

        def take(file: File, staged: str) -> None:
            self._tree.put(staged, file.path)
            sound.add(file.path)
            self._changes["repaired" if file.path in damaged else "fetched"].append(file.path)
            if file.path in wanted:
                known.want(file, self._now)

        try:
            if fetch:
                missing = [file for path, file in {**held, **wanted}.items() if path not in sound]
                fetcher = Fetcher(self._tree.staging, self._config.min_free_mb, self._pauses)
                self._problems += fetcher.fetch(missing, take)
        finally:
            # Nobody is given what is damaged. What a newer lock has otherwise stays for the older one until it is had.
            left = sums.keys() & served - sound
            older = {path: known.files[path].sha256 for path in left if path in known.files}
            good = self._tree.sound(older)
            self._tree.remove(left - good)
            known.save()
        there = {path: digest for path, digest in sums.items() if path in sound}
        if self._publish({**there, **{path: older[path] for path in good}}, known):
            self._remove_others(sums, known)

    def _wanted(self, known: Known, fetch: bool) -> dict[str, File]:
        """What is to be there, by path."""
        found = [*self._config.selected(), *self._tree.imported()]
        as_before: list[File] = []
        for channel in self._config.channels:
            files, problems = channels.offered(channel, self._config, self._tree) if fetch else ([], [])
            self._problems += problems
            found += files
            if problems or not fetch:
                # Who cannot be asked still offers what it did.
                asked = bool(channel.specs or channel.repodata_patches)
                as_before += [file for file in known.files.values() if file.place == channel.name and asked]
        wanted: dict[str, File] = {}
        # What locks say comes first. A channel that has replaced a file has done so without being asked.
        for file in found:
            first = wanted.setdefault(file.path, file)
            if first.sha256 != file.sha256:
                text = f"{file.url} has the sha256 {file.sha256} there, and {first.sha256} in a lock or an archive"
                self._problems.append(Problem(text))
        return {**{file.path: file for file in as_before}, **wanted}

    def _is_over(self, path: str, known: Known) -> bool:
        """Is it no longer to be listed?"""
        return known.age_days(path, self._now) >= self._config.keep_days

    @staticmethod
    def _was(path: str, known: Known, digest: str) -> bool:
        return path in known.files and known.files[path].sha256 == digest

    def _publish(self, sums: t.Mapping[str, str], known: Known) -> bool:
        """Serve the indexes of what is there, and say whether all of them could be made."""
        whole = True
        places = {path.partition("/")[0] for path in sums} | {channel.name for channel in self._config.channels}
        patches = {channel.name: channel.repodata_patches for channel in self._config.channels}
        for name in sorted(places - {WHEELS, FILES}):
            listed = {path: digest for path, digest in sums.items() if path.startswith(f"{name}/")}
            made_of = [sorted(listed.items()), patches.get(name, ""), self._config.subdirs]
            key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
            indexes = {path: digest for path, digest in known.indexes.items() if path.startswith(f"{name}/")}
            if indexes and known.indexed.get(name) == key and self._tree.sound(indexes) == indexes.keys():
                continue
            try:
                written = channels.write_index(name, patches.get(name, ""), self._config.subdirs, listed, self._tree)
            except MirrorError as error:
                self._problems.append(Problem(str(error)))
                whole = False
                continue
            known.indexes = {path: digest for path, digest in known.indexes.items() if path not in indexes} | written
            known.indexed[name] = key
            known.save()
            self._changes["indexed"].append(name)
        # Of a channel that is none any more, nothing is left to be served.
        known.indexes = {path: digest for path, digest in known.indexes.items() if path.partition("/")[0] in places}
        known.indexed = {name: key for name, key in known.indexed.items() if name in places}
        self._tree.keep_links(places)
        pages = simple_index(File(path, digest, f"https://x/{path}") for path, digest in sums.items())
        if [path for path, page in pages.items() if self._tree.write(path, page)]:
            self._changes["indexed"].append(WHEELS)
        self._pages = set(pages)
        return whole

    def _remove_others(self, sums: t.Mapping[str, str], known: Known) -> None:
        """Remove what no index has named for a day, and what is no file of a mirror."""
        unlisted = {path for path in known.files if path not in sums}
        over = {path for path in unlisted if known.age_days(path, self._now) >= self._config.keep_days + _UNLISTED_DAYS}
        served = self._tree.served()
        strays = served - sums.keys() - unlisted - known.indexes.keys() - self._pages - {STATUS}
        self._tree.remove(strays | over)
        self._tree.remove_empty()
        self._changes["removed"] += sorted(over)
        for path in over:
            known.forget(path)
        known.save()


def _line(status: t.Mapping[str, t.Any]) -> str:
    """How the run ended, in one line."""
    keys = ("fetched", "repaired", "removed", "indexed", "problems")
    told = [f"{status['files']} files, {status['bytes'] >> 20} MiB"]
    told += [f"{len(status[key])} {key}" for key in keys if status[key]]
    return f"{status['state']}: {'; '.join(told)}"
