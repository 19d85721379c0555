# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The control node's half of node_facts: it has the node look without a module, where that can be done."""

from __future__ import annotations

import shlex
import typing as t

from ansible import constants as C
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import filter_loader
from ansible.utils.display import Display

from ..modules.node_facts import ARGUMENT_SPEC
from ..plugin_utils._probe import answer, script

_LOOK = "_node.facts.node"
_PATHS = ("base_prefix", "envs_dir", "generations_dir", "kernels_dir")
# Read and loaded once, here, for all the processes that Ansible starts.
script(_LOOK, {})
for _name in ("base", "container_toolkit", "driver", "environment", "file", "user"):
    filter_loader.get(f"envfleet.gpu_cluster.{_name}_findings")
filter_loader.get("envfleet.gpu_cluster.condarc")


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core has no types
    """Ask the node's Python directly; whatever is in the way of that, the module finds a way or says what is wrong."""

    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Look with one remote command, and evaluate what has drifted here."""
        task_vars = task_vars or {}
        super().run(tmp, task_vars)
        _valid, options = self.validate_argument_spec(ARGUMENT_SPEC)
        wanted = options.pop("findings")
        told = {key: value for key, value in self._task.args.items() if key != "findings"}
        node = self._ask(told, options, task_vars)
        result: dict[str, t.Any]
        if node is None:
            result = self._execute_module(module_args=told, task_vars=task_vars)
        else:
            result = {"changed": False, "node": node}
        if wanted and "node" in result:
            names = self._task.register or ()  # from ansible-core 2.21 on a dictionary
            known = dict.fromkeys([names] if isinstance(names, str) else names, result)
            templar = self._templar.copy_with_new_env(available_variables={**task_vars, **known})
            result["findings"] = [finding for name in wanted for finding in templar.resolve_variable_expression(name)]
        return result

    def _ask(self, told: dict[str, t.Any], options: dict[str, t.Any], task_vars: dict[str, t.Any]) -> t.Any:
        """What the node's Python answers, or None where it cannot be asked."""
        if not self._can_be_piped(told):
            return None
        command = f"{shlex.quote(self._interpreter(task_vars))} -I -S -"
        done = self._low_level_execute_command(command, in_data=script(_LOOK, options))
        try:
            if done["rc"] == 0:
                return answer(done["stdout"])
        except ValueError as error:
            done["stderr"] = f"{error}: {done['stdout']}"
        said = done["stderr"].strip()
        Display().vv(f"looking with a module instead: {said}", host=task_vars.get("inventory_hostname"))
        return None

    def _can_be_piped(self, told: dict[str, t.Any]) -> bool:
        """Does the node's Python read what we send, and does nothing in it mean something else here than there?"""
        root = (told.get("user_directories") or {}).get("root")
        paths = [root, *(told.get(name) for name in _PATHS), *(told.get("files") or ()), *(told.get("contents") or ())]
        absolute = all(isinstance(path, str) and path.startswith("/") and "$" not in path for path in paths if path)
        here = self._task.delegate_to is None and not self._task.async_val
        return absolute and here and bool(self._is_pipelining_enabled("new", wrap_async=False))

    def _interpreter(self, task_vars: dict[str, t.Any]) -> str:
        """The node's Python, or where that would have to be discovered the one that most nodes have."""
        chosen = self._templar.template(C.config.get_config_value("INTERPRETER_PYTHON", variables=task_vars))
        if not chosen.startswith("auto"):
            return str(chosen)
        return str(task_vars.get("ansible_facts", {}).get("discovered_interpreter_python", "/usr/bin/python3"))
