#!/usr/bin/python
# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: env_housekeeping
short_description: Clean up private conda environments that nobody uses
version_added: "0.1.0"
author: The envfleet.gpu_cluster authors (@envfleet)
description:
  - Notes the use of private environments, warns owners of what they have not used for long, sets that aside after a
    notice, and removes it after a grace time. Removes from package caches what no environment needs.
  - An environment is touched only where it is certain that nobody uses it. Whatever is not known counts as use.
  - Use is a process that runs from it, works in it, has mapped a file of it, or has it in its environment; a shell that
    has activated it and still runs; a start of its Python; an activation; a change by conda. Times of access count for
    nothing.
  - Starts and activations are noted by hooks, which O(apply) puts into the environments. Before they are there,
    nothing is certain, so no environment is unused for longer than that.
  - Everything in a directory of a user is done with the rights of that user, and no link is followed there.
  - Setting aside is one rename in the same directory, which the owner can undo with C(mv). A run may be killed at any
    moment.
options:
  state:
    description:
      - V(absent) brings back what was set aside, takes the hooks out of the environments, and removes O(state_dir).
    type: str
    choices: [present, absent]
    default: present
  apply:
    description: Without it nothing is changed, but for O(report). It is told what would be done.
    type: bool
    default: false
  rules:
    description:
      - Which environments are unused. One that any of them is true of is.
      - Without rules, none is.
    type: list
    elements: dict
    default: []
    suboptions:
      unused_days:
        description: How long nobody must have used it.
        type: float
        required: true
      min_mb:
        description: How many MiB it must have at least, each file with several hard links in it counted once.
        type: float
        default: 0
      min_inodes:
        description: How many inodes it must have at least.
        type: int
        default: 0
  notice_days:
    description: The time between the warning and the day on which an environment is set aside.
    type: float
    default: 14
  grace_days:
    description: The time between that and its removal.
    type: float
    default: 30
  exempt_users:
    description: The owners of environments and caches that are never touched. No use of theirs is noted.
    type: list
    elements: str
    default: [root]
  cache_unused_days:
    description:
      - How long a package in a cache must not have been unpacked, or linked into an environment or out of one, to be
        removed. With V(0), caches are left as they are.
      - Packages that share their files with environments stay, as do those that symbolic links of known environments
        lead to. A user's cache is left alone where the condarc there allows soft links.
    type: float
    default: 0
  home_caches:
    description: The package caches of users, relative to their homes.
    type: list
    elements: str
    default: [.conda/pkgs]
  pkgs_dir:
    description: The package cache of shared environments. If empty, it is left as it is.
    type: path
    default: ""
  listed:
    description: The names of all shared environments that are wanted. Others are told, and left as they are.
    type: list
    elements: str
  restore:
    description: Only bring back these environments, by the paths where they belong.
    type: list
    elements: path
    default: []
  homes:
    description: Look at all users in C(/etc/passwd) who own their home.
    type: bool
    default: true
  users:
    description: Users to look at besides those of O(homes), whom only a directory service knows.
    type: list
    elements: str
    default: []
  shared:
    description:
      - Other nodes have the same homes. Then what O(in_use) names is in use, and without O(in_use) everything is.
    type: bool
    default: false
  in_use:
    description: What processes of the other nodes use, as RV(in_use) of this module has it there.
    type: list
    elements: str
  notify_command:
    description:
      - A command that is run as root for each owner with news, the name of the owner added as its last argument. The
        message is on its standard input.
    type: list
    elements: str
    default: []
  report:
    description: A file on the node that gets what this module returns, as JSON, for root alone to read.
    type: path
    default: ""
  state_dir:
    description: Where the journal is, and the messages that owners see when they log in.
    type: path
    default: /var/lib/envfleet-housekeeping
  lock_timeout:
    description: How many seconds to wait for another run.
    type: float
    default: 600
extends_documentation_fragment:
  - envfleet.gpu_cluster.layout
  - envfleet.gpu_cluster.attributes
  - envfleet.gpu_cluster.attributes.check_and_diff
seealso:
  - module: envfleet.gpu_cluster.conda_env_info
    description: Lists all environments, with packages.
"""

EXAMPLES = r"""
- name: Tell what would be done
  envfleet.gpu_cluster.env_housekeeping:
    rules:
      - unused_days: 180
      - unused_days: 60
        min_mb: 10000
  register: housekeeping

- name: Show it
  ansible.builtin.debug:
    msg: "{{ housekeeping.table }}"

- name: Bring an environment back
  envfleet.gpu_cluster.env_housekeeping:
    restore: [/home/alice/.conda/envs/thesis]
    apply: true
"""

RETURN = r"""
applied:
  description: Whether anything was changed, or would have been outside of check mode.
  type: bool
  returned: success
environments:
  description: All private environments, those first that something happens to.
  type: list
  elements: dict
  returned: success
  contains:
    prefix:
      description: Where it belongs.
      type: str
      returned: always
    place:
      description: Where it is. That is another path in the same directory once it was set aside.
      type: str
      returned: always
    owner:
      description: Whose it is.
      type: str
      returned: always
    in_use:
      description: Whether a process uses it, or may use it.
      type: bool
      returned: always
    last_used:
      description: As of M(envfleet.gpu_cluster.conda_env_info). That its owner had it back is a use.
      type: dict
      returned: always
    noted_since:
      description: Since when each start and activation is noted. Null where that is not so.
      type: str
      returned: always
    bytes:
      description: What it takes on disk, each file with several hard links counted once.
      type: int
      returned: always
    exclusive_bytes:
      description: The part that becomes free with it alone.
      type: int
      returned: always
    inodes:
      description: How many inodes it has.
      type: int
      returned: always
    step:
      description: What is due. V(warn), V(set_aside) or V(remove); V(wait) for the time to the next step; or V(keep).
      type: str
      returned: always
    reason:
      description: Why.
      type: str
      returned: always
