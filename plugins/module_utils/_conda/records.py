# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The installed state as conda-meta and dist-info files tell it: never ask conda, which is slow and writes."""

from __future__ import annotations

import base64
import binascii
import csv
import dataclasses
import email.parser
import glob
import json
import os
import posixpath
import typing as t

from .errors import CondaError
from .files import sha256_of
from .locks import Lock, comparable, normalized
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
    depends: tuple[str, ...] = ()  #: match specs of what it needs
    requested: tuple[str, ...] = ()  #: match specs of what people asked for, where that led to this package

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
        subdir=str(content.get("subdir") or ""),
        url=str(content.get("url") or ""),
        sha256=content.get("sha256") or "",
        md5=content.get("md5") or "",
        files=tuple(str(path) for path in content.get("files", ())),
        sums=sums,
        depends=tuple(str(spec) for spec in content.get("depends") or ()),
        # The old spelling has one, and "None" for none.
        requested=tuple(
            map(str, content.get("requested_specs") or {content.get("requested_spec")} - {None, "None", ""})
        ),
    )


@dataclasses.dataclass(frozen=True)
class Distribution:
    """One *.dist-info that no conda package has: what pip, uv and their like put into the prefix."""

    name: str  #: normalized
    version: str
    installer: str  #: the tool that says it put it there, empty where none does
    directory: str  #: the dist-info directory, as a path in the prefix
    files: tuple[str, ...]  #: as paths in the prefix; what lies outside of it begins with .. or /
    sums: t.Mapping[str, str]  #: sha256 of the files that RECORD tells one of, by path; not of byte code
    direct_url: t.Mapping[str, t.Any] | None = None  #: where it is from when not from an index, as PEP 610 writes it

    @property
    def label(self) -> str:
        """Name, version and where it is from, as people write them."""
        return f"{self.name} {self.version} pypi"

    @property
    def editable(self) -> bool:
        """Does it only point to sources elsewhere?"""
        place = (self.direct_url or {}).get("dir_info")
        return isinstance(place, dict) and place.get("editable") is True


def read_distributions(
    prefix: str, records: t.Sequence[Record] | None = None
) -> tuple[list[Distribution], list[Problem]]:
    """All Python distributions of *prefix* that no conda package has, and a problem for each file that is unreadable.

    :param records: those of *prefix*, where they have been read already.
    """
    if records is None:
        records = read_records(prefix)[0]
    owned = {directory_of(path) for record in records for path in record.files if ".dist-info/" in path}
    distributions, problems = [], []
    for path in sorted(glob.glob(os.path.join(glob.escape(prefix), "lib/python3.*/site-packages/*.dist-info"))):
        directory = os.path.relpath(path, prefix)
        library = os.path.join(prefix, *directory.split("/")[:2])
        # A package may add a link to the library under another name.
        if directory not in owned and os.path.isdir(path) and not os.path.islink(library):
            distribution, unreadable = read_distribution(prefix, directory)
            distributions.append(distribution)
            problems += unreadable
    return distributions, problems


def directory_of(path: str) -> str:
    """The dist-info directory that *path* is in."""
    return path[: path.index(".dist-info/") + len(".dist-info")]


