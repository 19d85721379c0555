# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A generation as an archive that is unpacked anywhere, without Ansible and without conda, as conda-pack makes them.

Every file of a package is in it as in the package's own archive, which its sha256 proves: the prefix that was written
into it is taken out again. What makes a generation one that nobody changes is left out, and so is byte code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import inspect
import io
import json
import os
import re
import shlex
import tarfile
import typing as t

from . import _conda_unpack
from .errors import CondaError
from .files import sync_directory
from .records import is_cached_bytecode, read_distributions, read_records

_EPOCH = 315532800  # 1980-01-01: the same archive every time, with a time that a zip file can hold
_IDENTITY = "envfleet.identity"
_ACTIVATE = """\
# Source this in bash or zsh: . {name}
if [ -n "${{BASH_SOURCE:-}}" ]; then _envfleet_script=${{BASH_SOURCE}}; else _envfleet_script=$0; fi
if [ -n "${{CONDA_PREFIX:-}}" ] && [ -n "${{_ENVFLEET_PATH:-}}" ]; then . "$CONDA_PREFIX/bin/deactivate"; fi
_ENVFLEET_PATH=$PATH
CONDA_PREFIX=$(cd "$(dirname "$_envfleet_script")/.." && pwd)
unset _envfleet_script
PATH=$CONDA_PREFIX/bin:$PATH
export PATH CONDA_PREFIX
{variables}for _envfleet_hook in $(ls "$CONDA_PREFIX/etc/conda/activate.d" 2>/dev/null); do
    case $_envfleet_hook in *.sh) . "$CONDA_PREFIX/etc/conda/activate.d/$_envfleet_hook" ;; esac
done
unset _envfleet_hook
"""
_DEACTIVATE = """\
# Source this in bash or zsh, after activate.
for _envfleet_hook in $(ls -r "${{CONDA_PREFIX:-}}/etc/conda/deactivate.d" 2>/dev/null); do
    case $_envfleet_hook in *.sh) . "$CONDA_PREFIX/etc/conda/deactivate.d/$_envfleet_hook" ;; esac
done
unset _envfleet_hook
if [ -n "${{_ENVFLEET_PATH:-}}" ]; then PATH=$_ENVFLEET_PATH; export PATH; fi
unset CONDA_PREFIX _ENVFLEET_PATH {variables}
"""


@dataclasses.dataclass(frozen=True)
class _Placed:
    """A file that has the prefix in it."""

    placeholder: str  #: what stands in the archive in its place
    kind: str  #: text or binary
    sha256: str = ""  #: of the file with the placeholder, where a package tells it


def identity_of(archive: str) -> str | None:
    """What the archive was made from, or None where there is none that write() made."""
    try:
        with tarfile.open(archive, "r:gz") as content:
            return content.pax_headers.get(_IDENTITY)
    except (OSError, tarfile.TarError, EOFError, ValueError):
        return None


def write(prefix: str, identity: str, dest: str, mode: int = 0o644) -> None:
    """Write the generation *prefix* to *dest*, whole or not at all.

    :raises CondaError: a file is not that of its package, or cannot be read.
    """
    files, placed = _files(prefix)
    temporary = f"{dest}.{os.getpid()}.new"
    try:
        with open(temporary, "wb") as raw:
            os.fchmod(raw.fileno(), mode)
            # A name and a time in the header would make two archives of the same differ.
            with gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as packed:
                _write(t.cast("t.BinaryIO", packed), prefix, identity, files, placed)
            raw.flush()
            os.fsync(raw.fileno())
        os.replace(temporary, dest)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_directory(os.path.dirname(dest))


