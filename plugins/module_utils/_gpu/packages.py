# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What repositories offer: packages with their versions and dependencies, as apt-cache and dnf repoquery print them."""

from __future__ import annotations

import functools
import re
import typing as t

from .versions import upstream

#: What `dnf repoquery` is to print of each package.
RPM_FORMAT = "%{name}|%{epoch}:%{version}-%{release}|%{arch}\n"
#: The names, or what they begin with, that belong to NVIDIA's driver in some repository.
_OURS = re.compile(
    r"(nvidia|libnvidia|libcuda|cuda-drivers|cuda-compat|firmware-nvidia|linux-modules-nvidia|kmod-nvidia|xserver-xorg-video-nvidia)"
)
_RELATION = re.compile(r"(?P<name>[a-z0-9][a-z0-9+.-]*)(:[a-z0-9]+)?\s*(\((?P<sign>[<>=]+)\s*(?P<version>[^)]+)\))?")
_TESTS: dict[str, t.Callable[[int], bool]] = {
    "=": lambda order: order == 0,
    ">=": lambda order: order >= 0,
    "<=": lambda order: order <= 0,
    ">>": lambda order: order > 0,
    "<<": lambda order: order < 0,
}


class Relation(t.NamedTuple):
    """A name, perhaps with a condition on its version."""

    name: str
    sign: str = ""
    version: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.sign} {self.version})" if self.sign else self.name

    def allows(self, version: str) -> bool:
        """Whether *version* meets the condition."""
        return not self.sign or _TESTS[self.sign](compared(version, self.version))


class Package(t.NamedTuple):
    """A package that can be installed."""

    name: str
    version: str
    depends: tuple[tuple[Relation, ...], ...] = ()  #: of each group, one relation must hold
    provides: tuple[Relation, ...] = ()

    @property
    def driver(self) -> str:
        """The version of the driver that it was made from, as far as its own version tells."""
        return upstream(self.version)

    def satisfies(self, wanted: Relation) -> bool:
        """Whether having this package is what *wanted* asks for."""
        if self.name == wanted.name and wanted.allows(self.version):
            return True
        return any(
            one.name == wanted.name and (not wanted.sign or (bool(one.version) and wanted.allows(one.version)))
            for one in self.provides
        )


def is_driver(name: str) -> bool:
    """Whether a package of this name belongs to NVIDIA's driver, so that only its repository can have it."""
    return bool(_OURS.match(name))


def compared(one: str, other: str) -> int:
    """Less than 0, 0, or more, as dpkg orders versions. rpm orders the versions of drivers the same way."""
    left, right = _key(one), _key(other)
    return (left > right) - (left < right)


@functools.lru_cache(maxsize=4096)
def _key(version: str) -> tuple[t.Any, ...]:
    epoch, _colon, rest = version.rpartition(":")
    number, _dash, revision = rest.rpartition("-") if "-" in rest else (rest, "", "")
    return int(epoch or 0), _parts(number), _parts(revision)


def _parts(text: str) -> tuple[tuple[tuple[int, ...], int], ...]:
    """Text and numbers in turn. A tilde comes before the end, the end before letters, and those before the rest."""
    return tuple(
        ((*(-1 if one == "~" else ord(one) + 256 * (not one.isalpha()) for one in letters), 0), int(digits or 0))
        for letters, digits in re.findall(r"(\D*)(\d*)", text)
    )


def newest(packages: t.Iterable[Package]) -> list[Package]:
    """The newest first."""
    return sorted(packages, key=lambda package: _key(package.version), reverse=True)


def parse_apt(text: str, machine: str) -> list[Package]:
    """The packages of `apt-cache show` that a node of this architecture (x86_64, aarch64) installs."""
    architectures = ("all", {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine))
    packages = {}
    for stanza in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", stanza, re.MULTILINE))
        if "Package" not in fields or fields.get("Architecture", "all") not in architectures:
            continue
        package = Package(
            fields["Package"],
            fields["Version"],
            relations(", ".join(fields[name] for name in ("Pre-Depends", "Depends") if fields.get(name))),
            tuple(group[0] for group in relations(fields.get("Provides", ""))),
        )
        packages[package.name, package.version] = package
    return list(packages.values())


def relations(text: str) -> tuple[tuple[Relation, ...], ...]:
    """The groups of alternatives in a field such as Depends."""
    groups = []
    for group in filter(None, (one.strip() for one in text.split(","))):
        found = [_RELATION.match(one.strip()) for one in group.split("|")]
        groups.append(tuple(Relation(one["name"], one["sign"] or "", one["version"] or "") for one in found if one))
    return tuple(groups)


def parse_rpm(text: str, machine: str) -> list[Package]:
    """The packages of `dnf repoquery` with RPM_FORMAT that a node of this architecture installs."""
    packages = []
    for line in text.splitlines():
        name, _bar, rest = line.partition("|")
        version, _bar, architecture = rest.partition("|")
        if architecture in (machine, "noarch"):
            packages.append(Package(name, version.removeprefix("0:")))
    return packages


def from_mapping(fields: t.Mapping[str, str]) -> Package:
    """A package given as name, version, depends and provides. KeyError where name or version is missing."""
    provides = tuple(group[0] for group in relations(fields.get("provides") or ""))
    return Package(fields["name"], fields["version"], relations(fields.get("depends") or ""), provides)
