# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the locks of a site need of a mirror."""

from __future__ import annotations

import json
import typing as t

from ansible.errors import AnsibleFilterError

from ..plugin_utils._channel_mirror.config import Channel, MirrorError
from ..plugin_utils._channel_mirror.selection import selection


def mirror_selection(
    locks: t.Sequence[str],
    directory: str,
    channels: t.Sequence[t.Mapping[str, t.Any]],
    platforms: t.Sequence[str],
    url: str,
    files: t.Sequence[t.Mapping[str, t.Any]] = (),
) -> str:
    """See mirror_selection.yml."""
    try:
        of = [Channel.of(channel) for channel in channels]
        found = selection(locks, directory, of, platforms, files, url)
    except MirrorError as error:
        raise AnsibleFilterError(str(error)) from error
    lines = ",\n".join(f"  {json.dumps(file.as_dict())}" for file in found)
    return f'{{"files": [\n{lines}\n]}}\n' if found else '{"files": []}\n'


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., str]]:
        """By name."""
        return {"mirror_selection": mirror_selection}
