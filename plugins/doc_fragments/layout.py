# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where shared environments are on a node."""

from __future__ import annotations


class ModuleDocFragment:
    """The options that module_utils._conda.environments.LAYOUT_OPTIONS has."""

    DOCUMENTATION = r"""
options:
  envs_dir:
    description: Where the names of shared environments are.
    type: path
    default: /opt/envfleet/envs
  generations_dir:
    description: Where the generations of shared environments are.
    type: path
    default: /opt/envfleet/generations
"""
