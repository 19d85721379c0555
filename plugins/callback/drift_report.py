# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The drift of a fleet, as files for people, programs and Prometheus."""

from __future__ import annotations

DOCUMENTATION = r"""
name: drift_report
type: aggregate
short_description: Write what has drifted on all nodes as a page, as JSON, and as metrics
version_added: "0.1.0"
author: The envfleet.gpu_cluster authors (@envfleet)
description:
  - Collects what M(envfleet.gpu_cluster.report_drift) reports. With C(--check) a task of any playbook that would change
    a node is a finding too, of the component C(task), with the severity C(warning) and the fix C(auto).
  - After the recap it prints two lines. With O(directory) it writes files too.
  - C(drift.json) is described by C(docs/drift-report.schema.json). C(drift.html) is a page that needs nothing else.
    C(drift_PLAYBOOK.prom) is for the textfile collector of node_exporter, one file for each playbook. The same JSON is
    kept under C(runs/), one file for each run.
  - Each file is written whole or not at all, and everybody may read it. Of a task with C(no_log) only the name gets
    into it.
  - A node that was unreachable, on which a task failed, or that nobody examined, is shown as that and never as clean.
  - What is new and what is gone is told by comparing each node with what the same playbook saw when it last examined
    it, so a run with C(--limit) loses nothing.
  - With C(--check), a node that was examined in part when a play was stopped is unchecked too.
  - With C(--limit), the metrics tell of the other nodes of the inventory what the last runs of the playbook saw. All
    else is of the limited run alone.
  - A run that neither reports nor has C(--check) leaves everything as it is. Import roles and tasks that report rather
    than include them, so that this is known before the first node is reached.
requirements:
  - enable it in the configuration
options:
  directory:
    description: The directory on the control node to write to. It is made if need be. Without it nothing is written.
    type: path
    env:
      - name: GPU_CLUSTER_DRIFT_REPORT_DIRECTORY
    ini:
      - section: callback_drift_report
        key: directory
  metrics_directory:
    description: The directory to write the metrics to, which must be there. The default is O(directory).
    type: path
    env:
      - name: GPU_CLUSTER_DRIFT_REPORT_METRICS_DIRECTORY
    ini:
      - section: callback_drift_report
        key: metrics_directory
  keep:
    description: How many runs are kept under C(runs/). The last one always is.
    type: int
    default: 100
    env:
      - name: GPU_CLUSTER_DRIFT_REPORT_KEEP
    ini:
      - section: callback_drift_report
        key: keep
seealso:
  - plugin: envfleet.gpu_cluster.report_drift
    plugin_type: module
"""

import collections
import datetime
import os
import re
import typing as t

from ansible import context
from ansible.playbook.block import Block
from ansible.playbook.handler import Handler
from ansible.plugins.callback import CallbackBase

from ..module_utils._conda.files import write_file
from ..module_utils._node.findings import Finding
from ..plugin_utils._drift_html import page
from ..plugin_utils._drift_prometheus import metrics
from ..plugin_utils._drift_report import FIXES, STATES, Archive, Document, Node, Past, Run, document, with_others

_REPORT = "envfleet.gpu_cluster.report_drift"
#: They change the inventory of the run, and no node.
_INVENTORY = {"ansible.builtin.add_host", "ansible.builtin.group_by"}
#: How many nodes the terminal names.
_NAMED = 5
_STOPPED = "The run was stopped before all tasks had looked at this node."


