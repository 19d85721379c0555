#!/usr/bin/python
# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nvidia_driver_plan
short_description: Which packages make a working NVIDIA driver on this node
version_added: "0.1.0"
author: The envfleet.gpu_cluster authors (@envfleet)
description:
  - From the GPUs of a node, its distribution, and what its repositories offer, tells the set of packages that belong
    together, each with its exact version, or why there is none and what would do.
  - The repositories are asked once, with indexes in a directory that is gone afterwards, so that a repository can be
    asked before the node has it. Nothing on the node is changed.
  - With O(packages), nobody is asked at all.
options:
  gpu:
    description: What M(envfleet.gpu_cluster.gpu_facts) tells of the node.
    type: dict
    required: true
  branch:
    description: The wanted branch of the driver, such as V("580"). This or O(version) is needed.
    type: str
    default: ""
  version:
    description: The exact version, as NVIDIA counts, such as V("580.95.05"), or as the package has it.
    type: str
    default: ""
  flavour:
    description:
      - The kernel module. V(auto) takes the open one where all GPUs run with it and NVIDIA prefers it, which is from
        branch 560 on, and the proprietary one elsewhere.
    type: str
    choices: [auto, open, proprietary]
    default: auto
  repository:
    description:
      - V(distribution) is the archive of Debian or Ubuntu, where the node's own sources say it is. V(nvidia) is the one
        at O(repository_url).
    type: str
    choices: [distribution, nvidia]
    default: distribution
  repository_url:
    description:
      - The repository V(nvidia), or a mirror of it. V({distribution}) in it stands for its name of the distribution,
        such as V(debian12), and V({architecture}) for V(x86_64) or V(sbsa).
    type: str
    default: https://developer.download.nvidia.com/compute/cuda/repos/{distribution}/{architecture}
  repository_key_url:
    description: The key that the repository is signed with. If empty, the one that lies beside NVIDIA's packages.
    type: str
    default: ""
  allow_end_of_life:
    description: Whether a branch may be taken that NVIDIA supplies no more updates for.
    type: bool
    default: false
  trusted_key:
    description: Whether the firmware of the node trusts the key that its DKMS signs modules with.
    type: bool
    default: false
  dcgm:
    description: The major version of DCGM, such as V("4"). If empty, it is no part of the set.
    type: str
    default: ""
  toolkit:
    description:
      - What the version of the container toolkit begins with, such as V("1.18"). If empty, it is no part of the set.
    type: str
    default: ""
  packages:
    description:
      - What the repositories offer, each with name, version, and as Debian's control files have them, depends and
        provides. If it is not given, they are asked.
    type: list
    elements: dict
  distribution:
    description:
      - The distribution with id, version, codename, and arch as V(x86_64). If it is not given, that of the node.
    type: dict
  today:
    description: The day that lives of branches are held against, as V("2026-11-23"). If empty, that of the node.
    type: str
    default: ""
extends_documentation_fragment:
  - envfleet.gpu_cluster.attributes
  - envfleet.gpu_cluster.attributes.read_only
"""

EXAMPLES = r"""
- name: Look at the GPUs
  envfleet.gpu_cluster.gpu_facts:
  register: look

- name: Plan the driver
  envfleet.gpu_cluster.nvidia_driver_plan:
    gpu: "{{ look.gpu }}"
    branch: "580"
    repository: nvidia
  register: driver

- name: Say what would be installed, or why nothing can be
  ansible.builtin.debug:
    msg: "{{ driver.plan.refusal or driver.plan.packages }}"
