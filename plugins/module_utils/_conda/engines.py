# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What puts the packages of a lock into a prefix. Nothing outside this file knows which engine ran."""

from __future__ import annotations

import contextlib
import glob
import inspect
import json
import os
import re
import stat
import tempfile
import time
import typing as t
import urllib.parse

from . import _rattler_child
from .errors import CondaError
from .files import digest_of, remove_tree
from .locks import Package
from .processes import Result, run
from .records import Record


class Engine(t.Protocol):
    """Installs exactly the given packages into a new prefix."""

    name: str

    def install(self, packages: t.Sequence[Package], prefix: str, cache: str) -> None:
        """Make *prefix* out of *packages*, with *cache* as package cache.

        :param packages: each after those it depends on, as lists and locks have them: link scripts run in this order.
        :raises CondaError: it is not made; what there is of *prefix* is for the caller to remove.
        """


class RattlerEngine:
    """py-rattler of the base, in a child process, since its interpreter may crash when it ends."""

    name = "rattler"

    def __init__(self, python: str) -> None:
        self._python = python

    def install(self, packages: t.Sequence[Package], prefix: str, cache: str) -> None:
        """See Engine."""
        # rattler takes what is in its cache under the package's name, unless the sha256 differs.
        forget([package for package in packages if not package.sha256], cache)
        order = json.dumps({"packages": [p.as_dict() for p in packages], "prefix": prefix, "cache": cache})
        source = inspect.getsource(_rattler_child)
        _sweep(cache)
        result = run([self._python, "-I", "-c", source], stdin=order, keep_lock=True)
        answer = _json_documents(result.stdout)
        if not answer or "version" not in answer[-1] or result.returncode != 0:
            raise _failure(_one_line(answer[-1].get("error", "") if answer else result.tail()))
        _write_history(prefix, packages, f"rattler {answer[-1]['version']}")


class CondaEngine:
    """conda itself."""

    name = "conda"

    def __init__(self, executable: str) -> None:
        self._executable = executable

    def install(self, packages: t.Sequence[Package], prefix: str, cache: str) -> None:
        """See Engine."""
        result = self._create(packages, prefix, cache)
        if self._error(result):
            # conda never mends its cache. An edit in place of a hard link reaches it, and a kill leaves it half done.
            blamed = [p for p in packages if os.path.join(cache, _stem(p)) in result.stdout]
            if blamed:
                forget(blamed, cache)
                remove_tree(prefix)
                result = self._create(packages, prefix, cache)
        error = self._error(result)
        if error:
            raise _failure(error)
        _require_installed(self.name, result, packages, prefix)

    def _create(self, packages: t.Sequence[Package], prefix: str, cache: str) -> Result:
        environment = {
            "CONDA_PKGS_DIRS": cache,
            "CONDA_REGISTER_ENVS": "false",
            "CONDA_SAFETY_CHECKS": "enabled",
            "CONDA_EXTRA_SAFETY_CHECKS": "true",
            "CONDA_ALWAYS_SOFTLINK": "false",
            "CONDA_NUMBER_CHANNEL_NOTICES": "0",
        }
        return _create(self._executable, packages, prefix, environment)

    def _error(self, result: Result) -> str:
        """What went wrong. conda may end with 0 all the same: no document on stdout may speak of an exception."""
        for document in _json_documents(result.stdout):
            failure = (document.get("errors") or [document])[0]
            name = failure.get("exception_name") or document.get("exception_name")
            if name:
                # An exception that conda did not foresee has no message.
                message = str(failure.get("message") or failure.get("error") or document.get("message", ""))
                if name in ("CondaToSNonInteractiveError", "CondaToSRejectedError"):
                    message = self._terms_of_service(message)
                return f"conda: {name}: {' '.join(message.split())}"
        return f"conda ended with {result.returncode}: {result.tail()}" if result.returncode != 0 else ""

    def _terms_of_service(self, message: str) -> str:
        """The way out. conda's own advice accepts them for one user, whose home no build looks into."""
        channels = re.findall(r"^\s*- (\S+)$", message, re.MULTILINE)
        options = "".join(f" --channel {channel}" for channel in channels)
        return (
            f"the terms of service of {', '.join(channels) or 'a channel'} are not accepted on this node: leave it out "
            "of miniconda_channels, or accept them, if you may, as root with: "
            f"{self._executable} tos accept --site --override-channels{options}"
        )


