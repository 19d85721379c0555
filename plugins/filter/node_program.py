# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What nodes run on their own, without Ansible."""

from __future__ import annotations

import typing as t

from ..plugin_utils._probe import program


def node_program(function: str) -> str:
    """See node_program.yml."""
    return program(function)


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """By name."""
        return {"node_program": node_program}
