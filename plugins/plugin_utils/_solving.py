# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""From what is wanted to exactly which packages: py-rattler for the conda packages, uv for the pip part.

Nothing is asked of the machine that solves but its clock: a laptop can solve for a node with a GPU.
"""

from __future__ import annotations

import dataclasses
import datetime
import inspect
import json
import os
import re
import shutil
import sys
import tempfile
import tomllib
import typing as t
import urllib.parse
import zipfile

from ..module_utils._conda.errors import CondaError
from ..module_utils._conda.lock_writing import Entry, dependencies_of, public_url
from ..module_utils._conda.locks import Lock, Package, Wheel, normalized
from ..module_utils._conda.processes import run
from . import _rattler_solve_child
from ._specs import PipPart, Wanted

if t.TYPE_CHECKING:
    from packaging.tags import Tag

PRIORITIES = ("strict", "flexible", "disabled")
# What every node has that this collection can manage: kernel and C library of Enterprise Linux 8, the oldest of them.
_LINUX = {"__unix": "0", "__linux": "4.18", "__glibc": "2.28"}
VIRTUAL_PACKAGES = {
    "linux-64": {**_LINUX, "__archspec": "1=x86_64"},
    "linux-aarch64": {**_LINUX, "__archspec": "1=aarch64"},
}
_ARCHITECTURES = {"linux-64": "x86_64", "linux-aarch64": "aarch64"}
# The C libraries that uv knows by number.
_UV_GLIBCS: tuple[int, ...] = (17, 28, *range(31, 41))


@dataclasses.dataclass(frozen=True)
class Options:
    """What, besides the spec, decides which packages a lock has."""

    channels: tuple[str, ...] = ("conda-forge",)  #: all that packages may come from: URLs, or names under the alias
    channel_alias: str = "https://conda.anaconda.org"
    platforms: tuple[str, ...] = ()  #: those of the spec, or linux-64, if empty
    virtual_packages: t.Mapping[str, str | None] = dataclasses.field(default_factory=dict)  #: over VIRTUAL_PACKAGES
    channel_priority: str = "strict"  #: strict, flexible or disabled
    exclude_newer: str = ""  #: ISO 8601, or a number of days
    index_url: str = ""  #: of the pip part, where the spec names none
    extra_index_urls: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    # These do not make a lock out of date.
    update: tuple[str, ...] = ()  #: only these packages may move
    update_all: bool = False  #: all packages may move
    cache_dir: str = ""  #: of what channels and indexes offer; if empty, below the cache directory of the user

    def url_of(self, channel: str) -> str:
        """The URL of *channel*."""
        return (channel if "://" in channel else f"{self.channel_alias.rstrip('/')}/{channel}").rstrip("/")

    def virtual(self, platform: str) -> dict[str, str]:
        """The virtual packages of *platform*: name to version, with a build behind a = if it has one.

        :raises CondaError: the platform is none that can be locked, or a declared package is not well written.
        """
        if platform not in VIRTUAL_PACKAGES:
            raise CondaError(f"platforms: {platform} cannot be locked, only {' and '.join(VIRTUAL_PACKAGES)}")
        result = dict(VIRTUAL_PACKAGES[platform])
        for name, version in self.virtual_packages.items():
            if not re.fullmatch(r"__[a-z0-9_]+", name):
                raise CondaError(f"virtual_packages: {name!r} is no virtual package: write for example __cuda")
            if isinstance(version, (bool, float)):
                raise CondaError(f"virtual_packages: {name}: put {version} in quotes, for 2.30 is read as 2.3 without")
            if version is None or version == "":
                result.pop(name, None)
            elif re.fullmatch(r"[0-9][\w.!+]*(=\w*)?", str(version)):
                result[name] = str(version)
            else:
                raise CondaError(f"virtual_packages: {name}: {version!r} is no version")
        return result

    def newest(self) -> str:
        """The time after which nothing was published as far as the lock is concerned: ISO 8601, empty for now.

        :raises CondaError: it is neither a time nor a number of days.
        """
        text = self.exclude_newer.strip()
        when: datetime.datetime | None
        try:
            if re.fullmatch(r"\d{1,5}", text):
                when = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=int(text))
            else:
                when = datetime.datetime.fromisoformat(text) if text else None
        except (ValueError, OverflowError) as error:
            raise CondaError(
                f"exclude_newer: {text!r} is neither a time such as 2026-01-31 or 2026-01-31T12:00:00Z "
                "nor a number of days"
            ) from error
        return when.replace(tzinfo=when.tzinfo or datetime.UTC).isoformat(timespec="seconds") if when else ""


@dataclasses.dataclass(frozen=True)
class Solution:
    """What was found for one platform."""

    channels: tuple[str, ...]  #: URLs
    entries: tuple[Entry, ...]


def solve(wanted: Wanted, platform: str, options: Options, previous: Lock | None, source: str) -> Solution:
    """Find the packages that *wanted* means on *platform*.

    :param previous: the lock before. Its packages stay where *wanted* and *options* let them.
    :param source: the spec, for messages.
    :raises CondaError: there are none, or a channel or index does not answer.
    """
    channels = effective_channels(wanted, options, source)
    virtual = options.virtual(platform)
    places = {public_url(options.url_of(channel)): options.url_of(channel) for channel in options.channels}
    specs = [_match_spec(dependency, options) for dependency in wanted.dependencies]
    # Else the solver would not see the other versions that a channel has, and strict would be flexible.
    specs += [dependency.name for dependency in wanted.dependencies if not dependency.channel]
    order = {
        "channels": [places[channel] for channel in channels],
        "specs": list(dict.fromkeys(specs)),
        "platform": platform,
        "virtual_packages": [(name, *f"{version}=0".split("=")[:2]) for name, version in virtual.items()],
        "priority": options.channel_priority,
        "exclude_newer": options.newest(),
        "previous": [] if previous is None or options.update_all else [p.as_dict() for p in previous.packages],
        "update": [name.lower() for name in options.update],
        "pip": bool(wanted.pip.requirements),
        "cache": os.path.join(_cache(options), "channels"),
    }
    result = run(
        [sys.executable, "-I", "-c", inspect.getsource(_rattler_solve_child)],
        stdin=json.dumps(order),
        environment=_home(),
    )
    try:
        answer = json.loads(result.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        answer = {"error": f"the solver ended with {result.returncode}: {result.tail()}"}
    if "error" in answer:
        said = _without_passwords(answer["error"].strip(), places)
        hint = "\n(declare what the nodes have in virtual_packages)" if re.search(r"\b__[a-z]", said) else ""
        raise CondaError(f"{source}: {platform}: {said}{hint}")
    entries = []
    for found in answer["packages"]:
        package = Package.from_url(public_url(found["url"]), found["sha256"], found["md5"])
        if package.channel not in places:
            raise CondaError(f"{source}: {package.name} comes from {package.channel}, {_refusal(options)}")
        entries.append(Entry(package, dependencies_of(found["depends"])))
    if wanted.pip.requirements:
        entries += _solve_pip(wanted.pip, entries, answer["distributions"], platform, options, previous, source)
    return Solution(channels, tuple(entries))


def effective_channels(wanted: Wanted, options: Options, source: str) -> tuple[str, ...]:
    """The URLs of the channels to solve with, first choice first and without passwords.

    They are those of the spec, then those that single packages name, then the site's unless the spec says nodefaults.

    :raises CondaError: one is not among the site's.
    """
    if wanted.defaults:
        raise CondaError(
            f"{source}: channels: 'defaults' stands for channels under Anaconda's licence: take it out, or name the "
            "URLs (https://repo.anaconda.com/pkgs/main) where you have that licence"
        )
    named = [*wanted.channels, *filter(None, (dependency.channel for dependency in wanted.dependencies))]
    allowed = [public_url(options.url_of(channel)) for channel in options.channels]
    channels = [options.url_of(channel) for channel in named]
    for name, url in zip(named, channels, strict=True):
        if url not in allowed:
            raise CondaError(f"{source}: the channel {name} is {url}, {_refusal(options)}")
    channels += [] if wanted.nodefaults and channels else allowed
    if not channels:
        raise CondaError(f"{source}: there is no channel: name one in channels or in conda_envs_channels")
    return tuple(dict.fromkeys(channels))


def _refusal(options: Options) -> str:
    allowed = sorted(public_url(options.url_of(channel)) for channel in options.channels)
    return f"which conda_envs_channels does not allow (it allows {', '.join(allowed) or 'none'})"


def _match_spec(dependency: t.Any, options: Options) -> str:
    if re.match(r"\w+://", dependency.constraint):
        return str(dependency.constraint)
    text = f"{dependency.name} {dependency.constraint}".strip()
    if not dependency.channel:
        return text + (f"[subdir={dependency.subdir}]" if dependency.subdir else "")
    return "::".join((f"{options.url_of(dependency.channel)}/{dependency.subdir}".rstrip("/"), text))


def _cache(options: Options) -> str:
    default = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return options.cache_dir or os.path.join(default, "envfleet")


def _home() -> dict[str, str]:
    """Where a person keeps the passwords of channels and indexes."""
    kept = ("RATTLER_AUTH_FILE", "NETRC", "UV_KEYRING_PROVIDER")
    return {"HOME": os.path.expanduser("~"), **{name: os.environ[name] for name in kept if name in os.environ}}


def _without_passwords(text: str, places: t.Mapping[str, str]) -> str:
    for public, url in places.items():
        text = text.replace(url, public)
    return re.sub(r"(?<=://)[^/\s@]+@", "", text)


def _solve_pip(
    pip: PipPart,
    entries: t.Sequence[Entry],
    distributions: t.Mapping[str, str],
    platform: str,
    options: Options,
    previous: Lock | None,
    source: str,
) -> list[Entry]:
    """The wheels of the pip part, which fit the conda packages in *entries* and repeat none of them."""
    python = next((entry.package.version for entry in entries if entry.package.name == "python"), "")
    if not python:
        raise CondaError(f"{source}: dependencies: pip: there is no python to install into: list python too")
    # What conda has, pip must take as it is; what it depends on is conda's matter.
    provided = {normalized(name): version for name, version in distributions.items()}
    with tempfile.TemporaryDirectory(prefix="envfleet-") as directory:
        stubs = [_stub(directory, name, version) for name, version in sorted(provided.items())]
        files = {
            "requirements.in": pip.requirements,
            "constraints.in": [*pip.constraints, *stubs],
            "pylock.toml": [] if options.update_all or not previous else _pylock(previous.wheels),
        }
        for name, lines in files.items():
            if lines or name != "pylock.toml":
                with open(os.path.join(directory, name), "w", encoding="utf-8") as stream:
                    stream.write("\n".join(map(_expanded, lines)) + "\n")
        glibc = _glibc_minor(options.virtual(platform).get("__glibc", ""))
        argv = [_uv(), "pip", "compile", "--no-config", "--no-progress", "--color=never", "--no-header"]
        argv += ["--format=pylock.toml", f"--output-file={directory}/pylock.toml", "--generate-hashes"]
        argv += [f"--python={sys.executable}", f"--python-version={python}"]
        argv += [f"--python-platform={_ARCHITECTURES[platform]}-manylinux_2_{glibc}"]
        argv += ["--only-binary=:all:", "--system-certs", f"--cache-dir={_cache(options)}/uv"]
        # Where several indexes have a package, pip takes the best version of all, and so does everybody's spec.
        argv += ["--index-strategy=unsafe-best-match", f"--constraints={directory}/constraints.in"]
        argv += ["--prerelease=allow"] if pip.pre else []
        argv += [f"--exclude-newer={options.newest()}"] if options.exclude_newer else []
        argv += [f"--upgrade-package={name}" for name in options.update]
        argv += ["--no-index"] if pip.no_index else []
        index = pip.index_url or options.index_url
        argv += [f"--index-url={_expanded(index)}"] if index else []
        argv += [f"--extra-index-url={_expanded(url)}" for url in (*pip.extra_index_urls, *options.extra_index_urls)]
        argv += [f"--find-links={_expanded(place)}" for place in (*pip.find_links, *options.find_links)]
        result = run([*argv, f"{directory}/requirements.in"], environment=_home())
        said = _without_passwords(result.stderr.strip(), {}).replace(f"{directory}/", "")
        if result.returncode != 0:
            held = [f"{name} {version}" for name, version in provided.items() if re.search(rf"\b{name}\b", said)]
            hint = f"\n(conda has {', '.join(held)}, which the pip part must take as it is)" if held else ""
            raise CondaError(f"{source}: {platform}: dependencies: pip: {said.removeprefix('error: ')}{hint}")
        if extra := re.search(r"The package `([\w.-]+).*does not have an extra named `(.*)`", said):
            raise CondaError(
                f"{source}: dependencies: pip: the extra {extra[1]}[{extra[2]}] is wanted, and conda's {extra[1]} has "
                "none: list what the extra stands for"
            )
        with open(os.path.join(directory, "pylock.toml"), "rb") as locked:
            listed = tomllib.load(locked).get("packages", [])
    tags = {tag: rank for rank, tag in enumerate(_tags(python, platform, glibc))}
    return [Entry(_wheel(found, tags, pip, source)) for found in listed if found["name"] not in provided]


def _uv() -> str:
    beside = os.path.join(os.path.dirname(sys.executable), "uv")
    found = beside if os.access(beside, os.X_OK) else shutil.which("uv")
    if not found:
        raise CondaError("the pip part of a spec is resolved by uv, which is missing: install it beside Ansible")
    return found


def _glibc_minor(version: str) -> int:
    """The newest C library not newer than *version* that uv knows, by the number behind the dot."""
    match = re.match(r"2\.(\d+)", version)
    minor = int(match[1]) if match else 0
    return max((known for known in _UV_GLIBCS if known <= minor), default=_UV_GLIBCS[0])


def _expanded(text: str) -> str:
    """*text* with ${NAME} as pip has it: so passwords stay out of specs."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise CondaError(f"{match[0]} in the pip part: there is no such variable where Ansible runs: set it")
        return os.environ[match[1]]

    return re.sub(r"\$\{([A-Z0-9_]+)\}", value, text)


