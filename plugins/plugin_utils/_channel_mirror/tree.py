# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""The files of a mirror on its disk: what is served, what is on its way there, and what is known of both."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import shutil
import typing as t
from concurrent.futures import ThreadPoolExecutor

from ...module_utils._conda.files import digest_of, remove_tree, sync_directory, write_file
from ...module_utils._conda.locks import Wheel
from .config import WHEELS, File, MirrorError, read_files

#: How many files are read at once to prove them.
_READERS = 4


class Tree:
    """The directory of a mirror. Readers of what it serves see a file whole or not at all."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.www = os.path.join(directory, "www")  #: what the web server shows
        self.staging = os.path.join(directory, "staging")  #: what is in it is worth nothing after a run
        self.indexing = os.path.join(directory, "indexing")  #: channels as links, where their indexes are made
        self.cache = os.path.join(directory, "cache")
        self._imported = os.path.join(directory, "imported.json")

    @contextlib.contextmanager
    def only_run(self) -> t.Iterator[bool]:
        """Whether no other run is at work. The kernel drops the lock with the process, however it ends."""
        try:
            descriptor = os.open(os.path.join(self.directory, "run.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise MirrorError(f"{error.filename}: {error.strerror}") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                remove_tree(self.staging)
                os.mkdir(self.staging, 0o700)
                os.makedirs(self.www, 0o755, exist_ok=True)
                yield True
                remove_tree(self.staging)
        finally:
            os.close(descriptor)

    def of(self, path: str) -> str:
        """Where the file is that is served as *path*."""
        return os.path.join(self.www, path)

    def sound(self, sums: t.Mapping[str, str]) -> set[str]:
        """Which of these paths have the content that their sha256 says. All of it is read."""

        def holds(path: str) -> bool:
            try:
                return not os.path.islink(self.of(path)) and digest_of(self.of(path), "sha256") == sums[path]
            except OSError:  # it is not there, or the disk cannot read it
                return False

        with ThreadPoolExecutor(_READERS) as pool:
            return {path for path, right in zip(sums, pool.map(holds, sums), strict=True) if right}

    def put(self, staged: str, path: str) -> None:
        """Let *staged*, whose content has been proved, be served as *path* from now on."""
        descriptor = os.open(staged, os.O_RDWR)
        try:
            os.fchmod(descriptor, 0o644)
            with contextlib.suppress(FileNotFoundError):
                # What a web server tells readers of a file's version is made of its time, in seconds, and its size.
                before = os.stat(self.of(path)).st_mtime
                if os.fstat(descriptor).st_mtime < before + 1:
                    os.utime(descriptor, (before + 1, before + 1))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        parent = os.path.dirname(self.of(path))
        os.makedirs(parent, 0o755, exist_ok=True)
        os.replace(staged, self.of(path))
        sync_directory(parent)

    def write(self, path: str, content: bytes) -> bool:
        """Serve *content* as *path*, and say whether it was something else before."""
        with contextlib.suppress(OSError), open(self.of(path), "rb") as stream:
            if stream.read() == content:
                return False
        staged = os.path.join(self.staging, "written")
        with open(staged, "wb") as stream:
            stream.write(content)
        self.put(staged, path)
        return True

    def remove(self, paths: t.Iterable[str]) -> None:
        """Serve these no more."""
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.of(path))

    def served(self) -> set[str]:
        """All that is served."""
        return {
            os.path.relpath(os.path.join(directory, name), self.www)
            for directory, _folders, names in os.walk(self.www)
            for name in names
        }

    def remove_empty(self) -> None:
        """Remove directories in which nothing is left."""
        for directory, _folders, _names in os.walk(self.www, topdown=False):
            if directory != self.www:
                with contextlib.suppress(OSError):
                    os.rmdir(directory)

    def link_channel(self, channel: str, subdirs: t.Iterable[str], paths: t.Collection[str]) -> str:
        """A directory with all *paths* of *channel*, in which an index can be made, and the index of last time."""
        directory = os.path.join(self.indexing, channel)
        for subdir in subdirs:
            os.makedirs(os.path.join(directory, subdir), exist_ok=True)
        for folder, _folders, names in os.walk(directory):
            for name in names:
                path = os.path.relpath(os.path.join(folder, name), self.indexing)
                if not name.startswith("repodata") and path not in paths:
                    os.unlink(os.path.join(folder, name))
        for path in paths:
            link = os.path.join(self.indexing, path)
            if not os.path.lexists(link) or not os.path.samefile(link, self.of(path)):
                os.makedirs(os.path.dirname(link), exist_ok=True)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(link)
                os.link(self.of(path), link)
        return directory

    def keep_links(self, channels: t.Collection[str]) -> None:
        """Remove what link_channel() has made for others."""
        with contextlib.suppress(FileNotFoundError):
            for name in set(os.listdir(self.indexing)) - set(channels):
                remove_tree(os.path.join(self.indexing, name))

    def imported(self) -> list[File]:
        """What the archive had that was imported last."""
        return read_files(self._imported) if os.path.exists(self._imported) else []

    def keep_imported(self, files: t.Iterable[File]) -> None:
        """Note what an archive had."""
        write_file(self._imported, json.dumps({"files": [file.as_dict() for file in files]}, indent=1) + "\n")


class Known:
    """What the mirror has, and since when nobody wants it."""

    def __init__(self, tree: Tree) -> None:
        self._path = os.path.join(tree.directory, "state.json")
        self.files: dict[str, File] = {}
        self.wanted: dict[str, datetime.datetime] = {}  #: when each was wanted last
        self.indexes: dict[str, str] = {}  #: sha256 of each file of an index
        self.indexed: dict[str, str] = {}  #: what the index of each channel was made of
        try:
            with open(self._path, encoding="utf-8") as stream:
                content = json.load(stream)
            for entry in content["files"]:
                moment = datetime.datetime.fromisoformat(entry.pop("wanted"))
                self.files[entry["path"]] = File(**entry)
                self.wanted[entry["path"]] = moment
            self.indexes, self.indexed = dict(content["indexes"]), dict(content["indexed"])
        except FileNotFoundError:
            pass
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise MirrorError(
                f"{self._path} is damaged: {error}: remove it, and the next run finds out what is there"
            ) from error

    def want(self, file: File, now: datetime.datetime) -> None:
        """Note that *file* is there, and wanted."""
        self.files[file.path], self.wanted[file.path] = file, now

    def forget(self, path: str) -> None:
        """Note that it is gone."""
        self.files.pop(path, None)
        self.wanted.pop(path, None)

    def age_days(self, path: str, now: datetime.datetime) -> float:
        """For how long nobody has wanted it."""
        return (now - self.wanted[path]).total_seconds() / 86400

    def save(self) -> None:
        """Write it down."""
        files = [{**self.files[path].as_dict(), "wanted": stamp(self.wanted[path])} for path in sorted(self.files)]
        content = {"schema_version": 1, "files": files, "indexes": self.indexes, "indexed": self.indexed}
        write_file(self._path, json.dumps(content, indent=1) + "\n")


def stamp(moment: datetime.datetime) -> str:
    """In UTC."""
    return moment.astimezone(datetime.UTC).isoformat(timespec="seconds")


def simple_index(files: t.Iterable[File]) -> dict[str, bytes]:
    """The pages by which pip finds wheels (PEP 503), by path. A lock decides by sha256, so they tell no more."""
    projects: dict[str, list[File]] = {}
    for file in files:
        if file.place == WHEELS:
            projects.setdefault(Wheel.from_url(f"https://x/{file.name}", file.sha256).name, []).append(file)
    pages = {}
    if projects:
        pages[f"{WHEELS}/simple/index.html"] = _page((f"{name}/", name) for name in sorted(projects))
    for name, wheels in projects.items():
        links = (
            (f"../../files/{wheel.sha256}/{_quoted(wheel.name)}#sha256={wheel.sha256}", wheel.name)
            for wheel in sorted(wheels, key=lambda wheel: (wheel.name, wheel.sha256))
        )
        pages[f"{WHEELS}/simple/{name}/index.html"] = _page(links)
    return pages


def _quoted(name: str) -> str:
    return name.replace("+", "%2B")


def _page(links: t.Iterable[tuple[str, str]]) -> bytes:
    # All that can be in a name has been checked, and none of it means something in HTML.
    lines = "".join(f'<a href="{target}">{text}</a><br>\n' for target, text in links)
    return f"<!DOCTYPE html>\n<html><head><title>Simple index</title></head><body>\n{lines}</body></html>\n".encode()


def copy_into(tree: Tree, source: str, path: str) -> str:
    """Serve the content of the file *source* as *path*: its sha256."""
    staged = os.path.join(tree.staging, "copied")
    shutil.copyfile(source, staged)
    digest = digest_of(staged, "sha256")
    if not tree.sound({path: digest}):
        tree.put(staged, path)
    return digest
