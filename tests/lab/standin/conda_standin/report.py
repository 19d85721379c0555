"""What conda prints: JSON and text forms of packages, plans and lists."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from .channels import Channel
from .engine import Caches
from .prefix import Prefix, Record, dist


def print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2)
    print()


def linked(record: Record) -> dict[str, Any]:
    """A package in LINK, UNLINK and `conda list --json`."""
    channel = Channel.of_package(record)
    return {
        "base_url": channel.base_url,
        "build_number": record["build_number"],
        "build_string": record["build"],
        "channel": channel.name,
        "dist_name": dist(record),
        "name": record["name"],
        "platform": record["subdir"],
        "version": record["version"],
    }


def from_pip(name: str, version: str) -> dict[str, Any]:
    """A package of pip's in `conda list --json`."""
    return {
        "base_url": "https://conda.anaconda.org/pypi",
        "build_number": 0,
        "build_string": "pypi_0",
        "channel": "pypi",
        "dist_name": f"{name}-{version}-pypi_0",
        "name": name,
        "platform": "pypi",
        "version": version,
    }


def indexed(record: Record) -> dict[str, Any]:
    """A package in `conda search --json`."""
    noarch = record.get("noarch")
    return {
        "name": record["name"],
        "version": record["version"],
        "build": record["build"],
        "build_number": record["build_number"],
        "channel": Channel.of_package(record).url(record["subdir"]),
        "subdir": record["subdir"],
        "fn": record["fn"],
        "md5": record.get("md5"),
        "url": record["url"],
        "sha256": record.get("sha256"),
        "arch": record.get("arch"),
        "platform": record.get("platform"),
        "depends": record.get("depends", []),
        "constrains": record.get("constrains", []),
        "noarch": noarch,
        "license": record.get("license"),
        "package_type": f"noarch_{noarch}" if noarch else None,
        "timestamp": record.get("timestamp"),
        "size": record.get("size"),
    }


def fetched(record: Record) -> dict[str, Any]:
    """A package in FETCH."""
    return indexed(record) | {"legacy_bz2_size": None, "track_features": "", "features": ""}


def plan(prefix: Prefix, before: Sequence[Record], after: Sequence[Record], caches: Caches) -> dict[str, Any]:
    """The actions that lead from `before` to `after`."""
    old, new = {dist(record) for record in before}, {dist(record) for record in after}
    unlink = [linked(record) for record in before if dist(record) not in new]
    link = [record for record in after if dist(record) not in old]
    actions: dict[str, Any] = {
        "FETCH": [fetched(record) for record in link if not caches.has(record)],
        "PREFIX": str(prefix.path),
    }
    if unlink:
        actions["UNLINK"] = unlink
    if link:
        actions["LINK"] = [linked(record) for record in link]
    return actions


def print_plan(actions: dict[str, Any]) -> None:
    print(f"\n## Package Plan ##\n\n  environment location: {actions['PREFIX']}\n")
    gone = {one["name"]: one for one in actions.get("UNLINK", [])}
    new = {one["name"]: one for one in actions.get("LINK", [])}
    for title, names in (
        ("The following NEW packages will be INSTALLED:", new.keys() - gone.keys()),
        ("The following packages will be REMOVED:", gone.keys() - new.keys()),
        ("The following packages will be CHANGED:", gone.keys() & new.keys()),
    ):
        if names:
            print(f"\n{title}\n")
        for name in sorted(names):
            versions = [f"{one[name]['version']}-{one[name]['build_string']}" for one in (gone, new) if name in one]
            print(f"  {name:<20} {' --> '.join(versions)}")
    print()
