# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""What one run saw, what differs from the runs before it, and where all that is kept."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import json
import os
import re
import time
import typing as t

from ..module_utils._conda.files import write_file
from ..module_utils._node.findings import Finding

#: Of docs/drift-report.schema.json. A file with another version is passed over.
SCHEMA_VERSION = 1
#: What a node can be, the worst first. One that nobody examined is unchecked, and never clean.
STATES = ("unreachable", "failed", "drifted", "unchecked", "clean")
SEVERITIES = ("error", "warning")
FIXES = ("auto", "drain", "human")
#: No text of a finding is longer, so that a page stays a page.
TEXT_LIMIT = 500
#: What a killed run left half written is removed when it is that old, in seconds.
_ABANDONED = 3600.0

Document = dict[str, t.Any]


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a playbook."""

    playbook: str
    check: bool  #: with --check
    started: datetime.datetime
    finished: datetime.datetime

    @property
    def title(self) -> str:
        """What is run. Runs with the same title can be compared."""
        return f"{self.playbook} --check" if self.check else self.playbook

    @property
    def identifier(self) -> str:
        """A name for a file, which sorts by time."""
        return f"{self.finished.astimezone(datetime.UTC):%Y%m%dT%H%M%S%fZ}-{os.getpid()}"


@dataclasses.dataclass
class Node:
    """What a run saw of one node."""

    state: str = "unchecked"
    reason: str = ""  #: in which task it failed
    findings: list[Finding] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Past:
    """What earlier runs left."""

    nodes: dict[str, Document] = dataclasses.field(default_factory=dict)  #: as each was last examined by such a run
    last: dict[str, Document] = dataclasses.field(default_factory=dict)  #: as it was last told, examined or not
    summaries: list[Document] = dataclasses.field(default_factory=list)  #: of runs of all kinds, the newest first
    unreadable: list[str] = dataclasses.field(default_factory=list)  #: files that are no reports


def document(run: Run, nodes: t.Mapping[str, Node], past: Past) -> Document:
    """The report as docs/drift-report.schema.json describes it."""
    now = _stamp(run.finished)
    changes: dict[str, list[Document]] = {"states": [], "appeared": [], "gone": []}
    hosts: dict[str, Document] = {}
    for name in sorted(nodes, key=_natural):
        before = past.nodes.get(name)
        host = hosts[name] = _host(nodes[name], now)
        if before is None:
            continue
        if before["state"] != host["state"]:
            changes["states"].append({"host": name, "before": before["state"], "now": host["state"]})
        earlier = {_identity(finding): finding for finding in before["findings"]}
        new = []
        for finding in host["findings"]:
            same = earlier.pop(_identity(finding), None)
            if same is None:
                new.append({"host": name, "finding": finding})
            else:
                finding["since"] = same["since"]
        # What was not looked at to the end tells neither what is new nor what is gone.
        if host["examined"]:
            changes["appeared"] += new
            changes["gone"] += [{"host": name, "finding": finding} for finding in earlier.values()]
    return {
        "schema_version": SCHEMA_VERSION,
        "run": {
            "id": run.identifier,
            "playbook": run.playbook,
            "check": run.check,
            "started": _stamp(run.started),
            "finished": now,
            "duration_seconds": round((run.finished - run.started).total_seconds(), 3),
        },
        "summary": _summary(hosts, changes),
        "hosts": hosts,
        "changes": changes,
    }


def title(run: t.Mapping[str, t.Any]) -> str:
    """The title of a run in a report."""
    return f"{run['playbook']} --check" if run["check"] else str(run["playbook"])


def with_others(report: Document, past: Past, names: t.Collection[str]) -> Document:
    """*report* with those nodes of *names* that it says nothing of, as they were last told.

    What its run took, and what appeared and is gone, is still that of the one run.
    """
    others = {name: host for name, host in past.last.items() if name in names and name not in report["hosts"]}
    hosts = {**report["hosts"], **others}
    return {**report, "hosts": hosts, "summary": {**report["summary"], "hosts": _states(hosts)}}


class Archive:
    """A directory of reports: one file for each run under runs/, and beside it those of the last run."""

    def __init__(self, directory: str, keep: int) -> None:
        self._directory = directory
        self._runs = os.path.join(directory, "runs")
        self._keep = max(1, keep)

    def past(self, run: Run) -> Past:
        """What earlier runs left, one file in memory at a time.

        :raises OSError: the directory cannot be read.
        """
        past = Past()
        for name in reversed(self._names()):
            path = os.path.join(self._runs, name)
            try:
                with open(path, encoding="utf-8") as stream:
                    summary, nodes = _understood(json.load(stream))
            except FileNotFoundError:
                continue  # another run has just rotated it away
            except (ValueError, KeyError, TypeError, AttributeError):
                past.unreadable.append(path)
                continue
            past.summaries.append(summary)
            if title(summary) == run.title:
                for host, node in nodes.items():
                    past.last.setdefault(host, node)
                    if node["examined"]:
                        past.nodes.setdefault(host, node)
        return past

    def keep(self, content: Document, texts: t.Mapping[str, str]) -> None:
        """Write the report of a run, and *texts* by file name, each file whole or not at all. Then rotate.

        :raises OSError: something cannot be written.
        """
        os.makedirs(self._runs, exist_ok=True)
        text = json.dumps(content, indent=1) + "\n"
        write_file(os.path.join(self._runs, f"{content['run']['id']}.json"), text)
        for name, other in {"drift.json": text, **texts}.items():
            write_file(os.path.join(self._directory, name), other)
        for name in self._names()[: -self._keep]:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self._runs, name))
        self._remove_abandoned()

    def _names(self) -> list[str]:
        """The names of the reports, the oldest first."""
        try:
            return sorted(name for name in os.listdir(self._runs) if re.fullmatch(r"\d{8}T\d{12}Z-\d+\.json", name))
        except FileNotFoundError:
            return []

    def _remove_abandoned(self) -> None:
        for directory in (self._directory, self._runs):
            for name in os.listdir(directory):
                path = os.path.join(directory, name)
                if re.fullmatch(r"\.(\d{8}T\d{12}Z-\d+|drift\w*)\.(json|html|prom)\.\w+", name):
                    with contextlib.suppress(FileNotFoundError):
                        if os.lstat(path).st_mtime < time.time() - _ABANDONED:
                            os.unlink(path)


def _host(node: Node, now: str) -> Document:
    unique = {_identity(finding): finding for finding in (_plain(finding, now) for finding in node.findings)}
    return {
        "state": node.state,
        "examined": node.state in ("drifted", "clean"),
        "reason": _text(node.reason),
        "findings": list(unique.values()),
    }


def _plain(finding: Finding, since: str) -> dict[str, str]:
    return {**{key: _text(value) for key, value in finding.as_dict().items()}, "since": since}


def _text(value: str) -> str:
    """Text that every file can hold: of limited length, and without control characters and halves of characters."""
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "?", value.encode("utf-8", "replace").decode("utf-8"))
    return text if len(text) <= TEXT_LIMIT else f"{text[: TEXT_LIMIT - 1]}…"


def _identity(finding: t.Mapping[str, str]) -> tuple[str, ...]:
    return finding["component"], finding["subject"], finding["actual"]


def _summary(hosts: t.Mapping[str, Document], changes: t.Mapping[str, t.Sequence[Document]]) -> Document:
    findings = [finding for host in hosts.values() for finding in host["findings"]]
    return {
        "hosts": _states(hosts),
        "findings": len(findings),
        "by_severity": _counts(SEVERITIES, (finding["severity"] for finding in findings)),
        "by_fix": _counts(FIXES, (finding["fix"] for finding in findings)),
        "appeared": len(changes["appeared"]),
        "gone": len(changes["gone"]),
    }


def _states(hosts: t.Mapping[str, Document]) -> dict[str, int]:
    return _counts(STATES, (host["state"] for host in hosts.values()))


def _counts(keys: t.Iterable[str], found: t.Iterable[str]) -> dict[str, int]:
    counted = collections.Counter(found)
    return {key: counted[key] for key in keys}


def _understood(content: t.Any) -> tuple[Document, dict[str, Document]]:
    """The summary of a report, and its nodes.

    :raises ValueError, KeyError, TypeError, AttributeError: it is no report, or one of another version.
    """
    if content["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"version {content['schema_version']}")
    run, summary = content["run"], content["summary"]
    told = {
        "playbook": str(run["playbook"]),
        "check": bool(run["check"]),
        "finished": str(run["finished"]),
        "hosts": {state: int(summary["hosts"][state]) for state in STATES},
        "findings": int(summary["findings"]),
        "appeared": int(summary["appeared"]),
        "gone": int(summary["gone"]),
    }
    nodes = {
        name: {
            "state": str(host["state"]),
            "examined": bool(host["examined"]),
            "findings": [_finding(finding) for finding in host["findings"]],
        }
        for name, host in content["hosts"].items()
    }
    return told, nodes


def _finding(found: t.Mapping[str, t.Any]) -> dict[str, str]:
    names = (*(field.name for field in dataclasses.fields(Finding)), "since")
    return {name: str(found[name]) for name in names}


def _natural(name: str) -> list[tuple[int, str]]:
    """So that node10 comes after node9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _stamp(moment: datetime.datetime) -> str:
    return moment.astimezone(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
