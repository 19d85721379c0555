# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What differs in a prefix since it was finished, named for a person. Only damaged prefixes pay for this."""

from __future__ import annotations

import contextlib
import os
import posixpath
import typing as t

from .errors import CondaError
from .files import sha256_of
from .problems import Problem
from .records import (
    Distribution,
    Record,
    is_cached_bytecode,
    read_distributions,
    read_record,
    read_records,
)

_ANONYMOUS = "no package"


def explain(prefix: str, recorded: t.Mapping[str, str], entries: t.Mapping[str, str]) -> list[Problem]:
    """Name what differs between the listing made at the end of the build and what is there now.

    A file whose content is still the recorded one although its time moved (a copied or touched file) is no problem,
    nor is a byte-code file that a Python run by root has left.
    """
    records, problems = read_records(prefix)
    unreadable = {problem.subject for problem in problems}
    distributions = read_distributions(prefix, records)[0]
    labels, sums = _owners([*records, *(one for one in distributions if one.directory in recorded)])
    foreign, claimed = _foreign_packages(
        prefix,
        sorted(entries.keys() - recorded.keys()),
        [one for one in distributions if one.directory not in recorded],
    )
    removed = recorded.keys() - entries.keys()
    added = entries.keys() - recorded.keys()
    replaced = {path for path in recorded.keys() & entries.keys() if _was_directory(recorded[path], entries[path])}
    for path in sorted(removed):
        if is_cached_bytecode(path) or _below(path, removed | replaced):
            continue
        owned = sorted({label for file, label in labels.items() if file.startswith(f"{path}/")})
        if path.endswith(".dist-info") and not owned:
            name, _dash, version = posixpath.basename(path)[: -len(".dist-info")].partition("-")
            problems.append(Problem("missing", path, f"{name} {version} pypi was removed by hand"))
        elif owned:
            problems.append(Problem("missing", path, f"directory of {', '.join(owned)} is missing"))
        else:
            problems.append(Problem("missing", path, f"file of {labels.get(path, _ANONYMOUS)} is missing"))
    for path in sorted(recorded.keys() & entries.keys()):
        if recorded[path] == entries[path] or path in unreadable or (path in claimed and path not in labels):
            continue
        if not _same_content(prefix, path, recorded[path], entries[path], sums):
            label = labels.get(path, _ANONYMOUS)
            detail = f"file of {label}: expected {_describe(recorded[path])}, found {_describe(entries[path])}"
            problems.append(Problem("changed", path, detail))
    problems += foreign
    problems += [
        Problem("unexpected", path, "is in no package of the lock")
        for path in sorted(added)
        if path not in claimed and not is_cached_bytecode(path) and not _below(path, added)
    ]
    return problems


def _owners(owners: t.Iterable[Record | Distribution]) -> tuple[dict[str, str], dict[str, set[str]]]:
    """The label of what each path belongs to, and the sums that it may have."""
    labels: dict[str, str] = {}
    sums: dict[str, set[str]] = {}
    for owner in owners:
        labels.update(dict.fromkeys(owner.files, owner.label))
        for path, digest in owner.sums.items():
            sums.setdefault(path, set()).add(digest)
    return labels, sums


def _below(path: str, changed: t.Collection[str]) -> bool:
    """Is a directory above *path* new, or gone, too? Then that is what there is to tell."""
    return posixpath.dirname(path) in changed


def _was_directory(recorded: str, current: str) -> bool:
    """Is something else there, by two lines of the listing, where a directory was?"""
    return recorded.startswith("4") and not current.startswith("4")


def _same_content(prefix: str, path: str, recorded: str, current: str, sums: t.Mapping[str, t.Collection[str]]) -> bool:
    """Do two lines of the listing differ in nothing but the time of a file whose sum is known and right?"""
    if recorded.split()[:-1] != current.split()[:-1]:
        return False
    return path in sums and sha256_of(os.path.join(prefix, path)) in sums[path]


def _describe(line: str) -> str:
    fields = line.split()
    kind, mode = fields[0][:-4], fields[0][-4:]
    kind = {"10": "file", "12": "link", "4": "directory"}.get(kind, f"kind {kind}")
    text = f"{kind} {mode} {fields[1]}:{fields[2]}"
    return f"{text}, {fields[3]} bytes, time {fields[4]}" if len(fields) > 3 else text


def _foreign_packages(
    prefix: str, added: t.Iterable[str], distributions: t.Iterable[Distribution]
) -> tuple[list[Problem], set[str]]:
    """Packages that somebody installed by hand, and all paths that they explain."""
    problems: list[Problem] = []
    claimed: set[str] = set()
    for path in added:
        if posixpath.dirname(path) == "conda-meta" and path.endswith(".json"):
            claimed.add(path)
            with contextlib.suppress(CondaError):  # an unreadable record is a problem that is listed already
                record = read_record(os.path.join(prefix, path))
                problems.append(
                    Problem("foreign", record.name, f"{record.label} was installed by hand with conda{_origin(record)}")
                )
                claimed.update(record.files)
    for found in distributions:
        tool = found.installer or "an unknown tool"
        problems.append(
            Problem("foreign", found.name, f"{found.name} {found.version} was installed by hand with {tool}")
        )
        claimed.update(found.files)
        claimed.update(f"{found.directory}/{name}" for name in os.listdir(os.path.join(prefix, found.directory)))
    return problems, _with_parents(claimed)


def _origin(record: Record) -> str:
    """Its channel, which may be one that nobody has allowed."""
    return f" from {posixpath.dirname(posixpath.dirname(record.url))}" if record.url else ""


def _with_parents(paths: set[str]) -> set[str]:
    result = set(paths)
    for path in paths:
        # A file outside the prefix has an absolute path, and the parent of / is /.
        while path.strip("/"):
            result.add(path)
            path = posixpath.dirname(path)
    return result
