# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A log that tells when it was tampered with: JSON lines, each with the sum of the one before.

The file is what counts. Whoever is told of the lines besides (the journal, syslog) is told in order from where that was
left off, so one that is stopped for a while misses nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import re
import typing as t

from .._conda.files import sync_directory, write_file

_FILE = "audit.jsonl"
_HEAD = "audit.head"
_LOCK = ".lock"
_ROTATED = re.compile(r"audit-(\d{12})\.jsonl")
#: What comes before the first line.
_NOTHING = "0" * 64
_MODE = 0o640


class AuditError(Exception):
    """The log is not whole, or cannot be written; what to do is in the text."""


@dataclasses.dataclass(frozen=True)
class Head:
    """How far the log goes, told beside it, so that lines missing at its end are noticed."""

    first: int = 1  #: the number of the first line that is still kept
    last: int = 0
    sum: str = _NOTHING  #: of the last line


@dataclasses.dataclass(frozen=True)
class Proof:
    """What a reading of the whole log says."""

    lines: int
    head: Head
    problem: str = ""  #: where the chain breaks, and how; empty: it is whole


class Log:
    """An audit log in a directory of its own."""

    def __init__(self, directory: str, max_bytes: int = 10 * 2**20, keep_files: int = 0) -> None:
        """Nothing is read or made yet.

        :param max_bytes: a file that has as many is rotated before the next line.
        :param keep_files: how many rotated files stay; 0: all.
        """
        self.directory = directory
        self._max_bytes = max_bytes
        self._keep_files = keep_files

    @property
    def path(self) -> str:
        """The file that lines are added to."""
        return os.path.join(self.directory, _FILE)

    @property
    def last(self) -> int:
        """The number of the last line, or 0 where nothing tells."""
        try:
            return self._head().last
        except AuditError:
            return 0

    def append(self, entries: t.Sequence[t.Mapping[str, t.Any]]) -> list[str]:
        """Add a line for each of *entries*, all or none, and make them survive a power loss; the lines.

        :raises AuditError: the log was tampered with at its end, or cannot be written: nothing was added then.
        """
        try:
            with self._exclusive():
                return self._append(entries)
        except OSError as error:
            raise AuditError(f"{self.path} cannot be written: {error}") from error

    def _append(self, entries: t.Sequence[t.Mapping[str, t.Any]]) -> list[str]:
        head = self._mended_head()
        if os.path.exists(self.path) and os.path.getsize(self.path) >= self._max_bytes:
            head = self._rotate(head)
        lines, number, last = [], head.last, head.sum
        for entry in entries:
            number += 1
            lines.append(_line({**entry, "number": number}, last))
            last = _sum_in(lines[-1])
        self._write(lines, dataclasses.replace(head, last=number, sum=last))
        return lines

    def prove(self, known_sum: str = "") -> Proof:
        """Read the log from its first line to its last.

        :param known_sum: of a line that must be in it, since somebody else was told of it.
        """
        with self._exclusive():
            try:
                head = self._head()
            except AuditError as error:
                return Proof(0, Head(), str(error))
            number, last, count, known = head.first - 1, "", 0, not known_sum
            for path in self._files():
                with open(path, "rb") as stream:
                    for line_number, line in enumerate(stream, 1):
                        text = line.decode("utf-8", "surrogateescape")
                        problem = _problem(text, number + 1, last)
                        number, last, count = number + 1, _sum_in(text), count + 1
                        known = known or last == known_sum
                        if not problem and number == head.last and last != head.sum:
                            problem = f"is another line than {_HEAD} says"
                        if problem:
                            return Proof(count - 1, head, f"{path}, line {line_number}: {problem}")
                rotated = _ROTATED.fullmatch(os.path.basename(path))
                if rotated and int(rotated[1]) != number:
                    return Proof(count, head, f"{path}: ends with line number {number}, which is not that in its name")
        if number < head.last:
            return Proof(count, head, f"after line number {number}: {head.last - number} lines are missing at the end")
        if not known:
            return Proof(
                count, head, f"no line has the sum {known_sum}: all was written anew, or that one was rotated away"
            )
        return Proof(count, head)

    def after(self, number: int) -> t.Iterator[tuple[int, str]]:
        """The numbers and lines behind line *number*."""
        for path in self._files():
            rotated = _ROTATED.fullmatch(os.path.basename(path))
            if rotated and int(rotated[1]) <= number:
                continue
            # Other bytes are somebody else's, and must not keep the rest from being told.
            with open(path, encoding="ascii", errors="backslashreplace") as stream:
                for line in stream:
                    with contextlib.suppress(ValueError, KeyError, TypeError):
                        found = int(json.loads(line)["number"])
                        if found > number:
                            yield found, line.rstrip("\n")

    def _files(self) -> list[str]:
        """All files of the log, the oldest first. A rotated one has the number of its last line in its name."""
        names = sorted(name for name in os.listdir(self.directory) if _ROTATED.fullmatch(name))
        paths = [os.path.join(self.directory, name) for name in names]
        return [*paths, self.path] if os.path.exists(self.path) else paths

    def _head(self) -> Head:
        path = os.path.join(self.directory, _HEAD)
        try:
            with open(path, encoding="utf-8") as stream:
                return Head(**json.load(stream))
        except FileNotFoundError:
            if not self._files():
                return Head()
            raise AuditError(f"{path} is missing: lines may have been removed") from None
        except (OSError, ValueError, TypeError) as error:
            raise AuditError(f"{path} cannot be read: {error}") from error

    def _mended_head(self) -> Head:
        """The head, when what a killed run left has been put right: a line torn in its middle, or not yet in the head.

        :raises AuditError: the end of the log is not what the head says.
        """
        head = self._head()
        try:
            with open(self.path, "rb+") as stream:
                end = _last_whole_line(stream)
                stream.truncate(stream.tell())
        except FileNotFoundError:
            return head
        if not end or _sum_in(end) == head.sum:
            return head
        number = _number_in(end)
        behind = [line for found, line in self.after(head.last) if found <= number]
        known = head
        for line in behind:
            if _problem(f"{line}\n", known.last + 1, known.sum):
                break
            known = dataclasses.replace(known, last=known.last + 1, sum=_sum_in(line))
        if known.last != number or not behind:
            raise AuditError(
                f"{self.path} does not end as {_HEAD} says: it was tampered with: keep a copy of {self.directory} for "
                "whoever looks into that, then move it away"
            )
        return known

    def _write(self, lines: t.Sequence[str], head: Head) -> None:
        """Add *lines*, and tell so with *head*, or leave all as it was."""
        made = not os.path.exists(self.path)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)
        try:
            before = os.fstat(descriptor).st_size
            try:
                _write_all(descriptor, "".join(f"{line}\n" for line in lines).encode("utf-8"))
                os.fsync(descriptor)
                if made:
                    sync_directory(self.directory)
                self._tell(head)
            except OSError:
                os.ftruncate(descriptor, before)
                raise
        finally:
            os.close(descriptor)

    def _tell(self, head: Head) -> None:
        write_file(os.path.join(self.directory, _HEAD), json.dumps(dataclasses.asdict(head)) + "\n", _MODE)

    def _rotate(self, head: Head) -> Head:
        os.rename(self.path, os.path.join(self.directory, f"audit-{head.last:012}.jsonl"))
        rotated = self._files()
        gone = rotated[: -self._keep_files] if self._keep_files else []
        if gone:
            first = int(t.cast("re.Match[str]", _ROTATED.fullmatch(os.path.basename(gone[-1])))[1]) + 1
            head = dataclasses.replace(head, first=first)
            self._tell(head)
        for path in gone:
            os.unlink(path)
        sync_directory(self.directory)
        return head

    @contextlib.contextmanager
    def _exclusive(self) -> t.Iterator[None]:
        """Keep other runs out; the kernel lets go of the lock when the process ends."""
        path = os.path.join(self.directory, _LOCK)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _line(entry: t.Mapping[str, t.Any], before: str) -> str:
    text = _text({**entry, "before": before})
    return _text({**entry, "before": before, "sum": hashlib.sha256(text.encode("utf-8")).hexdigest()})


