# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""A function of module_utils that a node runs from what comes over standard input: one remote command, and no file.

A module is an archive with a good part of Ansible in it, which every node unpacks and compiles for every run. To look,
that is most of the cost.
"""

from __future__ import annotations

import ast
import base64
import functools
import json
import pathlib
import typing as t
import zlib

from ..module_utils._node._probe_child import MARK

_ROOT = pathlib.Path(__file__).resolve().parent.parent / "module_utils"
_CHILD = _ROOT / "_node/_probe_child.py"


def script(function: str, argument: t.Any) -> bytes:
    """What a Python of a node reads from standard input to call *function* with *argument*.

    :param function: in module_utils, as PACKAGE.MODULE.NAME. Its module imports from the standard library and, by
        relative imports, from module_utils.
    :param argument: and what the function returns: what JSON can tell.
    """
    call = f"main(json.loads(zlib.decompress(base64.b64decode({_packed(function)!r}))), {function!r}, "
    text = f"{_CHILD.read_text(encoding='utf-8')}\nimport base64, zlib\n{call}json.loads({json.dumps(argument)!r}))\n"
    return text.encode("utf-8")


def program(function: str) -> str:
    """A program of one file, for a node to keep, that calls *function* and ends with what that returns.

    :param function: as for script(), without arguments.
    """
    call = f"program(json.loads(zlib.decompress(base64.b64decode({_packed(function)!r}))), {function!r})"
    return f"{_CHILD.read_text(encoding='utf-8')}\nimport base64, zlib\n{call}\n"


def answer(output: str) -> t.Any:
    """What the function returned, from all that the node printed.

    :raises ValueError: it returned nothing.
    """
    _before, mark, told = output.partition(MARK)
    if not mark:
        raise ValueError("no answer")
    return json.loads(told)


@functools.cache
def _packed(function: str) -> bytes:
    """The sources that *function* needs, by the name of the module."""
    modules = {"": ""}
    _collect(function.rpartition(".")[0], modules)
    return base64.b64encode(zlib.compress(json.dumps(modules).encode("utf-8"), 9))


def _collect(name: str, modules: dict[str, str]) -> None:
    """Add module *name*, the packages that it is in, and whatever they import."""
    place = _ROOT.joinpath(*name.split("."))
    path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    if name in modules or not path.is_file():
        return  # what a package is asked for may be a name in it
    modules[name] = path.read_text(encoding="utf-8")
    package = name if place.is_dir() else name.rpartition(".")[0]
    _collect(name.rpartition(".")[0], modules)
    for node in ast.walk(ast.parse(modules[name])):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            target = ".".join(filter(None, [*base, node.module or ""]))
            for one in (target, *(f"{target}.{alias.name}" for alias in node.names)):
                _collect(one, modules)
