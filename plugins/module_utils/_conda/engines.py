# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What puts the packages of a lock into a prefix. Nothing outside this file knows which engine ran."""

from __future__ import annotations

import glob
import inspect
import json
import os
import re
import tempfile
import time
import typing as t
import urllib.parse

from . import _rattler_child
from .errors import CondaError
from .files import remove_tree
from .locks import Package
from .processes import Result, run
from .records import Record, digest_of


class Engine(t.Protocol):
    """Installs exactly the given packages into a new prefix."""

    name: str

    def install(self, packages: t.Sequence[Package], prefix: str, cache: str) -> None:
        """Make *prefix* out of *packages*, with *cache* as package cache.

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
        result = run([self._python, "-I", "-c", source], stdin=order, keep_lock=True)
        answer = _json_documents(result.stdout)
        if not answer or "version" not in answer[-1] or result.returncode != 0:
            raise _failure(_one_line(answer[-1].get("error", "") if answer else result.tail()))
        _write_history(prefix, packages, f"rattler {answer[-1]['version']}")


class CondaEngine:
    """conda itself, from an @EXPLICIT list."""

    name = "conda"

    def __init__(self, executable: str) -> None:
        self._executable = executable

    def install(self, packages: t.Sequence[Package], prefix: str, cache: str) -> None:
        """See Engine."""
        lines = ["@EXPLICIT"] + [f"{p.url}#{p.sha256 or p.md5}" for p in packages]
        with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as stream:
            stream.write("\n".join(lines) + "\n")
            stream.flush()
            result = run(
                [self._executable, "create", "--yes", "--quiet", "--json", "--prefix", prefix, "--file", stream.name],
                environment={
                    "CONDA_PKGS_DIRS": cache,
                    "CONDA_REGISTER_ENVS": "false",
                    "CONDA_SAFETY_CHECKS": "enabled",
                    "CONDA_EXTRA_SAFETY_CHECKS": "true",
                    "CONDA_NUMBER_CHANNEL_NOTICES": "0",
                },
                keep_lock=True,
            )
        _require_conda_success(result)


def select(wanted: str, base_prefix: str, option: str) -> Engine:
    """The engine called *wanted*, or with "auto" the first that the base at *base_prefix* has. Starts no process.

    :raises CondaError: it is not there; *option* names the variable that chooses it.
    """
    python, conda = os.path.join(base_prefix, "bin/python"), os.path.join(base_prefix, "bin/conda")
    found: dict[str, Engine] = {}
    rattler = os.path.join(glob.escape(base_prefix), "lib/python3.*/site-packages/rattler/__init__.py")
    if glob.glob(rattler) and os.path.exists(python):
        found["rattler"] = RattlerEngine(python)
    if os.path.exists(conda):
        found["conda"] = CondaEngine(conda)
    if wanted == "auto" and found:
        return next(iter(found.values()))
    if wanted not in found:
        has = f"has {', '.join(found)}" if found else "has none: install it with the role miniconda first"
        raise CondaError(f"{option}: the engine {wanted} is not in {base_prefix}, which {has}")
    return found[wanted]


def _failure(text: str) -> CondaError:
    """What an engine said of its failure, with the one cause ahead that is not about the lock."""
    full = any(words in text for words in ("No space left on device", "NoSpaceLeftError"))
    return CondaError(f"the disk is full: {text}" if full else text)


def _one_line(text: str) -> str:
    """rattler's chain of causes: package, URL and reason are in different links of it, and it repeats itself."""
    told = ""
    for line in text.splitlines():
        cause = line.strip().replace("Caused by: ", "")
        if cause not in told:
            told += f": {cause}" if told else cause
    return told or "rattler ended without a word"


def _require_conda_success(result: Result) -> None:
    """conda may end with 0 and have made nothing: no document that it printed may speak of an exception."""
    for document in _json_documents(result.stdout):
        failure = (document.get("errors") or [document])[0]
        if failure.get("exception_name") or document.get("exception_name"):
            name = failure.get("exception_name") or document["exception_name"]
            message = failure.get("message") or document.get("message", "")
            raise _failure(f"conda: {name}: {message}")
    if result.returncode != 0:
        raise _failure(f"conda ended with {result.returncode}: {result.tail()}")


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
    """Hold the archives of file: channels against their hashes: no engine does, and all believe what the lock says.

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
    for record in records:
        stem = os.path.join(cache, f"{record.name}-{record.version}-{record.build}")
        for path in glob.glob(f"{glob.escape(stem)}*"):
            if os.path.isdir(path):
                remove_tree(path)
            else:
                os.unlink(path)


def _write_history(prefix: str, packages: t.Sequence[Package], tool: str) -> None:
    """conda's own history, without which `conda env export --from-history` would be empty."""
    lines = [f"==> {time.strftime('%Y-%m-%d %H:%M:%S')} <==", f"# cmd: {tool} install @EXPLICIT"]
    lines += [
        f"+{p.channel}/{p.subdir}::{p.name}-{p.version}-{p.build}" for p in sorted(packages, key=lambda p: p.name)
    ]
    with open(os.path.join(prefix, "conda-meta", "history"), "w", encoding="utf-8") as stream:
        stream.write("\n".join(lines) + "\n")
