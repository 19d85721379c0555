# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one exception family of this package: its text is what an operator reads."""

from __future__ import annotations

import reprlib
import typing as t


class CondaError(Exception):
    """Something a person must mend. The message names the option or file at fault and the way out."""


def shown(value: t.Any, length: int = 80) -> str:
    """*value* for a message: one line of at most *length* characters, however large or deep it is."""
    short = reprlib.Repr()
    short.maxlevel, short.maxdict, short.maxstring, short.maxother = 3, 10, length, length
    try:
        return short.repr(value)[:length]
    except ValueError:
        return "a number with thousands of digits"
