# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Locks: exactly which packages, by hash, for which platform.

Reads @EXPLICIT lists (CEP 23), conda-lock files of version 1 (CEP 37), and pixi.lock of versions 6 and 7.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import typing as t
import urllib.parse

from .errors import CondaError, shown

_ARCHIVES = (".conda", ".tar.bz2")
_ANCHOR = re.compile(r"(?:sha256:)?(?P<sha256>[0-9a-f]{64})|(?:md5:)?(?P<md5>[0-9a-f]{32})")
_DIGITS = {"sha256": 64, "md5": 32}
_PIXI_VERSIONS = (6, 7)
VARIABLE_KEY = "envfleet.variables."  #: begins the keys of custom_metadata that stand for variables
_PIXI_KINDS = frozenset(("conda", "conda_source", "pypi"))
_PIP_MANAGERS = frozenset(("pip", "pypi"))
_WHEEL = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._]*[A-Za-z0-9])?)-(?P<version>[A-Za-z0-9_.!+]+)(?:-\d[A-Za-z0-9_.]*)?"
    r"-(?P<python>[A-Za-z0-9_.]+)-(?P<abi>[A-Za-z0-9_.]+)-(?P<platform>[A-Za-z0-9_.]+)\.whl"
)
#: What the platform tag of a wheel with compiled code looks like on each platform.
_WHEEL_PLATFORMS = {
    "linux-64": r"(?:many)?linux\w*_x86_64",
    "linux-aarch64": r"(?:many)?linux\w*_aarch64",
    "linux-ppc64le": r"(?:many)?linux\w*_ppc64le",
    "osx-64": r"macosx_\w+_(?:x86_64|universal2?|intel|fat\w*)",
    "osx-arm64": r"macosx_\w+_(?:arm64|universal2)",
    "win-64": r"win_amd64",
    "win-arm64": r"win_arm64",
}


@dataclasses.dataclass(frozen=True)
class Package:
    """One conda package of a lock."""

    name: str
    version: str
    build: str
    subdir: str
    url: str
    sha256: str = ""
    md5: str = ""

    @property
    def label(self) -> str:
        """Name, version and build, as people write them."""
        return f"{self.name} {self.version} {self.build}"

    @property
    def record_name(self) -> str:
        """The file in conda-meta that tells of this package."""
        return f"{self.name}-{self.version}-{self.build}.json"

    @property
    def file_name(self) -> str:
        """The archive's name in its channel."""
        return self.url.rsplit("/", 1)[-1]

    @property
    def channel(self) -> str:
        """The URL of the channel the archive comes from."""
        return self.url.rsplit("/", 2)[0]

    @property
    def key(self) -> tuple[str, ...]:
        """What makes it this package wherever it was fetched from: a mirror changes the URL and nothing else."""
        return (self.name, self.version, self.build, self.subdir, self.sha256 or self.md5)

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_url(cls, url: str, sha256: str = "", md5: str = "") -> Package:
        """The package whose archive is at *url*: the name of the file says the rest.

        :raises CondaError: *url* is not that of a conda package.
        """
        parts = url.rsplit("/", 2)
        extension = next((suffix for suffix in _ARCHIVES if url.endswith(suffix)), None)
        if len(parts) != 3 or extension is None or "://" not in url or " " in url or not url.isprintable():
            raise CondaError(f"{shown(url, 200)} is no URL of a conda package")
        fields = parts[2][: -len(extension)].rsplit("-", 2)
        if len(fields) != 3 or not all(fields):
            raise CondaError(
                f"{shown(url, 200)} is no URL of a conda package: its file is not called NAME-VERSION-BUILD{extension}"
            )
        return cls(fields[0], fields[1], fields[2], parts[1], url, sha256, md5)


