# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node is told of its backups, as the role writes it down."""

from __future__ import annotations

import dataclasses
import json
import os
import typing as t

from .._conda.environments import Places
from .errors import BackupError
from .restic import Repository

#: How systemd hands over the password: see LoadCredential= in systemd.exec(5).
_CREDENTIAL = "password"


@dataclasses.dataclass(frozen=True)
class Config:
    """The content of the configuration file."""

    repository: str
    host: str  #: what this node is called in the repository
    directory: str  #: where a run keeps what it must remember, and where drills restore to
    envs_dir: str
    generations_dir: str
    shared: list[str]  #: names or patterns of shared environments
    users: list[str]  #: whose private environments are saved; "*" for all of /etc/passwd
    paths: list[str]  #: of other environments
    marker: str  #: a file that has a private environment saved, whosever it is
    keep: dict[str, int]
    prune: bool
    lock_timeout_seconds: float
    drill: str  #: all or random
    metrics_directory: str

    @classmethod
    def read(cls, path: str) -> Config:
        """The configuration at *path*.

        :raises BackupError: it cannot be read.
        """
        try:
            with open(path, encoding="utf-8") as stream:
                return cls(**json.load(stream))
        except (OSError, ValueError, TypeError) as error:
            raise BackupError(f"{path} cannot be used: {error}: run the role env_backup again") from error

    @property
    def places(self) -> Places:
        """Where shared environments are."""
        return Places(self.envs_dir, self.generations_dir)

    def under_systemd(self, cached: bool = True) -> Repository:
        """The repository, with what systemd hands over."""
        credentials = os.environ.get("CREDENTIALS_DIRECTORY")
        if not credentials:
            raise BackupError("start this as a unit of systemd, which hands over the password: systemctl start ...")
        return Repository(
            self.repository,
            os.path.join(credentials, _CREDENTIAL),
            variables=_for_restic(os.environ),
            cache=os.environ.get("CACHE_DIRECTORY", "") if cached else "",
            lock_timeout_seconds=self.lock_timeout_seconds,
        )


def _for_restic(variables: t.Mapping[str, str]) -> dict[str, str]:
    """What the site has set for restic, and for where its repository is."""
    ours = ("PATH", "HOME", "TMPDIR", "LC_ALL", "LANG", "SHELL", "USER", "LOGNAME", "INVOCATION_ID", "JOURNAL_STREAM")
    return {name: value for name, value in variables.items() if name not in ours}
