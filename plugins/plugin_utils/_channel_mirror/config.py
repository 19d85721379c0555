# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""What the role has written down for the program, checked; and what a file of the mirror is."""

from __future__ import annotations

import dataclasses
import json
import re
import typing as t
import urllib.parse

_NAME = r"[A-Za-z0-9_][A-Za-z0-9._+!~=-]*"
#: Names that stand for something else below the mirror's URL.
WHEELS, FILES = "pypi", "files"
CHANNEL_NAME = re.compile(rf"(?!(?:{WHEELS}|{FILES})$)[A-Za-z0-9_-][A-Za-z0-9._-]*")
SUBDIR = re.compile(r"noarch|[a-z]+-[a-z0-9_]+")
_PATH = re.compile(
    rf"{WHEELS}/files/(?P<wheel>[0-9a-f]{{64}})/{_NAME}\.whl"
    rf"|{FILES}/{_NAME}"
    rf"|(?!(?:{WHEELS}|{FILES})/)[A-Za-z0-9_-][A-Za-z0-9._-]*/(?:{SUBDIR.pattern})/{_NAME}(?:\.conda|\.tar\.bz2)"
)


class MirrorError(Exception):
    """Why a run cannot go on, for a person."""


@dataclasses.dataclass(frozen=True)
class File:
    """One file that the mirror is to have: a conda package, a wheel, or something else that has a hash."""

    path: str  #: below the mirror's URL
    sha256: str
    url: str  #: where it comes from
    size: int = -1  #: -1: not known yet

    def __post_init__(self) -> None:
        found = _PATH.fullmatch(self.path)
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise MirrorError(f"{self.path}: {self.sha256!r} is no sha256")
        if not found or (found["wheel"] or self.sha256) != self.sha256:
            raise MirrorError(f"{self.path!r} is no place for a file of a mirror")
        if not re.fullmatch(r"https?://[^\s/]+/\S+", self.url):
            raise MirrorError(f"{self.path}: {self.url!r} is no http or https URL of a file")

    @property
    def place(self) -> str:
        """The channel that it is in, or one of WHEELS and FILES."""
        return self.path.partition("/")[0]

    @property
    def name(self) -> str:
        """What the file is called."""
        return self.path.rpartition("/")[2]

    def as_dict(self) -> dict[str, t.Any]:
        """For JSON."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value != -1}


@dataclasses.dataclass(frozen=True)
class Channel:
    """A channel that packages are taken from."""

    name: str  #: below the mirror's URL
    url: str  #: upstream
    specs: tuple[str, ...] = ()  #: all packages that match these are mirrored, besides those of locks
    dependencies: bool = False  #: and all that match what those depend on, and so on
    repodata_patches: str = ""  #: the package with the channel's corrections of its index

    def __post_init__(self) -> None:
        if not CHANNEL_NAME.fullmatch(self.name):
            raise MirrorError(
                f"channel_mirror_channels: {self.name!r} is no name for a channel here: use letters, digits and ._-"
            )
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise MirrorError(
                f"channel_mirror_channels: {self.name}: give the http or https URL of the channel, without a password"
            )
        if not re.fullmatch(rf"({_NAME})?", self.repodata_patches):
            raise MirrorError(f"channel_mirror_channels: {self.name}: repodata_patches: give the name of a package")

    @classmethod
    def of(cls, content: t.Mapping[str, t.Any]) -> Channel:
        """From the options of the role.

        :raises MirrorError, TypeError, KeyError: it has others.
        """
        return cls(
            **{
                **content,
                "url": str(content["url"]).rstrip("/"),
                "specs": tuple(map(str, content.get("specs") or ())),
                "dependencies": bool(content.get("dependencies", False)),
                "repodata_patches": str(content.get("repodata_patches") or ""),
            }
        )


@dataclasses.dataclass(frozen=True)
class Config:
    """One mirror."""

    directory: str  #: for all that it has; what is served is in www below it
    url: str  #: what nodes call it
    channels: tuple[Channel, ...]
    platforms: tuple[str, ...]
    selection: str  #: the file that lists what locks need
    keep_days: float = 30
    min_free_mb: int = 1024

    @property
    def subdirs(self) -> tuple[str, ...]:
        """What each channel has."""
        return tuple(dict.fromkeys((*self.platforms, "noarch")))

    @classmethod
    def read(cls, path: str) -> Config:
        """Read it.

        :raises MirrorError: the file is not there, or not what the role writes.
        """
        try:
            content = _read(path)
            return cls(
                **{
                    **content,
                    "channels": tuple(map(Channel.of, content["channels"])),
                    "platforms": tuple(map(str, content["platforms"])),
                }
            )
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise MirrorError(f"{path} is not as the role channel_mirror writes it: {error}") from error
        except MirrorError as error:
            raise MirrorError(f"{path}: {error}") from error

    def selected(self) -> list[File]:
        """What locks need.

        :raises MirrorError: the file is not there, or not what the role writes.
        """
        return read_files(self.selection)


def read_files(path: str) -> list[File]:
    """The files that the JSON at *path* lists.

    :raises MirrorError: it is not there, or lists something else.
    """
    try:
        return [File(**entry) for entry in _read(path)["files"]]
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise MirrorError(f"{path} is no list of files of a mirror: {error}") from error


def _read(path: str) -> t.Any:
    try:
        with open(path, encoding="utf-8") as stream:
            return json.load(stream)
    except OSError as error:
        raise MirrorError(f"{path} cannot be read: {error.strerror}: run the role channel_mirror") from error
