"""Channels: from what a user writes to URLs, and whether a channel may be used."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from .config import Config
from .errors import CondaError

SUBDIRS: tuple[Literal["linux-64"], Literal["noarch"]] = ("linux-64", "noarch")


@dataclass(frozen=True)
class Channel:
    """A channel by its URL, without the subdirectory."""

    base_url: str

    @classmethod
    def of_package(cls, record: Mapping[str, Any]) -> Channel:
        """The channel that an installed package came from."""
        url = str(record.get("url") or record.get("channel") or "")
        if url.endswith((".conda", ".tar.bz2")):
            url = url.rpartition("/")[0]
        return cls.of_url(url)

    @classmethod
    def of_url(cls, url: str) -> Channel:
        url = url.rstrip("/")
        head, _, last = url.rpartition("/")
        return cls(head if last in SUBDIRS else url)

    @property
    def scheme(self) -> str:
        return urlsplit(self.base_url).scheme

    @property
    def name(self) -> str:
        """The path on its server; the last part of it for files."""
        path = urlsplit(self.base_url).path.strip("/")
        return path.rpartition("/")[2] if self.scheme == "file" else path

    @property
    def location(self) -> str:
        parts = urlsplit(self.base_url)
        return os.path.dirname(parts.path) if self.scheme == "file" else parts.netloc

    def url(self, subdir: str) -> str:
        return f"{self.base_url}/{subdir}"

    def as_json(self) -> dict[str, Any]:
        fixed = {"package_filename": None, "platform": None, "scheme": self.scheme, "token": None}
        return {"auth": None, "location": self.location, "name": self.name} | fixed


def resolve(config: Config, names: Iterable[str]) -> list[Channel]:
    """The channels that the names stand for, each once."""
    found: dict[Channel, None] = {}
    for name in names:
        for url in _urls(config, name):
            found[Channel.of_url(url)] = None
    return list(found)


def _urls(config: Config, name: str) -> list[str]:
    if "://" in name:
        return [name]
    if name.startswith(("/", "./", "../", "~")):
        return [Path(os.path.abspath(os.path.expanduser(name))).as_uri()]
    multichannels = {"defaults": config.names("default_channels"), **config.table("custom_multichannels")}
    if name in multichannels:
        return [url for inner in multichannels[name] for url in _urls(config, inner)]
    alias = config.table("custom_channels").get(name, config.text("channel_alias"))
    return [f"{str(alias).rstrip('/')}/{name}"]


def in_use(config: Config, override: bool, cli_channels: Sequence[str]) -> list[Channel]:
    """The channels to solve with: of the command line and configured; the former alone with --override-channels.

    CondaError when policy forbids one of them.
    """
    if override:
        if not config.flag("override_channels_enabled"):
            raise CondaError("OperationNotAllowed", "Overriding channels has been disabled.")
        if not cli_channels:
            raise CondaError(
                "ArgumentError", "At least one -c / --channel flag must be supplied when using --override-channels."
            )
        names = list(cli_channels)
    else:
        # Where the channels are final, those of the command line are refused or without effect.
        check_policy(config, resolve(config, cli_channels))
        names = config.names("channels")
    channels = resolve(config, names)
    if not channels:
        raise CondaError("NoChannelsConfiguredError", "No channels are configured: add one to a condarc, or use -c.")
    check_policy(config, channels)
    return channels


def check_policy(config: Config, channels: Iterable[Channel]) -> None:
    """CondaError for a channel that is off the allow-list or on the deny-list."""
    allowed = resolve(config, config.names("allowlist_channels"))
    denied = resolve(config, config.names("denylist_channels"))
    for channel in channels:
        for wrong, name, what in (
            (bool(allowed) and channel not in allowed, "ChannelNotAllowed", "Channel not included in allowlist"),
            (channel in denied, "ChannelDenied", "Channel included in denylist"),
        ):
            if wrong:
                message = f"{what}:\n  channel name: {channel.name}\n  channel url: {channel.base_url}\n"
                details = {"channel_name": channel.name, "channel_url": channel.base_url, "warning": what}
                raise CondaError(name, message, **details)