@dataclasses.dataclass(frozen=True)
class Wheel:
    """One pip package of a lock. There are no others: a source archive would be built anew on every node."""

    name: str  #: normalized as PEP 503 says
    version: str
    url: str
    sha256: str

    @property
    def label(self) -> str:
        """Name, version and where it is from, as people write them."""
        return f"{self.name} {self.version} pypi"

    @property
    def file_name(self) -> str:
        """The archive's name in its index."""
        return urllib.parse.unquote(self.url.partition("#")[0].rsplit("/", 1)[-1])

    @property
    def key(self) -> tuple[str, ...]:
        """What makes it this wheel wherever it was fetched from."""
        return (self.name, self.version, self.sha256)

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_url(cls, url: str, sha256: str) -> Wheel:
        """The wheel that is at *url*: the name of the file says the rest.

        :raises CondaError: *url* is not that of a wheel that a node can fetch.
        """
        url = url.partition("#")[0]
        fields = _WHEEL.fullmatch(urllib.parse.unquote(url.rsplit("/", 1)[-1]))
        if fields is None or not re.fullmatch(r"(?:https?://[^\s/]+|file://)/\S+", url):
            raise CondaError(f"{shown(url, 200)} is no http, https or file URL of a wheel")
        return cls(normalized(fields["name"]), fields["version"], url, sha256)

    def fits(self, platform: str, python: str) -> bool:
        """May it run on *platform* with CPython of version *python*? No is certain; of yes, pip knows more."""
        fields = _WHEEL.fullmatch(self.file_name)
        if fields is None:
            return False
        place = _WHEEL_PLATFORMS.get(platform, r"\w+")
        return any(re.fullmatch(f"any|{place}", tag) for tag in fields["platform"].split(".")) and any(
            _runs(tag, fields["abi"].split("."), python) for tag in fields["python"].split(".")
        )


def _runs(tag: str, abis: t.Sequence[str], python: str) -> bool:
    """Does CPython of version *python* take a wheel with the Python tag *tag* and one of *abis*?"""
    major, minor = (int(number) if number.isdigit() else 0 for number in f"{python}.0".split(".")[:2])
    match = re.fullmatch(r"(py|cp)(\d)(\d*)", tag)
    if match is None or int(match[2]) != major:
        return False
    same, older = match[3] in ("", str(minor)), int(match[3] or 0) <= minor
    if match[1] == "py":
        return older and "none" in abis
    return same or (older and "abi3" in abis)


def normalized(name: str) -> str:
    """The one way to write the name of a pip package, as PEP 503 says."""
    return re.sub(r"[-_.]+", "-", name).lower()


def comparable(version: str) -> str:
    """One spelling for all versions of a pip package that are equal as PEP 440 says; others are as they are."""
    text = version.strip().lower()
    match = _VERSION.fullmatch(text)
    if match is None:
        return text
    release = [int(number) for number in match["release"].split(".")]
    while len(release) > 1 and release[-1] == 0:
        release.pop()
    told = f"{int(match['epoch'] or 0)}!" + ".".join(map(str, release))
    if match["pre"]:
        told += f"{_PHASES.get(match['phase'], match['phase'])}{int(match['pre_number'] or 0)}"
    if match["post"]:
        told += f".post{int(match['post_number'] or match['post_bare'] or 0)}"
    if match["dev"]:
        told += f".dev{int(match['dev_number'] or 0)}"
    local = re.split(r"[-_.]", match["local"] or "")
    return f"{told}+" + ".".join(str(int(part)) if part.isdigit() else part for part in local)


_VERSION = re.compile(
    r"v?(?:(?P<epoch>\d+)!)?(?P<release>\d+(?:\.\d+)*)"
    r"(?P<pre>[-_.]?(?P<phase>alpha|a|beta|b|preview|pre|c|rc)[-_.]?(?P<pre_number>\d*))?"
    r"(?P<post>-(?P<post_bare>\d+)|[-_.]?(?:post|rev|r)[-_.]?(?P<post_number>\d*))?"
    r"(?P<dev>[-_.]?dev[-_.]?(?P<dev_number>\d*))?"
    r"(?:\+(?P<local>[a-z0-9]+(?:[-_.][a-z0-9]+)*))?",
    re.ASCII,
)
_PHASES = {"alpha": "a", "beta": "b", "c": "rc", "pre": "rc", "preview": "rc"}


