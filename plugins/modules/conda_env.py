#!/usr/bin/python
# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: conda_env
short_description: Install, verify and remove shared conda environments
version_added: "0.1.0"
author: The envfleet.gpu_cluster authors (@envfleet)
description:
  - Brings shared environments on a node to exactly what their lock files say.
  - Each installed lock is a generation, a prefix that never changes again. The name that people activate is a link to
    one of them. A change builds a new generation beside the old one, runs the smoke test in it, and then moves the link
    with one rename(2). Whatever fails or is killed on the way, the name leads to the last complete generation.
  - A damaged generation is built anew beside, since a job may still use it, and one that a process uses is never
    removed.
  - The installed state is read from files. Where nothing differs, no process is started and no network is used.
  - Locks are read on the control node, where packages without hashes and from other channels are refused.
requirements:
  - On the control node, what M(envfleet.gpu_cluster.conda_lock) needs, for environments without a lock.
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
      state:
        description:
          - With V(present), the environment is there just as its lock says.
          - With V(absent), it is gone. First its name goes, then its kernelspec, then each generation that no process
            uses. One that is in use is returned as RV(environments[].kept) and goes in a later run. No lock is needed.
          - With V(verified), it is looked at as closely as O(verify) says, and nothing is changed. What is wrong and
            what a run would do is returned, and is no failure.
        type: str
        choices: [present, absent, verified]
        default: present
        version_added: "0.1.0"
      lock:
        description:
          - The lock file on the control node, an C(@EXPLICIT) list with hashes, a conda-lock file of version 1,
            or a C(pixi.lock) of version 6 or 7.
          - From a C(pixi.lock), the environment C(default) or the only one there is, or the one named behind the path,
            as in V(pixi.lock#cuda).
          - A relative path begins at O(locks_dir).
          - Of O(environments[].lock), O(environments[].spec) and O(environments[].packages), one is needed unless
            O(environments[].generation) is given or the environment is to be absent.
        type: str
      spec:
        description:
          - The C(environment.yml). A relative path begins at O(locks_dir).
          - With O(environments[].lock) it is not read here, but M(envfleet.gpu_cluster.conda_lock) makes that from it.
          - Without, it is solved on the control node once. The lock is kept below C(.envfleet) in O(locks_dir), where
            each node and each later run finds it, until the spec, O(channels) or O(locking) change. Then the packages
            of the lock that was kept last stay as far as they can.
          - In check mode it is solved too, but nothing is kept.
        type: str
        version_added: "0.1.0"
      packages:
        description:
          - Match specs, such as V(numpy >=2), of an environment that has neither a lock nor a spec. They are treated
            like O(environments[].spec).
        type: list
        elements: str
        default: []
        version_added: "0.1.0"
      platforms:
        description: The platforms to lock for, over O(locking.platforms).
        type: list
        elements: str
        version_added: "0.1.0"
      virtual_packages:
        description: Declared for this environment, over O(locking.virtual_packages).
        type: dict
        version_added: "0.1.0"
      explicit:
        description: For M(envfleet.gpu_cluster.conda_lock), and not used here.
        type: str
        version_added: "0.1.0"
      update:
        description: For M(envfleet.gpu_cluster.conda_lock), and not used here.
        type: list
        elements: str
        version_added: "0.1.0"
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
      variables:
        description:
          - Environment variables that are set in each shell that activates the environment, in its Jupyter kernels and
            in the smoke test. They come on top of those in the lock.
          - The value is a text or a whole number, without quotes, C($), backslashes and control characters, since conda
            puts it into the code of shells as it is.
          - C(PATH), C(PYTHONHOME), C(PYTHONEXECUTABLE) and what begins with C(CONDA_) are refused, because activation
            and the pinning of jobs depend on them.
          - Another value makes another generation.
        type: dict
        default: {}
        version_added: "0.1.0"
      owner:
        description:
          - The user of the node whom the files belong to. By default, who runs the module.
          - Another O(environments[].owner), O(environments[].group), O(environments[].mode) or
            O(environments[].umask) makes another generation. Nobody but the owner can ever write to one.
        type: str
        default: ""
        version_added: "0.1.0"
      group:
        description: The group of the node that the files belong to. By default, that of who runs the module.
        type: str
        default: ""
        version_added: "0.1.0"
      mode:
        description:
          - The mode of a generation's top directory, as four octal digits in quotes. By default, what
            O(environments[].umask) leaves of V(0755).
          - V("0750") keeps all but O(environments[].group) out, as for software that is licensed to a group.
        type: str
        default: ""
        version_added: "0.1.0"
      umask:
        description:
          - What is taken from the modes of all files, as four octal digits in quotes. All may read with V("0022"), only
            O(environments[].group) with V("0027").
          - A mask that lets others than the owner write is refused.
        type: str
        default: "0022"
        version_added: "0.1.0"
      repair:
        description:
          - Whether a damaged generation is built anew. With V(false), it is only told in RV(environments[].problems).
          - A generation whose manifest is gone is always built anew, since nothing tells what it was made from.
        type: bool
        default: true
        version_added: "0.1.0"
      foreign_packages:
        description:
          - What becomes of a generation in which somebody has installed packages by hand. With V(rebuild), it is
            damaged like any other. With V(report), the packages are told in RV(environments[].problems) and stay.
        type: str
        choices: [rebuild, report]
        default: rebuild
        version_added: "0.1.0"
      kernel:
        description:
          - Whether Jupyter offers the environment, through a kernelspec of its name in O(kernels_dir). The lock must
            have C(ipykernel).
          - A kernel is started by the path of the generation and stays in it. The kernelspec follows the name.
          - A kernelspec that this module has not written is never touched, and an error where it is in the way.
          - By default it does not, and with O(environments[].generation) it does if it did before.
        type: bool
        version_added: "0.1.0"
      smoke_test:
        description: A command that must succeed in a generation before the name is led to it.
        type: list
        elements: str
        default: []
      smoke_test_user:
        description:
          - Who runs the smoke test. It has an empty home of its own.
          - Where only O(environments[].group) may use the environment, the user has that group for the test.
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
    description:
      - Where relative paths of specs and locks begin on the control node. The default is the inventory's directory.
    type: str
  locking:
    description:
      - How O(environments[].spec) and O(environments[].packages) are solved, with the options that
        M(envfleet.gpu_cluster.conda_lock) has too, and where the packages of all locks are fetched from.
    type: dict
    version_added: "0.1.0"
    suboptions:
      platforms:
        description: The platforms to lock for. If empty, those of each spec, or V(linux-64) if it names none.
        type: list
        elements: str
        default: []
      virtual_packages:
        description: What the nodes have that packages may depend on, as name and version, such as C(__cuda).
        type: dict
        default: {}
      channel_priority:
        description: How channels are chosen from.
        type: str
        choices: [strict, flexible, disabled]
        default: strict
      exclude_newer:
        description: Pass over what was published after this time in ISO 8601, or in the last days, given as a number.
        type: str
        default: ""
      index_url:
        description: The index of the pip part where the spec names none.
        type: str
        default: ""
      extra_index_urls:
        description: More indexes for the pip part.
        type: list
        elements: str
        default: []
      find_links:
        description: Directories on the control node, or URLs of pages, with wheels for the pip part.
        type: list
        elements: str
        default: []
      channel_mirrors:
        description:
          - URLs of channels, or of what several are under, each with the URL of a mirror that the packages of locks are
            fetched from instead. Their hashes are those of the lock.
          - O(channels) may name a mirror, or what it is a mirror of.
        type: dict
        default: {}
  node:
    description:
      - The RV(envfleet.gpu_cluster.node_facts#module:node) of a look. With it, environments are held against the driver
        and the GPUs of the node before anything is done, as P(envfleet.gpu_cluster.cuda_compat#filter) does it.
      - Nothing is said of a node without a GPU, nor of one whose driver is not known.
    type: dict
    default: {}
    version_added: "0.1.0"
  cuda_gate:
    description:
      - What becomes of an environment that is to be installed and will not run with the driver in O(node). With
        V(error), nothing is done. With V(warn), it is installed with a warning, as one is that runs, but in which code
        that the driver must compile at run time may fail.
    type: str
    choices: [error, warn, "off"]
    default: error
    version_added: "0.1.0"
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
  kernels_dir:
    description: Where Jupyter looks for kernelspecs. If empty, no kernelspec is written or removed.
    type: path
    default: /usr/local/share/jupyter/kernels
    version_added: "0.1.0"
  index_url:
    description:
      - A package index that the pip packages of locks are fetched from, instead of the URLs in the locks. Each must
        have the sha256 of the lock.
    type: str
    default: ""
    version_added: "0.1.0"
  wheels_dir:
    description:
      - A directory on the node with the wheels of locks. With it, no network is used for them. Each must have the
        sha256 of the lock.
    type: path
    default: ""
    version_added: "0.1.0"
  engine:
    description:
      - What installs the packages.
      - V(auto) takes the first that the base has, in the order V(rattler), V(conda), V(mamba), V(micromamba).
      - V(mamba) and V(micromamba) must be 2.1 or newer. They take no notice of a package's link script that fails.
    type: str
    choices: [auto, rattler, conda, mamba, micromamba]
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
  shared:
    description:
      - Whether O(envs_dir) and O(generations_dir) are on a file system that other nodes have too, as NFS or Lustre.
      - The lock on O(generations_dir) must keep other nodes out then. Mount options that prevent this are an error.
      - A generation is only removed where O(in_use) says that no other node uses it, and never in the run that leads
        its name elsewhere.
    type: bool
    default: false
    version_added: "0.1.0"
  in_use:
    description:
      - With O(shared), the generations that processes on other nodes use, as M(envfleet.gpu_cluster.node_facts) tells
        of each. Without it none is removed.
    type: list
    elements: path
    version_added: "0.1.0"
  install:
    description:
      - With V(false), another node that shares O(generations_dir) has done everything, and only the kernelspecs are
        written, which may be in a place of this node. What that node has done must be seen here within 75 seconds, or
        it is an error.
    type: bool
    default: true
    version_added: "0.1.0"
  images_dir:
    description:
      - A directory, such as one on NFS, in which new generations are packed into one squashfs image each. The image is
        mounted read-only in the generation's place, and a line in C(/etc/fstab) has it there after a restart.
      - The first node packs, with C(mksquashfs) of the package C(squashfs-tools). The others mount the image that they
        find there, and check it against its manifest. They must have the same O(generations_dir), which is a directory
        of each node.
      - Images are never replaced or removed, since other nodes may have them mounted.
      - If empty, new generations are directories. What is installed already stays as it is either way.
      - Mutually exclusive with O(shared).
    type: path
    default: ""
    version_added: "0.1.0"
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

- name: Take an environment away, and offer another one in Jupyter
  envfleet.gpu_cluster.conda_env:
    environments:
      - name: old_ml
        state: absent
      - name: shared_ml
        lock: envs/shared_ml/conda-lock.yml
        variables: {OMP_NUM_THREADS: "8"}
        kernel: true

- name: Install what is licensed to a group
  envfleet.gpu_cluster.conda_env:
    environments:
      - name: chemistry
        lock: envs/chemistry/conda-lock.yml
        group: chemistry-licence
        mode: "0750"

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
      description:
        - The prefix that the name leads to now, or would lead to after a run without check mode. None where there is no
          name.
      type: str
      returned: always
      sample: /opt/envfleet/generations/shared_ml/5f0c61d3c1a2
    previous:
      description: The prefix that the name led to before.
      type: str
      returned: always
    identity:
      description:
        - The sha256 that stands for what the lock installs. Behind it, where not everybody may use the generation, who
          may. None where there is to be no environment.
      type: str
      returned: always
    actions:
      description: What was done, or would be done, in order.
      type: list
      elements: str
      returned: always
    kept:
      description:
        - Generations of an environment that is to be gone, which stay for now because a process uses them, or one on
          another node may.
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

import dataclasses
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.access import Access
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.convergence import (
    FOREIGN,
    STATES,
    Settings,
    Wanted,
    converge,
)
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.engines import ENGINES
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.environments import LAYOUT_OPTIONS
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.generations import (
    LEVELS,
    Layout,
    find,
    lock_of,
)
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.locks import Lock, for_platform
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.packing import Images
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.usage import Elsewhere
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._node.facts import system

#: What can be said of one environment.
ENVIRONMENT = {
    "name": {"type": "str", "required": True},
    "state": {"type": "str", "choices": list(STATES), "default": "present"},
    "lock": {"type": "str"},
    "spec": {"type": "str"},
    "packages": {"type": "list", "elements": "str", "default": []},
    "platforms": {"type": "list", "elements": "str"},
    "virtual_packages": {"type": "dict"},
    "explicit": {"type": "str"},
    "update": {"type": "list", "elements": "str"},
    "generation": {"type": "str"},
    "locks": {"type": "dict"},
    "variables": {"type": "dict", "default": {}},
    "owner": {"type": "str", "default": ""},
    "group": {"type": "str", "default": ""},
    "mode": {"type": "str", "default": ""},
    "umask": {"type": "str", "default": "0022"},
    "repair": {"type": "bool", "default": True},
    "foreign_packages": {"type": "str", "choices": list(FOREIGN), "default": "rebuild"},
    "kernel": {"type": "bool"},
    "smoke_test": {"type": "list", "elements": "str", "default": []},
    "smoke_test_user": {"type": "str", "default": "nobody"},
    "smoke_test_timeout": {"type": "float", "default": 300},
    "keep_generations": {"type": "int", "default": 3},
}
#: What decides, besides channels, which packages a spec without a lock means, and where those of locks come from.
LOCKING = {
    "platforms": {"type": "list", "elements": "str", "default": []},
    "virtual_packages": {"type": "dict", "default": {}},
    "channel_priority": {"type": "str", "choices": ["strict", "flexible", "disabled"], "default": "strict"},
    "exclude_newer": {"type": "str", "default": ""},
    "index_url": {"type": "str", "default": ""},
    "extra_index_urls": {"type": "list", "elements": "str", "default": []},
    "find_links": {"type": "list", "elements": "str", "default": []},
    "channel_mirrors": {"type": "dict", "default": {}},
}
ARGUMENT_SPEC = {
    "environments": {"type": "list", "elements": "dict", "required": True, "options": ENVIRONMENT},
    "min_age_days": {"type": "float", "default": 7},
    "locks_dir": {"type": "str"},
    "locking": {"type": "dict", "options": LOCKING},
    "node": {"type": "dict", "default": {}},
    "cuda_gate": {"type": "str", "choices": ["error", "warn", "off"], "default": "error"},
    "channels": {"type": "list", "elements": "str", "default": ["conda-forge"]},
    "channel_alias": {"type": "str", "default": "https://conda.anaconda.org"},
    **LAYOUT_OPTIONS,
    "pkgs_dir": {"type": "path", "default": "/opt/envfleet/pkgs"},
    "base_prefix": {"type": "path", "default": "/opt/conda"},
    "kernels_dir": {"type": "path", "default": "/usr/local/share/jupyter/kernels"},
    "index_url": {"type": "str", "default": ""},
    "wheels_dir": {"type": "path", "default": ""},
    "engine": {"type": "str", "choices": ["auto", *ENGINES], "default": "auto"},
    "verify": {"type": "str", "choices": list(LEVELS), "default": "fast"},
    "shared": {"type": "bool", "default": False},
    "in_use": {"type": "list", "elements": "path"},
    "install": {"type": "bool", "default": True},
    "images_dir": {"type": "path", "default": ""},
    "min_free_mb": {"type": "int", "default": 4096},
    "lock_timeout": {"type": "float", "default": 600},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    params = module.params
    in_use = params["in_use"]
    if params["images_dir"] and params["shared"]:
        module.fail_json(
            msg="conda_envs_images_dir: each node mounts images itself, so it does not go with conda_envs_install_once"
        )
    settings = Settings(
        layout=Layout(params["envs_dir"], params["generations_dir"], Images(params["images_dir"])),
        pkgs_dir=params["pkgs_dir"],
        base_prefix=params["base_prefix"],
        engine=params["engine"],
        verify=params["verify"],
        min_free_mb=params["min_free_mb"],
        lock_timeout_seconds=params["lock_timeout"],
        kernels_dir=params["kernels_dir"],
        index_url=params["index_url"],
        wheels_dir=params["wheels_dir"],
        elsewhere=Elsewhere(None if in_use is None else frozenset(in_use)) if params["shared"] else None,
        install=params["install"],
    )
    platform = system()["platform"]
    try:
        wanted = [
            _wanted(entry, settings.layout, platform, params["min_age_days"] * 86400)
            for entry in params["environments"]
        ]
        outcomes = converge(wanted, settings, module.check_mode)
    except CondaError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=any(outcome.changed for outcome in outcomes),
        environments=[outcome.as_dict() for outcome in outcomes],
        diff=[outcome.diff() for outcome in outcomes if outcome.changed],
    )


def _wanted(entry: dict[str, t.Any], layout: Layout, platform: str, min_age_seconds: float) -> Wanted:
    """What *entry* asks for on this node.

    :raises CondaError: with the environment at fault.
    """
    name, generation = entry["name"], entry["generation"]
    if entry["state"] == "absent":
        lock = Lock(platform, ())
    elif not generation:
        locks = {key: Lock.from_dict(value) for key, value in (entry["locks"] or {}).items()}
        lock = for_platform(locks, platform, name)
    try:
        if generation:
            # It goes back as it was: with its lock, and for the people who could use it.
            lock = lock_of(layout, name, generation, platform)
            access = Access.of(find(layout, name, generation)[1])
            return dataclasses.replace(Wanted.of(entry, lock, min_age_seconds), access=access)
        return Wanted.of(entry, lock, min_age_seconds)
    except CondaError as error:
        raise CondaError(f"conda_envs_shared: {name}: {error}") from error


if __name__ == "__main__":
    main()
