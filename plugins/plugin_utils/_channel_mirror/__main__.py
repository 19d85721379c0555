# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""Started as a module, with the configuration that the role writes as the first argument."""

from __future__ import annotations

import argparse
import os
import sys
import typing as t

from .._drift_schedule import journal
from .config import Config, MirrorError
from .transfer import export, import_archive
from .tree import Tree
from .updating import FAILED, Update

BUSY = 75


def main(arguments: t.Sequence[str]) -> int:
    """Do one run.

    :returns: 0 all is there that is wanted; 3 something is not to be had, or an archive is refused; 4 upstream does not
        answer, and what was served before is; 75 another run is at it; 1 the run itself failed.
    """
    parser = argparse.ArgumentParser(prog="envfleet-mirror", description="A mirror of conda channels and wheels.")
    parser.add_argument("config", help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("update", help="bring the mirror up to date, and prove what is there")
    commands.add_parser("export", help="write all that is wanted to standard output, as one archive")
    importing = commands.add_parser("import", help="take in such an archive from standard input")
    importing.add_argument("--manifest-sha256", default="", help="what the export has told of its manifest")
    options = parser.parse_args(arguments)
    os.umask(0o022)
    try:
        config = Config.read(options.config)
        tree = Tree(config.directory)
        with tree.only_run() as alone:
            if not alone:
                journal.warn("Another run is at work. This one ends, and changes nothing.")
                return BUSY
            if options.command == "update":
                return Update(config, tree).run()
            if options.command == "import":
                return import_archive(config, tree, sys.stdin.buffer, options.manifest_sha256)
            if sys.stdout.isatty():
                raise MirrorError("an archive is nothing for a terminal: send standard output to a file")
            # What is told goes elsewhere.
            with os.fdopen(os.dup(1), "wb") as stream:
                os.dup2(2, 1)
                return export(tree, stream)
    except BrokenPipeError:
        journal.warn("The run failed: nobody reads the archive any more")
    except (MirrorError, OSError) as error:
        journal.warn(f"The run failed: {error}")
    return FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