class MambaEngine:
    """mamba or micromamba from 2.1 on, which are one program. It takes no notice of a link script that fails."""

    def __init__(self, name: str, executable: str) -> None:
        self.name = name
        self._executable = executable

    def install(self, packages: t.Sequence[Package], prefix: str, cache: str) -> None:
        """See Engine."""
        result = _create(
            self._executable,
            packages,
            prefix,
            {
                "CONDA_PKGS_DIRS": cache,
                "CONDA_SAFETY_CHECKS": "enabled",
                "CONDA_EXTRA_SAFETY_CHECKS": "true",
                "MAMBA_ALWAYS_SOFTLINK": "false",
                "MAMBA_LOG_LEVEL": "error",  # less would not say which package
            },
        )
        if result.returncode != 0:
            raise _failure(f"{self.name}: {_mamba_errors(result)}")
        _require_installed(self.name, result, packages, prefix)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(prefix, ".messages.txt"))  # what link scripts have said


def _create(executable: str, packages: t.Sequence[Package], prefix: str, environment: t.Mapping[str, str]) -> Result:
    """Have conda or its kin make *prefix* out of an @EXPLICIT list."""
    lines = ["@EXPLICIT"] + [f"{p.url}#{p.sha256 or p.md5}" for p in packages]
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as stream:
        stream.write("\n".join(lines) + "\n")
        stream.flush()
        return run(
            [executable, "create", "--yes", "--quiet", "--json", "--prefix", prefix, "--file", stream.name],
            environment=environment,
            keep_lock=True,
        )


def _require_installed(name: str, result: Result, packages: t.Iterable[Package], prefix: str) -> None:
    """All of them may end with 0 and have made nothing: conda after "Exiting 1", mamba when it is interrupted."""
    for package in packages:
        if not os.path.exists(os.path.join(prefix, "conda-meta", package.record_name)):
            said = f": {result.tail()}" if result.tail() else ""
            raise CondaError(f"{name} ended with {result.returncode} and has not installed {package.label}{said}")


#: Where each engine is in a base, in the order in which they are looked for.
_PLACES = {
    "rattler": "lib/python3.*/site-packages/rattler/__init__.py",
    "conda": "bin/conda",
    "mamba": "bin/mamba",
    "micromamba": "bin/micromamba",
}
ENGINES = tuple(_PLACES)


def select(wanted: str, base_prefix: str, option: str) -> Engine:
    """The engine called *wanted*, or with "auto" the first that the base at *base_prefix* has. Starts no process.

    :raises CondaError: it is not there; *option* names the variable that chooses it.
    """
    found = [name for name, place in _PLACES.items() if glob.glob(os.path.join(glob.escape(base_prefix), place))]
    python = os.path.join(base_prefix, "bin/python")
    if "rattler" in found and not os.path.exists(python):
        found.remove("rattler")
    name = found[0] if wanted == "auto" and found else wanted
    if name not in found:
        has = f"has {', '.join(found)}" if found else "has none: install it with the role miniconda first"
        raise CondaError(f"{option}: the engine {wanted} is not in {base_prefix}, which {has}")
    if name == "rattler":
        return RattlerEngine(python)
    executable = os.path.join(base_prefix, _PLACES[name])
    return CondaEngine(executable) if name == "conda" else MambaEngine(name, executable)


def _sweep(cache: str) -> None:
    """Remove what rattlers that were killed or failed have unpacked in part. Callers hold the lock of the node."""
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(cache):
            if entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                remove_tree(entry.path)


def _failure(text: str) -> CondaError:
    """What an engine said of its failure, with the one cause ahead that is not about the lock."""
    full = any(words in text for words in ("No space left on device", "NoSpaceLeftError", "errno: 28"))
    return CondaError(f"the disk is full: {text}" if full else text)


