#!/usr/bin/python
# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_facts
short_description: Tell which NVIDIA GPUs a node has, and which driver
version_added: "0.1.0"
author: The envfleet.gpu_cluster authors (@envfleet)
description:
  - One read-only look at the GPUs of NVIDIA on the PCI bus, and at everything of their driver that files tell.
    M(envfleet.gpu_cluster.node_facts) returns the same as part of its one look.
  - It needs no driver and no C(lspci). It reads files alone, starts no process unless O(refine) is set, and changes
    nothing.
  - On a node without a GPU of NVIDIA it looks at nothing but the PCI bus.
options:
  root:
    description: Where the file system of the node is.
    type: path
    default: /
  refine:
    description:
      - Whether to ask the driver's management library too, in a process of its own that is ended after 30 seconds.
      - What the library says is returned beside what the files say, never in its place.
    type: bool
    default: false
extends_documentation_fragment:
  - envfleet.gpu_cluster.attributes
  - envfleet.gpu_cluster.attributes.read_only
seealso:
  - module: envfleet.gpu_cluster.node_facts
    description: Tells this and what else there is to know of a node.
  - module: envfleet.gpu_cluster.gpu_test
    description: Uses the GPUs, to tell whether they work.
notes:
  - Who uses the GPUs, and whether Secure Boot is on, only root is told.
  - Versions come from the package database of Debian and its derivatives. Elsewhere those of the persistence daemon,
    the fabric manager and the container toolkit are empty, and so are the packages.
"""

EXAMPLES = r"""
- name: Look at the GPUs
  envfleet.gpu_cluster.gpu_facts:
  register: found

- name: Name a driver that does not run
  ansible.builtin.debug:
    msg: "{{ found.gpu.reboot_needed }}"
  when: found.gpu.reboot_needed != ''
"""

RETURN = r"""
gpu:
  description: The GPUs, and the driver for them.
  returned: success
  type: dict
  contains:
    devices:
      description:
        - NVIDIA's devices on the PCI bus, by address. Their kind is V(gpu), V(nvswitch), V(bridge) or V(other).
        - The architecture of a GPU is V(maxwell), V(pascal), V(volta), V(turing), V(ampere), V(ada), V(hopper),
          V(blackwell), or empty where it is unknown. C(mig) tells whether it has Multi-Instance GPU.
        - A device with the driver V(vfio-pci) is given to a virtual machine, and counts for nothing else here.
      type: list
      elements: dict
      returned: always
      sample:
        - address: "0000:19:00.0"
          vendor: "0x10de"
          device: "0x2330"
          class: "0x030200"
          kind: gpu
          architecture: hopper
          mig: true
          driver: nvidia
    present:
      description: Whether there is a GPU. Without one, all that follows but C(nvswitch) is empty.
      type: bool
      returned: always
    count:
      description: How many GPUs there are.
      type: int
      returned: always
    architectures:
      description: The known architectures of the GPUs.
      type: list
      elements: str
      returned: always
      sample: [hopper]
    nvswitch:
      description:
        - Whether the node needs the fabric manager, because NVSwitches connect its GPUs.
        - With NVLink 5 they are no devices of their own, but managed through network devices of ConnectX, whose vital
          product data says so. Only root can read it.
      type: bool
      returned: always
    kernel:
      description:
        - The running kernel, the one that will boot, and those with headers to build modules against.
        - The one that will boot is the saved default of GRUB, else the newest in C(/boot), else the running one.
      type: dict
      returned: always
      sample: {running: 6.1.0-41-amd64, next: 6.1.0-42-amd64, headers: [6.1.0-42-amd64]}
    module:
      description:
        - The version of the loaded kernel module and whether it is V(open) or V(proprietary), both empty where none is
          loaded. And the versions on disk by kernel, from DKMS or in the places of prebuilt modules; compressed
          prebuilt ones are not seen.
      type: dict
      returned: always
      sample: {loaded: 580.95.05, flavour: open, installed: {6.1.0-41-amd64: 580.95.05}}
    user_space:
      description: The version of the driver's library C(libcuda.so.1), or empty.
      type: str
      returned: always
      sample: 580.95.05
    nouveau:
      description: Which of the other drivers C(nouveau), C(nova), C(nova_core) and C(nova_drm) are loaded.
      type: list
      elements: str
      returned: always
    secure_boot:
      description: Whether the firmware demands signed modules. None where it does not tell.
      type: bool
      returned: always
    persistence:
      description: The version of the persistence daemon, and whether it runs.
      type: dict
      returned: always
      sample: {version: 580.95.05, running: true}
    fabric_manager:
      description: The version of the fabric manager, and whether it runs.
      type: dict
      returned: always
      sample: {version: 580.95.05, running: true}
    toolkit:
      description:
        - The version of the container toolkit, and NVIDIA's CDI specs with the version of the driver whose libraries
          each names.
      type: dict
      returned: always
      sample: {version: 1.18.0, cdi: [{path: /run/cdi/nvidia.yaml, version: 580.95.05}]}
    packages:
      description: NVIDIA's packages with their versions, and whether they are held, from the database of dpkg.
      type: dict
      returned: always
      sample: {libcuda1: {version: 535.309.01-1, hold: true}}
    in_use:
      description:
        - The processes that have a device file of NVIDIA open. NVIDIA's own services, which go with the driver, do not
          count.
      type: list
      elements: int
      returned: always
    reboot_needed:
      description: Why the node does not run the driver that it has, in one sentence, or empty.
      type: str
      returned: always
      sample: The loaded module is 535.309.01, the user space 580.95.05.
nvml:
  description:
    - What the management library says of the driver and of each GPU, or an C(error) that says why it does not. What it
      does not tell of a GPU is none.
  returned: when O(refine) is set and there is a GPU
  type: dict
  sample:
    error: ""
    driver: 580.95.05
    devices:
      - name: NVIDIA H100 80GB HBM3
        address: "0000:19:00.0"
        memory_mb: 81559
        mig: false
        ecc: true
        ecc_corrected: 0
        ecc_uncorrected: 0
        remapping_failed: false
        links: [true, true]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._gpu.facts import gpu
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._gpu.smoke import ask_nvml

_NVML_SECONDS = 30


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/"},
            "refine": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    answer = {"gpu": gpu(module.params["root"])}
    if module.params["refine"] and answer["gpu"]["present"]:
        answer["nvml"] = ask_nvml(_NVML_SECONDS)
    module.exit_json(changed=False, **answer)


if __name__ == "__main__":
    main()
