# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""The site's repository: each commit in a directory of its own, and a link to the last good one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import typing as t

from ...module_utils._conda.files import remove_tree, replace_link, sync_directory
from .config import Git, ScheduleError

#: How long git may take for one command, in seconds.
_TIMEOUT = 600.0


class Checkout:
    """A repository in *directory*, which no other run is at work in."""

    def __init__(self, directory: str, git: Git, environment: t.Mapping[str, str]) -> None:
        self._directory = directory
        self._git = git
        self._environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8", **environment}
        self._repository = os.path.join(directory, "repository.git")
        self.path = os.path.join(directory, "current")  #: the link to the last good one

    @property
    def commit(self) -> str:
        """What the link leads to."""
        try:
            return os.path.basename(os.readlink(self.path))
        except FileNotFoundError:
            return ""

    def update(self) -> str:
        """Bring it up to date.

        :returns: why it is not, when an older commit is used instead.
        :raises ScheduleError: there is no older one.
        """
        os.makedirs(self._directory, exist_ok=True)
        try:
            try:
                self._follow()
            except ScheduleError:
                if self._is_sound():
                    raise
                remove_tree(self._repository)
                self._follow()
        except ScheduleError as error:
            if not os.path.isdir(self.path):
                raise
            return str(error)
        self._remove_others()
        return ""

    def _follow(self) -> None:
        commit = self._fetch()
        if commit != self.commit:
            self._switch(commit)

    def _is_sound(self) -> bool:
        """Whether git can read all that is in the repository. One that lost something would fail for good."""
        try:
            self._run("-C", self._repository, "fsck", "--full", "--no-dangling", "--no-progress")
        except ScheduleError:
            return False
        return True

    def _fetch(self) -> str:
        if not os.path.exists(os.path.join(self._repository, "HEAD")):
            remove_tree(self._repository)
            self._run("init", "--quiet", "--bare", self._repository)
        self._remove_locks()
        self._run("-C", self._repository, "fetch", "--quiet", "--no-tags", "--", self._git.url, self._git.ref)
        commit = self._run("-C", self._repository, "rev-parse", "--verify", "--quiet", "FETCH_HEAD^{commit}").strip()
        # So that the next fetch need not bring it all again.
        self._run("-C", self._repository, "update-ref", "refs/heads/fetched", commit)
        return commit

    def _switch(self, commit: str) -> None:
        made = os.path.join(self._directory, f".{commit}")
        place = os.path.join(self._directory, commit)
        for path in (made, f"{made}.index", place):
            remove_tree(path)
        os.mkdir(made)
        arguments = (f"--git-dir={self._repository}", f"--work-tree={made}", "checkout", "--force", "--quiet", commit)
        try:
            self._run(*arguments, "--", ".", GIT_INDEX_FILE=f"{made}.index")
            _sync(made)
            os.rename(made, place)
        finally:
            for path in (made, f"{made}.index"):
                remove_tree(path)
        replace_link(self.path, commit)

    def _remove_others(self) -> None:
        for name in os.listdir(self._directory):
            if name not in ("repository.git", "current", self.commit):
                remove_tree(os.path.join(self._directory, name))

    def _remove_locks(self) -> None:
        """A killed git leaves them, and would never go on by itself."""
        for directory, _folders, files in os.walk(self._repository):
            for name in files:
                if name.endswith(".lock"):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(os.path.join(directory, name))

    def _run(self, *arguments: str, **environment: str) -> str:
        settings = ("gc.autoDetach=false", "core.hooksPath=/dev/null", "core.fsync=all")
        command = ["git", *(word for setting in settings for word in ("-c", setting)), *arguments]
        try:
            done = subprocess.run(
                command,
                env={**self._environment, **environment},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=_TIMEOUT,
                check=False,
            )
        except FileNotFoundError as error:
            raise ScheduleError("git is not installed") from error
        except subprocess.TimeoutExpired as error:
            raise ScheduleError(f"git did not end within {_TIMEOUT:g} s") from error
        if done.returncode:
            raise ScheduleError(f"git failed: {done.stderr.strip()[-500:] or f'exit status {done.returncode}'}")
        return done.stdout


def _sync(directory: str) -> None:
    """Make all files in *directory* survive a power loss, which git does for its own files alone."""
    for path, _folders, names in os.walk(directory):
        for name in names:
            if not os.path.islink(os.path.join(path, name)):
                descriptor = os.open(os.path.join(path, name), os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        sync_directory(path)
