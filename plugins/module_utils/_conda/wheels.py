# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The wheels of a lock: fetched by hash into a cache, and put into a prefix by pip, which has nothing left to decide.

To fetch them, pip goes by /etc/pip.conf of the node, which says how a site reaches its network: proxy, certificates,
credentials, further indexes. It cannot change what is fetched, since the hash is the lock's. To install them, pip reads
no configuration and uses no network.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import re
import shutil
import typing as t
import urllib.parse

from .errors import CondaError
from .files import digest_of, remove_tree, sha256_of
from .locks import Lock, Wheel, normalized
from .processes import Result, run
from .records import Record, compare_files, compare_with_lock, read_distributions, read_records

_PIP = {
    "PIP_BREAK_SYSTEM_PACKAGES": "1",  # a package may bring the mark that keeps people from doing this
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_COLOR": "1",
    "PIP_NO_INPUT": "1",
    "PIP_PROGRESS_BAR": "off",
    "PIP_REQUIRE_VIRTUALENV": "0",
    "PIP_ROOT_USER_ACTION": "ignore",
    # Sealing writes byte code, and would keep what is there.
    "PYTHONDONTWRITEBYTECODE": "1",
}
_EXACT = ("--no-deps", "--require-hashes", "--only-binary", ":all:", "--no-cache-dir")
#: How many wheels one pip fetches: it keeps nothing of what it has fetched when it fails.
_AT_ONCE = 8
_SCRATCH = ".envfleet-wheels"
_DISTRIBUTION = re.compile(r"lib/python3\.[^/]+/site-packages/([^/-]+)[^/]*\.(?:dist|egg)-info(?:/.*)?")


@dataclasses.dataclass(frozen=True)
class Sources:
    """Where wheels come from, and the pip that installs them. Names, versions and hashes are always the lock's."""

    index_url: str = ""  #: of a package index to ask instead of the URLs in the lock
    wheels_dir: str = ""  #: a directory of wheels on the node; with it, no URL of the lock is used
    base_prefix: str = ""  #: the base whose pip is used; empty: the environment needs a pip of its own


def install(lock: Lock, prefix: str, cache: str, sources: Sources) -> None:
    """Put the wheels of *lock* into *prefix*, where its conda packages are, keeping them below *cache* for next time.

    :raises CondaError: one of them cannot be had or installed, or would overwrite files of a conda package; what there
        is of *prefix* is for the caller to remove.
    """
    records, problems = read_records(prefix)
    if problems:
        raise CondaError(f"{problems[0].subject} {problems[0].detail}")
    if lock.wheels:
        _require_apart(lock.wheels, records)
        _put(lock.wheels, prefix, cache, sources)
    _require_whole(prefix, lock, records)


def _put(wheels: t.Sequence[Wheel], prefix: str, cache: str, sources: Sources) -> None:
    scratch = os.path.join(prefix, _SCRATCH)  # removed with the prefix if this is killed
    os.mkdir(scratch)
    try:
        pip = _Pip.of(prefix, sources.base_prefix, scratch)
        missing = [wheel for wheel in wheels if not _is_there(wheel, cache)]
        if sources.wheels_dir:
            missing = _take(missing, cache, sources, scratch)
        for start in range(0, len(missing), _AT_ONCE):
            _download(missing[start : start + _AT_ONCE], cache, pip, sources.index_url)
        _install(wheels, cache, pip)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise CondaError(f"the disk is full: {error.filename or cache}") from error
        raise
    finally:
        remove_tree(scratch)


def cached(wheel: Wheel, cache: str) -> str:
    """Where *wheel* is kept below *cache*, once it has been fetched."""
    return os.path.join(cache, "wheels", wheel.sha256, wheel.file_name)


