# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The system condarc as a filter, so that a role can hold it against a node without asking the node."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError

from ..module_utils._conda.condarc import render
from ..module_utils._conda.errors import CondaError


def condarc(policy: t.Mapping[str, t.Any]) -> str:
    """See condarc.yml."""
    try:
        return render(policy)
    except CondaError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., str]]:
        """By name."""
        return {"condarc": condarc}
