"""What a new environment of 400 packages costs each node: solved there, from a lock, or as a packed image.

The channel is made here and served over HTTP. Each way starts with an empty package cache, and is a process of its own.
An image takes root and a loop device.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import typing as t
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.convergence import Settings, Wanted, converge
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.generations import Layout, SmokeTest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.locks import Lock, Package
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.packing import Images
from measuring import spent_here

from lab.channel import write_repodata
from lab.packages import Entry, index_of, write_package

COUNT, FILES = 400, 20
OLDER = 4
"""Versions that the channel offers of a package besides the newest, without archives."""


def make_channel(directory: Path) -> None:
    """Packages of which each needs up to three others, with some older versions that nobody takes."""
    for number in range(COUNT):
        name = f"package{number}"
        depends = [
            f"package{other} >=1.1" for other in sorted({number // 2, number // 3, number // 5}) if other < number
        ]
        entries = [
            Entry(f"lib/python3.10/site-packages/{name}/module{part}.py", f"value = {number * part}\n".encode() * 40)
            for part in range(FILES)
        ]
        write_package(directory, index_of(name, f"1.{OLDER + 1}", "0", depends), entries)
    write_repodata(directory)
    for path in directory.glob("*/repodata.json"):
        told = json.loads(path.read_text())
        for file_name, record in list(told["packages.conda"].items()):
            for minor in range(1, OLDER + 1):
                version = f"1.{minor}"
                older = record | {
                    "version": version,
                    "sha256": hashlib.sha256(f"{file_name}{minor}".encode()).hexdigest(),
                }
                told["packages.conda"][file_name.replace(record["version"], version)] = older
        path.write_text(json.dumps(told))
        (path.parent / "repodata.json.zst").unlink()


class Counting(http.server.SimpleHTTPRequestHandler):
    """Serves files, and counts their bytes."""

    sent = 0

    def copyfile(self, source: t.Any, outputfile: t.Any) -> None:
        """Send a file."""
        Counting.sent += os.fstat(source.fileno()).st_size
        super().copyfile(source, outputfile)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def served(directory: Path) -> Iterator[str]:
    """The URL of *directory*."""
    handler = partial(Counting, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def step(way: str, root: Path, url: str, packages: Path) -> None:
    """What a node does. This runs in a process of its own."""
    if way == "solve":
        asyncio.run(solve(root, url))
        return
    listed = [Package.from_url(f"{url}/{path}", sha256) for path, sha256 in json.loads(packages.read_text())]
    layout = Layout(str(root / "envs"), str(root / "generations"))
    if way == "image":
        images = Images(str(packages.parent / "images"), str(packages.parent / "fstab"))
        layout = Layout(layout.envs_dir, layout.generations_dir, images)
    settings = Settings(
        layout=layout,
        pkgs_dir=str(root / "pkgs"),
        base_prefix=sys.prefix,
        engine="rattler",
        verify="fast",
        min_free_mb=1,
        lock_timeout_seconds=60,
    )
    converge([Wanted("ml", Lock("linux-64", tuple(listed)), SmokeTest((), "nobody", 60))], settings, check_mode=False)


async def solve(root: Path, url: str) -> None:
    """Solve and install, as a node without a lock must."""
    import rattler

    gateway = rattler.Gateway(cache_dir=root / "repodata")
    specs = [f"package{number}" for number in range(COUNT)]
    records = await rattler.solve([url], specs, gateway=gateway, platforms=["linux-64", "noarch"])
    await rattler.install(records, root / "prefix", cache_dir=root / "pkgs", show_progress=False)
    assert len(records) == COUNT


@dataclass(frozen=True)
class Cost:
    """What one node took."""

    cpu: float
    wall: float
    mib: float


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", nargs=4, metavar=("WAY", "ROOT", "URL", "PACKAGES"), help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    if options.step:
        way, root, url, packages = options.step
        step(way, Path(root), url, Path(packages))
        return
    with (
        tempfile.TemporaryDirectory(prefix="envfleet-bench-", dir="/var/tmp") as directory,
        contextlib.ExitStack() as end,
    ):
        compare(Path(directory), options.rounds, end)


def compare(scratch: Path, rounds: int, end: contextlib.ExitStack) -> None:
    """Print a table."""
    channel = scratch / "channel"
    make_channel(channel)
    archives = sorted(channel.glob("*/*.conda"))
    packages = scratch / "packages.json"
    packages.write_text(
        json.dumps([(f"{p.parent.name}/{p.name}", hashlib.sha256(p.read_bytes()).hexdigest()) for p in archives])
    )
    (scratch / "images").mkdir()
    (scratch / "fstab").touch()
    url = end.enter_context(served(channel))
    numbers = iter(range(1000))

    def measured(way: str, root: Path) -> Cost:
        before, began, sent = spent_here(), time.perf_counter(), Counting.sent
        command = [sys.executable, __file__, "--step", way, str(root), url, str(packages)]
        subprocess.run(command, check=True, timeout=900)
        return Cost(spent_here() - before, time.perf_counter() - began, (Counting.sent - sent) / 2**20)

    def fresh() -> Path:
        root = scratch / f"node{next(numbers)}"
        root.mkdir()
        return root

    best = {
        way: min((measured(way, fresh()) for _round in range(rounds)), key=lambda cost: cost.cpu)
        for way in ("solve", "lock")
    }
    root = fresh()
    packed = measured("image", root) if os.geteuid() == 0 else None
    mounted = None
    if packed:
        mounts = [
            line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(root) in line
        ]
        for point in mounts:
            subprocess.run(["umount", point], check=True)
        root.rename(scratch / "first")
        (scratch / "fstab").write_text("")
        root.mkdir()
        mounted = measured("image", root)
        end.callback(subprocess.run, ["umount", *mounts], check=False)
    base = best["lock"]
    print(f"\nA new environment of {COUNT} packages with {FILES} files each, on a node with an empty cache")
    print(f"  {'':<34} {'CPU':>8} {'time':>8} {'bytes':>8}   beside a lock, verified and sealed")
    rows = {"solve and install there": best["solve"], "from a lock": base}
    rows |= {"from a lock, and pack it (once)": packed} if packed else {}
    for text, cost in rows.items():
        print(f"  {text:<34} {cost.cpu / base.cpu:8.2f} {cost.wall / base.wall:8.2f} {cost.mib / base.mib:8.2f}")
    if mounted:
        image = sum(path.stat().st_size for path in (scratch / "images").glob("ml/*.squashfs")) / 2**20
        size = image / base.mib
        print(f"  {'mount the image':<34} {mounted.cpu / base.cpu:8.2f} {mounted.wall / base.wall:8.2f} {size:8.2f}")
        print("  (bytes of an image: if all of it were read)")
    else:
        print("  mount the image: only root can")


if __name__ == "__main__":
    main()