def _text(entry: t.Mapping[str, t.Any]) -> str:
    """One way to write an entry, so that its sum can be had again."""
    return json.dumps(entry, sort_keys=True, separators=(",", ":"))


def _problem(line: str, number: int, before: str) -> str:
    """What is wrong with a line that must have that number, and the sum of the line before it where that is known."""
    try:
        entry = json.loads(line)
        found_number, found_before = entry["number"], entry["before"]
        del entry["sum"], entry["before"]
    except (ValueError, KeyError, TypeError):
        return "is no line of this log"
    # Written anew, it must be the same to the last byte: so nothing can hide in how it is written.
    if line != f"{_line(entry, found_before)}\n":
        return "was changed"
    if found_number != number:
        return f"is line number {found_number}, where {number} is expected: lines are missing or out of order"
    if before and found_before != before:
        return "does not follow the line before it"
    if number == 1 and found_before != _NOTHING:
        return "is no first line"
    return ""


def _sum_in(line: str) -> str:
    """The sum that a line says it has."""
    try:
        return str(json.loads(line)["sum"])
    except (ValueError, KeyError, TypeError):
        return ""


def _number_in(line: str) -> int:
    try:
        return int(json.loads(line)["number"])
    except (ValueError, KeyError, TypeError):
        return 0


def _last_whole_line(stream: t.BinaryIO) -> str:
    """The last line that ends as lines do; the stream is then behind it."""
    size = stream.seek(0, os.SEEK_END)
    block = b""
    while size and block.count(b"\n") < 2:
        step = min(size, 1 << 16)
        size = stream.seek(size - step)
        block = stream.read(step) + block
    whole, _newline, torn = block.rpartition(b"\n")
    stream.seek(-len(torn), os.SEEK_END)
    return whole.rpartition(b"\n")[2].decode("utf-8", "surrogateescape")


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
