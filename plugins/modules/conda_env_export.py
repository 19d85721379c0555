#!/usr/bin/python
# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: conda_env_export
short_description: Write down an environment so that it can be built elsewhere
version_added: "0.1.0"
author: The envfleet.gpu_cluster authors (@envfleet)
description:
  - Tells what is in an environment of a node, a shared one or any other, as an C(environment.yml) for people, or as a
    lock that builds the same set of files on another node.
  - It reads the records of the packages and what pip has left. It starts no process, opens no connection, needs neither
    conda nor the base, and changes nothing but O(dest).
  - Packages alone are told of. Files that somebody put into the environment by hand are not.
  - Users, passwords and tokens in URLs are left out, so whoever builds from the file must have their own. Channels that
    need none are written as they are. Values of variables are written as they are, unless O(leave_out) says otherwise.
options:
  name:
    description:
      - A shared environment of this collection. What its name leads to is exported.
      - Either this or O(path) is required.
    type: str
  path:
    description:
      - The prefix of any environment, such as one of a user, or the base.
      - Export an environment of a user as that user (C(become_user)), who can fill it at will.
    type: path
  format:
    description:
      - V(environment) is an C(environment.yml). It names packages, not archives.
      - V(explicit) is an C(@EXPLICIT) list with the URL of each archive, and its sha256 (or its md5, where that is all
        that the record has). It has no place for pip packages and variables.
      - V(conda-lock) is a C(conda-lock.yml) of version 1, with URLs, hashes and dependencies. It can have pip packages
        whose wheel is known, which are those of a lock of this collection, and those installed from the URL or path of
        a wheel. Variables are among its C(custom_metadata), where this collection finds them.
      - It is an error if something has no place in the format, or if a package has no known URL or hash.
    type: str
    choices: [environment, explicit, conda-lock]
    default: environment
  from_history:
    description:
      - List what people asked for, in the place of all conda packages that are there.
      - That is in C(conda-meta/history), or for C(pixi) in the records. A shared environment was built from a lock, so
        that nobody asked for anything there, which is an error.
      - The pip packages are listed in any case.
      - For O(format=environment) alone.
    type: bool
    default: false
  no_builds:
    description:
      - Leave the build of each package out, so that another platform or a later day may have another.
      - For O(format=environment) alone.
    type: bool
    default: false
  leave_out:
    description:
      - What shall not be in the file.
      - V(pip) stands for all packages that no conda package has, V(variables) for those that activation sets.
    type: list
    elements: str
    choices: [pip, variables]
    default: []
  dest:
    description:
      - A file on the node to write the export to, whole or not at all. Its directory must be there.
      - The file belongs to who runs the module. A link in its place is replaced.
    type: path
  mode:
    description: The permissions of O(dest), as an octal number in quotes.
    type: raw
    default: "0644"
extends_documentation_fragment:
  - envfleet.gpu_cluster.layout
  - envfleet.gpu_cluster.attributes
  - envfleet.gpu_cluster.attributes.check_and_diff
notes:
  - The C(environment.yml) has no C(prefix), which is another one elsewhere. Its channels are those that the packages
    came from, in the order that C(conda env export) has, and not those that the node is configured with.
  - In its pip section, a package from a repository or from the URL of an archive is written with that URL. One from a
    directory of this node, editable or not, can only be written with name and version, and there is a warning.
seealso:
  - module: envfleet.gpu_cluster.conda_env
    description: Builds shared environments from locks.
  - module: envfleet.gpu_cluster.conda_env_info
    description: Lists the environments there are.
"""

EXAMPLES = r"""
- name: Fetch what is needed to build a shared environment elsewhere
  envfleet.gpu_cluster.conda_env_export:
    name: shared_ml
    format: conda-lock
  register: exported

- name: Keep it in the inventory
  ansible.builtin.copy:
    content: "{{ exported.content }}"
    dest: "{{ inventory_dir }}/envs/shared_ml/conda-lock.yml"
    mode: "0644"
  delegate_to: localhost

- name: Write down what alice asked for in her own environment
  envfleet.gpu_cluster.conda_env_export:
    path: ~/.conda/envs/mine
    from_history: true
    dest: ~/environment.yml
  become: true
  become_user: alice

- name: List the archives of the base
  envfleet.gpu_cluster.conda_env_export:
    path: /opt/conda
    format: explicit
    leave_out: [pip, variables]
