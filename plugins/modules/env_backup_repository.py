#!/usr/bin/python
# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: env_backup_repository
short_description: Make the repository that environments are backed up to
version_added: "0.1.0"
author: The envfleet.gpu_cluster authors (@envfleet)
description:
  - Makes a repository of restic where there is none, and proves that it opens with the password where there is one.
  - The directory above a repository on a file system must be there. Where only the mount is missing, none is made.
requirements:
  - restic on the node, 0.14 or newer
extends_documentation_fragment:
  - envfleet.gpu_cluster.backup
  - envfleet.gpu_cluster.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
"""

EXAMPLES = r"""
- name: Make the repository of the cluster
  envfleet.gpu_cluster.env_backup_repository:
    repository: /shared/backup/envs
    password_file: /root/env_backup_password
    user: envfleet-backup
  throttle: 1
"""

RETURN = r"""
repository:
  description: The repository.
  returned: success
  type: str
  sample: /shared/backup/envs
"""

import shutil

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._backup.restic import OPTIONS, Repository
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError


def main() -> None:
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    location = module.params["repository"]
    try:
        repository = Repository.of(module.params, module.check_mode)
        if module.check_mode and shutil.which("restic") is None:
            # It would be installed before.
            module.exit_json(changed=not repository.is_there(), repository=location)
        changed = not repository.exists()
        if changed and not module.check_mode:
            repository.create()
    except (CondaError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=changed, repository=location)


if __name__ == "__main__":
    main()