@dataclasses.dataclass(frozen=True)
class _Pip:
    """A pip that works on one prefix."""

    command: t.Sequence[str]
    scratch: str  #: an empty directory for requirements, downloads and temporary files

    @classmethod
    def of(cls, prefix: str, base_prefix: str, scratch: str) -> _Pip:
        """The pip of the base, if it can work on *prefix*, or else that of the prefix.

        :raises CondaError: neither is there.
        """
        python = os.path.join(prefix, "bin/python")
        if not os.path.exists(python):
            raise CondaError("the lock has pip packages, and its python package brings no bin/python")
        commands = [[os.path.join(base_prefix, "bin/python"), "--python", python]] if base_prefix else []
        for program, *options in [*commands, [python]]:
            pip = cls((program, "-IB", "-m", "pip", *options), scratch)
            if os.path.exists(program) and pip.run("--version").returncode == 0:
                return pip
        raise CondaError(
            "the lock has pip packages, and there is no pip to install them: neither has the base one of version 22.3 "
            "or newer that knows the environment's Python, nor the environment one of its own: add pip to its packages"
        )

    def run(self, *arguments: str, requirements: t.Iterable[str] = (), **environment: str) -> Result:
        """Run it."""
        if requirements:
            path = os.path.join(self.scratch, "requirements.txt")
            with open(path, "w", encoding="utf-8") as stream:
                stream.writelines(f"{line}\n" for line in requirements)
            arguments = (*arguments, "--requirement", path)
        variables = {**_PIP, "TMPDIR": self.scratch, **environment}
        return run([*self.command, *arguments], environment=variables, keep_lock=True)


def _is_there(wheel: Wheel, cache: str) -> bool:
    """Is *wheel* in the cache? What has its place there and is another file goes."""
    path = cached(wheel, cache)
    if sha256_of(path) == wheel.sha256:
        return True
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    return False


def _keep(path: str, wheel: Wheel, cache: str) -> None:
    """Move the file at *path* to the place of *wheel* in the cache."""
    place = cached(wheel, cache)
    os.makedirs(os.path.dirname(place), mode=0o755, exist_ok=True)
    shutil.move(path, place)
    os.chmod(place, 0o644)


def _take(wheels: t.Sequence[Wheel], cache: str, sources: Sources, scratch: str) -> list[Wheel]:
    """Copy *wheels* from the node's directory of wheels, and say which an index must have.

    :raises CondaError: one is another file, or not there when there is no index to ask.
    """
    left = []
    for wheel in wheels:
        source = os.path.join(sources.wheels_dir, wheel.file_name)
        try:
            copy = shutil.copyfile(source, os.path.join(scratch, wheel.file_name))
        except FileNotFoundError as error:
            if not sources.index_url:
                raise CondaError(
                    f"{wheel.label}: conda_envs_wheels_dir: {sources.wheels_dir} has no {wheel.file_name}: "
                    "put it there, or set conda_envs_index_url"
                ) from error
            left.append(wheel)
            continue
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            raise CondaError(f"{wheel.label}: conda_envs_wheels_dir: {source}: {error.strerror}") from error
        found = digest_of(copy, "sha256")
        if found != wheel.sha256:
            raise CondaError(
                f"{wheel.label}: hash mismatch: {source} is not the wheel of the lock: "
                f"expected {wheel.sha256}, got {found}"
            )
        _keep(copy, wheel, cache)
    return left


