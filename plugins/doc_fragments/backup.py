# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where backups are."""

from __future__ import annotations


class ModuleDocFragment:
    """The options that module_utils._backup.restic.OPTIONS has."""

    DOCUMENTATION = r"""
options:
  repository:
    description: The repository, as restic names it. On a file system that is its path.
    type: str
    required: true
  password_file:
    description: The file on the node with the repository's password, which need be readable for root alone.
    type: path
    required: true
  user:
    description:
      - Whom the files of a repository on a file system belong to, and who reads and writes them.
      - If empty, that is whoever runs the module.
    type: str
    default: ""
  environment_file:
    description: A file on the node with variables for restic, such as the keys of an object store.
    type: path
    default: ""
  lock_timeout:
    description: How long to wait for others who use the repository or the node, in seconds.
    type: float
    default: 600
"""
