#!/usr/bin/python
# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nvidia_driver_packages
short_description: Install a matched set of packages in one transaction
version_added: "0.1.0"
author: The envfleet.gpu_cluster authors (@envfleet)
description:
  - Installs packages at exact versions, older ones included, and removes others, in one transaction of apt or dnf. So
    the kernel module and what belongs to it are never on the way to different versions.
  - Nothing that is only recommended is installed.
options:
  packages:
    description: The packages by name, each with its version as the package has it. With an empty version, any will do.
    type: dict
    required: true
  remove:
    description: Packages that go in the same transaction.
    type: list
    elements: str
    default: []
extends_documentation_fragment:
  - envfleet.gpu_cluster.attributes
  - envfleet.gpu_cluster.attributes.check_and_diff
"""

EXAMPLES = r"""
- name: Install what was planned
  envfleet.gpu_cluster.nvidia_driver_packages:
    packages: "{{ driver.plan.packages }}"
    remove: "{{ driver.plan.remove }}"
"""

RETURN = r"""
changes:
  description: What changes, as name and the versions before and after. An empty one is of a package that is not there.
  returned: success
  type: dict
  sample: {libcuda1: ["", 535.309.01-0+deb12u1]}
"""

import os
import re
import shutil

from ansible.module_utils.basic import AnsibleModule

_TROUBLE = re.compile(r"error|consult|unmet|held broken|not installable", re.IGNORECASE)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "dict", "required": True},
            "remove": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    is_apt = shutil.which("apt-get") is not None
    wanted = {name: str(version or "") for name, version in module.params["packages"].items()}
    names = [*wanted, *(name for name in module.params["remove"] if name not in wanted)]
    before = _installed(module, is_apt, names)
    changes = {}
    for name in names:
        now, then = (
            before.get(name, ""),
            wanted.get(name, "") or ("" if name not in wanted else before.get(name, "any")),
        )
        if now != then:
            changes[name] = [now, then]
    if changes and not module.check_mode:
        _transaction(module, is_apt, changes)
    diff = {
        "before": _text({name: now for name, (now, _then) in changes.items()}),
        "after": _text({name: then for name, (_now, then) in changes.items()}),
    }
    module.exit_json(changed=bool(changes), changes=changes, diff=diff)


def _text(versions: dict[str, str]) -> str:
    return "".join(f"{name} {version}\n" for name, version in sorted(versions.items()) if version)


def _installed(module: AnsibleModule, is_apt: bool, names: list[str]) -> dict[str, str]:
    """The versions of those of *names* that are installed and configured."""
    if is_apt:
        query = ["dpkg-query", "--show", "--showformat", "${Package}|${db:Status-Status}|${Version}\n", *names]
    else:
        query = ["rpm", "--query", "--queryformat", "%{NAME}|installed|%{EPOCHNUM}:%{VERSION}-%{RELEASE}\n", *names]
    # It fails where one of them is not installed, and tells the others all the same.
    _code, output, _errors = module.run_command(query, environ_update={"LC_ALL": "C"})
    rows = [line.split("|") for line in output.splitlines() if line.count("|") == 2]
    return {name: version.removeprefix("0:") for name, state, version in rows if state == "installed"}


def _transaction(module: AnsibleModule, is_apt: bool, changes: dict[str, list[str]]) -> None:
    removed = [name for name, (_now, then) in changes.items() if not then]
    if is_apt:
        options = [
            "--yes",
            "--quiet",
            "--fix-broken",
            "--no-install-recommends",
            "--allow-downgrades",
            "--allow-change-held-packages",
        ]
        options += ["-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"]
        options += ["-o", "DPkg::Lock::Timeout=600"]
        wanted = [f"{name}={then}" if then != "any" else name for name, (_now, then) in changes.items() if then]
        commands = [["apt-get", "--quiet=2", "update"]]
        commands += [["apt-get", *options, "install", *wanted, *(f"{name}-" for name in removed)]]
    else:
        wanted = [f"{name}-{then}" if then != "any" else name for name, (_now, then) in changes.items() if then]
        options = ["--assumeyes", "--quiet", "--setopt=install_weak_deps=False", "--allowerasing"]
        # The module of the other flavour is erased, for the two conflict.
        commands = [["dnf", *options, *(f"--exclude={name}" for name in removed), "install", *wanted]]
    environment = {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_MODE": "l"}
    if is_apt and any(name.isdigit() for name in os.listdir("/var/lib/dpkg/updates")):
        # dpkg was killed, and wants this before anything else. Where a package fails at it, the set may do better.
        module.run_command(["dpkg", "--configure", "-a"], environ_update={**os.environ, **environment})
    for command in commands:
        code, output, errors = module.run_command(command, environ_update={**os.environ, **environment})
        if code:
            # What a script of a package says, such as DKMS of a failed build, is in the output.
            told = [line.strip() for line in output.splitlines() if _TROUBLE.search(line)] + errors.strip().splitlines()
            told = "\n".join(told[-20:]) or output.strip()[-2000:]
            module.fail_json(msg=f"{' '.join(command)}: failed with {code}: {told}", stdout=output, stderr=errors)


if __name__ == "__main__":
    main()
