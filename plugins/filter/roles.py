# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the roles of this collection say of themselves."""

from __future__ import annotations

import functools
import pathlib
import typing as t

import yaml

# The other one takes a tenth of a second for all roles.
_Loader: t.Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_ROLES = pathlib.Path(__file__).resolve().parent.parent.parent / "roles"


def unknown_variables(names: t.Iterable[str]) -> list[str]:
    """See unknown_variables.yml."""
    known, roles = _known()
    return sorted({str(name) for name in names if str(name).startswith(roles)} - known)


@functools.cache
def _known() -> tuple[frozenset[str], tuple[str, ...]]:
    """All variables of all roles, and what they begin with: read once for a whole run."""
    paths = sorted(_ROLES.glob("*/meta/argument_specs.yml"))
    specs = [yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)["argument_specs"] for path in paths]
    known = frozenset(name for spec in specs for entry in spec.values() for name in entry.get("options", ()))
    return known, tuple(f"{path.parent.parent.name}_" for path in paths)


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """By name."""
        return {"unknown_variables": unknown_variables}
