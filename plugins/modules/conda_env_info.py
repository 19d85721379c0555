#!/usr/bin/python
# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: conda_env_info
short_description: List all conda environments of a node
version_added: "0.1.0"
author: The envfleet.gpu_cluster authors (@envfleet)
description:
  - Tells which environments a node has, shared ones of this collection and private ones of users, what they hold, what
    they take on disk, and whether somebody uses them.
  - It reads files alone. It starts no process, opens no connection, and changes nothing.
  - It needs one walk over the files of each environment, and reads the records of its packages. Where users have many
    environments on a slow file system, that takes its time.
options:
  homes:
    description:
      - Look for private environments of all users in C(/etc/passwd) who own their home.
      - Looked at are C(~/.conda/envs) and the paths in C(~/.conda/environments.txt). What a path or a link there leads
        to counts only if it is an environment that the user owns.
    type: bool
    default: true
  users:
    description:
      - Users to look for private environments of, besides those of O(homes).
      - Name those here that only a directory service knows, for all of its users are never listed.
    type: list
    elements: str
    default: []
  paths:
    description: Further prefixes to look at, such as that of the base.
    type: list
    elements: path
    default: []
  packages:
    description: List the packages of each environment.
    type: bool
    default: false
extends_documentation_fragment:
  - envfleet.gpu_cluster.layout
  - envfleet.gpu_cluster.attributes
  - envfleet.gpu_cluster.attributes.read_only
seealso:
  - module: envfleet.gpu_cluster.node_facts
    description: Tells whether shared environments are still what was installed.
"""

EXAMPLES = r"""
- name: List all environments
  envfleet.gpu_cluster.conda_env_info:
  register: found

- name: Show the private environments that take most
  ansible.builtin.debug:
    msg: "{{ item.owner }} {{ item.prefix }} {{ item.size.exclusive_bytes | human_readable }} {{ item.last_used.at }}"
  loop: "{{ (private | sort(attribute='size.exclusive_bytes', reverse=true))[:10] }}"
  vars:
    private: "{{ found.environments | selectattr('kind', 'eq', 'private') }}"
  loop_control:
    label: "{{ item.name }}"

- name: List the packages of the base, and nobody's private environments
  envfleet.gpu_cluster.conda_env_info:
    homes: false
    paths: [/opt/conda]
    packages: true
