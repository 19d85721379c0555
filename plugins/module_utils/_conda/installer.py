# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The base of a node, from a Miniconda installer: one prefix for each version, and a link to the live one.

An installer bakes its prefix into the files, and a killed one leaves half a prefix. So a version is installed where it
stays, and counts only once it has its manifest; the link is switched after that. Nothing that was ever live is changed:
a damaged prefix may be in use and is built anew beside itself, and older versions stay for the way back.
"""

from __future__ import annotations

import dataclasses
import errno
import glob
import os
import platform
import re
import tempfile
import typing as t
import urllib.parse

from . import construction, prefixes
from .errors import CondaError
from .files import exclusive, free_bytes, remove_tree, replace_link, require_free_space, sha256_of
from .problems import Problem
from .processes import run
from .sealing import seal

#: Writes what a URL leads to into a stream.
Fetch = t.Callable[[str, t.BinaryIO], None]

#: What every installer of the family leaves behind.
CONTRACT = ("conda-meta/history", "bin/python", "bin/conda")
#: Problems told one by one in a diff.
TOLD = 20
_MARKER = "The base of this node is managed by envfleet.gpu_cluster: set miniconda_version and run the site playbook."
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_ARCHITECTURE = re.compile(r"-Linux-([A-Za-z0-9_]+)\.sh$")


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the base is on a node."""

    prefix: str  #: the link that people and other roles use
    versions_dir: str  #: a prefix for each installed version

    @property
    def lock_file(self) -> str:
        """What a run holds while it changes anything here."""
        return os.path.join(self.versions_dir, ".lock")

    @property
    def live(self) -> str | None:
        """The prefix that the link leads to, where it leads to one."""
        target = os.path.realpath(self.prefix)
        return target if os.path.islink(self.prefix) and os.path.isdir(target) else None

    def owns(self, path: str) -> bool:
        """Whether *path* is, or was, a prefix in the directory of versions."""
        return os.path.dirname(os.path.realpath(path)) == os.path.realpath(self.versions_dir)

    def finished(self) -> list[str]:
        """Every prefix that was finished here, however damaged it is now. Other directories are not ours to judge."""
        found = sorted(glob.glob(os.path.join(glob.escape(self.versions_dir), "*")))
        unfinished = self.leftovers()
        return [path for path in found if path not in unfinished and self._was_finished(path)]

    def leftovers(self) -> list[str]:
        """Prefixes that killed runs left unfinished: the link has never led to one of them."""
        return construction.leftovers(self.versions_dir)

    def downloads(self) -> list[str]:
        """What killed runs left of a download. Whoever asks holds the lock, so nobody uses it."""
        return glob.glob(os.path.join(glob.escape(self.versions_dir), ".download-*"))

    @staticmethod
    def _was_finished(prefix: str) -> bool:
        return any(os.path.exists(os.path.join(prefix, name)) for name in (prefixes.MANIFEST, prefixes.LISTING))


@dataclasses.dataclass(frozen=True)
class Wanted:
    """The base as it should be, and the limits of getting there."""

    version: str  #: the installer's own, such as py310_26.5.3-1
    url: str  #: {architecture} in it stands for the node's
    sha256: str
    layout: Layout
    min_free_mb: int = 3072
    min_glibc: str = "2.28"
    lock_timeout_seconds: float = 600
    timeout_seconds: float = 1800

    @property
    def identity(self) -> str:
        """What tells this base from every other one."""
        return f"{self.version}@{self.sha256}"

    @property
    def installer_url(self) -> str:
        """Where this node gets the installer."""
        return self.url.replace("{architecture}", platform.machine())


@dataclasses.dataclass(frozen=True)
class Plan:
    """What has to be done for the base: nothing, a switch to a prefix that is there, or an installation before it."""

    layout: Layout
    version: str
    previous: str | None  #: the prefix that was live
    target: str | None  #: the prefix that is to be live
    problems: tuple[Problem, ...] = ()  #: of the live prefix
    leftovers: tuple[str, ...] = ()
    install: bool = False
    switch: bool = False
    unlink: bool = False
    removals: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.leftovers or self.install or self.switch or self.unlink or self.removals)

    def actions(self) -> list[str]:
        """The steps, in order, in the words of the domain."""
        steps = [f"remove unfinished base {path}" for path in self.leftovers]
        if self.install:
            steps.append(f"install base {self.version} in {self.target}")
        if self.switch:
            steps.append(f"point {self.layout.prefix} to {self.target}")
        if self.unlink:
            steps.append(f"remove link {self.layout.prefix}")
        return steps + [f"remove base {path}" for path in self.removals]

    def diff(self) -> dict[str, str]:
        """For --diff: version and prefix, and what is wrong now."""
        before = _describe(self.previous) + [f"{p.kind} {p.subject}: {p.detail}" for p in self.problems[:TOLD]]
        if len(self.problems) > TOLD:
            before.append(f"and {len(self.problems) - TOLD} more")
        after = [f"version: {self.version}", f"prefix: {self.target}"] if self.target else ["absent"]
        return {
            "before_header": self.layout.prefix,
            "after_header": self.layout.prefix,
            "before": "".join(f"{line}\n" for line in [*before, *self.removals]),
            "after": "".join(f"{line}\n" for line in after),
        }