def _stub(directory: str, name: str, version: str) -> str:
    """The constraint that has uv take *name* for what conda installs: a wheel that only says so, and wants nothing."""
    stem = f"{name.replace('-', '_')}-{version}"
    path = os.path.join(directory, f"{stem}-py3-none-any.whl")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{stem}.dist-info/RECORD", "")
    return f"{name} @ file://{urllib.parse.quote(path)}"


def _pylock(wheels: t.Sequence[Wheel]) -> list[str]:
    """The lock before, from which uv takes what it would rather keep."""
    lines = ['lock-version = "1.0"', 'created-by = "envfleet"']
    for wheel in wheels:
        lines += ["[[packages]]", f"name = {json.dumps(wheel.name)}", f"version = {json.dumps(wheel.version)}"]
    return lines


def _tags(python: str, platform: str, glibc: int) -> t.Iterator[Tag]:
    """What wheels may say that they are for, the best first."""
    from packaging.tags import compatible_tags, cpython_tags  # see _specs.py

    arch = _ARCHITECTURES[platform]
    legacy = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
    platforms = []
    for number in range(glibc, 16 if arch == "aarch64" else 4, -1):
        platforms += [f"manylinux_2_{number}_{arch}", *([f"{legacy[number]}_{arch}"] if number in legacy else [])]
    platforms.append(f"linux_{arch}")
    release = t.cast("tuple[int, int]", tuple(int(number) for number in python.split(".")[:2]))
    yield from cpython_tags(release, platforms=platforms)
    yield from compatible_tags(release, f"cp{release[0]}{release[1]}", platforms)


