# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""Playbooks of this collection, run by ansible-runner. All that starts Ansible is here."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import typing as t

from .._drift_report import Document
from .config import Config, ScheduleError, credential
from .records import Records

#: The directory that ansible_collections is in.
_COLLECTIONS = os.path.normpath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 6))
_CALLBACKS = "envfleet.gpu_cluster.drift_report,envfleet.gpu_cluster.summary"
#: One connection to each node, which is given up when the node hangs.
_PERSISTENT = (
    *("-o", "ControlMaster=auto", "-o", "ControlPersist=60s"),
    *("-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4"),
)
_COLORS = re.compile(r"\x1b\[[0-9;]*m")
#: What of a run's events is kept: what went wrong, and how it ended.
_KEPT_EVENTS = ("runner_on_failed", "runner_on_unreachable", "runner_item_on_failed", "playbook_on_stats", "error")


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a playbook ended."""

    code: int
    failed: frozenset[str]  #: the nodes that could not be reached, or on which a task failed
    artifacts: str  #: the directory with what it printed
    tail: str  #: the error in that, or the end of it

    def text(self) -> str:
        """For a person."""
        return f"ansible-playbook ended with {self.code}; see {self.artifacts}/stdout: {self.tail}"


class Ansible:
    """Runs playbooks with what is the same for all of them."""

    def __init__(self, config: Config, records: Records, project: str, inventory: str, stop: threading.Event) -> None:
        """*project* is the checkout, or an empty string."""
        self._config = config
        self._records = records
        self._project = project or config.directory
        self._inventory = inventory
        self._stop = stop
        self._sockets = os.path.join(os.environ.get("RUNTIME_DIRECTORY") or records.scratch, "cp")

    def run(
        self, playbook: str, identifier: str, nodes: t.Sequence[str] = (), report: str = ""
    ) -> tuple[Ended, Document | None]:
        """Run a playbook, on *nodes* alone if there are some.

        :param identifier: a name for its artifacts.
        :param report: where the callback drift_report writes to, instead of a place that is removed afterwards.
        :returns: how it ended, and the report that it wrote.
        :raises ScheduleError: Ansible could not be started, or was told to stop.
        """
        import ansible_runner  # type: ignore[import-untyped]  # it has no types

        directory = report or os.path.join(self._records.scratch, identifier)
        metrics = self._config.metrics_directory if report else ""
        before = _report_in(directory)
        failed: set[str] = set()

        def seen(event: dict[str, t.Any]) -> bool:
            if event["event"] == "playbook_on_stats":
                data = event.get("event_data", {})
                failed.update(name for key in ("failures", "dark") for name in data.get(key, {}))
            return event["event"] in _KEPT_EVENTS

        # It would take a path that is not there for the text of an inventory.
        if not os.path.exists(self._inventory):
            raise ScheduleError(f"the inventory {self._inventory} is not there")
        try:
            ended = ansible_runner.run(
                private_data_dir=self._config.directory,
                project_dir=self._project,
                ident=identifier,
                rotate_artifacts=self._config.keep_runs,
                playbook=playbook,
                inventory=self._inventory,
                limit=self._limit(nodes),
                cmdline=shlex.join(self._arguments()),
                envvars=self._environment(directory, metrics) | self._audit(playbook),
                fact_cache_type="",
                suppress_env_files=True,
                quiet=True,
                event_handler=seen,
                cancel_callback=self._stop.is_set,
            )
        except Exception as error:
            # It raises what its many parts raise.
            raise ScheduleError(f"ansible-runner failed: {type(error).__name__}: {error}") from error
        if self._stop.is_set():
            raise ScheduleError("it was told to stop")
        artifacts = os.path.join(self._config.directory, "artifacts", identifier)
        after = _report_in(directory)
        told = after if after and (not before or after["run"]["id"] != before["run"]["id"]) else None
        return Ended(ended.rc, frozenset(failed), artifacts, _tail(artifacts)), told

    def close(self) -> None:
        """End the connections that ssh keeps open, so that nothing is left for systemd to kill."""
        with contextlib.suppress(FileNotFoundError):
            for socket in os.listdir(self._sockets):
                path = os.path.join(self._sockets, socket)
                command = ["ssh", "-o", f"ControlPath={path}", "-O", "exit", "all"]
                subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)

    def _limit(self, nodes: t.Sequence[str]) -> str | None:
        if not nodes:
            return self._config.node or None
        path = os.path.join(self._records.scratch, "limit")
        with open(path, "w", encoding="utf-8") as stream:
            stream.writelines(f"{name}\n" for name in nodes)
        return f"@{path}"

    def _arguments(self) -> list[str]:
        """Extra variables. Those of the site come from a file, so that no list of processes shows them."""
        ours: dict[str, t.Any] = {"gpu_cluster_hosts": self._config.hosts}
        if self._config.node:
            ours |= {"ansible_connection": "local", "ansible_become": False}
        site = ["-e", f"@{self._config.extra_vars_file}"] if self._config.extra_vars_file else []
        return [*site, "-e", json.dumps(ours)]

    def _environment(self, report: str, metrics: str) -> dict[str, str]:
        own = os.path.join(self._project, "ansible.cfg")
        environment = {
            "PATH": f"{self._programs()}:{os.environ.get('PATH', os.defpath)}",
            "ANSIBLE_CONFIG": own if os.path.exists(own) else self._config.ansible_config,
            "ANSIBLE_COLLECTIONS_PATH": _COLLECTIONS,
            "ANSIBLE_HOME": os.path.join(self._records.scratch, "ansible"),
            "ANSIBLE_CALLBACKS_ENABLED": _CALLBACKS,
            "ANSIBLE_NOCOLOR": "1",
            # ansible-runner would turn it off.
            "ANSIBLE_HOST_KEY_CHECKING": "True",
            "GPU_CLUSTER_DRIFT_REPORT_DIRECTORY": report,
            "GPU_CLUSTER_DRIFT_REPORT_KEEP": str(self._config.keep_runs),
            "GPU_CLUSTER_DRIFT_REPORT_METRICS_DIRECTORY": metrics or report,
        }
        if not self._config.node:
            environment |= {
                "ANSIBLE_SSH_ARGS": shlex.join([*_PERSISTENT, *ssh_options()]),
                # The paths of sockets may have no more than 108 bytes.
                "ANSIBLE_SSH_CONTROL_PATH_DIR": self._sockets,
            }
        if key := credential("ssh_key"):
            environment["ANSIBLE_PRIVATE_KEY_FILE"] = key
        if password := credential("vault_password"):
            environment["ANSIBLE_VAULT_PASSWORD_FILE"] = password
        return environment

    def _audit(self, playbook: str) -> dict[str, str]:
        """Have changes written down where systemd lets runs keep logs. A check makes none, and works without a log."""
        directory = os.environ.get("LOGS_DIRECTORY", "")
        if not directory or playbook == self._config.check_playbook:
            return {}
        return {
            "ANSIBLE_CALLBACKS_ENABLED": f"{_CALLBACKS},envfleet.gpu_cluster.audit",
            "GPU_CLUSTER_AUDIT_DIRECTORY": directory,
            "GPU_CLUSTER_AUDIT_SYSLOG": self._config.audit_syslog,
        }

    def _programs(self) -> str:
        """A directory with ansible-playbook alone: Ansible is not to take the Python beside it for that of the node."""
        directory = os.path.join(self._records.scratch, "bin")
        link = os.path.join(directory, "ansible-playbook")
        if not os.path.lexists(link):
            os.makedirs(directory)
            os.symlink(os.path.join(os.path.dirname(sys.executable), "ansible-playbook"), link)
        return directory


def ssh_options() -> list[str]:
    """Which hosts ssh trusts: those it has been given keys of, and no others."""
    options = ["-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes"]
    known_hosts = credential("known_hosts")
    return [*options, "-o", f"UserKnownHostsFile={known_hosts}"] if known_hosts else options


def _report_in(directory: str) -> Document | None:
    try:
        with open(os.path.join(directory, "drift.json"), encoding="utf-8") as stream:
            told: Document = json.load(stream)
            return told
    except (FileNotFoundError, ValueError):
        return None


def _tail(artifacts: str) -> str:
    try:
        with open(os.path.join(artifacts, "stdout"), encoding="utf-8", errors="replace") as stream:
            text = " ".join(_COLORS.sub("", stream.read()).split())
    except FileNotFoundError:
        return "it printed nothing"
    start = text.rfind("[ERROR]")
    return text[start:][:500] if start >= 0 else text[-500:]