class CallbackModule(CallbackBase):  # type: ignore[misc]  # ansible-core has no types
    """Collects while the run goes on, and writes when it ends."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "envfleet.gpu_cluster.drift_report"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._started = datetime.datetime.now(datetime.UTC)
        self._playbook = ""
        self._check = bool(context.CLIARGS.get("check"))
        self._reports = self._check  #: whether this run is one that tells of drift
        self._plays: set[str] = set()
        self._hosts: set[str] = set()
        self._inventory: set[str] = set()
        self._examined: set[str] = set()
        self._looked_at: set[str] = set()  #: by tasks of the play that runs, with --check
        self._is_stopped = False  #: that play
        self._stopped: set[str] = set()  #: who may not have seen the end of a play
        self._findings: dict[str, list[Finding]] = collections.defaultdict(list)
        self._unreachable: dict[str, str] = {}
        self._failed: dict[str, str] = {}
        self._drift_failed: set[str] = set()

    def v2_playbook_on_start(self, playbook: t.Any) -> None:
        """The run begins."""
        self._playbook = os.path.splitext(os.path.basename(playbook._file_name))[0]

    def v2_playbook_on_play_start(self, play: t.Any) -> None:
        """A play begins, or the next batch of it. Its hosts are noted: those never reached must not be lost."""
        self._end_play()
        reports = self._check or _has_report([*play.pre_tasks, *play.tasks, *play.post_tasks])
        if reports and str(play.hosts) not in self._plays:
            self._reports = True
            self._plays.add(str(play.hosts))
            variables = play.get_variable_manager().get_vars(play=play)
            self._hosts.update(variables["ansible_play_hosts_all"])
            self._inventory.update(variables["groups"]["all"])

    def v2_playbook_on_no_hosts_remaining(self) -> None:
        """A play is stopped: its hosts have failed, or enough of them have."""
        self._is_stopped = True

    def v2_runner_on_ok(self, result: t.Any) -> None:
        """A task succeeded; the items of a loop were told one by one."""
        if result.task.loop is None:
            self._take(result)

    def v2_runner_on_failed(self, result: t.Any, ignore_errors: bool = False) -> None:
        """A task failed."""
        content, host, looped = result.result, result.host.get_name(), result.task.loop is not None
        if not looped:
            self._take(result)
        if ignore_errors:
            return
        self._is_stopped |= _stops_all(result.task)
        outcomes = content.get("results", ()) if looped else [content]
        told = bool(outcomes) and all("drift_findings" in outcome for outcome in outcomes)
        if result.task.resolved_action == _REPORT and told:
            self._drift_failed.add(host)
        else:
            self._failed[host] = f"Failed in the task: {_stem(result.task)}"

    def v2_runner_on_unreachable(self, result: t.Any) -> None:
        """A host could not be reached, whatever the play makes of that."""
        self._is_stopped |= _stops_all(result.task)
        self._unreachable[result.host.get_name()] = f"Could not be reached for the task: {_stem(result.task)}"

    def v2_runner_item_on_ok(self, result: t.Any) -> None:
        """An item of a loop succeeded."""
        self._take(result)

    def v2_runner_item_on_failed(self, result: t.Any) -> None:
        """An item of a loop failed."""
        self._take(result)

    def v2_playbook_on_stats(self, stats: t.Any) -> None:
        """The run ends."""
        self._end_play()
        if not self._reports:
            return
        run = Run(self._playbook, self._check, self._started, datetime.datetime.now(datetime.UTC))
        nodes = {host: self._node(host, stats) for host in self._hosts.union(stats.processed)}
        # A play that reports nothing may have prepared something on the control node, say.
        nodes = {host: node for host, node in nodes.items() if host in self._hosts or node.state != "unchecked"}
        if not nodes:
            return
        directory = self.get_option("directory")
        told = self._write(directory, run, nodes) if directory else None
        self._display.banner("DRIFT REPORT")
        if told is None:
            told = document(run, nodes, Past())
            second = _named(told)
        else:
            appeared, gone = (told["summary"][key] for key in ("appeared", "gone"))
            second = f"{appeared} new, {gone} gone since last time: {os.path.join(directory, 'drift.html')}"
        self._display.display(f"{_counted(told)}\n{second}")

    def _write(self, directory: str, run: Run, nodes: t.Mapping[str, Node]) -> Document | None:
        """Write all files. A run doesn't fail when that fails: there is nothing then, and a warning."""
        archive = Archive(directory, self.get_option("keep"))
        try:
            past = archive.past(run)
            told = document(run, nodes, past)
            archive.keep(told, {"drift.html": page(told, past.summaries)})
            name = f"drift_{re.sub('[^A-Za-z0-9]+', '_', run.title)}.prom"
            whole = with_others(told, past, self._inventory) if context.CLIARGS.get("subset") else told
            write_file(os.path.join(self.get_option("metrics_directory") or directory, name), metrics(whole))
        except OSError as error:
            self._display.warning(
                f"the drift report cannot be written: {error.filename or directory}: {error.strerror}: let this user "
                "write there, or name another directory in [callback_drift_report] of ansible.cfg"
            )
            return None
        for path in past.unreadable:
            self._display.warning(f"{path} is no drift report that this version can read: it is passed over")
        return told

    def _end_play(self) -> None:
        if self._is_stopped:
            self._stopped |= self._looked_at
        self._looked_at.clear()
        self._is_stopped = False

    def _take(self, result: t.Any) -> None:
        host, task, content = result.host.get_name(), result.task, result.result
        if task.resolved_action == _REPORT:
            self._reports = True
            # With no_log there are none to see, and the node stays unchecked.
            if "drift_findings" in content:
                self._examined.add(host)
                self._findings[host] += [Finding(**finding) for finding in content["drift_findings"]]
        elif self._check and task.check_mode and not isinstance(task, Handler):
            self._examined.add(host)
            self._looked_at.add(host)
            if content.get("changed") and task.resolved_action not in _INVENTORY:
                self._findings[host].append(_of_task(task, content))

    def _node(self, host: str, stats: t.Any) -> Node:
        findings = self._findings[host]
        if host in self._unreachable:
            return Node("unreachable", self._unreachable[host], findings)
        if stats.failures.get(host) and (host in self._failed or host not in self._drift_failed):
            return Node("failed", self._failed.get(host, ""), findings)
        if host in self._stopped:
            return Node("unchecked", _STOPPED, findings)
        if findings:
            return Node("drifted", "", findings)
        return Node("clean" if host in self._examined else "unchecked")


