# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What makes a freshly installed prefix one that everybody can use and nobody changes."""

from __future__ import annotations

import glob
import json
import os
import stat

from .files import write_file
from .prefixes import scan
from .processes import run


def seal(prefix: str, message: str) -> None:
    """Make *prefix* complete, readable by all and writable by its owner alone, who is refused with *message*."""
    compile_byte_code(prefix)
    protect(prefix, message)
    tidy_modes(prefix)


def compile_byte_code(prefix: str) -> None:
    """Write byte code once, valid whatever the files' times: users cannot write it and would start slowly."""
    python = os.path.join(prefix, "bin/python")
    folders = _libraries(prefix)
    if os.path.exists(python) and folders:
        # A package may carry files for other Pythons that do not compile: that is no failure of the build.
        mode = ["--invalidation-mode", "unchecked-hash"]
        run([python, "-I", "-m", "compileall", "-q", "-j", "0", *mode, *folders], keep_lock=True)


def protect(prefix: str, message: str) -> None:
    """Make conda (CEP 22) and pip (PEP 668) refuse to change *prefix*, even for root, with *message*."""
    write_file(os.path.join(prefix, "conda-meta/frozen"), json.dumps({"message": message}) + "\n")
    for library in _libraries(prefix):
        write_file(os.path.join(library, "EXTERNALLY-MANAGED"), f"[externally-managed]\nError={message}\n")


def tidy_modes(prefix: str) -> None:
    """All may read, none but the owner may write, no set-uid, and who installs owns it: whatever the archives say."""
    uid, gid = os.geteuid(), os.getegid()
    for path in ("", *scan(prefix)):
        path = os.path.join(prefix, path)
        info = os.lstat(path)
        if (info.st_uid, info.st_gid) != (uid, gid):
            os.chown(path, uid, gid, follow_symlinks=False)
        if stat.S_ISLNK(info.st_mode):
            continue
        mode = stat.S_IMODE(info.st_mode)
        execute = 0o111 if mode & 0o100 else 0
        wanted = (mode | 0o444 | execute) & ~0o7022
        if wanted != mode:
            os.chmod(path, wanted)


def _libraries(prefix: str) -> list[str]:
    """The standard libraries in *prefix*, of which a package may add links to another."""
    found = glob.glob(os.path.join(glob.escape(prefix), "lib/python3.*"))
    return [path for path in sorted(found) if os.path.isdir(path) and not os.path.islink(path)]
