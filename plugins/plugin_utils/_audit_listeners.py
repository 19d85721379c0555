# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""Who is told of the audit log's lines besides its file: each in order, and from where that was left off."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import typing as t

from ..module_utils._audit.log import Log
from ..module_utils._conda.files import write_file

_JOURNAL = "/run/systemd/journal/socket"
_NAME = "envfleet-audit"
#: A datagram must not be longer. The file has the whole line.
_LIMIT = 60_000
_SECONDS = 10
#: authpriv.notice, as syslog numbers it.
_PRIORITY = 10 * 8 + 5

Send = t.Callable[[t.Sequence[str]], None]


@dataclasses.dataclass(frozen=True)
class Listener:
    """Somebody who is told."""

    name: str
    send: Send  #: takes all of the lines or raises OSError


def listeners(journal: bool, syslog: str) -> list[Listener]:
    """Those that the options ask for.

    :param syslog: HOST:PORT for TCP, or the path of a Unix socket; empty: none.
    """
    told = [Listener("journal", _to_journal)] if journal else []
    return [*told, Listener("syslog", lambda lines: _to_syslog(syslog, lines))] if syslog else told


def tell(log: Log, listener: Listener) -> None:
    """Tell *listener* of all lines that it has not been told of.

    :raises OSError: it could not be told; it is told the next time.
    """
    path = os.path.join(log.directory, f"told.{listener.name}")
    try:
        with open(path, encoding="utf-8") as stream:
            last = int(stream.read())
    except (FileNotFoundError, ValueError):
        last = 0  # better told twice than never
    if last > log.last:
        last = 0  # the log was moved away, and another one begun
    found = list(log.after(last))
    if found:
        listener.send([line for _number, line in found])
        write_file(path, f"{found[-1][0]}\n", 0o640)


def _to_journal(lines: t.Sequence[str]) -> None:
    """Journald's own protocol: fields that people can ask for, as journalctl ENVFLEET_HOST=node-1."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.settimeout(_SECONDS)
        channel.connect(_JOURNAL)
        for line in lines:
            entry = json.loads(line)
            fields = {"MESSAGE": line[:_LIMIT], "PRIORITY": "5", "SYSLOG_IDENTIFIER": _NAME}
            fields |= {f"ENVFLEET_{key.upper()}": str(entry[key]) for key in ("run", "host", "sum") if key in entry}
            channel.send("".join(f"{key}={value}\n" for key, value in fields.items()).encode("utf-8"))


def _to_syslog(address: str, lines: t.Sequence[str]) -> None:
    messages = [f"<{_PRIORITY}>{_NAME}: {line}".encode() for line in lines]
    if os.path.isabs(address):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.settimeout(_SECONDS)
            channel.connect(address)
            for message in messages:
                channel.send(message[:_LIMIT])
        return
    host, _colon, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS) as channel:
        channel.sendall(b"".join(message + b"\n" for message in messages))
        # What is sent has arrived only when the other side has read up to the end, and closes.
        channel.shutdown(socket.SHUT_WR)
        while channel.recv(4096):
            pass
