# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this package is PRIVATE to the collection: it can change at any time.
"""Backup and restore of environments with restic."""

from __future__ import annotations