@dataclasses.dataclass(frozen=True)
class Lock:
    """What one environment has on one platform."""

    platform: str
    packages: tuple[Package, ...]
    wheels: tuple[Wheel, ...] = ()  #: installed after the packages, without looking at what they depend on
    variables: tuple[tuple[str, str], ...] = ()  #: that activation sets, sorted by name
    #: What packages demand of the driver: label, and what stands behind __cuda. It is no part of what is installed.
    cuda: tuple[tuple[str, str], ...] = dataclasses.field(default=(), compare=False)

    @property
    def identity(self) -> str:
        """sha256 over what is installed, not over how the file is written: the same set has the same identity."""
        content: list[t.Any] = [self.platform, sorted(package.key for package in self.packages)]
        if self.wheels or self.variables:
            content += [sorted(wheel.key for wheel in self.wheels), sorted(self.variables)]
        return hashlib.sha256(json.dumps(content).encode("utf-8")).hexdigest()

    @property
    def labels(self) -> dict[str, str]:
        """Label of each package by name. A wheel may have the name of a conda package, so its own has a mark."""
        labels = {package.name: package.label for package in self.packages}
        return {**labels, **{f"pypi:{wheel.name}": wheel.label for wheel in self.wheels}}

    def as_dict(self) -> dict[str, t.Any]:
        """For JSON."""
        return {
            "platform": self.platform,
            "packages": [package.as_dict() for package in self.packages],
            "wheels": [wheel.as_dict() for wheel in self.wheels],
            "variables": dict(self.variables),
        }

    @classmethod
    def from_dict(cls, content: t.Mapping[str, t.Any]) -> Lock:
        """What as_dict() gave."""
        return cls(
            content["platform"],
            tuple(Package(**package) for package in content["packages"]),
            tuple(Wheel(**wheel) for wheel in content["wheels"]),
            tuple(sorted(content["variables"].items())),
        )


def from_explicit(text: str, source: str) -> dict[str, Lock]:
    """Read an @EXPLICIT list; *source* is its path, for messages.

    :raises CondaError: a line is no URL of a package, or has no hash.
    """
    packages = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith(("#", "@")):
            continue
        url, _hash, anchor = line.partition("#")
        match = _ANCHOR.fullmatch(anchor)
        if match is None:
            raise CondaError(
                f"{source}, line {number}: {url if url.isprintable() and len(url) < 300 else shown(url)} has no hash: "
                "write the list with hashes (conda list --explicit --sha256)"
            )
        try:
            packages.append(Package.from_url(url, match["sha256"] or "", match["md5"] or ""))
        except CondaError as error:
            raise CondaError(f"{source}, line {number}: {error}") from error
    stated = re.search(r"^# platform: ([\w-]+)", text, re.MULTILINE)
    return _by_platform(_Content(packages), {stated[1]} if stated else set(), source)


def from_conda_lock(document: t.Any, source: str) -> dict[str, Lock]:
    """Read a parsed conda-lock v1 file; *source* is its path, for messages.

    :raises CondaError: it is not one, or has entries that cannot be installed exactly.
    """
    if not isinstance(document, dict) or document.get("version") != 1 or not isinstance(document.get("package"), list):
        raise CondaError(
            f"{source} is neither an @EXPLICIT list nor a conda-lock file of version 1 "
            "nor a pixi.lock of version 6 or 7"
        )
    contents: dict[str, _Content] = {}
    for entry in document["package"]:
        try:
            name, manager, platform, url = (_text(entry[field]) for field in ("name", "manager", "platform", "url"))
            version = _text(entry.get("version") or "")
            hashes = _hashes(entry.get("hash") or {})
            depends = _dependencies(entry.get("dependencies") or ())
        except KeyError as error:
            raise CondaError(f"{source}: an entry has no {error}: {shown(entry, 200)}") from error
        except (AttributeError, TypeError, ValueError) as error:
            raise CondaError(
                f"{source}: an entry is not written as conda-lock writes it: {shown(entry, 200)}"
            ) from error
        if entry.get("category", "main") != "main" or entry.get("optional", False):
            continue
        content = contents.setdefault(platform, _Content())
        if manager in _PIP_MANAGERS:
            content.wheels.append(_exact_wheel(url, name, version, hashes, source))
        elif manager == "conda":
            content.add(_exact(url, name, hashes, source), depends)
        else:
            raise CondaError(f"{source}: {name} is a {manager} package, and only those of conda and pip are known")
    result = {}
    for platform, content in contents.items():
        result.update(_by_platform(content, {platform}, source))
    if not result:
        raise CondaError(f"{source} has no package")
    variables = _variables(document, source)
    return {platform: dataclasses.replace(lock, variables=variables) for platform, lock in result.items()}


