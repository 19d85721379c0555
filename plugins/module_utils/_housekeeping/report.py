# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run found and did, for machines and for people."""

from __future__ import annotations

import typing as t

from . import text
from .cleaning import Item, Result

_HEADS = ("OWNER", "SIZE>", "FREES>", "INODES>", "LAST USE", "STEP", "WHY", "ENVIRONMENT")
_CACHE_HEADS = ("FREES>", "PACKAGES>", "CACHE")


def as_dict(result: Result, applied: bool) -> dict[str, t.Any]:
    """For JSON."""
    return {
        "applied": applied,
        "environments": [_environment(item) for item in _sorted(result.items)],
        "caches": _caches(result),
        "unlisted": result.unlisted,
        "actions": result.actions,
        "problems": result.problems,
    }


def _environment(item: Item) -> dict[str, t.Any]:
    facts = item.facts
    return {
        "prefix": item.path,
        "place": item.place,
        "owner": facts.owner,
        "in_use": facts.in_use,
        "last_used": {"at": text.utc(facts.last_use), "evidence": item.evidence},
        "noted_since": text.utc(facts.noted_since),
        "bytes": facts.bytes,
        "exclusive_bytes": item.exclusive_bytes,
        "inodes": facts.inodes,
        "step": item.decision.action,
        "reason": item.decision.reason,
    }


def _caches(result: Result) -> list[dict[str, t.Any]]:
    found: dict[str, dict[str, t.Any]] = {}
    for one in result.packages:
        cache = found.setdefault(one.cache.path, {"path": one.cache.path, "packages": [], "bytes": 0, "inodes": 0})
        cache["packages"].append(one.name)
        cache["bytes"] += one.bytes
        cache["inodes"] += one.inodes
    return list(found.values())


def _sorted(items: t.Iterable[Item]) -> list[Item]:
    """Those that something happens to first, and of them those that free most."""
    order = ("remove", "set_aside", "warn", "wait", "keep")
    return sorted(items, key=lambda item: (order.index(item.decision.action), -item.exclusive_bytes, item.path))


def table(result: Result, applied: bool) -> list[str]:
    """Lines for a person."""
    rows = []
    for item in _sorted(result.items):
        facts = item.facts
        last = "in use" if facts.in_use else (text.utc(facts.last_use) or "unknown")[:10]
        step = item.decision.action.replace("_", " ")
        figures = (text.size(facts.bytes), text.size(item.exclusive_bytes), str(facts.inodes))
        rows.append((facts.owner, *figures, last, step, item.decision.reason, text.shell(item.place)))
    lines = text.table(_HEADS, rows) if rows else ["There is no private environment."]
    cached = [(text.size(one["bytes"]), str(len(one["packages"])), text.shell(one["path"])) for one in _caches(result)]
    lines += ["", *text.table(_CACHE_HEADS, cached)] if cached else []
    for one in result.unlisted:
        state = "in use" if one["in_use"] else "not in use"
        free = text.size(one["exclusive_bytes"])
        lines.append(f"shared environment {one['name']} is not declared ({state}, frees {free}): declare it absent")
    lines += [f"problem: {problem.translate(_CONTROLS)}" for problem in result.problems]
    if not applied:
        lines.append(f"Nothing was changed: {len(result.actions)} steps are due.")
    return lines


_CONTROLS = dict.fromkeys((*range(32), *range(127, 160)), "?")
