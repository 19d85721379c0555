#!/usr/bin/python
# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: conda_env_archive
short_description: Pack an environment for other sites
version_added: "0.1.0"
author: The envfleet.gpu_cluster authors (@envfleet)
description:
  - Writes what the name of a shared environment leads to as an archive that can be unpacked into any directory, by
    anyone, on a machine that has neither conda nor Ansible.
  - It is laid out and used as the archives of conda-pack are. Unpack it, source C(bin/activate), and run
    C(conda-unpack) once.
  - Each file of a package is in it as in the package's own archive, which is proved by its sha256. Byte code is left
    out, and so is what keeps people from changing a generation. What is unpacked is theirs.
options:
  name:
    description: The environment.
    type: str
    required: true
  dest:
    description: The archive on the node, which ends in C(.tar.gz). Its directory must be there.
    type: path
    required: true
  mode:
    description: The mode of the archive.
    type: str
    default: "0644"
extends_documentation_fragment:
  - envfleet.gpu_cluster.layout
  - envfleet.gpu_cluster.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
    details: An archive that was made from the same lock is not written again. Its content is not compared.
"""

EXAMPLES = r"""
- name: Pack an environment
  envfleet.gpu_cluster.conda_env_archive:
    name: shared_ml
    dest: /srv/exports/shared_ml.tar.gz

# At the other site:
#   mkdir shared_ml && tar -xzf shared_ml.tar.gz -C shared_ml
#   source shared_ml/bin/activate && conda-unpack
"""

RETURN = r"""
generation:
  description: The prefix that was packed.
  returned: success
  type: str
  sample: /opt/envfleet/generations/shared_ml/5f0c61d3c1a2
identity:
  description: The sha256 that stands for the lock's packages.
  returned: success
  type: str
dest:
  description: The archive.
  returned: success
  type: str
  sample: /srv/exports/shared_ml.tar.gz
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda import archive, environments
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.environments import LAYOUT_OPTIONS, Places
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError

ARGUMENT_SPEC = {
    "name": {"type": "str", "required": True},
    "dest": {"type": "path", "required": True},
    "mode": {"type": "str", "default": "0644"},
    **LAYOUT_OPTIONS,
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    params = module.params
    name, dest = params["name"], params["dest"]
    if not dest.endswith(".tar.gz"):
        module.fail_json(msg=f"dest: {dest} does not end in .tar.gz, which is what is written")
    if not os.path.isdir(os.path.dirname(dest)):
        module.fail_json(msg=f"dest: there is no directory {os.path.dirname(dest)}: make it first")
    environment = environments.look(Places(params["envs_dir"], params["generations_dir"]), name)
    for problem in environment.problems:
        module.fail_json(
            msg=f"{name} is damaged: {problem.subject}: {problem.detail}: run the site playbook, then pack it"
        )
    generation, manifest = environment.target, environment.manifest
    if generation is None or manifest is None:
        module.fail_json(msg=f"name: there is no environment {name} in {params['envs_dir']}")
        raise AssertionError("fail_json does not return")
    identity = manifest.identity
    changed = archive.identity_of(dest) != identity
    if changed and not module.check_mode:
        try:
            archive.write(generation, identity, dest, int(params["mode"], 8))
        except (CondaError, OSError) as error:
            module.fail_json(msg=f"{name} cannot be packed: {error}")
    module.exit_json(changed=changed, generation=generation, identity=identity, dest=dest)


if __name__ == "__main__":
    main()
