# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The drift of a node's container toolkit as data, and Docker's configuration with it."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError

from ..module_utils._gpu import container_toolkit as toolkit


def container_toolkit_findings(
    node: t.Mapping[str, t.Any],
    cdi_path: str,
    version: str = "",
    files: t.Sequence[t.Mapping[str, str]] = (),
    docker: str | None = None,
) -> list[dict[str, str]]:
    """See container_toolkit_findings.yml."""
    wanted = toolkit.Wanted(cdi_path, str(version), tuple(dict(one) for one in files), docker)
    try:
        return [finding.as_dict() for finding in toolkit.of_toolkit(node, wanted)]
    except ValueError as error:
        raise AnsibleFilterError(str(error)) from error


def docker_with_nvidia(text: str) -> str:
    """See docker_with_nvidia.yml."""
    try:
        return toolkit.with_nvidia(text)
    except ValueError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """By name."""
        return {"container_toolkit_findings": container_toolkit_findings, "docker_with_nvidia": docker_with_nvidia}
