"""The lab's command line: ``python -m lab COMMAND``."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lab import image, inventory, locks, mirror, nodes
from lab.paths import Cache, LabError, lab_cache, locked
from lab.podman import Podman

if TYPE_CHECKING:
    from lab.channel import ChannelInfo
    from lab.installer import InstallerInfo


def say(message: str) -> None:
    """A line of progress."""
    print(f"lab: {message}", flush=True)


def _channel(cache: Cache) -> ChannelInfo:
    from lab.channel import build_channel

    channel = build_channel(cache.root, say)
    if channel.note:
        say(channel.note)
    return channel


def _publish(cache: Cache) -> tuple[ChannelInfo, list[InstallerInfo]]:
    from lab.installer import build_installers

    channel = _channel(cache)
    installers = build_installers(cache.root, channel, say)
    mirror.publish(cache, channel, installers)
    return channel, installers


def build(cache: Cache, options: argparse.Namespace) -> None:
    podman = Podman(cache)
    image.mirror_image(podman, cache, say)
    channel, installers = _publish(cache)
    say(f"built the channel (Python {channel.python}) and installers {', '.join(one.version for one in installers)}")


def up(cache: Cache, options: argparse.Namespace) -> None:
    found = inventory.read_inventory(options.inventory)
    podman = Podman(cache)
    images = {name: image.image_named(name, podman, cache, say) for name in {node.image for node in found.nodes}}
    channel, installers = (None, []) if options.nodes_only else _publish(cache)
    if channel is not None:
        mirror.start(podman, cache, say)
        for spec in sorted(found.directory.glob("envs/*/environment*.yml")):
            output = spec.with_name(spec.name.replace("environment", "conda-lock", 1))
            locks.write_lock(spec, output, channel, "conda-lock", say)
    nodes.up(podman, cache, found.nodes, images, say, fresh=options.fresh)
    say(f"wrote {inventory.write_lab_variables(found, inventory.lab_variables(cache, channel, installers))}")
    say(f"up: {', '.join(node.name for node in found.nodes)}; use: ansible -i {found.source} all -m ping")


def down(cache: Cache, options: argparse.Namespace) -> None:
    podman = Podman(cache)
    if options.inventory:
        found = inventory.read_inventory(options.inventory).nodes
        nodes.down(podman, (node.container for node in found))
        nodes.remove_volumes(podman, {name for node in found for name, _path in node.volumes})
        return
    nodes.down(podman, (container["Names"][0] for container in podman.containers(f"label={mirror.LABEL}=node")))
    volumes = podman.run("volume", "ls", "--quiet").split()
    nodes.remove_volumes(
        podman, [name.removeprefix(nodes.VOLUME_PREFIX) for name in volumes if name.startswith(nodes.VOLUME_PREFIX)]
    )
    mirror.remove(podman)
    podman.try_run("network", "rm", mirror.NETWORK)


def lock(cache: Cache, options: argparse.Namespace) -> None:
    written = locks.write_lock(options.spec, options.output, _channel(cache), options.format, say)
    say(f"{'wrote' if written else 'up to date:'} {options.output}")


def mirror_command(cache: Cache, options: argparse.Namespace) -> None:
    podman = Podman(cache)
    if options.action == "stop":
        mirror.stop(podman)
    else:
        mirror.start(podman, cache, say)
        say(f"{mirror.URL}/ for nodes, {mirror.host_url()}/ here, serving {cache.www}")


def status(cache: Cache, options: argparse.Namespace) -> None:
    podman = Podman(cache)
    rows = [("CONTAINER", "STATE", "PORT", "IMAGE")]
    for container in podman.containers(f"label={mirror.LABEL}"):
        port = container["Labels"].get(nodes.PORT_LABEL) or mirror.host_url().rsplit(":", 1)[1]
        rows.append((container["Names"][0], container["State"], port, container["Image"]))
    _table(rows)
    print()
    print(
        podman.run(
            "images", "--filter=reference=localhost/envfleet-*", "--format=table {{.Repository}}:{{.Tag}} {{.Size}}"
        )
    )
    print()
    parts = sorted(path for path in cache.root.iterdir() if path.is_dir())
    print(
        subprocess.run(["du", "-shc", *map(str, parts)], capture_output=True, text=True, timeout=60, check=False).stdout
    )


def _table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def execute(cache: Cache, options: argparse.Namespace) -> None:
    podman = Podman(cache)
    terminal = ["--tty"] if sys.stdin.isatty() else []
    command = ["podman", "exec", "--interactive", *terminal, f"envfleet-{options.host}", *options.argv]
    os.execvpe("podman", command, os.environ | podman.environment)


def environment(cache: Cache, options: argparse.Namespace) -> None:
    for name, value in Podman(cache).environment.items():
        print(f"export {name}={value}")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="lab", description="Nodes in containers, with a conda channel and installers.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[Cache, argparse.Namespace], None], text: str, alone: bool = True
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run, alone=alone)
        return added

    command("build", build, "Build the images, the channel and the installers.")
    made = command("up", up, "Start the mirror and the nodes of an inventory, write its lab variables and its locks.")
    made.add_argument("--inventory", type=Path, required=True, metavar="DIR_OR_FILE")
    made.add_argument("--fresh", action="store_true", help="remake the nodes from their image")
    made.add_argument("--nodes-only", action="store_true", help="no channel, installers, mirror or locks")
    made = command("down", down, "Remove the nodes of an inventory, or everything.")
    which = made.add_mutually_exclusive_group(required=True)
    which.add_argument("--inventory", type=Path, metavar="DIR_OR_FILE")
    which.add_argument("--all", action="store_true", help="all nodes, the mirror and the network")
    made = command("lock", lock, "Lock a spec against the lab's channel.")
    made.add_argument("--spec", type=Path, required=True)
    made.add_argument("--output", type=Path, required=True)
    made.add_argument("--format", choices=locks.FORMATS, default=locks.FORMATS[0])
    made = command("mirror", mirror_command, "Start or stop the mirror.")
    made.add_argument("action", choices=("start", "stop"))
    command("status", status, "List nodes, ports, images and the cache's size.", alone=False)
    made = command("exec", execute, "Run a command in a node, as root.", alone=False)
    made.add_argument("host")
    made.add_argument("argv", nargs=argparse.REMAINDER)
    command("env", environment, "Print what podman needs in the environment on this machine, for `eval`.", alone=False)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        cache = lab_cache()
        if options.alone:
            with locked(cache.root / "lab.lock", lambda: say("waiting for another run of the lab")):
                options.run(cache, options)
        else:
            options.run(cache, options)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (LabError, OSError, subprocess.SubprocessError, ImportError) as error:
        print(f"lab: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