def _variables(document: t.Mapping[str, t.Any], source: str) -> tuple[tuple[str, str], ...]:
    """What activation sets, which our conda-lock files have among the metadata."""
    try:
        custom = (document.get("metadata") or {}).get("custom_metadata") or {}
        keys = sorted(key for key in custom if isinstance(key, str) and key.startswith(VARIABLE_KEY))
        if strange := [key for key in keys if not isinstance(custom[key], (str, int, float))]:
            raise TypeError(strange[0])
        return tuple((key[len(VARIABLE_KEY) :], str(custom[key])) for key in keys)
    except (AttributeError, TypeError, ValueError) as error:
        raise CondaError(f"{source}: metadata is not written as conda-lock writes it") from error


def from_pixi_lock(document: t.Mapping[str, t.Any], source: str, environment: str = "") -> dict[str, Lock]:
    """Read one environment of a parsed pixi.lock of version 6 or 7; *source* is its path, for messages.

    :param environment: its name. If empty, it is "default", or the only one there is.
    :raises CondaError: there is none, or it has entries that cannot be installed exactly.
    """
    if document.get("version") not in _PIXI_VERSIONS:
        raise CondaError(
            f"{source} is a pixi.lock of version {shown(document.get('version'))}, and only 6 and 7 can be read: "
            "lock it again with a pixi that writes one of these"
        )
    try:
        environments = {_text(name): content["packages"] for name, content in document["environments"].items()}
        chosen = environment or (next(iter(environments)) if len(environments) == 1 else "default")
        listed = {
            _text(platform): [_pixi_key(entry) for entry in entries]
            for platform, entries in environments.get(chosen, {}).items()
        }
        described = {_pixi_key(entry): _PixiEntry.of(entry) for entry in document["packages"]}
        subdirs = {_text(entry["name"]): _text(entry.get("subdir", "")) for entry in document.get("platforms", ())}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CondaError(f"{source} is not written as pixi writes it: {shown(error, 200)}") from error
    if chosen not in environments:
        raise CondaError(
            f"{source} has no environment called {chosen}, only {', '.join(sorted(environments)) or 'none'}: "
            "name the one to install behind the path, as #NAME"
        )
    locks: dict[str, Lock] = {}
    for platform, keys in listed.items():
        content = _Content()
        for kind, url in keys:
            if (kind, url) not in described:
                raise CondaError(f"{source}: {chosen} lists {url}, which is not among its packages: lock it again")
            entry = described[kind, url]
            name = entry.name or url
            if kind == "conda_source" or (kind == "conda" and not url.endswith(_ARCHIVES)):
                raise CondaError(
                    f"{source}: {name} is a source package, which would be built anew on every node: "
                    "put a package built from it into a channel, and lock again"
                )
            if kind == "conda":
                content.add(_exact(url, name, entry.hashes, source), entry.depends, entry.constrains)
                continue
            if entry.editable:
                raise CondaError(
                    f"{source}: {name} is editable, so it is only a way to a directory that nodes do not have: "
                    "build a wheel of it, put it into an index, and lock again"
                )
            content.wheels.append(_exact_wheel(url, name, entry.version, entry.hashes, source))
        subdir = subdirs.get(platform) or platform
        if subdir in locks:
            raise CondaError(
                f"{source}: {chosen} has several platforms for {subdir}, and a node cannot tell which to use"
            )
        if content:
            locks.update(_by_platform(content, {subdir}, source))
    if not locks:
        raise CondaError(f"{source} has no package for {chosen}")
    return locks


@dataclasses.dataclass(frozen=True)
class _PixiEntry:
    """What a pixi.lock says of a package, wherever it is listed."""

    name: str
    version: str
    hashes: t.Mapping[str, str]
    depends: t.Sequence[str]
    constrains: t.Sequence[str]
    editable: bool

    @classmethod
    def of(cls, entry: t.Mapping[str, t.Any]) -> _PixiEntry:
        name, version = (_text(entry.get(field) or "") for field in ("name", "version"))
        depends, constrains = (_dependencies(entry.get(field) or ()) for field in ("depends", "constrains"))
        return cls(name, version, _hashes(entry), depends, constrains, bool(entry.get("editable")))