def _one_line(text: str) -> str:
    """rattler's chain of causes: package, URL and reason are in different links of it, and it repeats itself."""
    told = ""
    for line in text.splitlines():
        cause = line.strip().replace("Caused by: ", "")
        if cause not in told:
            told += f": {cause}" if told else cause
    return told or "rattler ended without a word"


def _mamba_errors(result: Result) -> str:
    """mamba's JSON does not tell what went wrong: it is in the lines on stderr that are marked as errors."""
    marked = re.findall(r"^(?:error|critical) +libmamba +(.*(?:\n(?!\w+ +libmamba ).*)*)", result.stderr, re.MULTILINE)
    told = ": ".join(dict.fromkeys(" ".join(text.split()) for text in marked))
    return told or f"ended with {result.returncode}: {' '.join(result.tail().split())}"


def _json_documents(text: str) -> list[dict[str, t.Any]]:
    """All JSON objects in what a tool printed: there may be several, with prose between them."""
    decoder, documents, position = json.JSONDecoder(), [], 0
    for match in re.finditer(r"^\{", text, re.MULTILINE):
        if match.start() >= position:
            try:
                document, position = decoder.raw_decode(text, match.start())
            except ValueError:
                continue
            documents.append(document)
    return documents


def require_archives(packages: t.Iterable[Package]) -> None:
    """Hold the archives of file: channels against their hashes: of the engines, only mamba does.

    :raises CondaError: an archive cannot be read, or is another one.
    """
    for package in packages:
        parts = urllib.parse.urlsplit(package.url)
        if parts.scheme == "file":
            try:
                found = digest_of(urllib.parse.unquote(parts.path), "sha256" if package.sha256 else "md5")
            except OSError as error:
                raise CondaError(f"{package.url} cannot be read: {error.strerror}") from error
            expected = package.sha256 or package.md5
            if found != expected:
                raise CondaError(
                    f"hash mismatch: {package.url} is not the archive of the lock: expected {expected}, got {found}"
                )


def forget(records: t.Iterable[Package | Record], cache: str) -> None:
    """Drop these packages from the package cache, for what is there cannot be trusted."""
    for path in _cached(records, cache):
        remove_tree(path)


def protect_cached(records: t.Iterable[Package | Record], cache: str) -> None:
    """Let nobody but the owner write to these packages in the package cache, and nothing there be set-uid.

    Sealing sees to the modes in a prefix. Files with the path of the prefix in them are copied there, and not linked.
    """
    for top in _cached(records, cache):
        for folder, _folders, files in os.walk(top):
            for path in (folder, *(os.path.join(folder, name) for name in files)):
                mode = os.lstat(path).st_mode
                if mode & 0o7022 and not stat.S_ISLNK(mode):
                    os.chmod(path, stat.S_IMODE(mode) & ~0o7022)


def _cached(records: t.Iterable[Package | Record], cache: str) -> t.Iterator[str]:
    """What there is of these packages in the package cache, which may be removed as it is told."""
    stems = tuple(_stem(record) for record in records)
    # mamba has a directory for each channel.
    for directory, folders, files in os.walk(cache if stems else ""):
        for name in [name for name in (*folders, *files) if name.startswith(stems)]:
            yield os.path.join(directory, name)
        folders[:] = [name for name in folders if not os.path.isdir(os.path.join(directory, name, "info"))]


def _stem(package: Package | Record) -> str:
    """How the names of its archive and its directory in a package cache begin."""
    return f"{package.name}-{package.version}-{package.build}"


def _write_history(prefix: str, packages: t.Sequence[Package], tool: str) -> None:
    """conda's own history, without which `conda env export --from-history` would be empty."""
    lines = [f"==> {time.strftime('%Y-%m-%d %H:%M:%S')} <==", f"# cmd: {tool} install @EXPLICIT"]
    lines += [
        f"+{p.channel}/{p.subdir}::{p.name}-{p.version}-{p.build}" for p in sorted(packages, key=lambda p: p.name)
    ]
    with open(os.path.join(prefix, "conda-meta", "history"), "w", encoding="utf-8") as stream:
        stream.write("\n".join(lines) + "\n")
