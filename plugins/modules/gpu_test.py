#!/usr/bin/python
# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_test
short_description: Tell whether the GPUs of a node work
version_added: "0.1.0"
author: The envfleet.gpu_cluster authors (@envfleet)
description:
  - Uses each NVIDIA GPU of a node through the driver's own library. It fills some memory, reads it back, and has a
    small kernel compute, which the driver compiles. No toolkit and no framework is needed for that.
  - Asks the management library for ECC errors, memory that could not be mended and the state of NVLink, and looks for
    Xid errors in the kernel's log.
  - Where O(python) is given, has the framework of that environment compute on each GPU too.
  - It fails if anything is wrong. A driver that hangs or crashes is reported like any other failure, for each part runs
    in a process of its own with a time limit.
options:
  expected_count:
    description: How many GPUs the node must have. Without it, as many as the PCI bus shows are right.
    type: int
  python:
    description:
      - The Python of an environment whose framework is to be tried, which is the first that is there of PyTorch,
        TensorFlow and JAX.
    type: path
  timeout_seconds:
    description: How many seconds each part may take. A framework that is first used takes its time.
    type: int
    default: 120
extends_documentation_fragment:
  - envfleet.gpu_cluster.attributes
attributes:
  check_mode:
    support: none
    details: The task is skipped, for the test takes some 4 MiB of each GPU and a moment of its time.
  diff_mode:
    support: N/A
    details: The module changes nothing.
  idempotent:
    support: N/A
    details: The module changes nothing.
notes:
  - A GPU that a job uses can be tested beside it. One in exclusive mode can not, which the test then says.
  - Xid errors 13, 31, 43 and 45 are what programs do wrong. They are told, and are no failure.
seealso:
  - module: envfleet.gpu_cluster.gpu_facts
    description: Tells of the GPUs and of their driver without using them.
"""

EXAMPLES = r"""
- name: Test the GPUs
  envfleet.gpu_cluster.gpu_test:
    expected_count: 8

- name: Test them with an environment's framework too
  envfleet.gpu_cluster.gpu_test:
    python: /opt/envfleet/envs/shared_ml/bin/python
  register: tested
"""

RETURN = r"""
text:
  description: The report for people, a line each.
  returned: where there is a GPU
  type: list
  elements: str
  sample:
    - driver 580.95.05, CUDA 13.0
    - "0000:19:00.0 NVIDIA H100 80GB HBM3: 81559 MiB, compute capability 9.0, memory and kernel right, NVLinks 18 of 18"
    - "Xid errors in the kernel's log: none"
report:
  description: What was found.
  returned: where there is a GPU
  type: dict
  contains:
    cuda:
      description: What the driver's library says, and of each GPU why it failed. An C(error) that is not empty says why
        the library cannot be used at all.
      type: dict
      returned: always
      sample:
        error: ""
        cuda: "13.0"
        devices:
          - name: NVIDIA H100 80GB HBM3
            address: "0000:19:00.0"
            memory_mb: 81089
            capability: "9.0"
            error: ""
    nvml:
      description: What the management library says, as M(envfleet.gpu_cluster.gpu_facts) returns it.
      type: dict
      returned: always
    xids:
      description: The Xid errors in the kernel's log, each with how often it came. None where it cannot be read.
      type: list
      elements: dict
      returned: always
      sample: [{address: "0000:19:00", xid: 79, count: 1}]
    framework:
      description: Which framework computed, and on how many GPUs. None without O(python).
      type: dict
      returned: always
      sample: {error: "", framework: torch, version: 2.9.0, devices: 8}
    failures:
      description: What is wrong, a sentence each.
      type: list
      elements: str
      returned: always
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._gpu import smoke
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._gpu.facts import gpu


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "expected_count": {"type": "int"},
            "python": {"type": "path"},
            "timeout_seconds": {"type": "int", "default": 120},
        },
        supports_check_mode=False,
    )
    seconds, python = module.params["timeout_seconds"], module.params["python"] or ""
    if seconds < 1:
        module.fail_json(msg=f"timeout_seconds: {seconds} is no time to test anything in: give 1 or more")
    found = gpu()
    if not found["present"]:
        module.fail_json(
            msg="There is no GPU of NVIDIA on the PCI bus that is not given to a virtual machine: "
            "take the node out of this play, or look for the card with lspci"
        )
    if not found["user_space"] and not found["module"]["loaded"]:
        module.fail_json(msg=f"The node has {found['count']} GPUs and no driver for them: install one")
    report = smoke.examine(found, smoke.Limits(seconds, module.params["expected_count"]), python)
    answer = {"changed": False, "report": report, "text": smoke.text(report)}
    if report["failures"]:
        module.fail_json(msg=" ".join(report["failures"]), **answer)
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
