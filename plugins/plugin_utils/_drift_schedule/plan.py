# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""From drift.json to what is done about it. Pure."""

from __future__ import annotations

import dataclasses
import typing as t

from ...module_utils._node.findings import Finding
from .._drift_report import Document, Node

#: How a run can end, with its exit status. The first that applies is told.
STATES = {"failed": 1, "nodes": 4, "people": 3, "waiting": 0, "corrected": 0, "clean": 0}
#: Nobody has seen all of such a node.
_UNKNOWN = ("unreachable", "failed", "unchecked")


def correctable(report: Document, bad: t.Collection[str] = ()) -> list[str]:
    """The nodes that a run of the site playbook would correct something on.

    Those that were *bad* last time come last: one that always fails, and ends the run, is not to be in the others' way.
    """
    found = [name for name, host in report["hosts"].items() if host["examined"] and "auto" in _fixes(host)]
    return sorted(found, key=lambda name: name in bad)


def at_once(max_nodes: str, report: Document) -> int:
    """How many nodes may be changed at once: a number, or a share of those that were examined."""
    if not max_nodes.endswith("%"):
        return int(max_nodes)
    examined = sum(1 for host in report["hosts"].values() if host["examined"])
    return max(1, examined * int(max_nodes[:-1]) // 100)


def waves(names: t.Sequence[str], size: int) -> list[list[str]]:
    """*names* in groups of *size*."""
    return [list(names[start : start + size]) for start in range(0, len(names), size)]


def nodes(report: Document) -> dict[str, Node]:
    """What a report tells of its nodes, to make another report of."""
    fields = [field.name for field in dataclasses.fields(Finding)]
    return {
        name: Node(
            host["state"],
            host["reason"],
            [Finding(**{field: finding[field] for field in fields}) for finding in host["findings"]],
        )
        for name, host in report["hosts"].items()
    }


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a run."""

    state: str
    corrected: list[str]  #: nodes that needed it, and do no more
    waiting: list[str]  #: nodes to be corrected in a later run
    people: int  #: findings that no run will correct
    bad: list[str]  #: nodes that could not be reached, or failed

    @property
    def exit_code(self) -> int:
        """For systemd."""
        return STATES[self.state]


def outcome(
    report: Document, wanted: t.Collection[str], tried: t.Collection[str], failed: t.Collection[str], correct: bool
) -> Outcome:
    """Judge a run.

    :param report: what is known at its end.
    :param wanted: the nodes that there was something to correct on.
    :param tried: those of them that it was tried on.
    :param failed: those of them that it failed on.
    :param correct: whether it is for the schedule to correct anything.
    """
    hosts = report["hosts"]
    bad = [name for name, host in hosts.items() if host["state"] in _UNKNOWN or name in failed]
    auto = [name for name in wanted if name not in bad and "auto" in _fixes(hosts[name])]
    waiting = [name for name in auto if correct and name not in tried]
    corrected = [name for name in tried if name not in bad and name not in auto]
    people = sum(
        # A remark is no drift: nobody suffers from it, and a person may leave it as it is.
        (finding["severity"], finding["fix"]) != ("warning", "human")
        and (finding["fix"] != "auto" or not correct or (name in tried and name not in failed))
        for name, host in hosts.items()
        for finding in host["findings"]
    )
    applies = {"nodes": bad, "people": people, "waiting": waiting, "corrected": corrected, "clean": True}
    state = next(state for state, reason in applies.items() if reason)
    return Outcome(state, corrected, waiting, people, bad)


Identity = tuple[str, str, str, str]


def for_people(report: Document) -> dict[Identity, Document]:
    """The findings that a person has to do something about, each with its host."""
    return {
        (name, finding["component"], finding["subject"], finding["actual"]): {"host": name, **finding}
        for name, host in report["hosts"].items()
        for finding in host["findings"]
        if finding["fix"] != "auto"
    }


def still_known(known: t.Iterable[Identity], report: Document) -> set[Identity]:
    """Of what people were told, what may still be so: what is gone, and comes back, they are told again."""
    now = for_people(report)
    examined = {name for name, host in report["hosts"].items() if host["examined"]}
    return {identity for identity in known if identity in now or identity[0] not in examined}


def _fixes(host: t.Mapping[str, t.Any]) -> set[str]:
    return {finding["fix"] for finding in host["findings"]}
