# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a prefix holds, as a file that an environment can be built from elsewhere.

Read from its records and from what pip left, never asked of conda: any prefix will do, and nothing in it changes.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import json
import os
import posixpath
import re
import typing as t

from . import construction, prefixes
from .environments import Places, names
from .errors import CondaError
from .lock_writing import Entry, conda_lock_text, dependencies_of, explicit_text, public_url, quoted, scalar
from .locks import Lock, Package, Wheel, comparable, from_conda_lock
from .records import Distribution, Record, read_distributions, read_records

FORMATS = ("environment", "explicit", "conda-lock")
LEAVE_OUT = ("pip", "variables")

_LOCK = "conda-meta/envfleet.lock"  # what a generation was made from
_UNSET = "***unset***"  # conda's mark of a variable that was taken away
_ALIAS = "https://conda.anaconda.org/"  # what every conda puts before a bare name, unless told otherwise
_SPECS = re.compile(r"#\s*(?P<action>\w+)\s+specs:\s*(?P<specs>.*)")
_URL = re.compile(r"\w+://[^\s\[\]'\"]+?(?=::|[\s\[\]'\"]|$)")  # in a match spec
_ADDED, _REMOVED = ("update", "install", "create", "neutered"), ("remove", "uninstall")


@dataclasses.dataclass(frozen=True)
class Content:
    """Everything of a prefix that a file can tell."""

    prefix: str  #: without links
    platform: str
    records: tuple[Record, ...]  #: by name
    distributions: tuple[Distribution, ...]  #: by name; those that no conda package has
    variables: t.Mapping[str, str]  #: that activation sets

    def without(self, kinds: t.Collection[str]) -> Content:
        """The same but for some *kinds* of LEAVE_OUT."""
        changes: dict[str, t.Any] = {"pip": {"distributions": ()}, "variables": {"variables": {}}}
        return dataclasses.replace(self, **{key: value for kind in kinds for key, value in changes[kind].items()})


def prefix_of(layout: Places, name: str) -> str:
    """The live generation of the shared environment *name*.

    :raises CondaError: there is none, or it is not finished.
    """
    link = layout.link(name)
    if os.sep in name or not os.path.islink(link):
        there = ", ".join(names(layout)) or "none"
        raise CondaError(f"name: {layout.envs_dir} has no shared environment {name!r}, only {there}")
    prefix = os.path.realpath(link)
    if prefixes.read_manifest(prefix) is None:
        raise CondaError(f"name: {name} leads to {prefix}, which is no finished generation: run the site playbook")
    return prefix


def read(path: str, platform: str) -> Content:
    """What is in the prefix at *path*.

    :param platform: the node's, for a prefix all of whose packages are for every platform.
    :raises CondaError: it is no environment, not finished, damaged, or cannot be read.
    """
    prefix = os.path.realpath(path)
    try:
        listed = os.listdir(os.path.join(prefix, "conda-meta"))
    except (FileNotFoundError, NotADirectoryError):
        raise CondaError(f"path: {path} is no environment: it has no directory conda-meta") from None
    except OSError as error:
        raise CondaError(f"path: {path} cannot be read: {error.strerror}: run this as its owner") from error
    if prefix in construction.leftovers(os.path.dirname(prefix)):
        raise CondaError(f"{prefix} is not finished: wait for the run that builds it, or run the site playbook")
    trash = sorted(name for name in listed if name.endswith(".c~"))
    if trash:
        raise CondaError(
            f"{prefix} is half changed: conda was stopped and left conda-meta/{trash[0]}: "
            f"repeat what it did, then run 'conda clean --tempfiles {prefix}'"
        )
    records, problems = read_records(prefix)
    distributions, more = read_distributions(prefix, records)
    # What RECORD lists matters to nobody here.
    for problem in [*problems, *(one for one in more if not one.subject.endswith("/RECORD"))]:
        raise CondaError(f"{prefix} is damaged: {problem.subject} {problem.detail}")
    records.sort(key=lambda record: record.name)
    for one, other in zip(records, records[1:]):
        if one.name == other.name:
            raise CondaError(
                f"{prefix} is damaged: it has {one.label} and {other.label}: remove and install {one.name}"
            )
    platforms = {record.subdir for record in records} - {"noarch", ""} or {platform}
    if len(platforms) > 1:
        raise CondaError(f"{prefix} has packages for several platforms: {', '.join(sorted(platforms))}")
    return Content(prefix, platforms.pop(), tuple(records), _in_use(distributions, records), _variables(prefix))