def _pixi_key(entry: t.Mapping[str, t.Any]) -> tuple[str, str]:
    """What kind of package it is and where it comes from: what a pixi.lock knows it by."""
    (kind,) = _PIXI_KINDS & entry.keys()
    return kind, _text(entry[kind])


def _hashes(stated: t.Mapping[str, t.Any]) -> dict[str, str]:
    return {kind: _text(stated.get(kind) or "") for kind in _DIGITS}


def _dependencies(stated: t.Any) -> list[str]:
    """Dependencies as match specs; conda-lock writes them as names with versions."""
    if isinstance(stated, dict):
        return [f"{_text(name)} {_text(version)}" for name, version in stated.items()]
    return [_text(dependency) for dependency in stated]


def _text(value: t.Any) -> str:
    """*value*, which is a line of text, or a number that YAML has made of one.

    :raises TypeError: it is neither.
    """
    if isinstance(value, (str, int, float)) and str(value).isprintable():
        return str(value)
    raise TypeError(f"{shown(value)} is no line of text")


def _require_hashes(hashes: t.Mapping[str, str], name: str, source: str) -> None:
    if not any(hashes.values()):
        raise CondaError(f"{source}: {name} has no hash: lock it again with a tool that writes sha256 sums")
    for kind, value in hashes.items():
        if value and not re.fullmatch(f"[0-9a-f]{{{_DIGITS[kind]}}}", value):
            raise CondaError(f"{source}: the {kind} of {name} is none: {value[:80]!r}")


def _exact_wheel(url: str, name: str, version: str, hashes: t.Mapping[str, str], source: str) -> Wheel:
    """The wheel at *url*, provided that it is one and its hash says exactly which."""
    # pixi writes direct+ before the URLs that a person gave instead of an index.
    url = url[len("direct+") :] if url.startswith("direct+") else url
    remedy = "build a wheel of it, put it into an index, and lock again"
    if "+" in url.partition("://")[0]:
        raise CondaError(f"{source}: {name} comes from a repository, {url}, and would be built on every node: {remedy}")
    if "://" not in url:
        raise CondaError(f"{source}: {name} is at {url}, a path that nodes do not have: {remedy}")
    if not url.partition("#")[0].endswith(".whl"):
        raise CondaError(f"{source}: {name} is no wheel, and {url} would be built anew on every node: {remedy}")
    _require_hashes(hashes, name, source)
    if not hashes["sha256"]:
        raise CondaError(
            f"{source}: {name} has only an md5 sum, which pip does not take: lock it again with sha256 sums"
        )
    try:
        wheel = Wheel.from_url(url, hashes["sha256"])
    except CondaError as error:
        raise CondaError(f"{source}: {name}: {error}") from error
    stated = (normalized(name), comparable(version or wheel.version))
    if stated != (wheel.name, comparable(wheel.version)):
        raise CondaError(f"{source}: {name} {version} is said to be at {url}, which is {wheel.label}: lock it again")
    return wheel


def _exact(url: str, name: str, hashes: t.Mapping[str, str], source: str) -> Package:
    """The package at *url*, provided that *hashes* say exactly which that is."""
    _require_hashes(hashes, name, source)
    try:
        return Package.from_url(url, hashes["sha256"], hashes["md5"])
    except CondaError as error:
        raise CondaError(f"{source}: {error}") from error


