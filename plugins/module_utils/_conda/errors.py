# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one exception family of this package: its text is what an operator reads."""

from __future__ import annotations


class CondaError(Exception):
    """Something a person must mend. The message names the option or file at fault and the way out."""
