# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""A report for Prometheus, in the text format that the textfile collector of node_exporter reads."""

from __future__ import annotations

import collections
import datetime
import itertools
import typing as t

from ._drift_report import FIXES, SEVERITIES, STATES, title

#: The first words of components that always have a series, so that a finding which goes away becomes a zero.
_KINDS = ("base", "container", "driver", "environment", "policy", "task")
#: How many other kinds have series of their own. The rest is told as other.
_MORE_KINDS = 10


def metrics(report: t.Mapping[str, t.Any]) -> str:
    """The text. Its labels have few values, however many nodes and findings there are."""
    run, label = report["run"], {"playbook": title(report["run"])}
    finished = datetime.datetime.fromisoformat(run["finished"].replace("Z", "+00:00")).timestamp()
    lines = [
        *_family("hosts", "Hosts of the last run by what is known of them."),
        *(_sample("hosts", {**label, "state": state}, report["summary"]["hosts"][state]) for state in STATES),
        *_family("findings", "Differences that the last run found between hosts and what they should be."),
        *(_sample("findings", {**label, **labels}, count) for labels, count in _findings(report)),
        *_family("findings_appeared", "Findings that were not there when their host was last examined."),
        _sample("findings_appeared", label, report["summary"]["appeared"]),
        *_family("findings_gone", "Findings that were there when their host was last examined, and are no more."),
        _sample("findings_gone", label, report["summary"]["gone"]),
        *_family("run_timestamp_seconds", "When the last run ended, in seconds since the epoch."),
        _sample("run_timestamp_seconds", label, finished),
        *_family("run_duration_seconds", "How long the last run took."),
        _sample("run_duration_seconds", label, run["duration_seconds"]),
    ]
    return "\n".join(lines) + "\n"


def _findings(report: t.Mapping[str, t.Any]) -> t.Iterator[tuple[dict[str, str], int]]:
    found = [finding for host in report["hosts"].values() for finding in host["findings"]]
    kinds = collections.Counter(finding["component"].partition(" ")[0] for finding in found)
    known = {*_KINDS, *[kind for kind, _count in kinds.most_common() if kind not in _KINDS][:_MORE_KINDS]}
    counts: collections.Counter[tuple[str, str, str]] = collections.Counter()
    for finding in found:
        kind = finding["component"].partition(" ")[0]
        counts[kind if kind in known else "other", finding["severity"], finding["fix"]] += 1
    for kind, severity, fix in itertools.product(sorted({*known, "other"}), SEVERITIES, FIXES):
        yield {"component": kind, "severity": severity, "fix": fix}, counts[kind, severity, fix]


def _family(name: str, text: str) -> list[str]:
    return [f"# HELP gpu_cluster_drift_{name} {text}", f"# TYPE gpu_cluster_drift_{name} gauge"]


def _sample(name: str, labels: t.Mapping[str, str], value: float) -> str:
    inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"gpu_cluster_drift_{name}{{{inside}}} {value!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
