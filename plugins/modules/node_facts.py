#!/usr/bin/python
# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: node_facts
short_description: Look once at what a node has
version_added: "0.1.0"
author: The envfleet.gpu_cluster authors (@envfleet)
description:
  - One read-only look at everything the roles of this collection need to know of a node, to decide without a further
    remote call whether anything has to be done there.
  - It reads files alone. It starts no process, opens no connection, and changes nothing.
  - Where pipelining is on, it is one command that the node's Python reads from standard input, which costs less than
    M(ansible.builtin.ping). Elsewhere, and where that fails, it is a module as any other.
  - The content of an environment is checked by one walk over its files, which reads none of them unless something
    differs.
options:
  base_prefix:
    description: The link that leads to the Miniconda base.
    type: path
    default: /opt/conda
  kernels_dir:
    description: Where Jupyter looks for kernelspecs.
    type: path
    default: /usr/local/share/jupyter/kernels
    version_added: "0.1.0"
  files:
    description: Files and links to tell kind, owner, mode and content of.
    type: list
    elements: path
    default: []
  contents:
    description: Those of O(files) to tell the text of too. It must hold no secret.
    type: list
    elements: path
    default: []
    version_added: "0.1.0"
  usage:
    description:
      - Whether to tell which generations the processes of the node use. It takes one look at all of them.
    type: bool
    default: false
    version_added: "0.1.0"
  user_directories:
    description: The directories that M(envfleet.gpu_cluster.user_directories) makes, to tell what is wrong with them.
    type: dict
    default: {}
    suboptions:
      root:
        description: The directory that they are in. If empty, nothing is looked at.
        type: path
        default: ""
      users:
        description: Whose they are.
        type: list
        elements: str
        default: []
      groups:
        description: Groups whose members they are of too.
        type: list
        elements: str
        default: []
    version_added: "0.1.0"
  findings:
    description:
      - Names of variables that say what has drifted when they are evaluated with the result of this task, under the
        name that it is registered by. Each is a list. Together they are returned.
      - They are evaluated in the process that works on this node, so the other nodes do not wait for it.
    type: list
    elements: str
    default: []
    version_added: "0.1.0"
extends_documentation_fragment:
  - envfleet.gpu_cluster.layout
  - envfleet.gpu_cluster.attributes
  - envfleet.gpu_cluster.attributes.read_only
seealso:
  - module: envfleet.gpu_cluster.gpu_facts
    description: Tells of the GPUs alone, and documents what this module returns of them.
"""

EXAMPLES = r"""
- name: Look at the node
  envfleet.gpu_cluster.node_facts:
    files: [/etc/conda/.condarc]
  register: gpu_cluster_look

- name: Show the generation of an environment
  ansible.builtin.debug:
    msg: "{{ gpu_cluster_look.node.environments.shared_ml.generation }}"
"""

RETURN = r"""
findings:
  description: What the variables in O(findings) say.
  returned: when O(findings) names any
  type: list
  elements: dict
  sample: []
node:
  description: What the node has.
  returned: success
  type: dict
  contains:
    system:
      description: Architecture, conda platform, version of the C library.
      type: dict
      returned: always
      sample: {architecture: x86_64, platform: linux-64, glibc: "2.36"}
    base:
      description:
        - The base, with the prefix that the link leads to, what is wrong with it, and unfinished prefixes beside it.
        - The identity is the installer's version and sha256, joined by an at sign.
      type: dict
      returned: always
      sample:
        link: /opt/conda
        target: /opt/envfleet/base/py310_26.5.3-1
        identity: py310_26.5.3-1@4a82fe0a50a28e8a9406b3ed8e465b7009aa7d0225566802c3370df96b10d834
        problems: []
        leftovers: []
    environments:
      description:
        - Each shared environment by name, with its live generation, the identity of the lock it was built from,
          what is wrong with it, and unfinished generations that killed runs left.
        - Where there is no name, C(unused) lists the generations that no process uses. The kernelspec is V(absent),
          V(unfinished), V(ours) with its text, or V(foreign).
      type: dict
      returned: always
      sample:
        shared_ml:
          name: shared_ml
          link: /opt/envfleet/envs/shared_ml
          generation: /opt/envfleet/generations/shared_ml/5f0c61d3c1a2
          identity: 5f0c61d3c1a2d9a1c3a1b1f28e0a4a1d0f0d4c6e9b7a8f5e6d7c8b9a0f1e2d3c
          created: "2026-11-23T10:00:00Z"
          engine: rattler
          problems: []
          leftovers: []
          unused: []
          kernelspec: {path: /usr/local/share/jupyter/kernels/shared_ml, state: absent, text: ""}
    files:
      description:
        - What each of O(files) is, by path. A regular file has the sha256 of its content, a link its target. One of
          O(contents) has its C(content) too.
      type: dict
      returned: always
      sample:
        /etc/conda/.condarc: {state: file, mode: "0644", owner: root, group: root, sha256: e3b0c442}
    usage:
      description:
        - Which generations in O(generations_dir) processes of the node use. None without O(usage).
      type: dict
      returned: always
      sample:
        generations_dir: /opt/envfleet/generations
        in_use: [/opt/envfleet/generations/shared_ml/5f0c61d3c1a2]
    disk:
      description: Free and total MiB and free inodes for the bases and the environments.
      type: dict
      returned: always
      sample:
        /opt/envfleet/generations: {free_mb: 81920, total_mb: 256000, free_inodes: 16000000}
    gpu:
      description:
        - The GPUs of NVIDIA and the driver for them, as M(envfleet.gpu_cluster.gpu_facts) tells them.
        - On a node without one, nothing is looked at but the PCI bus, and all that would be told of a driver is empty.
      type: dict
      returned: always
      sample:
        devices: []
        present: false
        count: 0
        architectures: []
        nvswitch: false
    user_directories:
      description:
        - What is wrong with the O(user_directories), by user, what is wrong with their root, and which of the users and
          groups the node does not know. Nothing without a root.
      type: dict
      returned: always
      sample:
        root: /scratch/conda
        problem:
        unknown: []
        wrong: {alice: {actual: absent, fix: auto}}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._node.facts import OPTIONS, node

ARGUMENT_SPEC = {**OPTIONS, "findings": {"type": "list", "elements": "str", "default": []}}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    module.exit_json(changed=False, node=node(module.params))


if __name__ == "__main__":
    main()
