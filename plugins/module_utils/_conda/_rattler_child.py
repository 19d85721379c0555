# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The child process of the rattler engine. It is run as source text by the base's own Python, which has py-rattler."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import importlib
import json
import os
import subprocess
import sys
import traceback
import typing as t

# What conda does: the script runs in the environment as its activation scripts leave it.
_IN_ENVIRONMENT = """
for script in "$PREFIX"/etc/conda/activate.d/*.sh; do if [ -e "$script" ]; then . "$script"; fi; done
. "$0"
"""


def complete_records(prefix: str) -> list[dict[str, t.Any]]:
    """Fill the records with what the packages say of themselves, for a lock does not carry all of it. Returns them."""
    records = []
    for path in glob.glob(os.path.join(glob.escape(prefix), "conda-meta", "*.json")):
        with open(path, encoding="utf-8") as stream:
            record = json.load(stream)
        with open(os.path.join(record["extracted_package_dir"], "info", "index.json"), encoding="utf-8") as stream:
            record = {**record, **json.load(stream)}
        if not templates_are_whole(record["extracted_package_dir"]):
            # Their sums in the prefix are those of what the cache had: let no check believe them.
            for entry in record["paths_data"]["paths"]:
                if entry.get("prefix_placeholder"):
                    entry["sha256_in_prefix"] = entry["sha256"]
        record["requested_specs"] = []
        with open(path, "w", encoding="utf-8") as stream:
            json.dump(record, stream, indent=2, sort_keys=True)
        os.chmod(path, 0o644)
        records.append(record)
    return records


def dependencies_first(records: list[dict[str, t.Any]]) -> list[dict[str, t.Any]]:
    """*records* in an order in which each comes after those that it depends on, but where they go in circles."""
    pending = {record["name"]: record for record in records}
    ordered = []

    def take(name: str) -> None:
        record = pending.pop(name, None)
        if record is not None:
            for spec in record["depends"]:
                take(spec.split(" ", 1)[0])
            ordered.append(record)

    for record in sorted(records, key=lambda record: str(record["name"])):
        take(record["name"])
    return ordered


def run_link_scripts(prefix: str, records: list[dict[str, t.Any]]) -> None:
    """Run what packages want to be run once they are there. rattler would not tell that one failed.

    :raises RuntimeError: with what the script has said.
    """
    path = f"{prefix}/bin:{os.environ.get('PATH', '')}"
    messages = os.path.join(prefix, ".messages.txt")
    for record in dependencies_first(records):
        script = os.path.join(prefix, "bin", f".{record['name']}-post-link.sh")
        if not os.path.exists(script):
            continue
        variables = {"PREFIX": prefix, "CONDA_PREFIX": prefix, "ROOT_PREFIX": sys.prefix, "PATH": path}
        variables.update(
            PKG_NAME=record["name"], PKG_VERSION=record["version"], PKG_BUILDNUM=str(record["build_number"])
        )
        # There is no Ansible in the base's Python.
        done = subprocess.run(  # pylint: disable=ansible-bad-function
            ["bash", "-c", _IN_ENVIRONMENT, script],
            env={**os.environ, **variables},
            cwd=os.path.dirname(script),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        said = done.stdout
        with contextlib.suppress(FileNotFoundError):
            with open(messages, encoding="utf-8", errors="replace") as stream:
                said += stream.read()
            os.unlink(messages)
        if done.returncode != 0:
            raise RuntimeError(f"the post-link script of {record['name']} ended with {done.returncode}\n{said[-2000:]}")


def templates_are_whole(package: str) -> bool:
    """Are the files into which the prefix is put as the archive had them, in the unpacked package of the cache?"""
    try:
        with open(os.path.join(package, "info", "paths.json"), encoding="utf-8") as stream:
            entries = json.load(stream)["paths"]
    except FileNotFoundError:
        return True  # an old package, which tells no sums
    for entry in entries:
        if entry.get("prefix_placeholder") and entry.get("sha256"):
            with open(os.path.join(package, entry["_path"]), "rb") as stream:
                if hashlib.sha256(stream.read()).hexdigest() != entry["sha256"]:
                    return False
    return True


async def install(order: dict[str, t.Any]) -> str:
    """Install what *order* lists, and return rattler's version."""
    rattler: t.Any = importlib.import_module("rattler")

    build_string = getattr(rattler, "BuildString", str)  # releases before 0.28 take plain text
    records = [
        rattler.RepoDataRecord(
            rattler.PackageRecord(
                name=package["name"],
                version=package["version"],
                build=build_string(package["build"]),
                build_number=0,
                subdir=package["subdir"],
                sha256=bytes.fromhex(package["sha256"]) or None,
                md5=bytes.fromhex(package["md5"]) or None,
            ),
            file_name=package["url"].rsplit("/", 1)[-1],
            url=package["url"],
            channel=package["url"].rsplit("/", 2)[0],
        )
        for package in order["packages"]
    ]
    await rattler.install(
        records,
        target_prefix=order["prefix"],
        cache_dir=order["cache"],
        execute_link_scripts=False,
        show_progress=False,
    )
    run_link_scripts(order["prefix"], complete_records(order["prefix"]))
    with contextlib.suppress(FileNotFoundError):
        # rattler takes what it writes for a cache, and tools would leave it out of backups.
        os.unlink(os.path.join(order["prefix"], "CACHEDIR.TAG"))
    return str(rattler.__version__)


if __name__ == "__main__":
    import asyncio  # not above: the parent imports this file too, for its source, and need not wait for asyncio

    try:
        outcome = {"version": asyncio.run(install(json.load(sys.stdin)))}
    except Exception as error:  # whatever it is, the parent makes one message of it
        outcome = {"error": str(error) or traceback.format_exc()}
    sys.stdout.write(json.dumps(outcome) + "\n")
    sys.stdout.flush()
    os._exit(0)  # rattler's threads can crash an interpreter that ends in the ordinary way