def _download(wheels: t.Sequence[Wheel], cache: str, pip: _Pip, index_url: str) -> None:
    """Fetch *wheels* into the cache, from the index at *index_url*, or from their own URLs.

    :raises CondaError: naming the one that cannot be had, or is another file.
    """
    target = os.path.join(pip.scratch, "download")
    options = []
    if index_url:
        options += ["--index-url", index_url]
        place = urllib.parse.urlsplit(index_url)
        # What comes without TLS is as safe as the rest, since the lock has its hash.
        options += ["--trusted-host", place.netloc.rpartition("@")[2]] if place.scheme == "http" else []
    origins = [f"{w.name}=={w.version}" if index_url else f"{w.name} @ {w.url}" for w in wheels]
    result = pip.run(
        "download",
        *_EXACT,
        "--dest",
        target,
        *options,
        requirements=[f"{origin} --hash=sha256:{wheel.sha256}" for origin, wheel in zip(origins, wheels)],
    )
    if result.returncode != 0:
        raise _failure(result, wheels, "cannot be fetched")
    fetched = {digest_of(path, "sha256"): path for path in (os.path.join(target, name) for name in os.listdir(target))}
    for wheel in wheels:
        if wheel.sha256 not in fetched:
            raise CondaError(f"{wheel.label} cannot be fetched: pip says that it has, and has not")
        _keep(fetched[wheel.sha256], wheel, cache)


def _install(wheels: t.Sequence[Wheel], cache: str, pip: _Pip) -> None:
    # By name and from a directory: pip marks what it gets by URL or path as something from outside of an index.
    directory = os.path.join(pip.scratch, "wheels")
    os.mkdir(directory)
    for wheel in wheels:
        os.symlink(cached(wheel, cache), os.path.join(directory, wheel.file_name))
    result = pip.run(
        "install",
        *_EXACT,
        "--no-compile",
        "--no-warn-script-location",
        "--no-index",
        "--find-links",
        directory,
        requirements=[f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}" for wheel in wheels],
        PIP_CONFIG_FILE=os.devnull,
    )
    if result.returncode != 0:
        raise _failure(result, wheels, "cannot be installed")


def _failure(result: Result, wheels: t.Sequence[Wheel], what: str) -> CondaError:
    """What pip said of its failure, with the package it is about ahead."""
    if "No space left on device" in result.stderr:
        return CondaError("the disk is full: pip: No space left on device")
    errors = " ".join(result.stderr[result.stderr.find("ERROR: ") :].split()) or result.tail(500)
    reason = re.sub(r" \(from -r \S+ \(line \d+\)\)|(?<=://)[^/@\s]*@", "", errors)[:1000]
    places = []
    for wheel in wheels:
        match = re.search(rf"(?<![\w.-]){re.escape(wheel.name)}(?![\w-])|{re.escape(wheel.file_name)}", reason, re.I)
        if match:
            places.append((match.start(), wheel.label))
    label = min(places)[1] if places else ", ".join(wheel.label for wheel in wheels)
    return CondaError(f"{label} {what}: pip: {reason}")


def _require_apart(wheels: t.Iterable[Wheel], records: t.Iterable[Record]) -> None:
    """Refuse *wheels* that conda has put there too: pip would take out files of the conda package."""
    owners = {}
    for record in records:
        for path in record.files:
            match = _DISTRIBUTION.fullmatch(path)
            if match:
                owners[normalized(match[1])] = record
    for wheel in wheels:
        if wheel.name in owners:
            raise CondaError(
                f"{wheel.label} is in the conda package {owners[wheel.name].label} too, whose files pip would "
                "overwrite: keep one of them, and lock again"
            )


def _require_whole(prefix: str, lock: Lock, records: t.Sequence[Record]) -> None:
    """Refuse what is not just the lock, or would be found damaged at the next look."""
    distributions, problems = read_distributions(prefix, records)
    sums = {path: (record, record.sums.get(path)) for record in records for path in record.files}
    for distribution in distributions:
        for path in distribution.files:
            if path in sums and distribution.sums.get(path) != sums[path][1]:
                raise CondaError(
                    f"{distribution.label} and the conda package {sums[path][0].label} both have {path}: "
                    "keep one of them, and lock again"
                )
    problems += compare_with_lock(records, lock, distributions)
    if problems:
        raise CondaError(f"pip did not install the lock: {problems[0].subject}: {problems[0].detail}")
    damaged = compare_files(prefix, distributions)
    if damaged:
        raise CondaError(f"a wheel contradicts its own list of files: {damaged[0].subject}: {damaged[0].detail}")