caches:
  description: What is removed from package caches.
  type: list
  elements: dict
  returned: success
  sample: [{path: /home/alice/.conda/pkgs, packages: [six-1.16.0-pyh_0], bytes: 40960, inodes: 12}]
unlisted:
  description: Shared environments that are not among O(listed).
  type: list
  elements: dict
  returned: success
  sample: [{name: old_ml, in_use: false, exclusive_bytes: 4294967296}]
in_use:
  description:
    - What processes of this node use of the environments, for O(in_use) on another node.
    - Null where not all processes could be looked at.
  type: list
  elements: str
  returned: success
actions:
  description: The steps, done or due, in the words of the domain.
  type: list
  elements: str
  returned: success
  sample: ["warn alice of /home/alice/.conda/envs/old"]
problems:
  description: What could not be looked at or done. All else was.
  type: list
  elements: str
  returned: success
table:
  description: All of that as lines for a person.
  type: list
  elements: str
  returned: success
"""

import json
import os
import shutil
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda import inventory
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.environments import LAYOUT_OPTIONS, Places
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.files import write_file
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.usage import Elsewhere
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._housekeeping import cleaning, report
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._housekeeping.policy import Policy, Rule

_RULE = {
    "unused_days": {"type": "float", "required": True},
    "min_mb": {"type": "float", "default": 0},
    "min_inodes": {"type": "int", "default": 0},
}
ARGUMENT_SPEC: dict[str, dict[str, t.Any]] = {
    **LAYOUT_OPTIONS,
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "apply": {"type": "bool", "default": False},
    "rules": {"type": "list", "elements": "dict", "default": [], "options": _RULE},
    "notice_days": {"type": "float", "default": 14},
    "grace_days": {"type": "float", "default": 30},
    "exempt_users": {"type": "list", "elements": "str", "default": ["root"]},
    "cache_unused_days": {"type": "float", "default": 0},
    "home_caches": {"type": "list", "elements": "str", "default": [".conda/pkgs"]},
    "pkgs_dir": {"type": "path", "default": ""},
    "listed": {"type": "list", "elements": "str"},
    "restore": {"type": "list", "elements": "path", "default": []},
    "homes": {"type": "bool", "default": True},
    "users": {"type": "list", "elements": "str", "default": []},
    "shared": {"type": "bool", "default": False},
    "in_use": {"type": "list", "elements": "str"},
    "notify_command": {"type": "list", "elements": "str", "default": []},
    "report": {"type": "path", "default": ""},
    "state_dir": {"type": "path", "default": "/var/lib/envfleet-housekeeping"},
    "lock_timeout": {"type": "float", "default": 600},
}


def _settings(params: dict[str, t.Any]) -> cleaning.Settings:
    accounts = inventory.local_accounts() if params["homes"] else []
    accounts += [inventory.account_of(name) for name in params["users"]]
    in_use, listed = params["in_use"], params["listed"]
    return cleaning.Settings(
        layout=Places(params["envs_dir"], params["generations_dir"]),
        accounts=tuple(accounts),
        policy=Policy(
            tuple(Rule(**rule) for rule in params["rules"]),
            params["notice_days"],
            params["grace_days"],
            frozenset(params["exempt_users"]),
        ),
        state_dir=params["state_dir"],
        cache_unused_days=params["cache_unused_days"],
        home_caches=tuple(params["home_caches"]),
        pkgs_dir=params["pkgs_dir"],
        elsewhere=Elsewhere(None if in_use is None else frozenset(in_use)) if params["shared"] else None,
        listed=None if listed is None else frozenset(listed),
        notify_command=tuple(params["notify_command"]),
        lock_timeout_seconds=params["lock_timeout"],
    )


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    params = module.params
    act = params["apply"] and not module.check_mode
    try:
        settings = _settings(params)
        if params["state"] == "absent":
            is_there = os.path.lexists(settings.state_dir)
            result = cleaning.withdraw(settings, act)
            if is_there:
                result.actions.append(f"remove {settings.state_dir}")
            if act and not result.problems:
                shutil.rmtree(settings.state_dir)
        elif params["restore"]:
            result = cleaning.restore(settings, params["restore"], act)
        else:
            result = cleaning.clean(settings, act)
    except CondaError as error:
        module.fail_json(msg=str(error))
    answer = report.as_dict(result, params["apply"])
    if params["report"] and not module.check_mode:
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        content = {"node": os.uname().nodename, "at": at, **answer}
        try:
            write_file(params["report"], json.dumps(content, indent=1) + "\n", 0o600)
        except OSError as error:
            module.fail_json(msg=f"report: {params['report']} cannot be written: {error.strerror}")
    changed = params["apply"] and bool(result.actions)
    steps = "".join(f"{step}\n" for step in result.actions)
    module.exit_json(
        changed=changed,
        **answer,
        in_use=result.in_use,
        table=report.table(result, params["apply"]),
        diff={"before": "", "after": steps} if changed else {},
    )


if __name__ == "__main__":
    main()
