# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A directory for each user below one that belongs to root: only the user can look into it, and only root can add one.

So no directory has to be writable for all, and nothing has to be run with more rights when people log in.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import stat
import typing as t

OPTIONS = {
    "root": {"type": "path", "default": ""},
    "users": {"type": "list", "elements": "str", "default": []},
    "groups": {"type": "list", "elements": "str", "default": []},
}
_MODE = 0o700
_ROOT_MODE = 0o755
#: Root on a node.
_OURS = {0, os.geteuid()}
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class DirectoryError(Exception):
    """What is in the way of the directories, and what to do about it."""


def members(users: t.Iterable[str], groups: t.Iterable[str]) -> tuple[dict[str, pwd.struct_passwd], list[str]]:
    """Those *users* and the members of *groups* that the node knows, but for root; and names that it does not know."""
    names, unknown = list(users), []
    groups = list(groups)
    everybody = pwd.getpwall() if groups else []
    for group in groups:
        try:
            found = grp.getgrnam(group)
        except KeyError:
            unknown.append(f"group {group}")
            continue
        names += [*found.gr_mem, *(user.pw_name for user in everybody if user.pw_gid == found.gr_gid)]
    known = {}
    for name in dict.fromkeys(names):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            unknown.append(f"user {name}")
            continue
        if user.pw_uid != 0 and "/" not in user.pw_name:
            known[user.pw_name] = user
    return known, unknown


def look(options: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """What there is below the root: what is wrong with it and with whose directory, and who is not known.

    Each problem has its text as actual, and whether make() corrects it as fix. Nothing is told without a root.
    """
    root = options.get("root")
    if not root:
        return {}
    users, unknown = members(options["users"], options["groups"])
    problem = _problem_of_root(root)
    # Nothing is to be looked for where there is no safe place for it.
    if problem and problem["fix"] == "human":
        users = {}
    wrong = {name: problem_of for name, user in users.items() if (problem_of := _problem(root, user))}
    return {"root": root, "problem": problem, "unknown": unknown, "wrong": wrong}


def make(options: t.Mapping[str, t.Any], check_mode: bool = False) -> list[str]:
    """Make what is missing and give it its owner and mode; what was done, or in check mode would be.

    :raises DirectoryError: something is in the way, and nothing was changed.
    """
    found = look(options)
    root, problem, wrong = found["root"], found["problem"], found["wrong"]
    if problem and problem["fix"] == "human":
        raise DirectoryError(f"root: {root} {problem['actual']}: make it a directory of root, or name another one")
    for name, one in wrong.items():
        if one["fix"] == "human":
            raise DirectoryError(f"{root}/{name} {one['actual']}: it is to be the directory of {name}, move it away")
    done = [f"{root}: {problem['actual']}"] if problem else []
    done += [f"{root}/{name}: {one['actual']}" for name, one in sorted(wrong.items())]
    if check_mode or not done:
        return done
    handle = _make_root(root)
    try:
        for name in sorted(wrong):
            _make(handle, pwd.getpwnam(name))
    finally:
        os.close(handle)
    return done


def _make_root(root: str) -> int:
    umask = os.umask(0o022)
    try:
        os.makedirs(root, _ROOT_MODE, exist_ok=True)
    finally:
        os.umask(umask)
    handle = os.open(root, _OPEN)
    # Somebody may have been faster than us in a directory that all may write to.
    if os.fstat(handle).st_uid not in _OURS:
        os.close(handle)
        raise DirectoryError(f"root: {root} belongs to somebody else: make it a directory of root")
    os.fchmod(handle, _ROOT_MODE)
    return handle


def _make(root: int, user: pwd.struct_passwd) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(user.pw_name, _MODE, dir_fd=root)
    handle = os.open(user.pw_name, _OPEN, dir_fd=root)
    try:
        # Closed before it is given away.
        os.fchmod(handle, _MODE)
        os.fchown(handle, user.pw_uid, user.pw_gid)
    finally:
        os.close(handle)


def _problem_of_root(root: str) -> dict[str, str] | None:
    """Why *root*, or what is above it, is no safe place."""
    parent = os.path.dirname(root)
    for path in sorted(_with_parents(parent) | _with_parents(os.path.realpath(parent))):
        try:
            info = os.stat(path)
        except FileNotFoundError:
            break
        writable = info.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not info.st_mode & stat.S_ISVTX
        if info.st_uid not in _OURS or writable:
            return {"actual": f"lies below {path}, where others than root can replace it", "fix": "human"}
    try:
        info = os.lstat(root)
    except (FileNotFoundError, NotADirectoryError):
        return {"actual": "absent", "fix": "auto"}
    if not stat.S_ISDIR(info.st_mode):
        return {"actual": "is no directory", "fix": "human"}
    if info.st_uid not in _OURS:
        return {"actual": f"belongs to {_name(info.st_uid)}", "fix": "human"}
    mode = stat.S_IMODE(info.st_mode)
    return None if mode == _ROOT_MODE else {"actual": f"mode {mode:04o}", "fix": "auto"}


def _with_parents(path: str) -> set[str]:
    return {path} if path == os.path.dirname(path) else {path} | _with_parents(os.path.dirname(path))


def _problem(root: str, user: pwd.struct_passwd) -> dict[str, str] | None:
    try:
        info = os.lstat(os.path.join(root, user.pw_name))
    except (FileNotFoundError, NotADirectoryError):
        return {"actual": "absent", "fix": "auto"}
    if not stat.S_ISDIR(info.st_mode):
        return {"actual": "is no directory", "fix": "human"}
    if info.st_uid != user.pw_uid:
        # A run that was killed has made it, and not given it away yet.
        fix = "auto" if info.st_uid in _OURS else "human"
        return {"actual": f"belongs to {_name(info.st_uid)}", "fix": fix}
    mode = stat.S_IMODE(info.st_mode) & 0o777
    return None if mode == _MODE else {"actual": f"mode {mode:04o}", "fix": "auto"}


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
