# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a node says of itself through its files alone: no subprocess, no network, nothing changed."""

from __future__ import annotations

import contextlib
import errno
import grp
import hashlib
import os
import platform
import pwd
import stat
import typing as t

from .._conda import construction, kernels, prefixes
from .._conda.environments import LAYOUT_OPTIONS, Places, look, names
from .._conda.files import existing_parent, sha256_of
from .._conda.usage import in_use
from .._gpu.facts import gpu
from . import user_directories

#: How a module asks for what node() takes.
OPTIONS = {
    "base_prefix": {"type": "path", "default": "/opt/conda"},
    **LAYOUT_OPTIONS,
    "kernels_dir": {"type": "path", "default": "/usr/local/share/jupyter/kernels"},
    "files": {"type": "list", "elements": "path", "default": []},
    "contents": {"type": "list", "elements": "path", "default": []},
    "usage": {"type": "bool", "default": False},
    "user_directories": {"type": "dict", "default": {}, "options": user_directories.OPTIONS},
}
_PLATFORMS = {"x86_64": "linux-64", "aarch64": "linux-aarch64"}


def node(options: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """All of it, as node_facts returns it for these OPTIONS."""
    places = Places(options["envs_dir"], options["generations_dir"])
    base_prefix = options["base_prefix"]
    return {
        "system": system(),
        "base": base(base_prefix),
        "environments": environments(places, options["kernels_dir"]),
        "files": {path: file(path, path in options["contents"]) for path in options["files"]},
        "usage": usage(places, options["usage"]),
        "disk": {path: disk(path) for path in (base_prefix, places.generations_dir)},
        "gpu": gpu(),
        "user_directories": user_directories.look(options["user_directories"]),
    }


def system() -> dict[str, str]:
    """Architecture, conda's name for the platform, and the C library's version."""
    architecture = platform.machine()
    glibc = ""
    with contextlib.suppress(ValueError, OSError):
        glibc = (os.confstr("CS_GNU_LIBC_VERSION") or "").replace("glibc ", "")
    return {
        "architecture": architecture,
        "platform": _PLATFORMS.get(architecture, f"linux-{architecture}"),
        "glibc": glibc,
    }


def base(link: str) -> dict[str, t.Any]:
    """The base that *link* leads to, and whether it is what was installed."""
    target, manifest, problems = prefixes.behind(link, "base")
    return {
        "link": link,
        "target": target,
        "identity": manifest.identity if manifest else None,
        "problems": [problem.as_dict() for problem in problems],
        "leftovers": construction.leftovers(os.path.dirname(target)) if target else [],
    }


def environments(places: Places, kernels_dir: str = "") -> dict[str, t.Any]:
    """Every shared environment there is anything of, by name, each with its kernelspec in *kernels_dir*."""
    return {
        name: {
            **look(places, name).as_dict(),
            "kernelspec": kernels.look(kernels_dir, name).as_dict(),
        }
        for name in names(places)
    }


def usage(places: Places, asked: bool) -> dict[str, t.Any]:
    """The generations that processes of this node use, where that is *asked* for."""
    paths = [path for name in names(places) for path in places.generations(name)] if asked else []
    return {"generations_dir": places.generations_dir, "in_use": sorted(in_use(paths)) if asked else None}


def file(path: str, content: bool = False) -> dict[str, t.Any]:
    """What *path* is, whose it is, and for a regular file the sha256 of its content, or all of it as *content*."""
    try:
        info = os.lstat(path)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        return {"state": "absent"}
    facts: dict[str, t.Any] = {
        "state": "other",
        "mode": f"{stat.S_IMODE(info.st_mode):04o}",
        "owner": _name(lambda: pwd.getpwuid(info.st_uid).pw_name, info.st_uid),
        "group": _name(lambda: grp.getgrgid(info.st_gid).gr_name, info.st_gid),
    }
    if stat.S_ISLNK(info.st_mode):
        facts.update(state="link", target=os.readlink(path))
    elif stat.S_ISDIR(info.st_mode):
        facts.update(state="directory")
    elif stat.S_ISREG(info.st_mode):
        facts.update(state="file", **(_text(path) if content else {"sha256": sha256_of(path)}))
    return facts


def _text(path: str) -> dict[str, str]:
    """A file's content, as far as it is text, and its sum; both empty where it cannot be read."""
    data = b""
    with contextlib.suppress(OSError), open(path, "rb") as stream:
        data = stream.read()
    return {"sha256": hashlib.sha256(data).hexdigest(), "content": data.decode("utf-8", "replace")}


def _name(lookup: t.Callable[[], str], number: int) -> str:
    try:
        return lookup()
    except KeyError:
        return str(number)


def disk(path: str) -> dict[str, int]:
    """Room where *path* is or will be: free and total MiB, free inodes."""
    info = os.statvfs(existing_parent(path))
    return {
        "free_mb": info.f_bavail * info.f_frsize // 2**20,
        "total_mb": info.f_blocks * info.f_frsize // 2**20,
        "free_inodes": info.f_favail,
    }
