"""Solving, fetching and linking with py-rattler.

rattler's runtime can bring its process down at exit, so all of it runs in child processes that end without clean-up;
this process never loads it. What else takes long to load is loaded where it is needed: activation must be quick.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import pickle
import re
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

from . import errors
from .channels import SUBDIRS, Channel
from .errors import CondaError, CondaMultiError
from .prefix import Prefix, Record, dist, in_order

if TYPE_CHECKING:
    import rattler

Result = TypeVar("Result")

_EXPLICIT = re.compile(r"(?P<url>[^#\s]+)(?:#(?:sha256:)?(?P<hash>[0-9a-fA-F]{32}|[0-9a-fA-F]{64}))?")
_PR_SET_PDEATHSIG = 1
_TIMEOUT_SECONDS = 60
_FETCH_THREADS = 5


@dataclass(frozen=True)
class Caches:
    """The package caches. The first one is written to; the others offer archives alone.

    rattler locks what it reads, so it cannot read packages that were unpacked into a cache of someone else's.
    """

    folders: tuple[Path, ...]

    @property
    def writable(self) -> Path:
        return self.folders[0]

    @property
    def repodata(self) -> Path:
        return self.writable / "cache"

    def has(self, record: Record) -> bool:
        """Whether the package need not be fetched."""
        return (self.writable / dist(record) / "info" / "index.json").is_file()


def in_child(job: Callable[[], Result]) -> Result:
    """Run `job` in a child process that dies with this one, and hand back its result or its CondaError."""
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.close(reader)
        answer: tuple[str, Any]
        try:
            answer = ("result", job())
        except CondaError as error:
            answer = ("error", error)
        except BaseException:
            answer = ("crash", traceback.format_exc())
        with os.fdopen(writer, "wb") as pipe:
            pickle.dump(answer, pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if not data:
        raise CondaError("CondaError", f"The process that did the work ended with {status} and no answer.")
    kind, value = pickle.loads(data)
    if kind == "error":
        raise value
    if kind == "crash":
        raise CondaError("CondaError", f"Unexpected error:\n{value}")
    result: Result = value
    return result


def solve(
    channels: Sequence[Channel],
    specs: Sequence[str],
    new: Sequence[str],
    locked: Sequence[Record],
    caches: Caches,
    *,
    offline: bool,
    pip_with_python: bool,
) -> list[Record]:
    """The packages that satisfy the specifications, those others need first.

    `new` are those of `specs` that the user has just asked for; `locked` are installed packages to keep if possible.
    """
    return in_child(lambda: _run(_solve(channels, specs, new, locked, caches, offline, pip_with_python)))


def search(channels: Sequence[Channel], spec: str, caches: Caches, *, offline: bool) -> list[Record]:
    """All packages that match."""

    async def job() -> list[Record]:
        import rattler

        return [
            _from_rattler(record)
            for record in await _candidates(channels, [rattler.MatchSpec(spec)], _gateway(caches, offline))
        ]

    return in_child(lambda: _run(job()))


def link(prefix: Prefix, records: Sequence[Record], requested: Mapping[str, str], caches: Caches) -> None:
    """Make `records` the packages of the environment; `requested` are the specifications asked for, by package name."""
    before = {path.name for path in prefix.meta.glob("*.json")}
    in_child(lambda: _run(_link(prefix, records, caches)))
    # rattler marks environments as caches, which backups may then leave out.
    (prefix.path / "CACHEDIR.TAG").unlink(missing_ok=True)
    umask = os.umask(0)
    os.umask(umask)
    prefix.history.chmod(0o666 & ~umask)
    for record in records:
        path = prefix.meta / f"{dist(record)}.json"
        known = json.loads(path.read_text())
        if path.name not in before:
            # An archive in the cache is not where the package came from; conda names the channel with its subdir.
            known |= {
                "url": record["url"],
                "channel": Channel.of_package(record).url(record["subdir"]),
                "fn": record["fn"],
            }
            for entry in known["paths_data"]["paths"]:
                # rattler lets the group write to these, whatever the umask.
                if entry["path_type"] == "unix_python_entry_point":
                    (prefix.path / entry["_path"]).chmod(0o777 & ~umask)
        if spec := requested.get(record["name"]):
            known |= {"requested_spec": spec, "requested_specs": [spec]}
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(known, indent=2))
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)


def parse_explicit(text: str) -> list[tuple[str, str | None]]:
    """The URLs of an @EXPLICIT list, with the md5 or sha256 behind each."""
    found = []
    for line in (line.strip() for line in text.splitlines()):
        if line and not line.startswith(("#", "@")):
            if not (entry := _EXPLICIT.fullmatch(line)):
                raise CondaError("ParseError", f"Could not parse explicit URL: {line}")
            url = entry["url"] if "://" in entry["url"] else Path(os.path.abspath(entry["url"])).as_uri()
            found.append((url, entry["hash"].lower() if entry["hash"] else None))
    return found


def fetch_explicit(entries: Sequence[tuple[str, str | None]], caches: Caches, *, offline: bool) -> list[Record]:
    """Fetch packages into the cache, check their hashes, read their indexes. CondaMultiError for all that fail."""
    from concurrent.futures import ThreadPoolExecutor

    def attempt(entry: tuple[str, str | None]) -> Path | CondaError:
        try:
            return _fetch(*entry, caches, offline)
        except CondaError as error:
            return error

    caches.writable.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(_FETCH_THREADS) as pool:
        fetched = list(pool.map(attempt, entries))
    if failed := [one for one in fetched if isinstance(one, CondaError)]:
        raise CondaMultiError(failed)
    archives = [one for one in fetched if isinstance(one, Path)]
    records = in_child(lambda: _run(_records_of(archives)))
    for record, (url, _), archive in zip(records, entries, archives, strict=True):
        channel = Channel.of_url(url.rpartition("/")[0]).base_url
        record |= {"url": url, "fn": archive.name, "channel": channel, "archive": str(archive)}
        record["md5"] = _digest(archive, "md5")
    return records


def _run(job: Coroutine[Any, Any, Result]) -> Result:
    import asyncio

    return asyncio.run(job)


async def _solve(
    channels: Sequence[Channel],
    specs: Sequence[str],
    new: Sequence[str],
    locked: Sequence[Record],
    caches: Caches,
    offline: bool,
    pip_with_python: bool,
) -> list[Record]:
    import rattler
    from rattler.exceptions import SolverError

    gateway = _gateway(caches, offline)
    wanted = [_match_spec(spec) for spec in new]
    candidates = await _candidates(channels, wanted, gateway)
    here = [_to_rattler(record) for record in locked]
    missing = [
        text
        for text, spec in zip(new, wanted, strict=True)
        if not any(spec.matches(one) for one in [*candidates, *here])
    ]
    if missing:
        raise not_found(missing, channels)
    try:
        found = await rattler.solve(
            [channel.base_url for channel in channels],
            [_match_spec(spec) for spec in specs],
            gateway=gateway,
            platforms=SUBDIRS,
            locked_packages=here,
            virtual_packages=rattler.VirtualPackage.detect(rattler.VirtualPackageOverrides.from_env()),
            channel_priority=rattler.ChannelPriority.Strict,
            add_pip_as_python_dependency=pip_with_python,
        )
    except SolverError as error:
        raise CondaError(
            "UnsatisfiableError", f"The specifications were found to be incompatible with each other:\n\n{error}"
        ) from error
    records = [_from_rattler(record) for record in found]
    for record in records:
        if record["name"] == "python" and pip_with_python:
            record["depends"] = [needed for needed in record["depends"] if needed != "pip"]
    return in_order(records)


async def _candidates(
    channels: Sequence[Channel], specs: Sequence[rattler.MatchSpec], gateway: rattler.Gateway
) -> list[rattler.RepoDataRecord]:
    """All packages of the channels that match one of the specifications."""
    from rattler.exceptions import GatewayError

    try:
        answer = await gateway.query([channel.base_url for channel in channels], SUBDIRS, specs, recursive=False)
    except GatewayError as error:
        raise _gateway_error(str(error)) from error
    return [record for records in answer for record in records if any(spec.matches(record) for spec in specs)]


def _gateway(caches: Caches, offline: bool) -> rattler.Gateway:
    import rattler
    from rattler.repo_data.gateway import SourceConfig

    config = SourceConfig(bz2_enabled=False, cache_action="force-cache-only" if offline else "cache-or-fetch")
    return rattler.Gateway(cache_dir=caches.repodata, default_config=config)


def _gateway_error(text: str) -> CondaError:
    if "404" in text or "could not find subdir" in text:
        return CondaError("UnavailableInvalidChannel", f"The channel is not accessible or is invalid.\n{text}")
    if "no usable repodata cache" in text:
        return CondaError("OfflineError", f"The package index is not in the cache, and offline mode is on.\n{text}")
    return CondaError("CondaHTTPError", f"An HTTP error occurred when trying to retrieve a channel's index.\n{text}")


def not_found(specs: Sequence[str], channels: Sequence[Channel]) -> CondaError:
    """What conda says when no channel has a package."""
    packages = "".join(f"\n  - {spec}" for spec in specs)
    shown = "".join(f"\n  - {channel.base_url}" for channel in channels)
    message = (
        f"The following packages are not available from current channels:\n{packages}\n\nCurrent channels:\n{shown}\n"
    )
    details: dict[str, Any] = {"packages": list(specs), "packages_formatted": packages, "channels_formatted": shown}
    details["channel_urls"] = [channel.as_json() for channel in channels]
    return CondaError("PackagesNotFoundInChannelsError", message, **details)


def _match_spec(text: str) -> rattler.MatchSpec:
    import rattler
    from rattler.exceptions import InvalidMatchSpecError

    try:
        return rattler.MatchSpec(text)
    except InvalidMatchSpecError as error:
        raise CondaError("InvalidMatchSpec", f"Invalid spec '{text}': {error}") from error


async def _link(prefix: Prefix, records: Sequence[Record], caches: Caches) -> None:
    import rattler
    from rattler.exceptions import InstallerError

    caches.writable.mkdir(parents=True, exist_ok=True)
    (caches.writable / "urls.txt").touch()
    packages = [_to_rattler(record) for record in records]
    try:
        await rattler.install(packages, prefix.path, cache_dir=caches.writable, show_progress=False)
    except InstallerError as error:
        raise _install_error(str(error)) from error


def _install_error(text: str) -> CondaError:
    if found := re.search(r"hash mismatch when extracting (\S+) to .*: expected ([0-9a-f]+), got ([0-9a-f]+)", text):
        url, expected, actual = found.groups()
        return CondaMultiError([errors.checksum_mismatch(url, _kind(expected), expected, actual)])
    if "error sending request" in text or "HTTP status" in text:
        return CondaMultiError([CondaError("CondaHTTPError", text)])
    return CondaError("CondaError", text)


def _fetch(url: str, expected: str | None, caches: Caches, offline: bool) -> Path:
    """The archive in a cache, with the hash that is wanted."""
    import urllib.error
    import urllib.request

    name = unquote(url.rpartition("/")[2])
    if urlsplit(url).scheme == "file":
        path = Path(unquote(urlsplit(url).path))
        if not path.is_file():
            raise CondaError("CondaFileIOError", f"'{path}'. No such file.")
        _check(url, path, expected)
        return path
    if expected:
        for folder in caches.folders:
            if (cached := folder / name).is_file() and _digest(cached, _kind(expected)) == expected:
                return cached
    if offline:
        raise CondaError("OfflineError", f"Connection requested to {url}, and offline mode is on.")
    handle, temporary = tempfile.mkstemp(dir=caches.writable, prefix=f".{name}.")
    path = Path(temporary)
    try:
        with os.fdopen(handle, "wb") as file, urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response:
            shutil.copyfileobj(response, file)
        _check(url, path, expected)
        path.chmod(0o644)
        return path.replace(caches.writable / name)
    except (urllib.error.URLError, OSError) as error:
        raise CondaError("CondaHTTPError", f"HTTP error for url <{url}>: {error}") from error
    finally:
        path.unlink(missing_ok=True)


def _check(url: str, path: Path, expected: str | None) -> None:
    if expected and (actual := _digest(path, _kind(expected))) != expected:
        raise errors.checksum_mismatch(url, _kind(expected), expected, actual)


def _kind(digest: str) -> str:
    """The name of a hash, by its length."""
    return "md5" if len(digest) == 32 else "sha256"


def _digest(path: Path, kind: str) -> str:
    digest = hashlib.new(kind)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


async def _records_of(archives: Sequence[Path]) -> list[Record]:
    import rattler

    return [_from_rattler(await rattler.RepoDataRecord.from_package_archive(path)) for path in archives]


def _from_rattler(record: rattler.RepoDataRecord) -> Record:
    found: Record = json.loads(record.to_json())
    if found.get("channel"):
        found["channel"] = found["channel"].rstrip("/")
    return found


def _to_rattler(record: Record) -> rattler.RepoDataRecord:
    import rattler

    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({key: value for key, value in record.items() if value is not None}, file)
        file.flush()
        package = rattler.PackageRecord.from_index_json(Path(file.name), record.get("size"))
    for kind in ("md5", "sha256"):
        if record.get(kind):
            setattr(package, kind, bytes.fromhex(record[kind]))
    url = Path(record["archive"]).as_uri() if "archive" in record else record["url"]
    return rattler.RepoDataRecord(package, record["fn"], url, Channel.of_package(record).base_url)