def _describe(prefix: str | None) -> list[str]:
    if prefix is None:
        return ["absent"]
    manifest = prefixes.read_manifest(prefix)
    version = manifest.identity.partition("@")[0] if manifest else "unknown"
    return [f"version: {version}", f"prefix: {prefix}"]


def install(wanted: Wanted, fetch: Fetch, check_mode: bool = False) -> Plan:
    """Make *wanted* the live base, or tell what that would take. Starts no process where it is live already.

    :raises CondaError: it cannot be done; the link is as it was, and nothing unfinished is left.
    """
    _require_well_formed(wanted)
    todo = plan(wanted)
    if todo.install:
        _require_fitting_node(wanted)
    if check_mode or not todo:
        return todo
    layout = wanted.layout
    for directory in (layout.versions_dir, os.path.dirname(layout.prefix)):
        _make_directory(directory)
    with exclusive(layout.lock_file, wanted.lock_timeout_seconds, "miniconda_lock_timeout_seconds"):
        # Another run may have done it while this one waited for the lock.
        todo = plan(wanted)
        _tidy(layout, todo.leftovers)
        if todo.install and todo.target:
            _install(wanted, todo.target, fetch)
        if todo.switch and todo.target:
            replace_link(layout.prefix, todo.target)
    return todo


def plan(wanted: Wanted) -> Plan:
    """Decide what makes *wanted* the live base.

    :raises CondaError: the link's place is taken by something else.
    """
    layout = wanted.layout
    live = layout.live
    if os.path.lexists(layout.prefix) and not os.path.islink(layout.prefix):
        raise CondaError(
            f"miniconda_prefix: {layout.prefix} exists and is no link of this collection: "
            "move it away, or set miniconda_prefix to another path"
        )
    leftovers = tuple(layout.leftovers())
    problems = _problems(live, wanted.identity) if live else []
    if problems == [] and live and layout.owns(live):
        return Plan(layout, wanted.version, live, live, leftovers=leftovers)
    sound = [path for path in layout.finished() if path != live and _problems(path, wanted.identity) == []]
    stem = os.path.join(layout.versions_dir, wanted.version)
    target = sound[0] if sound else construction.first_free(stem, leftovers)
    return Plan(
        layout,
        wanted.version,
        live,
        target,
        problems=tuple(problems or ()),
        leftovers=leftovers,
        install=not sound,
        switch=True,
    )


def _problems(prefix: str, identity: str) -> list[Problem] | None:
    """What is wrong with *prefix*; None where it is another version, and so of no interest."""
    manifest = prefixes.read_manifest(prefix)
    if manifest is None:
        return [Problem("manifest", prefix, "the base has no whole manifest")]
    return prefixes.check(prefix, manifest) if manifest.identity == identity else None


def remove(layout: Layout, lock_timeout_seconds: float, check_mode: bool = False) -> Plan:
    """Take away the link and every prefix made here, and nothing else, or tell what that would be.

    :raises CondaError: another run is at work for longer than *lock_timeout_seconds*.
    """
    todo = _plan_removal(layout)
    if todo and not check_mode:
        _make_directory(layout.versions_dir)
        with exclusive(layout.lock_file, lock_timeout_seconds, "miniconda_lock_timeout_seconds"):
            todo = _plan_removal(layout)
            if todo.unlink:
                os.unlink(layout.prefix)
            _tidy(layout, todo.removals)
    return todo


def _plan_removal(layout: Layout) -> Plan:
    unlink = os.path.islink(layout.prefix) and layout.owns(layout.prefix)
    removals = (*layout.finished(), *layout.leftovers())
    return Plan(layout, "", layout.live if unlink else None, None, unlink=unlink, removals=removals)