"""

RETURN = r"""
environments:
  description: Each environment once, shared ones first, then those of each user, then those of O(paths).
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The name of a shared environment, or the last part of the path.
      type: str
      returned: always
      sample: shared_ml
    kind:
      description:
        - V(shared) for an environment of this collection, V(private) for one that a user owns.
        - V(other) for all else. So is what root has registered outside of root's home.
      type: str
      returned: always
      sample: shared
    prefix:
      description:
        - Where the environment is, without links. For a shared one that is the live generation.
        - Null where a shared environment has no live generation.
      type: str
      returned: always
      sample: /opt/envfleet/generations/shared_ml/5f0c61d3c1a2
    owner:
      description: Who owns the directory RV(environments[].prefix), or the number of a user without a name.
      type: str
      returned: always
      sample: root
    generations:
      description: All generations of a shared environment. Of no other has any.
      type: list
      elements: dict
      returned: always
      contains:
        prefix:
          description: Where the generation is.
          type: str
          returned: always
        identity:
          description:
            - The identity of the lock it was built from.
            - Null where it is not finished or has no whole manifest.
          type: str
          returned: always
        created:
          description: When it was finished, in UTC. Null like the identity.
          type: str
          returned: always
        engine:
          description: What installed it. Null like the identity.
          type: str
          returned: always
        live:
          description: Whether the name leads to it.
          type: bool
          returned: always
        in_use:
          description: Like RV(environments[].in_use), of this generation alone.
          type: bool
          returned: always
        size:
          description: Like RV(environments[].size), of this generation alone.
          type: dict
          returned: always
      sample:
        - prefix: /opt/envfleet/generations/shared_ml/5f0c61d3c1a2
          identity: 5f0c61d3c1a2d9a1c3a1b1f28e0a4a1d0f0d4c6e9b7a8f5e6d7c8b9a0f1e2d3c
          created: "2026-11-23T10:00:00Z"
          engine: rattler
          live: true
          in_use: false
          size: {bytes: 4294967296, shared_bytes: 4194304000, exclusive_bytes: 100663296, files: 52110, inodes: 56420}
    in_use:
      description:
        - Whether a process of this node, at the moment of the look, runs from the environment, works in it, has mapped
          a file of it, has its path in its environment, or is a shell that has noted that it activated the
          environment. Use of one that lies inside of another counts for both.
        - Null where not all processes may be looked at, which is so for all users but root.
        - V(false) says nothing about other nodes that share the file system.
      type: bool
      returned: always
    last_used:
      description: The latest use that is known of. That nothing is known does not mean that there was none.
      type: dict
      returned: always
      contains:
        at:
          description: A time in UTC, or null where nothing is known.
          type: str
          returned: always
        evidence:
          description:
            - V(process) if the environment is in use, so that the time is that of the look.
            - V(start) if the time is that of the last start of a Python or activation that was noted, see
              RV(environments[].noted_since).
            - V(history) if the time is that of C(conda-meta/history), when conda last changed the environment. Where
              starts are not noted, it was often used later.
            - Null where none of them is there. A shared environment has no history of use, for nobody but this
              collection changes it. The owner of a private one can set these times at will.
          type: str
          returned: always
      sample: {at: "2026-11-20T08:15:00Z", evidence: history}
    noted_since:
      description:
        - Since when the use of a private environment is noted. M(envfleet.gpu_cluster.env_housekeeping) has it noted.
        - Null where it is not.
      type: str
      returned: always
      sample: "2026-11-01T04:00:00Z"
    package_count:
      description:
        - How many conda packages are in RV(environments[].prefix). What pip has installed is not counted.
        - Packages whose records cannot be read are not among them, but in RV(environments[].problems).
      type: int
      returned: always
      sample: 118
    packages:
      description:
        - Those packages.
        - The channel is a URL without credentials, or an empty text where the record names none.
      type: list
      elements: dict
      returned: when O(packages=true)
      sample: [{name: numpy, version: 2.0.1, build: py310h0123456_0, channel: "https://conda.example.org/forge"}]
    channels:
      description:
        - The channels that those packages came from. They tell nothing of packages that are no longer there.
      type: list
      elements: str
      returned: always
      sample: ["https://conda.example.org/forge"]
    size:
      description:
        - What all prefixes of the environment take on their file system. Environments inside of it are not included.
        - Too little where RV(environments[].problems) names something unreadable.
      type: dict
      returned: always
      contains:
        bytes:
          description:
            - Disk space, as allocated. A file with several hard links counts once in the whole list, for the first
              environment that has it, so that the sum over all environments is what they take together.
          type: int
          returned: always
        shared_bytes:
          description:
            - The part of the environment in files that also have hard links outside of it, in another environment or in
              a package cache. It does not matter where they were counted.
          type: int
          returned: always
        exclusive_bytes:
          description: The part that would become free if this environment alone were removed.
          type: int
          returned: always
        files:
          description: Names of files and links, each hard link by itself.
          type: int
          returned: always
        inodes:
          description: Inodes, directories included, counted once in the whole list like the bytes.
          type: int
          returned: always
      sample: {bytes: 4294967296, shared_bytes: 4194304000, exclusive_bytes: 100663296, files: 52110, inodes: 56420}
    problems:
      description:
        - What could not be read, and what is wrong with the name of a shared environment.
        - Whether its files are what was installed is not checked here.
      type: list
      elements: dict
      returned: always
      sample:
        - {kind: record, subject: conda-meta/six-1.17.0-0.json, detail: is no regular file}
left_out:
  description:
    - Homes and paths that could not be looked at, so that environments may be missing, and those of O(paths) where no
      environment is.
  returned: success
  type: list
  elements: dict
  contains:
    path:
      description: What was not looked at.
      type: str
      returned: always
    user:
      description: Whose environments were looked for, or an empty text.
      type: str
      returned: always
    reason:
      description: Why.
      type: str
      returned: always
  sample: [{path: /home/alice/.conda/envs, user: alice, reason: Permission denied}]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda import inventory
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.environments import LAYOUT_OPTIONS, Places
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **LAYOUT_OPTIONS,
            "homes": {"type": "bool", "default": True},
            "users": {"type": "list", "elements": "str", "default": []},
            "paths": {"type": "list", "elements": "path", "default": []},
            "packages": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    layout = Places(module.params["envs_dir"], module.params["generations_dir"])
    try:
        accounts = inventory.local_accounts() if module.params["homes"] else []
        accounts += [inventory.account_of(name) for name in module.params["users"]]
    except CondaError as error:
        module.fail_json(msg=str(error))
    found = inventory.look(layout, accounts, module.params["paths"], module.params["packages"])
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
