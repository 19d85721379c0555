# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""What a run writes down for the next one and for people: its lock, its status, what people were told."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import typing as t

from ...module_utils._conda.files import remove_tree, write_file
from .._drift_report import Document
from .plan import STATES, Identity

#: What write_file() calls a file until it is whole.
_UNFINISHED = (".running.json.", ".status.json.", ".told.json.")
_PREFIX = "gpu_cluster_drift_schedule"


class Records:
    """The files in the directory of a schedule."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.scratch = os.path.join(directory, "scratch")  #: what is in it is worth nothing after the run
        self.report = os.path.join(directory, "report")

    @contextlib.contextmanager
    def only_run(self) -> t.Iterator[bool]:
        """Whether no other run is at work. The kernel drops the lock with the process, however it ends."""
        descriptor = os.open(os.path.join(self.directory, "run.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)

    def begin(self, started: datetime.datetime) -> str:
        """Note that a run is at work, and drop what one that was cut has left half written.

        :returns: when the run began that was cut, if there was one.
        """
        cut = self._read("running.json", {}).get("started", "")
        remove_tree(self.scratch)
        os.makedirs(self.scratch, 0o700)
        for name in os.listdir(self.directory):
            if name.startswith(_UNFINISHED):
                os.unlink(os.path.join(self.directory, name))
        self._write("running.json", {"started": stamp(started), "pid": os.getpid()})
        return str(cut)

    def end(self, status: Document) -> None:
        """Note how the run ended."""
        self._write("status.json", status)
        remove_tree(self.scratch)
        os.unlink(os.path.join(self.directory, "running.json"))

    def bad(self) -> set[str]:
        """The nodes that the last run could not reach, or failed on."""
        return {str(name) for name in self._read("status.json", {}).get("bad", [])}

    def told(self) -> set[Identity]:
        """What people have been told."""
        return {(str(a), str(b), str(c), str(d)) for a, b, c, d in self._read("told.json", [])}

    def keep_told(self, told: t.Iterable[Identity]) -> None:
        """Note what people have been told."""
        self._write("told.json", sorted(told))

    def _read(self, name: str, default: t.Any) -> t.Any:
        try:
            with open(os.path.join(self.directory, name), encoding="utf-8") as stream:
                return json.load(stream)
        except (FileNotFoundError, ValueError):
            return default

    def _write(self, name: str, content: t.Any) -> None:
        write_file(os.path.join(self.directory, name), json.dumps(content, indent=1) + "\n")


def stamp(moment: datetime.datetime) -> str:
    """In UTC, as in the report."""
    return moment.astimezone(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def metrics(status: Document) -> str:
    """The status of the last run for Prometheus, in the text format of the textfile collector."""
    finished = datetime.datetime.fromisoformat(status["finished"].replace("Z", "+00:00")).timestamp()
    plain = {
        "exit_code": ("Exit status of the last run.", status["exit_code"]),
        "run_timestamp_seconds": ("When the last run ended, in seconds since the epoch.", finished),
        "run_duration_seconds": ("How long the last run took.", status["duration_seconds"]),
        "corrected_hosts": ("Hosts that the last run corrected.", len(status["corrected"])),
        "waiting_hosts": ("Hosts that a later run is to correct.", len(status["waiting"])),
        "bad_hosts": ("Hosts that the last run could not reach, or failed on.", len(status["bad"])),
        "findings_for_people": ("Findings that no run will correct.", status["people"]),
        "unsent_reports": ("Reports that have not reached the site's endpoint yet.", status["unsent_reports"]),
        "interrupted": ("Whether the run before the last one was cut.", int(bool(status["interrupted"]))),
        "checkout_stale": ("Whether the checkout could not be brought up to date.", int(bool(status["stale"]))),
    }
    lines = []
    for name, (text, value) in plain.items():
        lines += [*_family(name, text), f"{_PREFIX}_{name} {value!r}"]
    lines += _family("state", "How the last run ended: 1 for the state that it is in.")
    lines += [f'{_PREFIX}_state{{state="{state}"}} {int(state == status["state"])}' for state in STATES]
    return "\n".join(lines) + "\n"


def _family(name: str, text: str) -> list[str]:
    return [f"# HELP {_PREFIX}_{name} {text}", f"# TYPE {_PREFIX}_{name} gauge"]