"""

RETURN = r"""
plan:
  description: The set, or the refusal.
  returned: success
  type: dict
  contains:
    refusal:
      description: Why there is no set, by its kind and as a sentence, and what would do. Empty where there is one.
      type: dict
      returned: always
      sample:
        kind: end-of-life
        reason: NVIDIA has ended branch 535 in 2026-06
        remedy: take one of the branches 620, 580, 595, or allow branches whose life has ended
    version:
      description: The version of the driver, as NVIDIA counts.
      type: str
      returned: when there is a set
      sample: 580.95.05
    branch:
      description: The branch.
      type: int
      returned: when there is a set
    kind:
      description: V(long-term), V(production), V(new-feature) or V(unknown).
      type: str
      returned: when there is a set
    end_of_life:
      description: The last month with updates for the branch; empty where NVIDIA has published none.
      type: str
      returned: when there is a set
      sample: 2028-06
    max_cuda:
      description: The newest major version of CUDA that the branch runs without the forward compatibility package.
      type: int
      returned: when there is a set
    flavour:
      description: V(open) or V(proprietary).
      type: str
      returned: when there is a set
    module:
      description: The package with the kernel module.
      type: str
      returned: when there is a set
    packages:
      description: What is to be installed, by name, with its version.
      type: dict
      returned: when there is a set
      sample: {nvidia-kernel-dkms: 535.309.01-0+deb12u1, libcuda1: 535.309.01-0+deb12u1}
    remove:
      description: Packages that have to go, because they hold the kernel module of the other flavour.
      type: list
      elements: str
      returned: when there is a set
    pins:
      description: All packages that are to stay at their version, those that the set pulls in included.
      type: dict
      returned: when there is a set
    preferences:
      description: The text of the file that keeps them there, as apt_preferences(5). For dnf, the source does.
      type: str
      returned: when there is a set
    stream:
      description: The stream of dnf's module nvidia-driver; empty where there are none.
      type: str
      returned: when there is a set
      sample: 580-open
    fabric_manager:
      description: The package of fabric manager; empty where the node has no NVSwitch.
      type: str
      returned: when there is a set
    passed_over:
      description: Newer versions that are offered, and why each is no whole set.
      type: list
      elements: dict
      returned: when there is a set
      sample:
        - version: 535.309.01
          reason: nvidia-open-kernel-dkms is not offered at this version, but at 535.261.03-1
sources:
  description:
    - The file, by path and content, that gives the node the repository. The content is empty where the node has it.
  returned: when repositories were asked and there is a set
  type: dict
  sample: {path: /etc/apt/sources.list.d/envfleet-nvidia.sources, content: ""}
"""

import datetime
import os

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._gpu import packages, plan, repositories


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "gpu": {"type": "dict", "required": True},
            "branch": {"type": "str", "default": ""},
            "version": {"type": "str", "default": ""},
            "flavour": {"type": "str", "choices": ["auto", "open", "proprietary"], "default": "auto"},
            "repository": {"type": "str", "choices": ["distribution", "nvidia"], "default": "distribution"},
            "repository_url": {
                "type": "str",
                "default": "https://developer.download.nvidia.com/compute/cuda/repos/{distribution}/{architecture}",
            },
            "repository_key_url": {"type": "str", "default": "", "no_log": False},
            "allow_end_of_life": {"type": "bool", "default": False},
            "trusted_key": {"type": "bool", "default": False, "no_log": False},
            "dcgm": {"type": "str", "default": ""},
            "toolkit": {"type": "str", "default": ""},
            "packages": {"type": "list", "elements": "dict"},
            "distribution": {"type": "dict"},
            "today": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    wish = plan.Wish(
        **{
            name: module.params[name]
            for name in (
                "branch",
                "version",
                "flavour",
                "repository",
                "allow_end_of_life",
                "trusted_key",
                "dcgm",
                "toolkit",
            )
        }
    )
    today = module.params["today"] or datetime.date.today().isoformat()
    gpu, result = module.params["gpu"], {}
    try:
        system = module.params["distribution"] or repositories.distribution(_os_release(), os.uname().machine)
        # What can be told without them is told before the repositories are asked.
        plan.choose_flavour(gpu, system, wish, today)
        source = None
        if module.params["packages"] is None:
            offered, path, source = repositories.ask(
                lambda argv: module.run_command(argv, environ_update={"LC_ALL": "C"}),
                system,
                repositories.apt_sources(),
                wish.repository,
                module.params["repository_url"],
                lambda url: open_url(url, timeout=60).read().decode("utf-8"),
                module.params["repository_key_url"],
            )
        else:
            offered = [packages.from_mapping(one) for one in module.params["packages"]]
        result["plan"] = {"refusal": {}, **plan.plan(gpu, system, wish, offered, today)}
        if source:
            result["sources"] = {"path": path, "content": source(list(result["plan"]["pins"].values()))}
    except plan.Refused as error:
        result["plan"] = {"refusal": {"kind": error.kind, "reason": error.reason, "remedy": error.remedy}}
    except (ValueError, KeyError, OSError, repositories.RepositoryError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **result)


def _os_release() -> str:
    with open("/etc/os-release", encoding="utf-8") as stream:
        return stream.read()


if __name__ == "__main__":
    main()