def _in_use(distributions: t.Sequence[Distribution], records: t.Sequence[Record]) -> tuple[Distribution, ...]:
    """Those that Python finds: an older Python's stay behind, and so does what pip had set aside when it was killed."""
    python = next((record.version for record in records if record.name == "python"), "")
    home = f"lib/python{'.'.join(python.split('.')[:2])}/" if python else ""
    found: dict[str, Distribution] = {}
    for distribution in sorted(distributions, key=lambda distribution: (distribution.name, distribution.version)):
        if not distribution.directory.startswith(home) or posixpath.basename(distribution.directory).startswith("~"):
            continue
        before = found.setdefault(distribution.name, distribution)
        if before is not distribution:
            raise CondaError(
                f"{before.directory} and {distribution.directory} are both there: remove and install {before.name}"
            )
    return tuple(found.values())


def _variables(prefix: str) -> dict[str, str]:
    try:
        with open(os.path.join(prefix, "conda-meta/state"), encoding="utf-8") as stream:
            variables = json.load(stream).get("env_vars") or {}
        return {str(name): str(value) for name, value in sorted(variables.items()) if value != _UNSET}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise CondaError(f"{prefix} is damaged: conda-meta/state cannot be read: {error}") from error


def environment_text(content: Content, name: str, *, builds: bool = True, from_history: bool = False) -> str:
    """*content* as an environment.yml.

    :param name: the environment's, left out where conda takes no such name.
    :param from_history: what people asked for, in the place of all that is there.
    :raises CondaError: nothing tells what people asked for.
    """
    if from_history:
        specs = requested_specs(content)
    else:
        specs = [f"{r.name}={r.version}" + (f"={r.build}" if builds else "") for r in content.records]
    lines = [f"name: {scalar(name)}"] if name and not re.search(r"[/ :#]", name) else []
    lines += ["channels:" if channels_of(content) else "channels: []"]
    lines += [f"  - {scalar(_short(channel))}" for channel in channels_of(content)]
    lines += ["dependencies:" if specs or content.distributions else "dependencies: []"]
    lines += [f"  - {scalar(spec)}" for spec in specs]
    lines += ["  - pip:"] if content.distributions else []
    lines += [f"      - {scalar(_requirement(distribution))}" for distribution in content.distributions]
    lines += ["variables:"] if content.variables else []
    lines += [f"  {scalar(name)}: {quoted(value)}" for name, value in content.variables.items()]
    return "\n".join(lines) + "\n"


def channels_of(content: Content) -> list[str]:
    """The URLs of the channels that the packages came from, without credentials, in the order that conda lists them."""
    found: dict[str, None] = {}
    for record in content.records:
        channel, _slash, subdir = public_url(record.url).rpartition("/")[0].rpartition("/")
        if subdir == record.subdir and "://" in channel:
            found[channel] = None
    return list(found)


def requested_specs(content: Content) -> list[str]:
    """What people asked for and still have, as they wrote it, without credentials.

    :raises CondaError: nothing tells: a shared environment is built from a lock, and what was asked for is in its spec.
    """
    there = {record.name for record in content.records}
    specs = [spec for name, spec in _history(content.prefix).items() if name in there]
    # pixi and its kin write it into the records alone.
    specs = specs or [spec for record in content.records for spec in record.requested]
    if not specs and content.records:
        raise CondaError(
            f"from_history: nothing in {content.prefix} tells what was asked for, as where it was built from a lock: "
            "take its spec, or leave from_history out"
        )
    return [_URL.sub(lambda match: public_url(match[0]), spec) for spec in specs]


