# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""What the role has written down for the program, checked."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import typing as t

from .windows import Window


class ScheduleError(Exception):
    """Why a run cannot go on, for a person."""


@dataclasses.dataclass(frozen=True)
class Git:
    """Where the inventory comes from, when it is a checkout."""

    url: str
    ref: str
    inventory: str  #: the path in the checkout

    def __post_init__(self) -> None:
        if not self.url or self.url.startswith("-") or re.match(r"\w+://[^/@]*:[^/@]*@", self.url):
            raise ScheduleError("git.url: name a repository, without a password in its URL")
        if not self.ref or self.ref.startswith("-"):
            raise ScheduleError("git.ref: name a branch, a tag or a commit")
        if os.path.isabs(self.inventory) or ".." in self.inventory.split("/"):
            raise ScheduleError("git.inventory: name a path in the checkout")


@dataclasses.dataclass(frozen=True)
class Config:
    """One schedule."""

    directory: str  #: for all that runs leave
    hosts: str  #: the group or pattern that is examined
    node: str = ""  #: in pull mode, the name of this node in the inventory
    inventory: str = ""  #: a path
    git: Git | None = None  #: or a checkout
    ansible_config: str = ""  #: used where the checkout has none
    extra_vars_file: str = ""
    correct: bool = True
    windows: tuple[Window, ...] = ()  #: when to correct; none: at any time
    max_nodes: str = "10%"
    report_url: str = ""
    metrics_directory: str = ""
    keep_runs: int = 100
    notify_command: tuple[str, ...] = ()
    audit_syslog: str = ""  #: who is told of changes besides the log and journald, as the callback audit takes it
    check_playbook: str = "envfleet.gpu_cluster.check"
    site_playbook: str = "envfleet.gpu_cluster.site"

    def __post_init__(self) -> None:
        if bool(self.inventory) == bool(self.git):
            raise ScheduleError("inventory, git: give one of them")
        if not re.fullmatch(r"[1-9]\d*|([1-9]\d?|100)%", self.max_nodes):
            raise ScheduleError(f"max_nodes: {self.max_nodes} is neither a number of nodes, as 5, nor a share, as 10%")
        if self.report_url and not re.match(r"https?://", self.report_url):
            raise ScheduleError(f"report_url: {self.report_url} is no http or https URL")

    @classmethod
    def read(cls, path: str) -> Config:
        """Read it.

        :raises ScheduleError: the file is not there, or not what the role writes.
        """
        try:
            with open(path, encoding="utf-8") as stream:
                return cls.of(json.load(stream))
        except OSError as error:
            raise ScheduleError(f"{path} cannot be read: {error.strerror}: run the role drift_schedule") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ScheduleError(f"{path} is not as the role drift_schedule writes it: {error}") from error
        except ScheduleError as error:
            raise ScheduleError(f"{path}: {error}") from error

    @classmethod
    def of(cls, content: t.Mapping[str, t.Any]) -> Config:
        """From the keys of the file.

        :raises ScheduleError, ValueError, TypeError, KeyError, AttributeError: it has other keys or values.
        """
        git = content.get("git")
        return cls(
            **{
                **content,
                "git": Git(**git) if git else None,
                "windows": tuple(Window.of(window) for window in content.get("windows", ())),
                "max_nodes": str(content.get("max_nodes", cls.max_nodes)),
                "keep_runs": max(1, int(content.get("keep_runs", cls.keep_runs))),
                "notify_command": tuple(content.get("notify_command", ())),
            }
        )


def credential(name: str) -> str:
    """The path of what systemd hands over under *name*, or an empty string."""
    path = os.path.join(os.environ.get("CREDENTIALS_DIRECTORY", "/nonexistent"), name)
    return path if os.path.exists(path) else ""