def _wheel(found: t.Mapping[str, t.Any], tags: t.Mapping[Tag, int], pip: PipPart, source: str) -> Wheel:
    """The best wheel of a package in a pylock.toml."""
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename  # see _specs.py

    name = found["name"]
    archives = [*found.get("wheels", ()), *([found["archive"]] if "archive" in found else [])]
    trusted = {value for owner, value in pip.hashes if owner == name}
    best: tuple[int, str, str] | None = None
    for archive in archives:
        url = archive.get("url") or f"file://{urllib.parse.quote(os.path.abspath(archive['path']))}"
        sha256 = archive.get("hashes", {}).get("sha256", "")
        try:
            of_file = parse_wheel_filename(urllib.parse.unquote(url.partition("#")[0].rsplit("/", 1)[-1]))[3]
        except InvalidWheelFilename:
            continue
        ranks = [tags[tag] for tag in of_file if tag in tags]
        if ranks and sha256 and (not trusted or sha256 in trusted) and (best is None or min(ranks) < best[0]):
            best = (min(ranks), url, sha256)
    if best is None:
        said = "with one of the hashes that the spec names" if trusted else "with a sha256 sum in its index"
        raise CondaError(
            f"{source}: dependencies: pip: {name} {found.get('version', '')} has no wheel {said} for this Python and "
            "platform, and a source archive would be built anew on every node: build a wheel of it and add its index"
        )
    return Wheel.from_url(public_url(best[1]), best[2])
