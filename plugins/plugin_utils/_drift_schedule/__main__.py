# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""Started as a module, with the configuration that the role writes as the only argument."""

from __future__ import annotations

import signal
import sys
import threading
import typing as t

from . import journal
from .config import Config, ScheduleError
from .records import Records
from .rounds import Round


def main(arguments: t.Sequence[str]) -> int:
    """Do one run.

    :returns: 0 clean, corrected, or waiting for a window; 75 another run is at it; 3 findings remain for people;
        4 nodes could not be reached or failed; 1 the run itself failed.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if len(arguments) != 1:
        journal.warn("The run failed: name the configuration, a JSON file, as the only argument.")
        return 1
    try:
        config = Config.read(arguments[0])
        records = Records(config.directory)
        with records.only_run() as alone:
            if not alone:
                journal.say("Another run is at work. This one ends, and changes nothing.")
                return 75
            return Round(config, records, stop).run()
    except (ScheduleError, OSError) as error:
        journal.warn(f"The run failed: {error}")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
