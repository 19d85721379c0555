# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""One run, from the look at the fleet to the report of what came of it."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shlex
import subprocess
import threading
import typing as t

from ...module_utils._audit.log import Log
from ...module_utils._conda.files import write_file
from .._audit_listeners import listeners, tell
from .._drift_html import page
from .._drift_prometheus import metrics as fleet_metrics
from .._drift_report import Archive, Document, Run, document
from . import journal, plan, windows
from .checkout import Checkout
from .config import Config, ScheduleError, credential
from .outbox import Outbox
from .playbooks import Ansible, ssh_options
from .records import Records, metrics, stamp

#: How long the command that is told of new findings may take, in seconds.
_NOTIFY_TIMEOUT = 60.0


class Round:
    """Detect, correct what may be corrected, check that again, tell."""

    def __init__(self, config: Config, records: Records, stop: threading.Event) -> None:
        self._config = config
        self._records = records
        self._stop = stop
        self._started = _now()
        self._commit = self._stale = self._unsent = ""
        self._outbox = Outbox(
            os.path.join(config.directory, "outbox"), config.report_url, _secret("report_token"), config.keep_runs
        )

    def run(self) -> int:
        """All of it.

        :returns: the exit status.
        """
        cut = self._records.begin(self._started)
        if cut:
            journal.warn(f"The run of {cut} was cut. What it left half written is dropped, and this one goes on.")
        report, outcome, message = None, plan.Outcome("failed", [], [], 0, []), ""
        try:
            report, outcome = self._work()
        except (ScheduleError, OSError) as error:
            message = str(error)
            journal.warn(f"The run failed: {message}")
        if report:
            self._tell_people(report)
        self._send(report)
        self._tell_listeners()
        finished = _now()
        status = {
            "schema_version": 1,
            "state": outcome.state,
            "exit_code": outcome.exit_code,
            "message": message,
            "started": stamp(self._started),
            "finished": stamp(finished),
            "duration_seconds": round((finished - self._started).total_seconds(), 3),
            "hosts": report["summary"]["hosts"] if report else {},
            "findings": report["summary"]["by_fix"] if report else {},
            "corrected": outcome.corrected,
            "waiting": outcome.waiting,
            "bad": outcome.bad,
            "people": outcome.people,
            "commit": self._commit,
            "stale": self._stale,
            "unsent_reports": len(self._outbox.names()) if self._config.report_url else 0,
            "interrupted": cut,
        }
        self._write_metrics(metrics(status))
        self._records.end(status)
        journal.say(_line(status))
        return outcome.exit_code

    def _work(self) -> tuple[Document, plan.Outcome]:
        """:raises ScheduleError, OSError: there is nothing to tell of the fleet, or the run is told to stop."""
        with contextlib.closing(Ansible(self._config, self._records, *self._sources(), self._stop)) as ansible:
            return self._correct_and_check(ansible)

    def _correct_and_check(self, ansible: Ansible) -> tuple[Document, plan.Outcome]:
        identifier = f"{self._started.astimezone(datetime.UTC):%Y%m%dT%H%M%SZ}"
        ended, report = ansible.run(self._config.check_playbook, f"{identifier}-check", report=self._records.report)
        if report is None:
            raise ScheduleError(f"the check examined no node: {ended.text()}")
        wanted = plan.correctable(report, self._records.bad())
        tried, failed = self._correct(ansible, identifier, wanted, report)
        if tried:
            ended, again = ansible.run(self._config.check_playbook, f"{identifier}-verify", tried)
            if again is None:
                raise ScheduleError(f"the check examined no node after the correction: {ended.text()}")
            report = self._merged(report, again)
        return report, plan.outcome(report, wanted, tried, failed, self._config.correct)

    def _sources(self) -> tuple[str, str]:
        """The checkout, if there is one, and the inventory."""
        git = self._config.git
        if git is None:
            return "", self._config.inventory
        key = credential("ssh_key")
        identity = ["-o", "IdentitiesOnly=yes", "-i", key] if key else []
        ssh = shlex.join(["ssh", *identity, *ssh_options()])
        checkout = Checkout(os.path.join(self._config.directory, "project"), git, {"GIT_SSH_COMMAND": ssh})
        self._stale = checkout.update()
        self._commit = checkout.commit
        if self._stale:
            journal.warn(f"The checkout stays at {self._commit}, since it cannot be brought up to date: {self._stale}")
        path = os.path.realpath(checkout.path)
        return path, os.path.join(path, git.inventory)

    def _correct(
        self, ansible: Ansible, identifier: str, wanted: t.Sequence[str], report: Document
    ) -> tuple[list[str], set[str]]:
        """Correct *wanted*, wave by wave, up to the first wave that fails or the end of the window.

        :returns: the nodes that it was tried on, and those of them that it failed on.
        """
        tried: list[str] = []
        failed: set[str] = set()
        if not self._config.correct:
            return tried, failed
        for number, wave in enumerate(plan.waves(wanted, plan.at_once(self._config.max_nodes, report)), 1):
            if not windows.allowed(self._config.windows, datetime.datetime.now()):
                journal.say(f"It is no time for changes: {_nodes(wanted[len(tried) :])} wait for the next window.")
                break
            journal.say(f"Correcting {_nodes(wave)}.")
            ended, _report = ansible.run(self._config.site_playbook, f"{identifier}-correct-{number}", wave)
            tried += wave
            failed |= ended.failed
            if ended.code:
                failed |= ended.failed or set(wave)
                journal.warn(f"No other node is corrected, since this failed: {ended.text()}")
                break
        return tried, failed

    def _merged(self, report: Document, again: Document) -> Document:
        """The report of the fleet, with the nodes that were checked again as they are now, written like the first."""
        run = Run("check", False, self._started, _now())
        archive = Archive(self._records.report, self._config.keep_runs)
        past = archive.past(run)
        told = document(run, {**plan.nodes(report), **plan.nodes(again)}, past)
        archive.keep(told, {"drift.html": page(told, past.summaries)})
        write_file(os.path.join(self._metrics_directory(), "drift_check.prom"), fleet_metrics(told))
        return told

    def _tell_people(self, report: Document) -> None:
        """Tell what only people can do something about, each once: the journal, and the command of the site."""
        known = plan.still_known(self._records.told(), report)
        new = {identity: found for identity, found in plan.for_people(report).items() if identity not in known}
        for found in new.values():
            text = f"{found['component']}: {found['subject']}: {found['actual']} (expected {found['expected']})"
            journal.warn(f"For people ({found['fix']}): {found['host']}: {text}")
        if new and self._config.notify_command and not self._notify(list(new.values())):
            new = {}
        self._records.keep_told(known | set(new))

    def _notify(self, findings: t.Sequence[Document]) -> bool:
        try:
            done = subprocess.run(
                self._config.notify_command,
                input=json.dumps(findings),
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=_NOTIFY_TIMEOUT,
                check=False,
            )
            problem = f"it ended with {done.returncode}: {done.stderr.strip()[-500:]}" if done.returncode else ""
        except (OSError, subprocess.TimeoutExpired) as error:
            problem = str(error)
        if problem:
            journal.warn(f"The notify command failed, and gets these findings again next time: {problem}")
        return not problem

    def _send(self, report: Document | None) -> None:
        if self._config.report_url:
            if report:
                self._outbox.put(report)
            if problem := self._outbox.send():
                journal.warn(problem)

    def _tell_listeners(self) -> None:
        """Tell journald and syslog of changes that earlier runs could not tell them of."""
        directory = os.environ.get("LOGS_DIRECTORY", "")
        for listener in listeners(True, self._config.audit_syslog) if directory else []:
            try:
                tell(Log(directory), listener)
            except OSError as error:
                journal.warn(f"{listener.name} does not take the audit log, and is told by the next run: {error}")

    def _write_metrics(self, text: str) -> None:
        path = os.path.join(self._metrics_directory(), "drift_schedule.prom")
        try:
            write_file(path, text)
        except OSError as error:
            journal.warn(f"{path} cannot be written: {error.strerror}: let the user of the schedule write there")

    def _metrics_directory(self) -> str:
        os.makedirs(self._records.report, exist_ok=True)
        return self._config.metrics_directory or self._records.report


def _line(status: t.Mapping[str, t.Any]) -> str:
    """How the run ended, in one line."""
    hosts = ", ".join(f"{count} {state}" for state, count in status["hosts"].items() if count) or "no node examined"
    told = [f"{len(status[key])} {key}" for key in ("corrected", "waiting", "bad") if status[key]]
    people = [f"{status['people']} for people"] if status["people"] else []
    return f"{status['state']} after {status['duration_seconds']:.0f} s: {'; '.join([hosts, *told, *people])}"


def _nodes(names: t.Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _now() -> datetime.datetime:
    return datetime.datetime.now().astimezone()


def _secret(name: str) -> str:
    path = credential(name)
    if not path:
        return ""
    with open(path, encoding="utf-8") as stream:
        return stream.read().strip()
