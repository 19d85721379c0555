# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""Files from upstream, each proved by its sha256 before anybody sees it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.client
import os
import tempfile
import time
import typing as t
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from ...module_utils._conda.files import free_bytes
from .config import File, MirrorError

#: How many files are fetched at once.
_AT_ONCE = 4
#: How long a server may keep silent, in seconds.
_TIMEOUT = 60.0
#: The pauses before it is asked again, in seconds.
PAUSES = (1.0, 5.0)
#: After how many files a server is asked for no more, when it gave none of them.
_ENOUGH = 5
#: Answers that may be another one a moment later, besides those from 500 on.
_LATER = (408, 425, 429)
_BLOCK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Problem:
    """Why something that is wanted is not there."""

    text: str
    unreachable: bool = False  #: upstream does not answer, so that a later run may do better


class _Away(Exception):
    """The server does not answer."""


class _Cut(Exception):
    """The server has not answered to the end."""


class Fetcher:
    """Fetches into a directory of its own."""

    def __init__(self, staging: str, min_free_mb: int, pauses: t.Sequence[float] = PAUSES) -> None:
        self._staging = staging
        self._reserve = min_free_mb * 2**20
        self._pauses = pauses
        self._opener = urllib.request.build_opener()  # which goes by the proxies that are set
        self._failures: dict[str, int] = {}  #: of each server, since it has last given a file
        self._stopped = ""  #: why nothing can be written any more

    def fetch(self, files: t.Sequence[File], take: t.Callable[[File, str], None]) -> list[Problem]:
        """Fetch *files* and hand each to *take* with the path where it is.

        :returns: what kept it from some of them.
        :raises MirrorError: nothing can be written, for the disk is full.
        """
        problems = []
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for file, outcome in zip(files, pool.map(self._attempt, files), strict=True):
                if isinstance(outcome, Problem):
                    problems.append(outcome)
                else:
                    take(dataclasses.replace(file, size=os.path.getsize(outcome)), outcome)
        if self._stopped:
            raise MirrorError(f"{self._stopped}: what was served before stays as it is")
        return problems

    def _attempt(self, file: File) -> str | Problem:
        """Where *file* is now, or why it is not."""
        host = urllib.parse.urlsplit(file.url).netloc
        said = ""
        for pause in (0.0, *self._pauses):
            if self._stopped or self._failures.get(host, 0) >= _ENOUGH:
                return Problem(f"{file.url}: {host} does not answer{said}", unreachable=True)
            time.sleep(pause)
            try:
                place = self._download(file)
                self._failures[host] = 0
                return place
            except urllib.error.HTTPError as error:
                error.close()
                if error.code < 500 and error.code not in _LATER:
                    return Problem(f"{file.url}: HTTP {error.code} {error.reason}")
                said = f": HTTP {error.code} {error.reason}"
            except _Cut as error:
                said = f": {error}"
            except _Away as error:
                said = f": {error}"
                if pause == self._pauses[-1]:
                    self._failures[host] = _ENOUGH
            except MirrorError as error:
                return Problem(str(error))
            except OSError as error:
                self._stopped = str(error.strerror or error)
                return Problem(self._stopped)
        self._failures[host] = self._failures.get(host, 0) + 1
        return Problem(f"{file.url}: {host} does not answer{said}", unreachable=True)

    def _download(self, file: File) -> str:
        """:raises urllib.error.HTTPError, _Away, _Cut, MirrorError, OSError: the last is about our own disk."""
        descriptor, place = tempfile.mkstemp(dir=self._staging)
        digest = hashlib.sha256()
        try:
            with os.fdopen(descriptor, "wb") as stream:
                for block in self._blocks(file.url):
                    if free_bytes(self._staging) - len(block) < self._reserve:
                        reserve = f"less than {self._reserve >> 20} MiB free"
                        raise OSError(f"channel_mirror_min_free_mb: {file.name} would leave {reserve}")
                    digest.update(block)
                    stream.write(block)
            if digest.hexdigest() != file.sha256:
                raise MirrorError(
                    f"{file.url} is not what is wanted: expected the sha256 {file.sha256}, got {digest.hexdigest()}"
                )
        except BaseException:
            os.unlink(place)
            raise
        return place

    def _blocks(self, url: str) -> t.Iterator[bytes]:
        request = urllib.request.Request(url, headers={"User-Agent": "envfleet.gpu_cluster"})
        with contextlib.ExitStack() as stack:
            try:
                answer = stack.enter_context(self._opener.open(request, timeout=_TIMEOUT))
            except urllib.error.HTTPError:
                raise
            except (OSError, http.client.HTTPException) as error:
                raise _Away(str(getattr(error, "reason", "") or error)) from error
            while True:
                try:
                    block = answer.read(_BLOCK)
                except (OSError, http.client.HTTPException) as error:
                    raise _Cut(str(error) or type(error).__name__) from error
                if not block:
                    # What is cut off short is found here, since reading in blocks does not tell.
                    if answer.length:
                        raise _Cut(f"the connection ended {answer.length} bytes too early")
                    return
                yield block
