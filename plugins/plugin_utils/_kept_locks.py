# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""Locks of environments that have none of their own, but only a spec: solved once, and kept on the control node.

All nodes and later runs find the lock of the first by a hash over all that it was made from, so they install the same.
Where the spec has changed, the packages of the lock that was kept last stay as far as the new spec lets them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import re
import typing as t

from ..module_utils._conda.errors import CondaError
from ..module_utils._conda.files import write_file
from ..module_utils._conda.locks import Lock
from ._locking import content_hash, make_lock
from ._solving import Options
from ._specs import Spec

_SUFFIX = ".conda-lock.yml"


@dataclasses.dataclass(frozen=True)
class KeptLocks:
    """A directory of such locks."""

    directory: str

    def of(self, name: str, spec: Spec, options: Options) -> str:
        """The lock file of environment *name*, which is there only if it has been solved.

        :raises CondaError: the spec or an option is not well written.
        """
        platforms = sorted(set(options.platforms or spec.platforms or ("linux-64",)))
        content = json.dumps([[platform, content_hash(spec, options, platform)] for platform in platforms])
        return os.path.join(self.directory, f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:12]}{_SUFFIX}")

    def solved(self, name: str, spec: Spec, options: Options) -> t.Mapping[str, Lock]:
        """What the lock would have, by platform. Nothing is written.

        :raises CondaError: it cannot be solved.
        """
        return make_lock(spec, options, self._previous(name)).locks

    def keep(self, name: str, spec: Spec, options: Options) -> None:
        """Solve, unless another process has done so by now, and write the lock.

        :raises CondaError: it cannot be solved or written.
        """
        path = self.of(name, spec, options)
        with self._alone(name):
            if not os.path.exists(path):
                sources = [os.path.relpath(spec.source, self.directory)] if spec.directory else []
                text = make_lock(spec, options, self._previous(name), sources=sources).text
                try:
                    write_file(path, text)
                except OSError as error:
                    raise self._unwritable(error) from error

    def _previous(self, name: str) -> str:
        """The text of the lock that was kept last, or an empty string."""
        pattern = re.compile(rf"{re.escape(name)}-[0-9a-f]{{12}}{re.escape(_SUFFIX)}")
        try:
            kept = [
                os.path.join(self.directory, file) for file in os.listdir(self.directory) if pattern.fullmatch(file)
            ]
            if not kept:
                return ""
            with open(max(kept, key=os.path.getmtime), encoding="utf-8") as stream:
                return stream.read()
        except FileNotFoundError:
            return ""
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise CondaError(f"the locks kept in {self.directory} cannot be read: {reason}") from error

    @contextlib.contextmanager
    def _alone(self, name: str) -> t.Iterator[None]:
        """Make the others wait: Ansible has a process for each node."""
        try:
            os.makedirs(self.directory, exist_ok=True)
            descriptor = os.open(os.path.join(self.directory, f".{name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _unwritable(self, error: OSError) -> CondaError:
        return CondaError(
            f"the lock cannot be kept in {self.directory}: {error.strerror}: let this user write there, or make a lock "
            "with lock.yml and name it"
        )
