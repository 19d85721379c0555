# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What differs in a prefix since it was finished, named for a person. Only damaged prefixes pay for this."""

from __future__ import annotations

import contextlib
import email.parser
import os
import posixpath
import typing as t

from .errors import CondaError
from .problems import Problem
from .records import Record, is_cached_bytecode, read_record, read_records, sha256_of

_ANONYMOUS = "no package"


def explain(prefix: str, recorded: t.Mapping[str, str], entries: t.Mapping[str, str]) -> list[Problem]:
    """Name what differs between the listing made at the end of the build and what is there now.

    A file whose content is still the recorded one although its time moved (a copied or touched file) is no problem,
    nor is a byte-code file that a Python run by root has left.
    """
    records, problems = read_records(prefix)
    owner = {path: record for record in records for path in record.files}
    removed = sorted(recorded.keys() - entries.keys())
    added = entries.keys() - recorded.keys()
    problems += [
        Problem("missing", path, f"file of {owner[path].label if path in owner else _ANONYMOUS} is missing")
        for path in removed
        if not is_cached_bytecode(path)
    ]
    for path in sorted(recorded.keys() & entries.keys()):
        if recorded[path] != entries[path] and not _same_content(prefix, path, recorded[path], entries[path], owner):
            label = owner[path].label if path in owner else _ANONYMOUS
            detail = f"file of {label}: expected {_describe(recorded[path])}, found {_describe(entries[path])}"
            problems.append(Problem("changed", path, detail))
    foreign, claimed = _foreign_packages(prefix, sorted(added))
    problems += foreign
    problems += [
        Problem("unexpected", path, "is in no package of the lock")
        for path in sorted(added)
        if path not in claimed and not is_cached_bytecode(path) and not _below(path, added)
    ]
    return problems


def _below(path: str, added: t.Collection[str]) -> bool:
    """Is a directory above *path* new too? Then that is what there is to tell."""
    return posixpath.dirname(path) in added


def _same_content(prefix: str, path: str, recorded: str, current: str, owner: t.Mapping[str, Record]) -> bool:
    """Do two lines of the listing differ in nothing but the time of a file whose sum is known and right?"""
    if recorded.split()[:-1] != current.split()[:-1]:
        return False
    expected = owner[path].sums.get(path) if path in owner else None
    return expected is not None and sha256_of(os.path.join(prefix, path)) == expected


def _describe(line: str) -> str:
    fields = line.split()
    kind = {"100000": "file", "120000": "link", "40000": "directory"}.get(fields[0], f"kind {fields[0]}")
    text = f"{kind} {fields[1].zfill(4)} {fields[2]}:{fields[3]}"
    return f"{text}, {fields[4]} bytes, time {fields[5]}" if len(fields) > 4 else text


def _foreign_packages(prefix: str, added: t.Sequence[str]) -> tuple[list[Problem], set[str]]:
    """Packages that somebody installed by hand, and all paths that they explain."""
    problems: list[Problem] = []
    claimed: set[str] = set()
    for path in added:
        directory, _slash, file_name = path.rpartition("/")
        if directory == "conda-meta" and file_name.endswith(".json"):
            claimed.add(path)
            with contextlib.suppress(CondaError):  # an unreadable record is a problem that is listed already
                record = read_record(os.path.join(prefix, path))
                problems.append(Problem("foreign", record.name, f"{record.label} was installed by hand with conda"))
                claimed.update(record.files)
        elif directory.endswith(".dist-info") and file_name == "METADATA":
            name, version = _distribution(os.path.join(prefix, path))
            files = _distribution_files(prefix, directory)
            if not files & claimed:
                installer = _first_line(os.path.join(prefix, directory, "INSTALLER")) or "an unknown tool"
                problems.append(Problem("foreign", name, f"{name} {version} was installed by hand with {installer}"))
            claimed |= files
    return problems, _with_parents(claimed)


def _distribution(metadata: str) -> tuple[str, str]:
    text = ""
    with contextlib.suppress(OSError), open(metadata, encoding="utf-8", errors="replace") as stream:
        text = stream.read()
    message = email.parser.HeaderParser().parsestr(text)
    return message["Name"] or os.path.basename(os.path.dirname(metadata)), message["Version"] or "of unknown version"


def _distribution_files(prefix: str, dist_info: str) -> set[str]:
    """What RECORD lists, as paths in the prefix, and the dist-info folder itself."""
    files = {dist_info}
    site = posixpath.dirname(dist_info)
    record = os.path.join(prefix, dist_info, "RECORD")
    with contextlib.suppress(OSError), open(record, encoding="utf-8", errors="surrogateescape") as stream:
        for row in stream:
            files.add(posixpath.normpath(posixpath.join(site, row.rsplit(",", 2)[0].strip('"'))))
    return files | {f"{dist_info}/{name}" for name in os.listdir(os.path.join(prefix, dist_info))}


def _with_parents(paths: set[str]) -> set[str]:
    result = set(paths)
    for path in paths:
        # A file outside the prefix has an absolute path, and the parent of / is /.
        while path.strip("/"):
            result.add(path)
            path = posixpath.dirname(path)
    return result


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.readline().strip()
    except OSError:
        return ""