@dataclasses.dataclass
class _Content:
    """What a lock file lists for one platform."""

    packages: list[Package] = dataclasses.field(default_factory=list)
    wheels: list[Wheel] = dataclasses.field(default_factory=list)
    for_python: set[str] = dataclasses.field(default_factory=set)  #: normalized names of packages that need python
    cuda: list[tuple[str, str]] = dataclasses.field(default_factory=list)  #: see Lock

    def __bool__(self) -> bool:
        return bool(self.packages or self.wheels)

    def add(self, package: Package, depends: t.Iterable[str], constrains: t.Iterable[str] = ()) -> None:
        """One more conda package, which needs *depends*, and *constrains* of what else is there."""
        depends = list(depends)
        self.packages.append(package)
        self.cuda += [
            (package.label, spec[len("__cuda") :].strip())
            for spec in (*depends, *constrains)
            if re.match(r"__cuda(?![\w.-])", spec)
        ]
        if any(re.match(r"python(?![\w.-])", dependency) for dependency in depends):
            self.for_python.add(normalized(package.name))

    def lock(self, platform: str, source: str) -> Lock:
        """All of it, for *platform*.

        :raises CondaError: its wheels cannot be installed there, or not beside each other and the packages.
        """
        lock = Lock(platform, tuple(self.packages), tuple(self.wheels), cuda=tuple(self.cuda))
        python = next((package for package in self.packages if package.name == "python"), None)
        names: dict[str, Wheel] = {}
        for wheel in self.wheels:
            if python is None:
                raise CondaError(
                    f"{source}: {wheel.name} is a pip package, and {platform} has no python to install it into: "
                    "add python to the environment's conda packages, and lock again"
                )
            if wheel.name in names:
                raise CondaError(f"{source} has {wheel.name} twice: {names[wheel.name].label}, {wheel.label}")
            names[wheel.name] = wheel
            if wheel.name in self.for_python:
                raise CondaError(
                    f"{source} has {wheel.name} from conda and from pip, which would overwrite conda's files: "
                    "keep one of them, and lock again"
                )
            if "pypy" not in python.build and not wheel.fits(platform, python.version):
                raise CondaError(
                    f"{source}: {wheel.file_name} does not run on {platform} with Python {python.version}: "
                    "lock it again"
                )
        return lock


def _by_platform(content: _Content, stated: set[str], source: str) -> dict[str, Lock]:
    packages = content.packages
    if not content:
        raise CondaError(f"{source} has no package")
    platforms = stated | {package.subdir for package in packages} - {"noarch"}
    if len(platforms) != 1:
        named = ", ".join(sorted(platforms)) or "none, since all packages are noarch and no '# platform:' line says"
        raise CondaError(f"{source} must be for one platform, and names {named}")
    names: dict[str, Package] = {}
    for package in packages:
        if package.name in names:
            raise CondaError(f"{source} has {package.name} twice: {names[package.name].label}, {package.label}")
        names[package.name] = package
    platform = platforms.pop()
    return {platform: content.lock(platform, source)}


def mirrored(url: str, mirrors: t.Mapping[str, str]) -> str:
    """Where *url* is to be had: below the mirror of the longest URL in *mirrors* that it is below, or where it is."""
    for origin in sorted(mirrors, key=len, reverse=True):
        base = origin.rstrip("/")
        if f"{url}/".startswith(f"{base}/"):
            return mirrors[origin].rstrip("/") + url[len(base) :]
    return url


def through_mirrors(lock: Lock, mirrors: t.Mapping[str, str]) -> Lock:
    """*lock* with the URLs of its packages as *mirrors* have them. It stays the same lock: hashes say what it is."""
    packages = (dataclasses.replace(package, url=mirrored(package.url, mirrors)) for package in lock.packages)
    return dataclasses.replace(lock, packages=tuple(packages))


def require_channels(lock: Lock, channels: t.Sequence[str], source: str, option: str) -> None:
    """Refuse a lock that takes a package from a channel other than *channels*, which are URLs.

    :raises CondaError: naming the package, its channel and *option*, the variable that lists the channels.
    """
    trusted = {channel.rstrip("/") for channel in channels}
    for package in lock.packages:
        if package.channel not in trusted:
            raise CondaError(
                f"{source}: {package.name} comes from {package.channel}, which {option} does not allow "
                f"(it allows {', '.join(sorted(trusted)) or 'none'})"
            )


def for_platform(locks: t.Mapping[str, Lock], platform: str, name: str) -> Lock:
    """The lock of environment *name* for a node's *platform*.

    :raises CondaError: there is none.
    """
    if platform not in locks:
        raise CondaError(
            f"conda_envs_shared: {name}: the lock is for {', '.join(sorted(locks)) or 'no platform'}, "
            f"and the node is {platform}: lock the environment for this platform too"
        )
    return locks[platform]
