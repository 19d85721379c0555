#!/usr/bin/python
# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: conda_env
short_description: Install shared conda environments from lock files
version_added: "0.1.0"
author: The envfleet.gpu_cluster authors (@envfleet)
description:
  - Brings shared environments on a node to exactly what their lock files say.
  - Each installed lock is a generation, a prefix that never changes again. The name that people activate is a link to
    one of them. A change builds a new generation beside the old one, runs the smoke test in it, and then moves the link
    with one rename(2). Whatever fails or is killed on the way, the name leads to the last complete generation.
  - A damaged generation is built anew beside, since a job may still use it.
  - The installed state is read from files. Where nothing differs, no process is started and no network is used.
  - Locks are read on the control node, where packages without hashes and from other channels are refused.
requirements:
  - On the node, a base that M(envfleet.gpu_cluster.miniconda) installed.
options:
  environments:
    description: The environments, all handled in one call.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The name that people activate.
        type: str
        required: true
      lock:
        description:
          - The lock file on the control node, an C(@EXPLICIT) list with hashes, a conda-lock file of version 1,
            or a C(pixi.lock) of version 6 or 7.
          - From a C(pixi.lock), the environment C(default) or the only one there is, or the one named behind the path,
            as in V(pixi.lock#cuda).
          - A relative path begins at O(locks_dir).
        type: str
      generation:
        description:
          - Lead the name to what this generation was made from, instead of to a lock file, to go back in a hurry.
          - The identifier of a generation on the node, or V(previous) for the youngest made from another lock than the
            live one.
          - It does not change what is declared. Put the older lock back too, or the next run with the lock goes
            forward.
        type: str
      locks:
        description: The content of O(environments[].lock) by platform, which the action plugin fills in.
        type: dict
      smoke_test:
        description: A command that must succeed in a generation before the name is led to it.
        type: list
        elements: str
        default: []
      smoke_test_user:
        description: Who runs the smoke test. It has an empty home of its own.
        type: str
        default: nobody
      smoke_test_timeout:
        description: How long the smoke test may take, in seconds.
        type: float
        default: 300
      keep_generations:
        description:
          - How many generations stay when the name moves on, the live one included.
          - One that a process on the node uses is never removed, nor one that is younger than O(min_age_days).
        type: int
        default: 3
  min_age_days:
    description: How old a generation must be to be removed, in days.
    type: float
    default: 7
  locks_dir:
    description: Where relative paths of locks begin on the control node. The default is the inventory's directory.
    type: str
  channels:
    description: The channels that packages may come from, as URLs or as names under O(channel_alias).
    type: list
    elements: str
    default: [conda-forge]
  channel_alias:
    description: The URL that names of channels are under.
    type: str
    default: https://conda.anaconda.org
  pkgs_dir:
    description: The package cache. Nobody but its owner can write to it.
    type: path
    default: /opt/envfleet/pkgs
  base_prefix:
    description: The base whose engine installs the packages.
    type: path
    default: /opt/conda
  engine:
    description:
      - What installs the packages.
      - V(auto) takes the first that the base has, in the order V(rattler), V(conda).
    type: str
    choices: [auto, rattler, conda]
    default: auto
  verify:
    description:
      - How closely an installed environment is looked at.
      - V(fast) compares names, kinds, sizes, times, modes and owners of all files with those at the end of the build.
      - V(records) compares every package's record with the lock too.
      - V(full) compares the sha256 of every file with its package's list too, which reads the whole environment.
    type: str
    choices: [fast, records, full]
    default: fast
  min_free_mb:
    description: How many MiB must be free at O(generations_dir) before a build begins.
    type: int
    default: 4096
  lock_timeout:
    description: How long to wait for another run on the same node, in seconds.
    type: float
    default: 600
extends_documentation_fragment:
  - envfleet.gpu_cluster.layout
  - envfleet.gpu_cluster.attributes
  - envfleet.gpu_cluster.attributes.check_and_diff
"""

EXAMPLES = r"""
- name: Install the shared environments
  envfleet.gpu_cluster.conda_env:
    environments:
      - name: shared_ml
        lock: envs/shared_ml/conda-lock.yml
        smoke_test: [python, -c, "import numpy, pandas, sklearn"]

- name: Go back to what the environment was before
  envfleet.gpu_cluster.conda_env:
    environments:
      - name: shared_ml
        generation: previous

- name: Look at every byte and mend what differs
  envfleet.gpu_cluster.conda_env:
    verify: full
    environments: "{{ conda_envs_shared }}"
"""

RETURN = r"""
environments:
  description: Each environment, in the order given.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The environment.
      type: str
      returned: always
      sample: shared_ml
    generation:
      description: The prefix that the name leads to now, or would lead to after a run without check mode.
      type: str
      returned: always
      sample: /opt/envfleet/generations/shared_ml/5f0c61d3c1a2
    previous:
      description: The prefix that the name led to before.
      type: str
      returned: always
    identity:
      description: The sha256 that stands for the lock's packages.
      type: str
      returned: always
    actions:
      description: What was done, or would be done, in order.
      type: list
      elements: str
      returned: always
    added:
      description: Packages that were not there before.
      type: list
      elements: str
      returned: always
      sample: [numpy 2.2.6 py310_0]
    removed:
      description: Packages that are there no longer.
      type: list
      elements: str
      returned: always
    changed:
      description: Packages that are there in another version or build.
      type: list
      elements: dict
      returned: always
      sample: [{name: numpy, before: numpy 2.2.5 py310_0, after: numpy 2.2.6 py310_0}]
    problems:
      description: What was wrong with the environment.
      type: list
      elements: dict
      returned: always
      sample: [{kind: missing, subject: bin/f2py, detail: file of numpy 2.2.6 py310_0 is missing}]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.convergence import Settings, Wanted, converge
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.generations import (
    LAYOUT_OPTIONS,
    LEVELS,
    Layout,
    Retention,
    SmokeTest,
    lock_of,
)
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.locks import Lock, for_platform
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._node.facts import system

ARGUMENT_SPEC = {
    "environments": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "name": {"type": "str", "required": True},
            "lock": {"type": "str"},
            "generation": {"type": "str"},
            "locks": {"type": "dict"},
            "smoke_test": {"type": "list", "elements": "str", "default": []},
            "smoke_test_user": {"type": "str", "default": "nobody"},
            "smoke_test_timeout": {"type": "float", "default": 300},
            "keep_generations": {"type": "int", "default": 3},
        },
    },
    "min_age_days": {"type": "float", "default": 7},
    "locks_dir": {"type": "str"},
    "channels": {"type": "list", "elements": "str", "default": ["conda-forge"]},
    "channel_alias": {"type": "str", "default": "https://conda.anaconda.org"},
    **LAYOUT_OPTIONS,
    "pkgs_dir": {"type": "path", "default": "/opt/envfleet/pkgs"},
    "base_prefix": {"type": "path", "default": "/opt/conda"},
    "engine": {"type": "str", "choices": ["auto", "rattler", "conda"], "default": "auto"},
    "verify": {"type": "str", "choices": list(LEVELS), "default": "fast"},
    "min_free_mb": {"type": "int", "default": 4096},
    "lock_timeout": {"type": "float", "default": 600},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    params = module.params
    settings = Settings(
        layout=Layout(params["envs_dir"], params["generations_dir"]),
        pkgs_dir=params["pkgs_dir"],
        base_prefix=params["base_prefix"],
        engine=params["engine"],
        verify=params["verify"],
        min_free_mb=params["min_free_mb"],
        lock_timeout_seconds=params["lock_timeout"],
    )
    platform = system()["platform"]
    try:
        wanted = []
        for entry in params["environments"]:
            smoke_test = SmokeTest(tuple(entry["smoke_test"]), entry["smoke_test_user"], entry["smoke_test_timeout"])
            retention = Retention(entry["keep_generations"], params["min_age_days"] * 86400)
            if entry["generation"]:
                lock = lock_of(settings.layout, entry["name"], entry["generation"], platform)
            else:
                locks = {key: Lock.from_dict(value) for key, value in (entry["locks"] or {}).items()}
                lock = for_platform(locks, platform, entry["name"])
            wanted.append(Wanted(entry["name"], lock, smoke_test, retention))
        outcomes = converge(wanted, settings, module.check_mode)
    except CondaError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=any(outcome.todo for outcome in outcomes),
        environments=[outcome.as_dict() for outcome in outcomes],
        diff=[outcome.diff() for outcome in outcomes if outcome.todo],
    )


if __name__ == "__main__":
    main()
