# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""A report as one HTML page, which needs nothing else."""

from __future__ import annotations

import base64
import collections
import hashlib
import os
import typing as t

import jinja2

from ._drift_report import STATES, title

#: How many earlier runs the page lists.
_RUNS = 50
#: How many changes of each kind the page lists. The JSON has them all.
_CHANGES = 100


def page(report: t.Mapping[str, t.Any], earlier: t.Sequence[t.Mapping[str, t.Any]]) -> str:
    """The page of *report*, with the summaries of *earlier* runs, the newest first."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FileSystemLoader(os.path.dirname(__file__)),
    )
    this = {**report["run"], **report["summary"]}
    numbered = [(number, name, host) for number, (name, host) in enumerate(report["hosts"].items())]
    worst = sorted((node for node in numbered if node[2]["state"] != "clean"), key=lambda node: _badness(node[2]))
    text = environment.get_template("_drift_report.html.j2").render(
        report=report,
        states=STATES,
        title=title,
        nodes=numbered,
        worst=worst,
        kinds=_kinds(report),
        runs=[this, *earlier[:_RUNS]],
        limit=_CHANGES,
    )
    # The page says itself that nothing but its own script and style may run, whatever a node calls its files.
    return text.replace("SCRIPT-HASH", _hash(text, "script"), 1).replace("STYLE-HASH", _hash(text, "style"), 1)


def _badness(host: t.Mapping[str, t.Any]) -> tuple[int, int]:
    return STATES.index(host["state"]), -len(host["findings"])


def _kinds(report: t.Mapping[str, t.Any]) -> list[tuple[tuple[str, str, str], int, int]]:
    """Each component with severity and fix, the number of findings, and of the nodes that have them."""
    findings: collections.Counter[tuple[str, str, str]] = collections.Counter()
    nodes: collections.Counter[tuple[str, str, str]] = collections.Counter()
    for host in report["hosts"].values():
        seen = [(finding["component"], finding["severity"], finding["fix"]) for finding in host["findings"]]
        findings.update(seen)
        nodes.update(set(seen))
    return [(kind, count, nodes[kind]) for kind, count in findings.most_common()]


def _hash(text: str, tag: str) -> str:
    content = text.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode("utf-8", "surrogateescape")).digest()).decode()