def _has_report(tasks: t.Iterable[t.Any]) -> bool:
    """Whether one of *tasks*, or of those in their blocks, reports drift."""
    return any(
        _has_report([*task.block, *task.rescue, *task.always])
        if isinstance(task, Block)
        else task.resolved_action == _REPORT
        for task in tasks
    )


def _stops_all(task: t.Any) -> bool:
    """Whether a failure of *task* on one host ends the play for all, which is told by nothing else."""
    return bool(task.any_errors_fatal or task.run_once)


def _of_task(task: t.Any, content: t.Mapping[str, t.Any]) -> Finding:
    """What a task would do. Of its arguments only a path is told, and of its loop nothing: they may hold secrets."""
    subject, actions = _stem(task), []
    if not (task.no_log or "censored" in content):
        # With --check, copy and template do not return where they would write to.
        place = next((str(of[key]) for of in (content, task.args) for key in ("dest", "path") if of.get(key)), "")
        subject += f": {place}" if place else ""
        actions = list(content.get("actions", ()))
        for environment in content.get("environments", ()):
            actions += environment.get("actions", ())
    actual = "; ".join(f"would {action}" for action in actions) or "would change"
    return Finding("task", subject, "no change", actual, "warning", "auto")


def _stem(task: t.Any) -> str:
    """A task's name without the role and the file that it is in."""
    return str(task.get_name().rsplit(" : ", 1)[-1].rsplit(" | ", 1)[-1])


def _counted(report: Document) -> str:
    """The fleet in one line."""
    summary, total = report["summary"], len(report["hosts"])
    states = [f"{summary['hosts'][state]} {state}" for state in reversed(STATES) if summary["hosts"][state]]
    fixes = [f"{summary['by_fix'][fix]} {fix}" for fix in FIXES if summary["by_fix"][fix]]
    found = f"{_number(summary['findings'], 'finding')} ({', '.join(fixes)})" if fixes else "no findings"
    return f"{_number(total, 'node')}: {', '.join(states)}; {found}"


def _number(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _named(report: Document) -> str:
    """The nodes that somebody should look at, in one line."""
    bad = [
        f"{name} {host['state']}" + (f" ({len(host['findings'])})" if host["findings"] else "")
        for name, host in sorted(report["hosts"].items(), key=lambda item: STATES.index(item[1]["state"]))
        if host["state"] != "clean"
    ]
    more = f", and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    return ", ".join(bad[:_NAMED]) + more if bad else "Nothing has drifted."
