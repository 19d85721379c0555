# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the modules of this collection promise of check mode, diffs, repetition and platforms."""

from __future__ import annotations


class ModuleDocFragment:
    """The attributes of a module: what each means, and the usual answers to them."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and tell what it would change, without changing it.
  diff_mode:
    description: Returns what was changed, or would be in C(check_mode), when in diff mode.
  idempotent:
    description: Changes nothing when it is run again with the same options on a node that is as wanted.
  platform:
    description: Where the module can run.
    platforms: linux
    support: full
"""

    CHECK_AND_DIFF = r"""
options: {}
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
"""

    READ_ONLY = r"""
options: {}
attributes:
  check_mode:
    support: full
    details: The module changes nothing in any mode.
  diff_mode:
    support: N/A
    details: The module changes nothing in any mode.
  idempotent:
    support: N/A
    details: The module changes nothing in any mode.
"""
