#!/usr/bin/python
# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: conda_lock
short_description: Lock conda environments on the control node
version_added: "0.1.0"
author: The envfleet.gpu_cluster authors (@envfleet)
description:
  - Finds out which packages a spec, an C(environment.yml), means today, and writes them down with their hashes as a
    lock file, which M(envfleet.gpu_cluster.conda_env) installs on every node.
  - Everything happens on the control node, whatever host the task is for. Use C(run_once), as one run is enough.
  - Whether a lock is up to date is decided without solving, by a hash over the spec and the options, which the lock
    carries. What the channels offer by now plays no part in that, so that a lock moves only when somebody asks for it.
  - Where the spec or an option has changed, all packages stay that can stay.
  - All of C(environment.yml) is understood as CEP 24 has it, with selectors in comments and in keys. What no lock can
    hold, such as an editable requirement, is refused.
  - The pip part is resolved against the conda packages, which it must take as they are, and locked to wheels.
  - Several environments are solved side by side. Where one fails, the others are written nevertheless, and the task
    fails with all errors.
requirements:
  - On the control node, py-rattler, packaging and PyYAML, and uv for specs with a pip part.
options:
  environments:
    description:
      - The environments. One without O(environments[].spec) is passed over.
      - Options of M(envfleet.gpu_cluster.conda_env) are passed over too, so the same list can be given to both.
      - One that is listed several times in the same way is locked once.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The name that people activate, for messages.
        type: str
        required: true
      spec:
        description: The C(environment.yml). A relative path begins at O(locks_dir).
        type: str
      lock:
        description:
          - The lock to write, a conda-lock file of version 1, which ends in C(.yml) or C(.yaml).
          - A relative path begins at O(locks_dir). The directory must be there.
        type: str
      explicit:
        description:
          - Write an C(@EXPLICIT) list to this path too, with C({platform}) for the platform.
          - It has no place for a pip part or variables, so both are refused.
        type: str
      platforms:
        description:
          - The platforms to lock for, V(linux-64) and V(linux-aarch64).
          - The default is O(platforms), or what the spec says if that is empty.
        type: list
        elements: str
      virtual_packages:
        description: Declared for this environment, over O(virtual_packages).
        type: dict
      update:
        description: Packages of this environment that may move, with those in O(update).
        type: list
        elements: str
        default: []
  locks_dir:
    description: Where relative paths of specs and locks begin. The default is the inventory's directory.
    type: str
  channels:
    description:
      - The channels that packages may come from, as URLs or as names under O(channel_alias).
      - A spec that names another is refused. They come after those of the spec, unless that says C(nodefaults).
      - A password in a URL is used and does not get into the lock.
    type: list
    elements: str
    default: [conda-forge]
  channel_alias:
    description: The URL that names of channels are under.
    type: str
    default: https://conda.anaconda.org
  platforms:
    description: The platforms to lock for. If empty, those of each spec, or V(linux-64) if it names none.
    type: list
    elements: str
    default: []
  virtual_packages:
    description:
      - What the nodes have that packages may depend on, as name and version, such as C(__cuda) and V("12.4"). Write
        versions in quotes. Behind a C(=) a version may have a build, as in C(__archspec) and V("1=x86_64_v3").
      - Nothing of the control node is looked at. Without this, nodes have C(__unix), C(__linux) 4.18, C(__glibc) 2.28
        and C(__archspec) of the platform. An empty version takes one away.
    type: dict
    default: {}
  channel_priority:
    description:
      - V(strict) takes a package from the first channel that has it, in any version.
      - V(disabled) takes the best version of all channels.
      - V(flexible) is V(strict), and V(disabled) where that has no solution.
    type: str
    choices: [strict, flexible, disabled]
    default: strict
  exclude_newer:
    description:
      - Pass over what was published after this time in ISO 8601, such as V(2026-01-31) or V(2026-01-31T12:00:00Z), or
        in the last days, given as a number. Without a time zone it is UTC, and a date is its first moment.
    type: str
    default: ""
  update:
    description:
      - Let these packages move to what is best now, and hold all others.
      - Where that has no solution, the others that have to move do, and a warning names them.
    type: list
    elements: str
    default: []
  update_all:
    description: Let all packages move to what is best now.
    type: bool
    default: false
  index_url:
    description: The index of the pip part where the spec names none. The default is that of uv.
    type: str
    default: ""
  extra_index_urls:
    description: More indexes for the pip part. The best version of all indexes is taken, as pip does.
    type: list
    elements: str
    default: []
  find_links:
    description: Directories on the control node, or URLs of pages, with wheels for the pip part.
    type: list
    elements: str
    default: []
