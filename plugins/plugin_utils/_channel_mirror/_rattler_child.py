# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""The child process that asks channels and writes their indexes, run as source text by the Python of the mirror."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
import traceback
import typing as t


async def query(order: dict[str, t.Any]) -> dict[str, t.Any]:
    """The packages of a channel that match the specs, and with `dependencies` those that match what they depend on."""
    rattler: t.Any = importlib.import_module("rattler")

    gateway = rattler.Gateway(cache_dir=order["cache"], client=rattler.Client.default_client())
    specs = [rattler.MatchSpec(text) for text in order["specs"]]
    answers = await gateway.query([order["url"]], order["subdirs"], specs, recursive=order["dependencies"])
    offered: dict[str, list[t.Any]] = {}
    for record in (record for answer in answers for record in answer):
        offered.setdefault(record.name.normalized, []).append(record)
    chosen: dict[str, t.Any] = {}
    asked = set()
    while specs:
        spec = specs.pop()
        for record in offered.get(spec.name.normalized if spec.name else "", []):
            if record.url in chosen or not record.matches(spec):
                continue
            chosen[record.url] = record
            for text in record.depends if order["dependencies"] else ():
                if text not in asked:
                    asked.add(text)
                    specs.append(rattler.MatchSpec(text))
    return {
        "packages": [
            {
                "url": url,
                "subdir": record.subdir,
                "file_name": record.file_name,
                "sha256": record.sha256.hex() if record.sha256 else "",
                "size": record.size or -1,
            }
            for url, record in chosen.items()
        ]
    }


async def index(order: dict[str, t.Any]) -> dict[str, t.Any]:
    """Write the indexes of the channel in a directory. Packages that the indexes there have are not read again."""
    index_fs: t.Any = importlib.import_module("rattler.index").index_fs

    await index_fs(
        order["directory"],
        repodata_patch=order["patches"] or None,
        write_zst=True,
        write_shards=False,
        force=order["force"],
    )
    return {}


if __name__ == "__main__":
    try:
        wanted = json.load(sys.stdin)
        outcome = asyncio.run({"query": query, "index": index}[wanted["action"]](wanted))
    except Exception as error:  # whatever it is, the parent makes one message of it
        outcome = {"error": str(error) or traceback.format_exc()}
    sys.stdout.write(json.dumps(outcome) + "\n")
    sys.stdout.flush()
    os._exit(0)  # rattler's threads can crash an interpreter that ends in the ordinary way
