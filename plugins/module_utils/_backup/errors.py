# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What can be wrong with a backup. Each kind has an exit status of its own, for whoever watches the units."""

from __future__ import annotations

from .._conda.errors import CondaError


class BackupError(CondaError):
    """Something a person must mend. The message names the variable at fault and the way out."""

    code = 1


class PartError(BackupError):
    """Some environments could not be saved. All others were."""

    code = 3


class MissingError(BackupError):
    """There is no repository. The numbers of this one and the next two are those of newer restics."""

    code = 10


class LockedError(BackupError):
    """Somebody else holds the repository's lock."""

    code = 11


class PasswordError(BackupError):
    """The repository does not open with the password."""

    code = 12


class DamagedError(BackupError):
    """What the repository holds is not what was saved."""

    code = 13


class FullError(BackupError):
    """There is no room left."""

    code = 14


class OverlapError(BackupError):
    """Another run is at work on this node: no failure."""

    code = 75
