# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who may use a generation, as its identity tells."""

from __future__ import annotations

import dataclasses
import grp
import hashlib
import os
import pwd
import re
import stat

from .errors import CondaError
from .problems import Problem

_DIGITS = re.compile(r"0[0-7]{3}")
_ACCESS = re.compile(r"(?:@(?P<owner>.*):(?P<group>.*) (?P<mode>0[0-7]{3}) (?P<umask>0[0-7]{3}))?")


@dataclasses.dataclass(frozen=True)
class Access:
    """Who may use a generation, and whose it is. Nobody but its owner can ever write to it."""

    owner: str = ""  #: a user of the node; empty: who installs
    group: str = ""  #: a group of the node; empty: that of who installs
    mode: str = ""  #: of the top directory, as four octal digits; empty: what the umask leaves
    umask: str = "0022"  #: what is taken from the modes of all files, as four octal digits

    def __post_init__(self) -> None:
        """Refuse what would let others than the owner write.

        :raises CondaError: naming the option at fault.
        """
        for option, account in (("owner", self.owner), ("group", self.group)):
            if re.search(r"[\s:@]", account):
                raise CondaError(f"{option}: {account!r} is no name of an account")
        for option, value in (("umask", self.umask), ("mode", self.mode or "0755")):
            if not _DIGITS.fullmatch(value):
                raise CondaError(f'{option}: {value!r} is no mode: write four octal digits in quotes, as "0750"')
        if int(self.umask, 8) & 0o722 != 0o022:
            raise CondaError(f"umask: {self.umask} must take the right to write from group and others, as 0022 or 0027")
        if self.top & 0o722 != 0o700:
            raise CondaError(f"mode: {self.mode} must let the owner do everything and others change nothing, as 0750")

    @property
    def top(self) -> int:
        """The mode of the top directory."""
        return int(self.mode, 8) if self.mode else 0o755 & ~int(self.umask, 8)

    @property
    def suffix(self) -> str:
        """What an identity has behind that of the lock; nothing where all may use the generation, as usual."""
        if not (self.owner or self.group) and (self.top, self.umask) == (0o755, "0022"):
            return ""
        return f"@{self.owner}:{self.group} {self.top:04o} {self.umask}"

    def text(self) -> str:
        """For a person."""
        told = {"owner": self.owner, "group": self.group, "mode": f"{self.top:04o}", "umask": self.umask}
        return ", ".join(f"{key} {value}" for key, value in told.items() if value)

    @classmethod
    def of(cls, identity: str) -> Access:
        """What *identity* was made with.

        :raises CondaError: it is no identity.
        """
        match = _ACCESS.fullmatch(identity[len(lock_identity(identity)) :])
        if match is None:
            raise CondaError(f"{identity!r} is no identity of a generation")
        return cls(*match.groups()) if match["mode"] else cls()

    def accounts(self) -> tuple[int, int]:
        """The numbers of owner and group on this node.

        :raises CondaError: the node has no such account, or only root could give a generation to it.
        """
        mine = uid, gid = os.geteuid(), os.getegid()
        try:
            if self.owner:
                uid = pwd.getpwnam(self.owner).pw_uid
        except KeyError:
            raise CondaError(f"owner: this node has no user {self.owner}: correct the name, or make the user") from None
        try:
            if self.group:
                gid = grp.getgrnam(self.group).gr_gid
        except KeyError:
            raise CondaError(f"group: this node has no group {self.group}: correct the name, or make it") from None
        if mine[0] != 0 and (uid, gid) != mine:
            raise CondaError("owner, group: only root can give a generation to another: run with become")
        return uid, gid

    def cache_below(self, cache: str) -> str:
        """The package cache to build from, made if need be.

        What is built is made of hard links into it, which have one owner and one mode. So where not everybody may use a
        generation, it has a cache of its own, below one that nobody else can enter.
        """
        if not self.suffix:
            return cache
        restricted = os.path.join(cache, ".restricted")
        os.makedirs(restricted, mode=0o700, exist_ok=True)
        own = os.path.join(restricted, hashlib.sha256(self.suffix.encode("utf-8")).hexdigest()[:12])
        os.makedirs(own, exist_ok=True)
        return own

    def lets_in(self, who: str) -> bool:
        """Can *who*, "group" or "others", use what is in a generation?"""
        shift = {"group": 3, "others": 0}[who]
        return (self.top & ~int(self.umask, 8)) >> shift & 0o5 == 0o5

    def compare(self, prefix: str) -> list[Problem]:
        """What is different at the top directory of *prefix*, which is in no listing of what it holds."""
        found, inside = os.lstat(prefix), os.lstat(os.path.join(prefix, "conda-meta"))
        expected = f"{self.top:04o} {inside.st_uid}:{inside.st_gid}"
        actual = f"{stat.S_IMODE(found.st_mode):04o} {found.st_uid}:{found.st_gid}"
        if actual == expected:
            return []
        return [Problem("changed", prefix, f"directory of the generation: expected {expected}, found {actual}")]


def lock_identity(identity: str) -> str:
    """The part of a generation's *identity* that stands for its lock."""
    return identity.partition("@")[0]
