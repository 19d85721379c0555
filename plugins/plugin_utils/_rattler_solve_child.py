# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""The child process of solving. It is run as source text by the Python that runs Ansible, which has py-rattler."""

from __future__ import annotations

import asyncio
import datetime
import importlib
import json
import os
import re
import sys
import traceback
import typing as t
import urllib.parse

_DISTRIBUTION = re.compile(
    r"(?:^|/)site-packages/([^/]+)-([^/-]+)(?:-py[\d.]+)?\.(?:dist-info/METADATA|egg-info/PKG-INFO|egg-info)"
)


class Unsolvable(Exception):
    """Its text is for a person."""


async def solve(order: dict[str, t.Any]) -> dict[str, t.Any]:
    """The packages that *order* asks for, and the Python distributions in them if it asks for those too."""
    rattler: t.Any = importlib.import_module("rattler")
    unsolvable: t.Any = importlib.import_module("rattler.exceptions").SolverError

    specs = []
    for text in order["specs"]:
        try:
            specs.append(rattler.MatchSpec(text))
        except Exception as error:
            raise Unsolvable(f"{text!r} is not understood: {error}") from error
    newest = datetime.datetime.fromisoformat(order["exclude_newer"]) if order["exclude_newer"] else None
    client = rattler.Client.default_client()
    gateway = rattler.Gateway(cache_dir=order["cache"], client=client)
    platforms = [order["platform"], "noarch"]
    # The channel tells what the packages of the lock depend on: the lock does not have all of it.
    kept = []
    if order["previous"]:
        names = sorted({package["name"] for package in order["previous"]})
        sums = {value for package in order["previous"] for value in (package["sha256"], package["md5"]) if value}
        for found in await gateway.query(
            order["channels"], platforms, [rattler.MatchSpec(name) for name in names], recursive=False
        ):
            kept += [
                record
                for record in found
                if {_hex(record.sha256), _hex(record.md5)} & sums
                and (newest is None or (record.timestamp is not None and record.timestamp <= newest))
            ]

    def attempt(priority: str, pinned: bool) -> t.Awaitable[t.Any]:
        moving = [record for record in kept if record.name.normalized not in order["update"]]
        return t.cast(
            "t.Awaitable[t.Any]",
            rattler.solve(
                order["channels"],
                specs,
                gateway=gateway,
                platforms=platforms,
                virtual_packages=[
                    rattler.GenericVirtualPackage(
                        rattler.PackageName(name), rattler.Version(version), rattler.BuildString(build)
                    )
                    for name, version, build in order["virtual_packages"]
                ],
                channel_priority=getattr(rattler.ChannelPriority, priority),
                channel_relations="disabled",
                exclude_newer=newest,
                pinned_packages=moving if pinned else [],
                locked_packages=[] if pinned else moving,
            ),
        )

    priorities = {"strict": ["Strict"], "disabled": ["Disabled"], "flexible": ["Strict", "Disabled"]}
    records = failure = None
    for priority in priorities[order["priority"]]:
        # Where only some packages may move, all others are held, unless that has no solution.
        for pinned in [True, False] if order["update"] and kept else [False]:
            try:
                records = await attempt(priority, pinned)
                break
            except unsolvable as error:
                failure = error
        if records is not None:
            break
    if records is None:
        raise Unsolvable(str(failure))
    packages = [
        {
            "name": record.name.normalized,
            "version": str(record.version),
            "build": str(record.build),
            "subdir": record.subdir,
            "url": record.url,
            "sha256": _hex(record.sha256),
            "md5": _hex(record.md5),
            "depends": list(record.depends),
        }
        for record in records
    ]
    return {"packages": packages, "distributions": await _distributions(client, records) if order["pip"] else {}}


async def _distributions(client: t.Any, records: t.Sequence[t.Any]) -> dict[str, str]:
    """Name to version of every Python distribution in the packages, as the packages' own lists of files tell."""
    paths: t.Any = importlib.import_module("rattler.package").PathsJson

    async def one(record: t.Any) -> list[tuple[str, str]]:
        url = urllib.parse.urlsplit(record.url)
        if url.scheme == "file":
            listed = paths.from_package_archive(urllib.parse.unquote(url.path))
        else:
            listed = await paths.from_remote_url(client, record.url)
        return [
            (match[1], match[2]) for path in listed.paths if (match := _DISTRIBUTION.search(str(path.relative_path)))
        ]

    # Who needs no Python has no distribution.
    with_python = [
        record for record in records if any(re.match(r"(python|python_abi|pypy)\b", text) for text in record.depends)
    ]
    found = await asyncio.gather(*(one(record) for record in with_python))
    return {name: version for pairs in found for name, version in pairs}


def _hex(digest: bytes | None) -> str:
    return digest.hex() if digest else ""


if __name__ == "__main__":
    try:
        outcome = asyncio.run(solve(json.load(sys.stdin)))
    except ModuleNotFoundError as error:
        outcome = {"error": f"the Python that runs Ansible ({sys.executable}) lacks py-rattler: {error}"}
    except Exception as error:  # whatever it is, the parent makes one message of it
        outcome = {"error": str(error) or traceback.format_exc()}
    sys.stdout.write(json.dumps(outcome) + "\n")
    sys.stdout.flush()
    os._exit(0)  # rattler's threads can crash an interpreter that ends in the ordinary way
