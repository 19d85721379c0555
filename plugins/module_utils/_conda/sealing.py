# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What makes a freshly installed prefix one that everybody can use and nobody changes."""

from __future__ import annotations

import glob
import json
import os
import stat
import typing as t

from .access import Access
from .errors import CondaError
from .files import write_file
from .locks import Lock
from .prefixes import scan
from .problems import Problem
from .processes import run

_STATE = "conda-meta/state"


def seal(prefix: str, message: str, variables: t.Iterable[tuple[str, str]] = (), access: Access | None = None) -> None:
    """Make *prefix* complete and one that nobody changes, not even its owner, who is refused with *message*.

    :param variables: what activation sets.
    :param access: who may use it; None: all.
    """
    compile_byte_code(prefix)
    write_variables(prefix, variables)
    protect(prefix, message)
    tidy_modes(prefix, access or Access())


def write_variables(prefix: str, variables: t.Iterable[tuple[str, str]]) -> None:
    """Have conda and its kin set *variables* in every shell that activates *prefix*."""
    content = dict(variables)
    if content:
        write_file(os.path.join(prefix, _STATE), json.dumps({"env_vars": content}) + "\n")


def compare_variables(prefix: str, lock: Lock) -> list[Problem]:
    """What is different when activating *prefix* must set just what *lock* says."""
    try:
        with open(os.path.join(prefix, _STATE), encoding="utf-8") as stream:
            found = json.load(stream)["env_vars"]
    except FileNotFoundError:
        found = {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [Problem("changed", _STATE, f"cannot be read: {error}")]
    if found == dict(lock.variables):
        return []
    return [Problem("changed", _STATE, "sets other variables than the lock says")]


def compile_byte_code(prefix: str) -> None:
    """Write byte code once, valid whatever the files' times: users cannot write it and would start slowly.

    :raises CondaError: the process that does it, or one of its workers, was killed, and has left files half written.
    """
    python = os.path.join(prefix, "bin/python")
    folders = _libraries(prefix)
    if os.path.exists(python) and folders:
        # A package may carry files for other Pythons that do not compile: that is no failure of the build.
        mode = ["--invalidation-mode", "unchecked-hash"]
        result = run([python, "-I", "-m", "compileall", "-q", "-j", "0", *mode, *folders], keep_lock=True)
        if result.returncode < 0 or "BrokenProcessPool" in result.stderr:
            raise CondaError("compileall was killed, maybe for want of memory, while it wrote byte code: run again")


def protect(prefix: str, message: str) -> None:
    """Make conda (CEP 22) and pip (PEP 668) refuse to change *prefix*, even for root, with *message*."""
    write_file(os.path.join(prefix, "conda-meta/frozen"), json.dumps({"message": message}) + "\n")
    for library in _libraries(prefix):
        write_file(os.path.join(library, "EXTERNALLY-MANAGED"), f"[externally-managed]\nError={message}\n")


def tidy_modes(prefix: str, access: Access) -> None:
    """None but the owner may write, no set-uid, and all is as *access* says: whatever the archives say."""
    uid, gid = access.accounts()
    forbidden = 0o7000 | int(access.umask, 8)
    for path in ("", *scan(prefix)):
        path = os.path.join(prefix, path)
        info = os.lstat(path)
        if (info.st_uid, info.st_gid) != (uid, gid):
            os.chown(path, uid, gid, follow_symlinks=False)
        if stat.S_ISLNK(info.st_mode):
            continue
        mode = stat.S_IMODE(info.st_mode)
        execute = 0o111 if mode & 0o100 else 0
        wanted = (mode | 0o444 | execute) & ~forbidden
        if wanted != mode:
            os.chmod(path, wanted)
    os.chmod(prefix, access.top)


def _libraries(prefix: str) -> list[str]:
    """The standard libraries in *prefix*, of which a package may add links to another."""
    found = glob.glob(os.path.join(glob.escape(prefix), "lib/python3.*"))
    return [path for path in sorted(found) if os.path.isdir(path) and not os.path.islink(path)]
