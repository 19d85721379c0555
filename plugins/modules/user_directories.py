#!/usr/bin/python
# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: user_directories
short_description: Make a private directory for each of many users
version_added: "0.1.0"
author: The envfleet.gpu_cluster authors (@envfleet)
description:
  - Below one directory that belongs to root and has the mode C(0755), each user gets a directory of the own name, with
    the mode C(0700). Only root can add one, so no directory is writable for all, and nobody needs more rights at login.
  - All of it is one call, however many users there are. A user who comes later needs another.
  - Nothing is ever removed, and nothing inside a user's directory is looked at or changed.
options:
  root:
    description:
      - The directory to make them in. It and all above it must belong to root, and nobody else must be able to replace
        them. A directory above may be writable for all if it has the sticky bit, as C(/scratch) often has.
    type: path
    required: true
  users:
    description: Those who get one. Names that the node does not know are passed over and returned.
    type: list
    elements: str
    default: []
  groups:
    description:
      - Groups whose members get one. Those who have it as their primary group count as far as C(getent passwd) lists
        them, which a node that asks a directory service may be set up not to do.
    type: list
    elements: str
    default: []
extends_documentation_fragment:
  - envfleet.gpu_cluster.attributes
  - envfleet.gpu_cluster.attributes.check_and_diff
notes:
  - Root gets none.
seealso:
  - module: envfleet.gpu_cluster.node_facts
    description: Tells what is wrong with them, as part of one look.
"""

EXAMPLES = r"""
- name: Give everybody of two groups a directory on the fast disk
  envfleet.gpu_cluster.user_directories:
    root: /scratch/conda
    groups: [physics, chemistry]
"""

RETURN = r"""
done:
  description: What was wrong and is right now, or in check mode would be, each with its path.
  returned: success
  type: list
  elements: str
  sample: ["/scratch/conda/alice: absent"]
unknown:
  description: Users and groups that the node does not know.
  returned: success
  type: list
  elements: str
  sample: [user mallory]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._node.user_directories import (
    OPTIONS,
    DirectoryError,
    make,
    members,
)


def main() -> None:
    spec = {**OPTIONS, "root": {"type": "path", "required": True}}
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    options = module.params
    _users, unknown = members(options["users"], options["groups"])
    try:
        done = make(options, module.check_mode)
    except (DirectoryError, OSError) as error:
        module.fail_json(msg=str(error))
    after = "".join(f"{one.partition(': ')[0]}: as it should be\n" for one in done)
    diff = {"before": "".join(f"{one}\n" for one in done), "after": after}
    module.exit_json(changed=bool(done), done=done, unknown=unknown, diff=diff)


if __name__ == "__main__":
    main()