def _history(prefix: str) -> dict[str, str]:
    """The specs that conda-meta/history tells of, by package."""
    path = os.path.join(prefix, "conda-meta/history")
    specs: dict[str, str] = {}
    try:
        with open(path, encoding="utf-8") as stream:
            for line in stream:
                match = _SPECS.match(line.strip())
                if match and match["action"] in _ADDED:
                    specs.update((_name_of(spec), spec) for spec in _listed(match["specs"]))
                elif match and match["action"] in _REMOVED:
                    for spec in _listed(match["specs"]):
                        specs.pop(_name_of(spec), None)
    except FileNotFoundError:
        return {}
    except (CondaError, OSError, ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise CondaError(f"from_history: {path} cannot be read: {error}: leave from_history out") from error
    return specs


def _listed(text: str) -> list[str]:
    """The specs in a line of history: a list as Python writes it, or before conda 4.5 with commas alone."""
    # Before 4.5, numpy>=1.2,<2 is one spec.
    specs = ast.literal_eval(text) if text.startswith("[") else re.split(r",(?![<>=!~])", text)
    return [str(spec) for spec in specs if spec and not str(spec).endswith("@")]


def _name_of(spec: str) -> str:
    """The package that a match spec is about."""
    head = spec.partition("[")[0].strip()
    if "::" not in head and "://" in head:
        return Package.from_url(head.partition("#")[0]).name if head.endswith((".conda", ".tar.bz2")) else head
    return re.split(r"[\s=<>!~]", head.rpartition("::")[2].strip(), maxsplit=1)[0].lower()


def _requirement(distribution: Distribution) -> str:
    """A distribution as pip is asked for it: one that is from no index must not be looked for in one."""
    origin, url = distribution.direct_url or {}, _url_of(distribution)
    part = f"#subdirectory={origin['subdirectory']}" if origin.get("subdirectory") else ""
    vcs, remote = origin.get("vcs_info"), "://" in url and not url.startswith("file:")
    if isinstance(vcs, dict) and remote:
        return f"{distribution.name} @ {vcs.get('vcs')}+{url}@{vcs.get('commit_id')}{part}"
    if "archive_info" in origin and remote:
        sha256 = _sha256_of(origin)
        return f"{distribution.name} @ {url}{part or (f'#sha256={sha256}' if sha256 else '')}"
    return f"{distribution.name}=={distribution.version}"


def doubtful(content: Content) -> list[str]:
    """What an environment.yml cannot tell the origin of: only this node has it, and an index may have another."""
    return [
        f"{distribution.label}: {_origin(distribution)}"
        for distribution in content.distributions
        if _url_of(distribution).startswith("file:")
    ]


def lock_of(content: Content) -> Lock:
    """Exactly what *content* has.

    :raises CondaError: naming what there is no URL or no hash of, or what no lock can hold.
    """
    packages = [_package(record) for record in content.records]
    locked = _locked_wheels(content.prefix) if content.distributions else {}
    wheels, unknown = [], []
    for distribution in content.distributions:
        wheel = _wheel(distribution, locked.get((distribution.name, comparable(distribution.version))))
        if wheel:
            wheels.append(wheel)
        else:
            unknown.append(f"{distribution.label} {_origin(distribution)}")
    if unknown:
        raise CondaError(
            f"a lock needs URL and sha256 of each wheel, and these have none: {'; '.join(unknown)}: "
            "use format: environment, or leave_out: [pip]"
        )
    entries = [
        {**package.as_dict(), "manager": "conda", "hash": package.as_dict(), "dependencies": dependencies_of(r.depends)}
        for package, r in zip(packages, content.records)
    ]
    entries += [{**wheel.as_dict(), "manager": "pip", "hash": wheel.as_dict()} for wheel in wheels]
    # As it will be read, so that nothing is written that would be refused then.
    document = {"version": 1, "package": [{**entry, "platform": content.platform} for entry in entries]}
    lock = from_conda_lock(document, content.prefix)[content.platform]
    return dataclasses.replace(lock, variables=tuple(sorted(content.variables.items())))


def explicit(content: Content) -> str:
    """*content* as an @EXPLICIT list.

    :raises CondaError: it has something that such a list has no place for, or a package without a URL or hash.
    """
    for kind, missed in (("pip", [d.label for d in content.distributions]), ("variables", list(content.variables))):
        if missed:
            raise CondaError(
                f"format: an @EXPLICIT list has no place for {kind} ({', '.join(missed)}): "
                f"use format: conda-lock, or leave_out: [{kind}]"
            )
    return explicit_text(lock_of(content))


def conda_lock(content: Content) -> str:
    """*content* as a conda-lock file of version 1.

    :raises CondaError: as lock_of() does.
    """
    lock = lock_of(content)
    needed = {record.name: dependencies_of(record.depends) for record in content.records}
    entries = [Entry(package, needed[package.name]) for package in lock.packages]
    return conda_lock_text(
        {lock.platform: [*entries, *map(Entry, lock.wheels)]},
        channels=channels_of(content),
        content_hash={lock.platform: lock.identity},
        variables=content.variables,
    )


def _url_of(distribution: Distribution) -> str:
    """Where a distribution says it is from, or an empty string."""
    return public_url(str((distribution.direct_url or {}).get("url") or ""), of_channel=False)


def _short(channel: str) -> str:
    """A channel as people write it."""
    return channel[len(_ALIAS) :] if channel.startswith(_ALIAS) else channel


def _package(record: Record) -> Package:
    url = public_url(record.url)
    package = None
    with contextlib.suppress(CondaError):
        package = Package.from_url(url, record.sha256, record.md5)
    if package is None or package.label != record.label:
        raise CondaError(
            f"{record.label} cannot be in a lock, for its record has no URL of it, but {url!r}: use format: environment"
        )
    if not (record.sha256 or record.md5):
        raise CondaError(f"{record.label} cannot be in a lock, for its record has no hash: use format: environment")
    return package


def _locked_wheels(prefix: str) -> dict[tuple[str, str], Wheel]:
    """The wheels that a generation was made from, by name and comparable version."""
    try:
        with open(os.path.join(prefix, _LOCK), encoding="utf-8") as stream:
            wheels = Lock.from_dict(json.load(stream)).wheels
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CondaError(f"{prefix} is damaged: {_LOCK} cannot be read: {error}") from error
    return {(wheel.name, comparable(wheel.version)): wheel for wheel in wheels}


def _wheel(distribution: Distribution, locked: Wheel | None) -> Wheel | None:
    """The wheel that a distribution came from, where that is known."""
    sha256 = _sha256_of(distribution.direct_url or {})
    if locked and (distribution.direct_url is None or sha256 == locked.sha256):
        return locked
    with contextlib.suppress(CondaError):
        wheel = Wheel.from_url(_url_of(distribution), sha256)
        stated = (distribution.name, comparable(distribution.version))
        if sha256 and (wheel.name, comparable(wheel.version)) == stated:
            return wheel
    return None


def _sha256_of(origin: t.Mapping[str, t.Any]) -> str:
    """The sum of the archive that a direct_url.json tells of, in either of its spellings, or an empty string."""
    archive = origin.get("archive_info")
    if not isinstance(archive, dict):
        return ""
    hashes, old = archive.get("hashes"), str(archive.get("hash") or "")
    found = str(hashes.get("sha256") or "") if isinstance(hashes, dict) else ""
    found = found or (old.partition("=")[2] if old.startswith("sha256=") else "")
    return found if re.fullmatch("[0-9a-f]{64}", found) else ""


def _origin(distribution: Distribution) -> str:
    """Where a distribution is from, as far as it can be told."""
    origin = distribution.direct_url
    if origin is None:
        return "is from an index, and nothing tells which file it was"
    url = _url_of(distribution) or "nowhere"
    if distribution.editable:
        return f"is installed editable from {url}"
    return f"is from {url}" if _sha256_of(origin) else f"was built from {url}"