def _require_well_formed(wanted: Wanted) -> None:
    """What can be seen to be wrong without a look at the node's state."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", wanted.version):
        raise CondaError(f"miniconda_version: {wanted.version!r} is no version of an installer, such as py310_26.5.3-1")
    if not wanted.sha256:
        raise CondaError(
            f"miniconda_installer_sha256: no sha256 is known for {wanted.version} on {platform.machine()}: set "
            "miniconda_installer_sha256, or choose a miniconda_version that the role knows the sum of"
        )
    if not re.fullmatch(r"[0-9a-f]{64}", wanted.sha256):
        raise CondaError(f"miniconda_installer_sha256: {wanted.sha256!r} is no sha256: 64 digits of 0-9a-f are wanted")
    if urllib.parse.urlsplit(wanted.url).scheme not in ("file", "http", "https"):
        raise CondaError(f"miniconda_installer_url: {wanted.url!r} is no http, https or file URL")
    for option, path in (("prefix", wanted.layout.prefix), ("versions_dir", wanted.layout.versions_dir)):
        if not os.path.isabs(path) or os.path.normpath(path) == "/":
            raise CondaError(f"miniconda_{option}: {path!r} must be an absolute path")


def _require_fitting_node(wanted: Wanted) -> None:
    """Refuse, before any change, an installer that cannot work here."""
    url = wanted.installer_url
    name = os.path.basename(urllib.parse.urlsplit(url).path)
    built_for = _ARCHITECTURE.search(name)
    if built_for and built_for[1] != platform.machine():
        raise CondaError(
            f"miniconda_installer_url: {name} is for {built_for[1]}, and this node is {platform.machine()}: "
            "write {architecture} in the URL where nodes differ"
        )
    glibc = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else ""
    has = (glibc or "").replace("glibc ", "")
    if _numbers(has) < _numbers(wanted.min_glibc):
        raise CondaError(
            f"miniconda_min_glibc: {wanted.min_glibc} is wanted, and this node has {has or 'no glibc'}: "
            "choose an older miniconda_version, and lower miniconda_min_glibc to what it needs"
        )
    local = _local_path(url)
    if local and not os.path.isfile(local):
        raise CondaError(f"miniconda_installer_url: there is no file {local} on this node")
    require_free_space(wanted.layout.versions_dir, wanted.min_free_mb, "miniconda_min_free_mb")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def _local_path(url: str) -> str | None:
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.unquote(parts.path) if parts.scheme == "file" else None


def _install(wanted: Wanted, prefix: str, fetch: Fetch) -> None:
    """Make *prefix* a finished base, or leave nothing of it."""
    layout = wanted.layout
    try:
        with tempfile.TemporaryDirectory(prefix=".download-", dir=layout.versions_dir) as directory:
            # An installer refuses to run under a name that does not end in .sh.
            script = os.path.join(directory, "installer.sh")
            _download(wanted, script, fetch)
            construction.begin(prefix)
            _run_installer(wanted, script, prefix)
        seal(prefix, _MARKER)
        prefixes.finish(prefix, wanted.identity, "installer")
        construction.end(prefix)
    except BaseException as error:
        full = isinstance(error, OSError) and error.errno in _DISK_FULL
        construction.discard(prefix)
        if full:
            raise _disk_full(wanted) from error
        raise


def _download(wanted: Wanted, path: str, fetch: Fetch) -> None:
    url = wanted.installer_url
    local = _local_path(url)
    try:
        with open(path, "wb") as stream:
            if local:
                with open(local, "rb") as source:
                    while block := source.read(2**20):
                        stream.write(block)
            else:
                fetch(url, stream)
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise
        raise CondaError(f"miniconda_installer_url: {url} cannot be read: {error}") from error
    found = sha256_of(path)
    if found != wanted.sha256:
        raise CondaError(
            f"miniconda_installer_sha256: {url} is not the wanted installer, and was not run: "
            f"expected {wanted.sha256}, the file has {found}"
        )


def _run_installer(wanted: Wanted, script: str, prefix: str) -> None:
    # timeout(1) ends the whole process group, with what the installer started.
    limit = ["timeout", "--kill-after=10", f"{wanted.timeout_seconds:g}"]
    result = run([*limit, "sh", script, "-b", "-p", prefix], keep_lock=True)
    missing = [name for name in CONTRACT if not os.path.isfile(os.path.join(prefix, name))]
    if result.returncode == 0 and not missing:
        return
    if "No space left on device" in result.stdout + result.stderr or free_bytes(prefix) < 2**20:
        raise _disk_full(wanted)
    if result.returncode in (124, 137):
        raise CondaError(
            f"miniconda_install_timeout_seconds: the installer of {wanted.version} did not end within "
            f"{wanted.timeout_seconds:g} s"
        )
    reason = f"ended with {result.returncode}" if result.returncode else f"left no {', no '.join(missing)}"
    raise CondaError(f"the installer of {wanted.version} {reason} in {prefix}, which was removed:\n{result.tail()}")


def _disk_full(wanted: Wanted) -> CondaError:
    return CondaError(
        f"miniconda_versions_dir: the disk of {wanted.layout.versions_dir} is full, and what was begun there was "
        "removed: free some space, set another miniconda_versions_dir, or raise miniconda_min_free_mb"
    )


def _tidy(layout: Layout, unwanted: t.Iterable[str]) -> None:
    """Remove the *unwanted* prefixes, and whatever else killed runs left."""
    for path in unwanted:
        construction.discard(path)
    for path in layout.downloads():
        remove_tree(path)


def _make_directory(path: str) -> None:
    """Make *path* and what is missing above it, for all to enter."""
    if not os.path.isdir(path):
        _make_directory(os.path.dirname(path))
        os.mkdir(path)
        os.chmod(path, 0o755)
