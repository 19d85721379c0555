# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What can be wrong with a prefix, in the words of the domain."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Problem:
    """One way in which a prefix is not what was installed."""

    kind: str  #: missing, changed, foreign, unexpected, record, manifest, link, obstacle
    subject: str  #: the path in the prefix, or the package
    detail: str  #: what is expected and what is there, for a person

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return dataclasses.asdict(self)
