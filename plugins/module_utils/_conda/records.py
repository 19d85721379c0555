# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The installed state as conda-meta and dist-info files tell it: never ask conda, which is slow and writes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import typing as t

from .errors import CondaError
from .locks import Lock
from .problems import Problem


@dataclasses.dataclass(frozen=True)
class Record:
    """One conda-meta/*.json: a package, and what it put into the prefix."""

    name: str
    version: str
    build: str
    subdir: str
    url: str
    sha256: str
    md5: str
    files: tuple[str, ...]
    sums: t.Mapping[str, str]  #: sha256 of each regular file as it must be in this prefix, by path; not of byte code

    @property
    def label(self) -> str:
        """Name, version and build, as people write them."""
        return f"{self.name} {self.version} {self.build}"


def read_records(prefix: str) -> tuple[list[Record], list[Problem]]:
    """All records of *prefix*, and a problem for each that cannot be read."""
    records, problems = [], []
    directory = os.path.join(prefix, "conda-meta")
    for file_name in sorted(os.listdir(directory) if os.path.isdir(directory) else []):
        if not file_name.endswith(".json"):
            continue
        try:
            records.append(read_record(os.path.join(directory, file_name)))
        except CondaError as error:
            problems.append(Problem("record", f"conda-meta/{file_name}", str(error)))
    return records, problems


def read_record(path: str) -> Record:
    """One record.

    :raises CondaError: the file cannot be read, or is no record.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            return _record(json.load(stream))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CondaError(f"cannot be read: {error}") from error


def _record(content: t.Mapping[str, t.Any]) -> Record:
    sums = {}
    for entry in content.get("paths_data", {}).get("paths", ()):
        # rattler leaves sha256_in_prefix out where no placeholder was replaced
        expected = entry.get("sha256_in_prefix") or entry.get("sha256")
        # Byte code in the archive is replaced by that of this prefix, where the source it was made from differs.
        if expected and entry.get("path_type") == "hardlink" and not is_cached_bytecode(entry["_path"]):
            sums[entry["_path"]] = expected
    return Record(
        name=str(content["name"]),
        version=str(content["version"]),
        build=str(content["build"]),
        subdir=content.get("subdir", ""),
        url=content.get("url", ""),
        sha256=content.get("sha256") or "",
        md5=content.get("md5") or "",
        files=tuple(str(path) for path in content.get("files", ())),
        sums=sums,
    )


def is_cached_bytecode(path: str) -> bool:
    """Is *path* what Python writes and renews by itself?"""
    return "__pycache__" in path.split("/")


def compare_with_lock(records: t.Sequence[Record], lock: Lock) -> list[Problem]:
    """What is missing, foreign or different when *records* must be just what *lock* says."""
    installed: dict[str, Record] = {}
    problems = []
    for record in records:
        if record.name in installed:
            problems.append(
                Problem("foreign", record.name, f"{record.label} is there beside {installed[record.name].label}")
            )
        installed[record.name] = record
    for package in lock.packages:
        found = installed.pop(package.name, None)
        if found is None:
            problems.append(Problem("missing", package.name, f"{package.label} is not installed"))
        elif (found.version, found.build) != (package.version, package.build):
            problems.append(Problem("changed", package.name, f"expected {package.label}, found {found.label}"))
        elif (package.sha256 and package.sha256 != found.sha256) or (not package.sha256 and package.md5 != found.md5):
            problems.append(Problem("changed", package.name, f"{package.label} was made from another archive"))
    problems += [Problem("foreign", name, f"{record.label} is not in the lock") for name, record in installed.items()]
    return problems


def compare_files(prefix: str, records: t.Sequence[Record]) -> list[Problem]:
    """Every file of every record against its recorded sha256; reads the whole prefix."""
    problems = []
    for record in records:
        for path in record.files:
            if not os.path.lexists(os.path.join(prefix, path)):
                problems.append(Problem("missing", path, f"file of {record.label} is missing"))
            elif path in record.sums and sha256_of(os.path.join(prefix, path)) != record.sums[path]:
                problems.append(Problem("changed", path, f"file of {record.label} has other content"))
    return problems


def sha256_of(path: str) -> str:
    """The sha256 of a file's content, or an empty string where it cannot be read."""
    try:
        return digest_of(path, "sha256")
    except OSError:
        return ""


def digest_of(path: str, algorithm: str) -> str:
    """The sum of a file's content by *algorithm*, in hexadecimal digits.

    :raises OSError: it cannot be read.
    """
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
