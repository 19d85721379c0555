# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The control node's half of conda_env: it reads the locks, since only here is a YAML parser."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ..module_utils._conda.errors import CondaError
from ..module_utils._conda.locks import Lock
from ..module_utils._gpu.compatibility import COMPATIBLE, INCOMPATIBLE
from ..modules.conda_env import ARGUMENT_SPEC
from ..plugin_utils._cuda_gate import verdicts
from ..plugin_utils._lock_files import plain, read_environments


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core has no types
    """Send the content of the locks along with their names."""

    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Check the locks here, then run the module once for all environments."""
        task_vars = task_vars or {}
        super().run(tmp, task_vars)
        _valid, arguments = self.validate_argument_spec(ARGUMENT_SPEC)
        directory = arguments.pop("locks_dir") or task_vars.get("inventory_dir") or task_vars["playbook_dir"]
        try:
            environments = arguments["environments"]
            channels, alias, locking = (arguments.pop(option) for option in ("channels", "channel_alias", "locking"))
            solve = "see" if self._task.check_mode else "keep"
            locks = read_environments(environments, directory, channels, alias, locking, solve)
            node, gate = (arguments.pop(option) for option in ("node", "cuda_gate"))
            warnings = _pass_gate(environments, locks, plain(node), gate)
        except CondaError as error:
            raise AnsibleActionFail(str(error)) from error
        for environment in environments:
            # What has none needs none: a generation tells itself what it was made from.
            environment["locks"] = {platform: lock.as_dict() for platform, lock in locks[environment["name"]].items()}
        result = self._execute_module(module_args=arguments, task_vars=task_vars)
        result.pop("invocation", None)  # it repeats every lock
        if warnings:
            result["warnings"] = [*result.get("warnings", ()), *warnings]
        return t.cast("dict[str, t.Any]", result)


def _pass_gate(
    environments: t.Sequence[t.Mapping[str, t.Any]],
    locks: t.Mapping[str, t.Mapping[str, Lock]],
    node: t.Mapping[str, t.Any],
    gate: str,
) -> list[str]:
    """What to warn of: environments that may not run as they should with the driver of *node*.

    :raises CondaError: one that is to be installed will not run, and *gate* has that for an error.
    """
    if gate == "off" or not node:
        return []
    wanted = [one for one in environments if one["state"] == "present"]
    found = [verdict for verdict in verdicts(wanted, locks, node) if verdict.verdict != COMPATIBLE]
    refused = [verdict for verdict in found if verdict.verdict == INCOMPATIBLE and gate == "error"]
    if refused:
        raise CondaError(
            "; ".join(f"conda_envs_shared: {verdict.environment}: {verdict.reason}" for verdict in refused)
            + ": change the driver or the lock, or let it be a warning with conda_envs_cuda_gate: warn"
        )
    return [f"conda_envs_shared: {verdict.environment}: {verdict.reason}" for verdict in found]
