#!/usr/bin/python
# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: miniconda
short_description: Install the Miniconda base of a node
version_added: "0.1.0"
author: The envfleet.gpu_cluster authors (@envfleet)
description:
  - Installs one version of Miniconda, from an installer whose sha256 is known, and points a link to it.
  - Each version has a prefix of its own below O(versions_dir), which is never changed again. Versions that are there
    stay, so that going back to one only moves the link.
  - A damaged base is installed anew beside itself, since something may be running from it, and the link is moved.
  - A run that is killed or fails leaves the link as it was. The next one removes what is unfinished and begins again.
  - The installed state is read from files. Where the wanted base is live and undamaged, no process is started and no
    network is used.
options:
  state:
    description:
      - V(present) makes the wanted base the live one.
      - V(absent) removes the link and every base that this module installed, also those of other versions.
    type: str
    choices: [present, absent]
    default: present
  version:
    description: The version as the installer's file name has it. Required to install.
    type: str
  url:
    description:
      - Where the node gets the installer, by http, https, or as a file on the node (V(file:///srv/installer.sh)).
      - V({architecture}) in it stands for the node's architecture, such as C(x86_64). Required to install.
    type: str
  sha256:
    description: The sha256 of the installer, which is not run if it has another. Required to install.
    type: str
  prefix:
    description: The link to the live base.
    type: path
    default: /opt/conda
  versions_dir:
    description: Where the bases are installed, each below its version.
    type: path
    default: /opt/envfleet/base
  min_free_mb:
    description: How many MiB must be free at O(versions_dir) before an installation begins.
    type: int
    default: 3072
  min_glibc:
    description: The version of the C library that the installer's programs need.
    type: str
    default: "2.28"
  lock_timeout:
    description: How long to wait for another run on the same node, in seconds.
    type: float
    default: 600
  timeout:
    description: How long the installer may run, in seconds.
    type: float
    default: 1800
extends_documentation_fragment:
  - envfleet.gpu_cluster.attributes
  - envfleet.gpu_cluster.attributes.check_and_diff
"""

EXAMPLES = r"""
- name: Install Miniconda with Python 3.10
  envfleet.gpu_cluster.miniconda:
    version: py310_26.5.3-1
    url: https://repo.anaconda.com/miniconda/Miniconda3-py310_26.5.3-1-Linux-{architecture}.sh
    sha256: 4a82fe0a50a28e8a9406b3ed8e465b7009aa7d0225566802c3370df96b10d834

- name: Remove it with all its versions
  envfleet.gpu_cluster.miniconda:
    state: absent
"""

RETURN = r"""
prefix:
  description: The prefix that the link leads to now, or would lead to after a real run. Null where there is no base.
  type: str
  returned: success
  sample: /opt/envfleet/base/py310_26.5.3-1
version:
  description: The version that is live now, or would be after a real run. Empty where there is no base.
  type: str
  returned: success
  sample: py310_26.5.3-1
previous:
  description: The prefix that the link led to before. Null where there was no base.
  type: str
  returned: success
  sample: /opt/envfleet/base/py310_26.1.1-1
actions:
  description: What was done, or would be, in order. Empty where nothing had to be.
  type: list
  elements: str
  returned: success
  sample:
    - install base py310_26.5.3-1 in /opt/envfleet/base/py310_26.5.3-1
    - point /opt/conda to /opt/envfleet/base/py310_26.5.3-1
"""

import http.client
import shutil
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda import installer
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError

SECONDS_WITHOUT_DATA = 60


def fetch(url: str, stream: t.BinaryIO) -> None:
    """Write what *url* leads to into *stream*."""
    try:
        with open_url(url, timeout=SECONDS_WITHOUT_DATA) as response:
            shutil.copyfileobj(response, stream)
    except http.client.HTTPException as error:
        raise CondaError(f"miniconda_installer_url: {url} cannot be read: {error!r}") from error


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "version": {"type": "str"},
            "url": {"type": "str"},
            "sha256": {"type": "str"},
            "prefix": {"type": "path", "default": "/opt/conda"},
            "versions_dir": {"type": "path", "default": "/opt/envfleet/base"},
            "min_free_mb": {"type": "int", "default": 3072},
            "min_glibc": {"type": "str", "default": "2.28"},
            "lock_timeout": {"type": "float", "default": 600},
            "timeout": {"type": "float", "default": 1800},
        },
        required_if=[("state", "present", ["version", "url", "sha256"])],
        supports_check_mode=True,
    )
    params = module.params
    layout = installer.Layout(params["prefix"], params["versions_dir"])
    try:
        if params["state"] == "absent":
            done = installer.remove(layout, params["lock_timeout"], module.check_mode)
        else:
            wanted = installer.Wanted(
                version=params["version"],
                url=params["url"],
                sha256=params["sha256"],
                layout=layout,
                min_free_mb=params["min_free_mb"],
                min_glibc=params["min_glibc"],
                lock_timeout_seconds=params["lock_timeout"],
                timeout_seconds=params["timeout"],
            )
            done = installer.install(wanted, fetch, module.check_mode)
    except CondaError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=bool(done),
        prefix=done.target,
        version=done.version,
        previous=done.previous,
        actions=done.actions(),
        diff=done.diff() if done else {},
    )


if __name__ == "__main__":
    main()