def _write(
    stream: t.BinaryIO, prefix: str, identity: str, files: t.Iterable[str], placed: t.Mapping[str, _Placed]
) -> None:
    headers = {_IDENTITY: identity}
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT, pax_headers=headers) as archive:
        for path in files:
            full = os.path.join(prefix, path)
            member = archive.gettarinfo(full, path)
            # Hard links lead into the package cache, and mean nothing elsewhere.
            if member.islnk():
                member = _member(path, 0o644)
            member.mode = os.lstat(full).st_mode & 0o777
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mtime = _EPOCH
            if member.isreg():
                with open(full, "rb") as content:
                    data = content.read()
                if path in placed:
                    data = _taken_out(data, prefix, path, placed[path])
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
            else:
                archive.addfile(member)
        for path, text, mode in _scripts(prefix, placed):
            data = text.encode()
            member = _member(path, mode)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def _member(path: str, mode: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(path)
    member.mode, member.mtime = mode, _EPOCH
    return member


def _files(prefix: str) -> tuple[list[str], dict[str, _Placed]]:
    """What goes into the archive, and which of it has the prefix in it.

    :raises CondaError: the records cannot be read.
    """
    records, problems = read_records(prefix)
    distributions, more = read_distributions(prefix, records)
    for problem in (*problems, *more):
        raise CondaError(f"{prefix} is damaged: {problem.subject}: {problem.detail}")
    meta = os.listdir(os.path.join(prefix, "conda-meta"))
    files = {f"conda-meta/{name}" for name in meta if name.endswith(".json") or name in ("history", "state")}
    files.update(path for record in records for path in record.files)
    files.update(path for distribution in distributions for path in distribution.files)
    placed: dict[str, _Placed] = {}
    for name in meta:
        if name.endswith(".json"):
            with open(os.path.join(prefix, "conda-meta", name), encoding="utf-8") as stream:
                entries = json.load(stream).get("paths_data", {}).get("paths", ())
            for entry in entries:
                if entry.get("prefix_placeholder"):
                    kind = entry.get("file_mode") or "text"
                    placed[entry["_path"]] = _Placed(entry["prefix_placeholder"], kind, entry.get("sha256") or "")
    kept = sorted(path for path in files if _belongs(prefix, path))
    for path in kept:
        # Tools wrote these into the prefix, so there is no placeholder that a package tells.
        if path not in placed and path.startswith("bin/") and _starts_with(prefix, path):
            placed[path] = _Placed(prefix, "text")
    return kept, {path: placed[path] for path in kept if path in placed}


def _belongs(prefix: str, path: str) -> bool:
    if path.startswith(("/", "../")) or is_cached_bytecode(path):
        return False
    full = os.path.join(prefix, path)
    return os.path.lexists(full) and (os.path.islink(full) or not os.path.isdir(full))


def _starts_with(prefix: str, path: str) -> bool:
    full = os.path.join(prefix, path)
    if os.path.islink(full):
        return False
    shebang = b"#!" + os.fsencode(prefix) + b"/"
    with open(full, "rb") as stream:
        return stream.read(len(shebang)) == shebang


def _taken_out(data: bytes, prefix: str, path: str, placed: _Placed) -> bytes:
    """*data* as it was before the prefix got into the place of the placeholder.

    :raises CondaError: that is not what the package has.
    """
    old, new = os.fsencode(prefix), os.fsencode(placed.placeholder)
    data = data.replace(old, new) if placed.kind == "text" else _repadded(data, old, new)
    if placed.sha256 and hashlib.sha256(data).hexdigest() != placed.sha256:
        raise CondaError(f"{prefix}/{path} is not the file of its package: run the site playbook with verify: full")
    return data


def _repadded(data: bytes, old: bytes, new: bytes) -> bytes:
    """Strings in a binary file end with a zero byte, and one that got shorter is followed by more of them."""
    parts, position = [], 0
    for match in re.finditer(re.escape(old) + rb"[^\0]*\0", data):
        text = match[0].replace(old, new)
        spare = len(text) - len(match[0])
        parts += [data[position : match.start()], text]
        position = match.end() + spare
    return b"".join([*parts, data[position:]])


def _scripts(prefix: str, placed: t.Mapping[str, _Placed]) -> list[tuple[str, str, int]]:
    """What makes an unpacked archive usable: path, text and mode."""
    table = [(path, place.placeholder, place.kind) for path, place in sorted(placed.items())]
    rows = "".join(f"        {row!r},\n" for row in table)
    unpack = f'{inspect.getsource(_conda_unpack)}\n\nif __name__ == "__main__":\n    unpack([\n{rows}    ])\n'
    variables = _variables(prefix)
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(variables.items()))
    return [
        ("bin/activate", _ACTIVATE.format(name="bin/activate", variables=exports), 0o644),
        ("bin/conda-unpack", unpack, 0o755),
        ("bin/deactivate", _DEACTIVATE.format(variables=" ".join(sorted(variables))), 0o644),
    ]


def _variables(prefix: str) -> dict[str, str]:
    try:
        with open(os.path.join(prefix, "conda-meta/state"), encoding="utf-8") as stream:
            return {str(name): str(value) for name, value in json.load(stream)["env_vars"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise CondaError(f"{prefix}/conda-meta/state cannot be read: {error}") from error
