# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run changes, written down so that nobody can change that unnoticed."""

from __future__ import annotations

DOCUMENTATION = r"""
name: audit
type: aggregate
short_description: Write down every change in a log that tells when it was tampered with
version_added: "0.1.0"
author: The envfleet.gpu_cluster authors (@envfleet)
description:
  - Each change that a run makes on a node becomes a line of JSON in C(audit.jsonl) on the control node, with who ran
    it, the node, the task, and for environments the generations before and after.
  - Each line has the sha256 of itself and of the line before it. So M(envfleet.gpu_cluster.audit_proof) finds every
    byte that was changed, and every line that is gone or out of order. Who may write to the directory can remove all of
    it, or write all of it anew; what journald and syslog have been told is out of reach there.
  - A run that cannot write its log ends before it changes anything. The playbooks of this collection that only look go
    on. What cannot be written later, because the disk is full, say, is told on the terminal, and the run fails at its
    end.
  - A journal or syslog that does not answer is told later what it missed.
  - Runs with C(--check) change nothing and leave nothing. Of a task with C(no_log) only the name gets into the log, and
    of arguments only a path.
requirements:
  - enable it in the configuration
options:
  directory:
    description:
      - The directory of the log on the control node, which must be there. Without it nothing is written.
      - It should belong to whoever runs Ansible, as the role P(envfleet.gpu_cluster.audit#role) makes it.
    type: path
    env:
      - name: GPU_CLUSTER_AUDIT_DIRECTORY
    ini:
      - section: callback_audit
        key: directory
  journal:
    description: Whether to tell journald.
    type: bool
    default: true
    env:
      - name: GPU_CLUSTER_AUDIT_JOURNAL
    ini:
      - section: callback_audit
        key: journal
  syslog:
    description: Whom to tell by syslog, as HOST:PORT for TCP or as the path of a Unix socket for datagrams.
    type: str
    default: ""
    env:
      - name: GPU_CLUSTER_AUDIT_SYSLOG
    ini:
      - section: callback_audit
        key: syslog
  max_mb:
    description: A file of so many MiB is rotated, to C(audit-NUMBER.jsonl), where the number is that of its last line.
    type: int
    default: 10
    ini:
      - section: callback_audit
        key: max_mb
  keep_files:
    description: How many rotated files are kept. V(0) keeps all.
    type: int
    default: 0
    ini:
      - section: callback_audit
        key: keep_files
seealso:
  - module: envfleet.gpu_cluster.audit_proof
"""

import datetime
import getpass
import os
import socket
import typing as t
import uuid

from ansible import context
from ansible.plugins.callback import CallbackBase

from ..module_utils._audit.log import AuditError, Log
from ..plugin_utils._audit_listeners import listeners, tell

#: Playbooks of this collection that change nothing, and are wanted all the more when something is wrong with the log.
_LOOKING = ("audit_proof.yml", "channels.yml", "check.yml")

Entry = dict[str, t.Any]


class CallbackModule(CallbackBase):  # type: ignore[misc]  # ansible-core has no types
    """Adds a line for each change as it is told of."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "envfleet.gpu_cluster.audit"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._run = uuid.uuid4().hex
        self._log: Log | None = None
        self._pending: list[Entry] = []
        self._written = False
        self._playbook = ""

    def v2_playbook_on_start(self, playbook: t.Any) -> None:
        """The run begins, unless it could not tell what it does."""
        self._playbook = os.path.basename(playbook._file_name)
        directory = self.get_option("directory")
        if not directory or context.CLIARGS.get("check"):
            return
        self._log = Log(directory, self.get_option("max_mb") * 2**20, self.get_option("keep_files"))
        try:
            self._log.append([])
        except AuditError as error:
            if self._playbook in _LOOKING:
                self._display.warning(str(error))
                return
            self._display.error(f"nothing is changed without an audit log: {error} ([callback_audit] directory)")
            # Of what is no exit, Ansible would make a warning.
            raise SystemExit(1) from error

    def v2_runner_on_ok(self, result: t.Any) -> None:
        """A task succeeded; the items of a loop were told one by one."""
        if "results" not in result.result:
            self._take(result)

    def v2_runner_on_failed(self, result: t.Any, ignore_errors: bool = False) -> None:
        """A task failed, perhaps in the middle of a change."""
        self.v2_runner_on_ok(result)

    def v2_runner_item_on_ok(self, result: t.Any) -> None:
        """An item of a loop succeeded."""
        self._take(result)

    def v2_runner_item_on_failed(self, result: t.Any) -> None:
        """An item of a loop failed."""
        self._take(result)

    def v2_playbook_on_stats(self, stats: t.Any) -> None:
        """The run ends."""
        if self._log is None:
            return
        if self._written or self._pending:
            counts = {host: stats.summarize(host) for host in sorted(stats.processed)}
            told = {host: {key: count for key, count in found.items() if count} for host, found in counts.items()}
            self._add(self._log, {"event": "end", "hosts": told})
        for listener in listeners(self.get_option("journal"), self.get_option("syslog")):
            try:
                tell(self._log, listener)
            except OSError as error:
                self._display.warning(f"{listener.name} does not take the audit log, and is told later: {error}")
        if self._pending:
            for entry in self._pending:
                self._display.error(f"not in the audit log: {entry}")
            raise SystemExit(1)

    def _take(self, result: t.Any) -> None:
        content, task = result.result, result.task
        if self._log is None or task.check_mode or not (content.get("changed") or _half_done(content)):
            return
        if not self._written and not self._pending:
            self._add(
                self._log, {"event": "begin", "playbook": self._playbook, "limit": context.CLIARGS.get("subset") or ""}
            )
        self._add(self._log, {"event": "change", "host": result.host.get_name(), **_change(task, content)})

    def _add(self, log: Log, entry: Entry) -> None:
        """Write the entry, and what could not be written before it."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        self._pending.append({"time": now, "run": self._run, "by": _person(), "on": socket.gethostname(), **entry})
        try:
            log.append(self._pending)
        except AuditError as error:
            self._display.warning(str(error))
            return
        self._written, self._pending = True, []


def _half_done(content: t.Mapping[str, t.Any]) -> bool:
    """Has a task that failed done something before that?"""
    return bool(content.get("failed") and content.get("actions"))


def _change(task: t.Any, content: t.Mapping[str, t.Any]) -> Entry:
    entry: Entry = {"task": task.get_name(), "action": task.resolved_action or task.action}
    entry["failed"] = bool(content.get("failed"))
    if task.no_log or "censored" in content:
        return entry
    for key in ("dest", "path", "actions"):
        found = content.get(key, task.args.get(key) if key != "actions" else None)
        if found:
            entry[key] = found if key == "actions" else str(found)
    changed = [found for found in content.get("environments", ()) if found.get("actions")]
    if changed:
        keys = ("name", "previous", "generation", "identity", "actions")
        entry["environments"] = [{key: found.get(key) for key in keys} for found in changed]
    return entry


def _person() -> str:
    """Whoever runs Ansible, and as whom."""
    asked = os.environ.get("SUDO_USER", "")
    name = getpass.getuser()
    return f"{asked} as {name}" if asked and asked != name else name
