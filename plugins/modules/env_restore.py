#!/usr/bin/python
# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: env_restore
short_description: Bring an environment back from a backup
version_added: "0.1.0"
author: The envfleet.gpu_cluster authors (@envfleet)
description:
  - Restores what the role P(envfleet.gpu_cluster.env_backup#role) has saved, on the node that it was saved on or on any
    other, with all files, modes, owners and links. Each byte is compared with the manifest that was saved beside it
    before anybody gets the environment.
  - An environment has its path in its files, so it comes back to the path that it was saved at. What is there is never
    overwritten.
  - A shared environment comes back as a generation. No name leads to it then. The module
    M(envfleet.gpu_cluster.conda_env) points a name to it, as does the playbook C(restore.yml).
  - An environment of a user is copied to its place by that user, who may have another number than before.
requirements:
  - restic on the node, 0.14 or newer
options:
  name:
    description: A shared environment. Either this or O(path) is required.
    type: str
  path:
    description: Where another environment was, such as one of a user.
    type: path
  node:
    description: What the node that saved it is called there. If empty, the newest snapshot of any node is taken.
    type: str
    default: ""
  snapshot:
    description: The beginning of a snapshot's id. If empty, the newest one is taken.
    type: str
    default: ""
  directory:
    description: Where environments of users are unpacked and compared, before they get them. It is for this alone.
    type: path
    default: /var/lib/envfleet-backup-restore
extends_documentation_fragment:
  - envfleet.gpu_cluster.backup
  - envfleet.gpu_cluster.layout
  - envfleet.gpu_cluster.attributes
attributes:
  check_mode:
    support: full
    details: The repository is asked for the snapshot, if the node has restic already, and nothing is restored.
  diff_mode:
    support: none
  idempotent:
    support: partial
    details: A generation that is there and whole is left alone. With O(path), it is an error that something is there.
"""

EXAMPLES = r"""
- name: Bring back the generation that backup-1 saved last
  envfleet.gpu_cluster.env_restore:
    name: shared_ml
    node: backup-1
    repository: /shared/backup/envs
    password_file: /root/env_backup_password
    user: envfleet-backup
  register: restored

- name: Point the name to it
  envfleet.gpu_cluster.conda_env:
    environments:
      - name: shared_ml
        generation: "{{ restored.prefix | basename }}"

- name: Bring back an environment of alice
  envfleet.gpu_cluster.env_restore:
    path: /home/alice/.conda/envs/mine
    repository: /shared/backup/envs
    password_file: /root/env_backup_password
    user: envfleet-backup
"""

RETURN = r"""
prefix:
  description: Where the environment is now.
  returned: success
  type: str
  sample: /opt/envfleet/generations/shared_ml/5f0c61d3c1a2
snapshot:
  description: What it was restored from.
  returned: success
  type: dict
  sample: {id: 7c15f0c8368fd12e, time: "2026-11-29T01:12:00.1Z", node: backup-1}
"""

import shutil

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._backup import restoring
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._backup.restic import OPTIONS, Repository
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.environments import LAYOUT_OPTIONS, Places
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError

ARGUMENT_SPEC = {
    "name": {"type": "str"},
    "path": {"type": "path"},
    "node": {"type": "str", "default": ""},
    "snapshot": {"type": "str", "default": ""},
    "directory": {"type": "path", "default": "/var/lib/envfleet-backup-restore"},
    **OPTIONS,
    **LAYOUT_OPTIONS,
}


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        required_one_of=[("name", "path")],
        mutually_exclusive=[("name", "path")],
        supports_check_mode=True,
    )
    params, check_mode = module.params, module.check_mode
    try:
        repository = Repository.of(params, foretold=check_mode)
        if check_mode and shutil.which("restic") is None:
            # It would be installed before. What the repository has cannot be told yet.
            module.exit_json(changed=True, prefix=params["path"] or "", snapshot={})
        if params["name"]:
            snapshot = restoring.pick(repository, "shared", params["name"], params["node"], params["snapshot"])
            places = Places(params["envs_dir"], params["generations_dir"])
            restored = restoring.restore_shared(
                repository, places, params["name"], snapshot, params["lock_timeout"], check_mode
            )
        else:
            snapshot = restoring.pick(repository, "private", params["path"], params["node"], params["snapshot"])
            restored = restoring.restore_private(
                repository, params["directory"], params["path"], snapshot, params["lock_timeout"], check_mode
            )
    except (CondaError, OSError) as error:
        module.fail_json(msg=str(error))
    told = {"id": snapshot.id, "time": snapshot.time, "node": snapshot.host}
    module.exit_json(changed=restored.changed, prefix=restored.prefix, snapshot=told)


if __name__ == "__main__":
    main()
