"""The command line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import VERSION, commands
from .config import load
from .errors import CondaError
from .report import print_json


def main(argv: Sequence[str], *, root: Path, etc: Path = Path("/"), environ: Mapping[str, str] | None = None) -> int:
    """Run one command of a conda that is installed in `root`; the exit code. `etc` is where /etc is looked for."""
    environ = os.environ if environ is None else environ
    if argv and argv[0].startswith("shell."):
        options = argparse.Namespace(run=commands.in_shell, json=False, shell=argv[0][6:], words=list(argv[1:]))
        given: dict[str, Any] = {}
    else:
        options = parser().parse_args(argv)
        given = _settings(options)
    try:
        context = commands.Context(load(root, environ, given, etc), options, ["conda", *argv])
        code: int = options.run(context) or 0
        return code
    except CondaError as error:
        if options.json:
            print_json(error.as_json())
        else:
            print(f"\n{error}\n", file=sys.stderr)
        return error.return_code
    except KeyboardInterrupt:
        print("\nCondaError: KeyboardInterrupt\n", file=sys.stderr)
        return 1
    finally:
        sys.stdout.flush()


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """What the command line has to say about settings."""
    names = {"channel": "channels", "offline": "offline", "yes": "always_yes"}
    return {key: value for option, key in names.items() if (value := getattr(options, option, None))}


def parser() -> argparse.ArgumentParser:
    text = "A stand-in for conda, made for tests; it is not the conda of conda.org. It knows the commands below."
    top = argparse.ArgumentParser(prog="conda", description=text)
    top.add_argument("-V", "--version", action="version", version=f"conda {VERSION}")
    add = top.add_subparsers(required=True, metavar="COMMAND").add_parser

    output = argparse.ArgumentParser(add_help=False)
    output.add_argument("--json", action="store_true")
    output.add_argument("-q", "--quiet", action="store_true")
    output.add_argument("-v", "--verbose", action="count", default=0)
    place = argparse.ArgumentParser(add_help=False)
    which = place.add_mutually_exclusive_group()
    which.add_argument("-n", "--name")
    which.add_argument("-p", "--prefix")
    change = argparse.ArgumentParser(add_help=False)
    change.add_argument("-y", "--yes", action="store_true")
    change.add_argument("-d", "--dry-run", action="store_true")
    change.add_argument("--offline", action="store_true")
    change.add_argument("--override-frozen", action="store_true")
    solving = argparse.ArgumentParser(add_help=False)
    solving.add_argument("-c", "--channel", action="append", default=[])
    solving.add_argument("-O", "--override-channels", action="store_true")
    solving.add_argument("--solver", choices=("rattler",))
    asked = argparse.ArgumentParser(add_help=False)
    asked.add_argument("packages", nargs="*", metavar="SPEC")
    asked.add_argument(
        "-f", "--file", action="append", default=[], type=Path, help="an @EXPLICIT list, or one spec a line"
    )

    made = add("info", parents=[output], help="about this conda")
    made.add_argument("--base", action="store_true", help="where base is")
    made.add_argument("-e", "--envs", action="store_true", help="all environments")
    made.set_defaults(run=commands.info)

    made = add("config", parents=[output], help="show the settings")
    shown = made.add_mutually_exclusive_group(required=True)
    shown.add_argument("--show", nargs="*", metavar="KEY")
    shown.add_argument("--show-sources", action="store_true")
    made.set_defaults(run=commands.config)

    add("create", parents=[output, place, change, solving, asked], help="make an environment").set_defaults(
        run=commands.create
    )
    add("install", parents=[output, place, change, solving, asked], help="add packages").set_defaults(
        run=commands.install
    )
    for name in ("update", "upgrade"):
        made = add(name, parents=[output, place, change, solving, asked], help="bring packages up to date")
        made.add_argument("--all", action="store_true")
        made.set_defaults(run=commands.update)
    for name in ("remove", "uninstall"):
        made = add(name, parents=[output, place, change, solving], help="remove packages, or the whole environment")
        made.add_argument("packages", nargs="*", metavar="PACKAGE")
        made.add_argument("--all", action="store_true")
        made.set_defaults(run=commands.remove)

    made = add("list", parents=[output, place], help="the packages of an environment")
    made.add_argument("pattern", nargs="?")
    made.add_argument("-e", "--export", action="store_true")
    made.add_argument("--explicit", action="store_true")
    made.add_argument("--md5", action="store_true")
    made.add_argument("--sha256", action="store_true")
    made.add_argument("--no-pip", action="store_true")
    made.set_defaults(run=commands.list_packages)

    made = add("search", parents=[output, solving], help="what the channels offer")
    made.add_argument("packages", nargs=1, metavar="SPEC")
    made.add_argument("--offline", action="store_true")
    made.set_defaults(run=commands.search)

    made = add("run", parents=[place], help="run a command in an environment")
    made.add_argument("--cwd")
    made.add_argument("--no-capture-output", "--live-stream", action="store_true", dest="live")
    made.add_argument("argv", nargs=argparse.REMAINDER, metavar="COMMAND")
    made.set_defaults(run=commands.run, json=False)

    envs = add("env", help="environments and environment.yml").add_subparsers(required=True, metavar="COMMAND")
    envs.add_parser("list", parents=[output], help="all environments").set_defaults(run=commands.env_list)
    for parsers in (envs.add_parser, add):
        made = parsers("export", parents=[output, place], help="write an environment as environment.yml")
        made.add_argument("--from-history", action="store_true")
        made.add_argument("--no-builds", action="store_true")
        made.add_argument("-f", "--file", type=Path)
        made.set_defaults(run=commands.env_export)
    made = envs.add_parser(
        "create", parents=[output, place, change, solving], help="make an environment from environment.yml"
    )
    made.add_argument("-f", "--file", type=Path, default=Path("environment.yml"))
    made.set_defaults(run=commands.env_create)
    envs.add_parser("remove", parents=[output, place, change], help="remove an environment").set_defaults(
        run=commands.env_remove
    )

    for name in ("activate", "deactivate"):
        add(name, help=f"{name} an environment; for this, source etc/profile.d/conda.sh").set_defaults(
            run=commands.need_shell, json=False
        )
    return top
