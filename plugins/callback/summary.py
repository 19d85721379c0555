# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A few lines for a person at the end of a run."""

from __future__ import annotations

DOCUMENTATION = r"""
name: summary
type: aggregate
short_description: Tell at the end what was done on each node, and what it cost
version_added: "0.1.0"
author: The envfleet.gpu_cluster authors (@envfleet)
description:
  - After the recap it prints for each node how many modules were run on it, and in the words of the domain what was
    done.
  - A module run is one remote execution. The actions M(ansible.builtin.copy) and M(ansible.builtin.template) count as
    two, since they look at the file first. Tasks that run on the control node alone count as none.
requirements:
  - enable it in the configuration
"""

import collections
import typing as t

from ansible.plugins.callback import CallbackBase
from ansible.plugins.loader import action_loader

_LOOK_FIRST = {"copy", "template", "assemble"}
_INCLUDES = {"include_tasks", "include_role", "import_tasks", "import_role", "meta"}


class CallbackModule(CallbackBase):  # type: ignore[misc]  # ansible-core has no types
    """Counts and collects while the run goes on, and prints when it ends."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "envfleet.gpu_cluster.summary"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._executions: collections.Counter[str] = collections.Counter()
        self._done: dict[str, list[str]] = collections.defaultdict(list)

    def v2_runner_on_ok(self, result: t.Any) -> None:
        """A task succeeded; the items of a loop were told one by one."""
        if "results" not in result.result:
            self._take(result)

    def v2_runner_on_failed(self, result: t.Any, ignore_errors: bool = False) -> None:
        """A task failed."""
        self.v2_runner_on_ok(result)

    def v2_runner_item_on_ok(self, result: t.Any) -> None:
        """An item of a loop succeeded."""
        self._take(result)

    def v2_runner_item_on_failed(self, result: t.Any) -> None:
        """An item of a loop failed."""
        self._take(result)

    def v2_playbook_on_stats(self, stats: t.Any) -> None:
        """The run ends."""
        hosts = sorted(host for host in stats.processed if self._executions[host])
        if not hosts:
            return
        self._display.banner("SUMMARY")
        for host in hosts:
            self._display.display(f"{host}: remote module executions: {self._executions[host]}")
            for line in self._done[host] or ["nothing was changed"]:
                self._display.display(f"    {line}")

    def _take(self, result: t.Any) -> None:
        host, task, content = result.host.get_name(), result.task, result.result
        self._executions[host] += _cost(task)
        if not content.get("changed"):
            return
        actions = list(content.get("actions", ()))
        for environment in content.get("environments", ()):
            actions += environment.get("actions", ())
        if not actions:
            subject = content.get("dest") or content.get("path") or content.get("_ansible_item_label")
            actions = [f"{_stem(task)}{f': {subject}' if subject else ''}"]
        prefix = "would " if task.check_mode else ""
        self._done[host] += [f"{prefix}{action}" for action in actions]


def _stem(task: t.Any) -> str:
    """A task's name without the role and the file that it is in."""
    return str(task.get_name().rsplit(" : ", 1)[-1].rsplit(" | ", 1)[-1])


def _cost(task: t.Any) -> int:
    """How many modules a task runs on its node."""
    name = task.resolved_action or task.action
    builtin = name.rpartition(".")[2] if name.startswith("ansible.builtin.") else ""
    if builtin in _INCLUDES:
        return 0
    if builtin in _LOOK_FIRST:
        return 2
    plugin = action_loader.get(name, class_only=True)
    return 0 if plugin is not None and not getattr(plugin, "_requires_connection", True) else 1
