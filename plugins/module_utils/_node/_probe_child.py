# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a node runs of a probe: the sources of module_utils come in a dictionary, and only what is imported is compiled.

See plugin_utils/_probe.py, which sends this text with a call of main() behind it.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

#: Goes before the answer: a node may greet whoever logs in.
MARK = "envfleet.gpu_cluster:"


class Sources:
    """Finds modules in a dictionary of their sources, and loads them."""

    def __init__(self, package: str, sources: dict[str, str]) -> None:
        self.modules = {f"{package}.{name}" if name else package: source for name, source in sources.items()}

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> ModuleSpec | None:
        """As importlib wants it of a finder."""
        is_package = any(module.startswith(f"{name}.") for module in self.modules)
        if name not in self.modules:
            return None
        return ModuleSpec(name, self, is_package=is_package)  # type: ignore[arg-type]  # its class is slow to import

    def create_module(self, _spec: ModuleSpec) -> None:
        """As importlib wants it of a loader."""

    def exec_module(self, module: ModuleType) -> None:
        """As importlib wants it of a loader."""
        code = compile(self.modules[module.__name__], module.__name__, "exec", dont_inherit=True, optimize=2)
        exec(code, module.__dict__)  # the control node's own text, as all that Ansible sends


def main(sources: dict[str, str], function: str, argument: Any) -> None:
    """Call *function*, MODULE.NAME, and tell what it returns."""
    sys.meta_path.insert(0, Sources("probe", sources))
    module, _dot, name = function.rpartition(".")
    answer = getattr(import_module(f"probe.{module}"), name)(argument)
    sys.stdout.write(f"{MARK}{json.dumps(answer)}\n")


def program(sources: dict[str, str], function: str) -> None:
    """Call *function*, MODULE.NAME, which reads the command line itself, and end with what it returns."""
    sys.meta_path.insert(0, Sources("probe", sources))
    module, _dot, name = function.rpartition(".")
    raise SystemExit(getattr(import_module(f"probe.{module}"), name)())