def read_distribution(prefix: str, directory: str) -> tuple[Distribution, list[Problem]]:
    """What the dist-info *directory* in *prefix* says, as far as it can be read, and a problem for what cannot."""
    problems = []
    texts = {}
    for file_name in ("METADATA", "RECORD", "INSTALLER", "direct_url.json"):
        path = f"{directory}/{file_name}"
        try:
            with open(os.path.join(prefix, path), encoding="utf-8", errors="surrogateescape", newline="") as stream:
                texts[file_name] = stream.read()
        except FileNotFoundError:
            if file_name in ("METADATA", "RECORD"):
                problems.append(Problem("record", path, "is missing"))
        except OSError as error:
            problems.append(Problem("record", path, f"cannot be read: {error.strerror}"))
    stem = posixpath.basename(directory)[: -len(".dist-info")]
    metadata = email.parser.HeaderParser().parsestr(texts.get("METADATA", ""))
    name = str(metadata["Name"] or stem.partition("-")[0])
    version = str(metadata["Version"] or stem.partition("-")[2])
    files: list[str] = []
    sums: dict[str, str] = {}
    try:
        for row in csv.reader(texts.get("RECORD", "").splitlines()):
            if row and row[0]:
                path = posixpath.normpath(posixpath.join(posixpath.dirname(directory), row[0]))
                files.append(path)
                inside = not path.startswith(("/", "../"))
                if inside and len(row) > 1 and row[1].startswith("sha256=") and not is_cached_bytecode(path):
                    sums[path] = _hexadecimal(row[1][len("sha256=") :])
    except (csv.Error, ValueError) as error:
        problems.append(Problem("record", f"{directory}/RECORD", f"cannot be read: {error}"))
    direct_url = None
    if "direct_url.json" in texts:
        try:
            direct_url = json.loads(texts["direct_url.json"])
            if not isinstance(direct_url, dict):
                raise ValueError("it is no mapping")
        except (ValueError, RecursionError) as error:
            direct_url = None
            problems.append(Problem("record", f"{directory}/direct_url.json", f"cannot be read: {error}"))
    installer = texts.get("INSTALLER", "").strip()
    found = Distribution(normalized(name), version, installer, directory, tuple(files), sums, direct_url)
    return found, problems


def _hexadecimal(digest: str) -> str:
    """The digits of a sum that RECORD has in URL-safe base64 without padding.

    :raises ValueError: it is none.
    """
    try:
        return base64.b64decode(f"{digest}=", altchars=b"-_", validate=True).hex()
    except binascii.Error as error:
        raise ValueError(f"{digest!r} is no sha256") from error


def is_cached_bytecode(path: str) -> bool:
    """Is *path* what Python writes and renews by itself?"""
    return "__pycache__" in path.split("/")


def compare_with_lock(
    records: t.Sequence[Record], lock: Lock, distributions: t.Sequence[Distribution] = ()
) -> list[Problem]:
    """What is missing, foreign or different when *records* and *distributions* must be just what *lock* says."""
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
    return problems + _compare_wheels(distributions, lock)


def _compare_wheels(distributions: t.Sequence[Distribution], lock: Lock) -> list[Problem]:
    installed: dict[str, Distribution] = {}
    problems = []
    for distribution in distributions:
        name = distribution.name
        if name in installed:
            problems.append(Problem("foreign", name, f"{distribution.label} is there beside {installed[name].label}"))
        installed[name] = distribution
    for wheel in lock.wheels:
        found = installed.pop(wheel.name, None)
        if found is None:
            problems.append(Problem("missing", wheel.name, f"{wheel.label} is not installed"))
        elif comparable(found.version) != comparable(wheel.version):
            problems.append(Problem("changed", wheel.name, f"expected {wheel.label}, found {found.label}"))
        elif found.direct_url is not None:
            # What this collection installs is found by name: another hand has put this one there.
            origin = found.direct_url.get("url")
            problems.append(Problem("changed", wheel.name, f"{wheel.label} was installed by hand from {origin}"))
    return problems + [
        Problem("foreign", name, f"{found.label} is not in the lock") for name, found in installed.items()
    ]


def compare_files(prefix: str, owners: t.Sequence[Record | Distribution]) -> list[Problem]:
    """Every file of every record and distribution against its recorded sha256; reads the whole prefix.

    Where distributions have a file in common, pip leaves that of the last one, and either is right.
    """
    shared: dict[str, set[str]] = {}
    for owner in owners:
        for path, digest in owner.sums.items() if isinstance(owner, Distribution) else ():
            shared.setdefault(path, set()).add(digest)
    problems = []
    for owner in owners:
        for path in owner.files:
            if not os.path.lexists(os.path.join(prefix, path)):
                problems.append(Problem("missing", path, f"file of {owner.label} is missing"))
            elif path in owner.sums:
                found = sha256_of(os.path.join(prefix, path))
                if found != owner.sums[path] and found not in shared.get(path, ()):
                    problems.append(Problem("changed", path, f"file of {owner.label} has other content"))
    return problems
