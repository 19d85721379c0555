# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""Reports on their way to the site's endpoint. One that does not get there waits for the next run."""

from __future__ import annotations

import http.client
import json
import os
import re
import time
import typing as t
import urllib.error
import urllib.request

from ...module_utils._conda.files import write_file
from .._drift_report import Document

#: How long the endpoint may take to answer, in seconds.
_TIMEOUT = 30.0
#: The pauses before it is asked again, in seconds.
_PAUSES = (1.0, 5.0)
#: Answers that will be the same next time, since they are about the report itself.
_REFUSED = (400, 409, 413, 422)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET that leaves the report behind, and takes the token elsewhere."""

    def redirect_request(self, *_: t.Any) -> None:
        """Nowhere."""
        return None


class Outbox:
    """Reports in *directory*, the oldest of which go when there are more than *keep*."""

    def __init__(self, directory: str, url: str, token: str, keep: int, pauses: t.Sequence[float] = _PAUSES) -> None:
        self._directory = directory
        self._url = url
        self._token = token
        self._keep = keep
        self._pauses = pauses
        self._opener = urllib.request.build_opener(_NoRedirect)

    def put(self, report: Document) -> None:
        """Keep a report until it is sent."""
        os.makedirs(self._directory, 0o700, exist_ok=True)
        path = os.path.join(self._directory, f"{report['run']['id']}.json")
        write_file(path, json.dumps(report) + "\n", 0o600)
        unfinished = [name for name in os.listdir(self._directory) if name.startswith(".")]
        for name in [*unfinished, *self.names()[: -self._keep]]:
            os.unlink(os.path.join(self._directory, name))

    def names(self) -> list[str]:
        """What is to be sent, the oldest first."""
        try:
            return sorted(name for name in os.listdir(self._directory) if re.fullmatch(r"[\w-]+\.json", name))
        except FileNotFoundError:
            return []

    def send(self) -> str:
        """Send all, the oldest first, up to one that does not get there.

        :returns: what somebody should know, or an empty string.
        """
        refused = ""
        for name in self.names():
            path = os.path.join(self._directory, name)
            with open(path, "rb") as stream:
                failure, final = self._post(stream.read())
            if failure and not final:
                left = len(self.names())
                return f"{left} report{'' if left == 1 else 's'} could not be sent, and will be next time: {failure}"
            if failure:
                refused = f"The report {name} is not taken and will not be sent again: {failure}"
            os.unlink(path)
        return refused

    def _post(self, body: bytes) -> tuple[str, bool]:
        """Why *body* did not get there, and whether that is for good."""
        headers = {"Content-Type": "application/json", "User-Agent": "envfleet.gpu_cluster"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        failure = ""
        for pause in (0.0, *self._pauses):
            time.sleep(pause)
            request = urllib.request.Request(self._url, body, headers, method="POST")
            try:
                with self._opener.open(request, timeout=_TIMEOUT):
                    return "", False
            except urllib.error.HTTPError as error:
                failure = f"the endpoint answers {error.code} {error.reason}"
                error.close()
                if error.code < 500 and error.code not in (408, 429):
                    return failure, error.code in _REFUSED
            except (OSError, http.client.HTTPException) as error:
                failure = str(getattr(error, "reason", error)) or type(error).__name__
        return failure, False