extends_documentation_fragment:
  - envfleet.gpu_cluster.attributes
  - envfleet.gpu_cluster.attributes.check_and_diff
attributes:
  action:
    description: Has an action plugin, which does all the work on the control node.
    support: full
"""

EXAMPLES = r"""
- name: Lock an environment for nodes with a GPU
  envfleet.gpu_cluster.conda_lock:
    environments:
      - name: torch
        spec: envs/torch/environment.yml
        lock: envs/torch/conda-lock.yml
        virtual_packages:
          __cuda: "12.4"
  run_once: true

- name: Move numpy, and nothing else
  envfleet.gpu_cluster.conda_lock:
    environments: "{{ conda_envs_shared }}"
    update: [numpy]
  run_once: true

- name: See what a refresh would bring
  envfleet.gpu_cluster.conda_lock:
    environments: "{{ conda_envs_shared }}"
    update_all: true
  run_once: true
  check_mode: true
  diff: true
"""

RETURN = r"""
environments:
  description: Each environment that has a spec and could be locked, in the order given.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The environment.
      type: str
      returned: always
      sample: torch
    lock:
      description: The lock file.
      type: str
      returned: always
    files:
      description: The files that were written, or would be.
      type: list
      elements: str
      returned: always
    solved:
      description: The platforms that were not up to date.
      type: list
      elements: str
      returned: always
      sample: [linux-64]
    changes:
      description: By platform, the packages that were C(added), C(removed), went C(up) or C(down), or were C(rebuilt).
      type: dict
      returned: always
      sample:
        linux-64:
          added: []
          removed: []
          up: [{before: numpy 2.2.5 py310_0, after: numpy 2.2.6 py310_0}]
          down: []
          rebuilt: []
    moved_too:
      description: The packages that had to move with those in O(update).
      type: list
      elements: str
      returned: always
"""

from ansible.module_utils.basic import AnsibleModule

ARGUMENT_SPEC = {
    "environments": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "name": {"type": "str", "required": True},
            "spec": {"type": "str"},
            "lock": {"type": "str"},
            "explicit": {"type": "str"},
            "platforms": {"type": "list", "elements": "str"},
            "virtual_packages": {"type": "dict"},
            "update": {"type": "list", "elements": "str", "default": []},
        },
    },
    "locks_dir": {"type": "str"},
    "channels": {"type": "list", "elements": "str", "default": ["conda-forge"]},
    "channel_alias": {"type": "str", "default": "https://conda.anaconda.org"},
    "platforms": {"type": "list", "elements": "str", "default": []},
    "virtual_packages": {"type": "dict", "default": {}},
    "channel_priority": {"type": "str", "choices": ["strict", "flexible", "disabled"], "default": "strict"},
    "exclude_newer": {"type": "str", "default": ""},
    "update": {"type": "list", "elements": "str", "default": []},
    "update_all": {"type": "bool", "default": False},
    "index_url": {"type": "str", "default": ""},
    "extra_index_urls": {"type": "list", "elements": "str", "default": []},
    "find_links": {"type": "list", "elements": "str", "default": []},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    module.fail_json(msg="conda_lock runs on the control node, where Ansible calls its action plugin instead of this")


if __name__ == "__main__":
    main()
