# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""Lines for the journal."""

from __future__ import annotations

import os


def say(text: str) -> None:
    """Tell what was done."""
    _print(6, text)


def warn(text: str) -> None:
    """Tell what somebody should look at."""
    _print(4, text)


def _print(priority: int, text: str) -> None:
    # systemd takes the number off and keeps it as the priority of the line.
    mark = f"<{priority}>" if os.environ.get("JOURNAL_STREAM") else ""
    for line in text.splitlines():
        print(f"{mark}{line}", flush=True)
