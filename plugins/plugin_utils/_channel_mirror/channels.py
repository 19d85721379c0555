# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""What only rattler knows: which packages a channel offers, and how an index is written."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import re
import sys
import typing as t
import urllib.parse

from ...module_utils._conda.errors import CondaError
from ...module_utils._conda.files import remove_tree
from ...module_utils._conda.processes import run
from . import _rattler_child
from .config import Channel, Config, File, MirrorError
from .fetching import Problem
from .tree import Tree, copy_into

#: What is served of an index, with the file that is read most last.
INDEXES = ("repodata.json", "repodata.json.zst")
# How rattler tells that a server does not answer.
_UNREACHABLE = re.compile(r"error sending request|operation timed out|HTTP status server error", re.I)


def offered(channel: Channel, config: Config, tree: Tree) -> tuple[list[File], list[Problem]]:
    """What a channel offers of what is wanted of it, besides what locks need, and what could not be found out."""
    files: list[File] = []
    problems: list[Problem] = []
    asked = [(channel.specs, channel.dependencies, False)] if channel.specs else []
    # Corrections to the index are a package, of which the newest has them all.
    asked += [((channel.repodata_patches,), False, True)] if channel.repodata_patches else []
    for specs, dependencies, newest in asked:
        order = {"url": channel.url, "subdirs": config.subdirs, "specs": specs, "dependencies": dependencies}
        try:
            packages = _ask({"action": "query", "cache": tree.cache, **order})["packages"]
        except MirrorError as error:
            problems.append(Problem(f"{channel.url}: {error}", bool(_UNREACHABLE.search(str(error)))))
            continue
        for spec in specs if not packages else ():
            problems.append(Problem(f"{channel.url} offers nothing for {spec}"))
        if newest:
            packages = sorted(packages, key=lambda package: natural(package["file_name"]))[-1:]
        for package in packages:
            path = f"{channel.name}/{package['subdir']}/{urllib.parse.unquote(package['file_name'])}"
            try:
                files.append(File(path, package["sha256"], package["url"], package["size"]))
            except MirrorError as error:
                problems.append(Problem(f"{channel.url}: {error}"))
    return files, problems


def write_index(
    name: str, patches: str, subdirs: t.Sequence[str], sums: t.Mapping[str, str], tree: Tree
) -> dict[str, str]:
    """Make the index of channel *name* out of the packages with these paths and sums, and serve it.

    :param patches: the package with the channel's corrections, if it has any.
    :returns: the sha256 of each file of the index, by path.
    :raises MirrorError: it cannot be made; what is served stays as it is.
    """
    correcting = [path for path in sums if patches and path.startswith(f"{name}/noarch/{patches}-")]
    package = os.path.basename(max(correcting, key=natural)) if correcting else ""
    for force in (False, True):
        if force:
            remove_tree(os.path.join(tree.indexing, name))
        directory = tree.link_channel(name, subdirs, sums)
        try:
            _ask({"action": "index", "directory": directory, "patches": package, "force": force})
            wrong = _contradiction(name, directory, sums, bool(package))
        except MirrorError as error:
            wrong = str(error)
        if not wrong:
            break
    else:
        raise MirrorError(f"the index of {name} cannot be made: {wrong}")
    return {
        f"{name}/{subdir}/{file}": copy_into(tree, os.path.join(directory, subdir, file), f"{name}/{subdir}/{file}")
        for file in INDEXES
        for subdir in os.listdir(directory)
        if os.path.exists(os.path.join(directory, subdir, file))
    }


def natural(text: str) -> list[tuple[int, str]]:
    """Orders names so that a larger number in them comes later."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


def _contradiction(name: str, directory: str, sums: t.Mapping[str, str], corrected: bool) -> str:
    """What the index says that is not so: locks go by the sums, so these must be those of the files."""
    told: dict[str, str] = {}
    for subdir in os.listdir(directory):
        with (
            contextlib.suppress(FileNotFoundError),
            open(os.path.join(directory, subdir, INDEXES[0]), encoding="utf-8") as stream,
        ):
            content = json.load(stream)
            for packages in (content["packages"], content["packages.conda"]):
                told.update({f"{name}/{subdir}/{file}": record["sha256"] for file, record in packages.items()})
    for path, digest in told.items():
        if sums.get(path) != digest:
            return f"{path} is said to have the sha256 {digest}"
    # The channel's corrections may take packages out.
    missing = [] if corrected else sorted(set(sums) - set(told))
    return f"{missing[0]} is not in it" if missing else ""


def _ask(order: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """:raises MirrorError: with what rattler says."""
    source = inspect.getsource(_rattler_child)
    try:
        result = run([sys.executable, "-I", "-c", source], stdin=json.dumps(order))
    except CondaError as error:
        raise MirrorError(str(error)) from error
    try:
        answer: dict[str, t.Any] = json.loads(result.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        answer = {"error": f"rattler ended with {result.returncode}: {result.tail(500)}"}
    if "error" in answer:
        raise MirrorError(" ".join(answer["error"].replace("Caused by:", " ").split()))
    return answer