"""

RETURN = r"""
content:
  description: The text of the file.
  returned: success
  type: str
  sample: |
    name: shared_ml
    channels:
      - conda-forge
    dependencies:
      - numpy=2.2.6=py310hefbff90_0
      - pip=26.3=pyh8b19718_0
      - python=3.10.13=hd12c33a_1_cpython
      - pip:
          - einops==0.8.1
prefix:
  description: The environment that was read, without links. For a shared one that is a generation.
  returned: success
  type: str
  sample: /opt/envfleet/generations/shared_ml/5f0c61d3c1a2
platform:
  description: What the packages are for, in the words of conda.
  returned: success
  type: str
  sample: linux-64
packages:
  description: How many conda packages the environment has.
  returned: success
  type: int
  sample: 118
pip_packages:
  description: How many packages it has besides, whether or not they are left out of the file.
  returned: success
  type: int
  sample: 1
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda import export
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.environments import LAYOUT_OPTIONS, Places
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.files import write_file
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._node.facts import system


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **LAYOUT_OPTIONS,
            "name": {"type": "str"},
            "path": {"type": "path"},
            "format": {"type": "str", "choices": list(export.FORMATS), "default": "environment"},
            "from_history": {"type": "bool", "default": False},
            "no_builds": {"type": "bool", "default": False},
            "leave_out": {"type": "list", "elements": "str", "choices": list(export.LEAVE_OUT), "default": []},
            "dest": {"type": "path"},
            "mode": {"type": "raw", "default": "0644"},
        },
        required_one_of=[("name", "path")],
        mutually_exclusive=[("name", "path")],
        supports_check_mode=True,
    )
    params = module.params
    for option in ("from_history", "no_builds"):
        if params[option] and params["format"] != "environment":
            module.fail_json(msg=f"{option}: a lock says exactly what is there: use it with format: environment alone")
    try:
        path, name = params["path"], params["name"]
        if path is None:
            path = export.prefix_of(Places(params["envs_dir"], params["generations_dir"]), name)
        content = export.read(path, system()["platform"])
        shown = content.without(params["leave_out"])
        if params["format"] == "environment":
            name = name or os.path.basename(os.path.normpath(path))
            builds, from_history = not params["no_builds"], params["from_history"]
            text = export.environment_text(shown, name, builds=builds, from_history=from_history)
            for doubt in export.doubtful(shown):
                module.warn(f"elsewhere another package may be taken for this one, or none: {doubt}")
        else:
            text = export.conda_lock(shown) if params["format"] == "conda-lock" else export.explicit(shown)
        diff = _write(params["dest"], text, params["mode"], module.check_mode) if params["dest"] else None
    except CondaError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=diff is not None,
        content=text,
        prefix=content.prefix,
        platform=content.platform,
        packages=len(content.records),
        pip_packages=len(content.distributions),
        **({"diff": diff} if diff else {}),
    )


def _write(dest: str, text: str, mode: int | str, check_mode: bool) -> dict[str, str] | None:
    """Bring the file *dest* to *text* and *mode*, and tell what that changes, if anything.

    :raises CondaError: it cannot be written, or *mode* is none.
    """
    try:
        wanted = mode if isinstance(mode, int) else int(mode, 8)  # YAML reads 0644 without quotes as that number
    except (TypeError, ValueError):
        wanted = -1
    if not 0 <= wanted <= 0o777:
        raise CondaError(f"mode: {mode!r} is none for a file: write it like '0644'")
    before, old_mode = "", None
    try:
        if os.path.exists(dest):
            with open(dest, encoding="utf-8", errors="replace") as stream:
                before, old_mode = stream.read(), os.fstat(stream.fileno()).st_mode & 0o7777
        elif not os.path.isdir(os.path.dirname(dest)):
            raise CondaError(f"dest: there is no directory {os.path.dirname(dest)}: make it first")
        if (before, old_mode) == (text, wanted):
            return None
        if not check_mode:
            write_file(dest, text, wanted)
    except OSError as error:
        raise CondaError(f"dest: {dest} cannot be written: {error.strerror}") from error
    described = "absent" if old_mode is None else f"{old_mode:04o}"
    return {
        "before_header": f"{dest} ({described})",
        "after_header": f"{dest} ({wanted:04o})",
        "before": before,
        "after": text,
    }


if __name__ == "__main__":
    main()
