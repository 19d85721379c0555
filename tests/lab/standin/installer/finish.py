"""Finish an installation: the last step of the installer, run by the Python that it has just unpacked.

Everything lies in the prefix already, but for files that must hold the prefix's own path. The last file written is
.installer.info: a prefix without it was not installed to the end.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def main(prefix: Path, installer: str) -> None:
    work = prefix / "install_tmp"
    manifest = json.loads((work / "manifest.json").read_text())
    meta = prefix / "conda-meta"
    records = {path.stem: json.loads(path.read_text()) for path in meta.glob("*.json")}
    ours = {dist: records[dist] for dist in manifest["packages"]}
    names = {record["name"] for record in ours.values()}
    superseded = {dist: old for dist, old in records.items() if dist not in ours and old["name"] in names}

    kept = {file for dist, record in records.items() if dist not in superseded for file in record["files"]}
    for dist, record in superseded.items():
        remove(prefix, [file for file in record["files"] if file not in kept])
        (meta / f"{dist}.json").unlink()
    for dist, record in ours.items():
        relocate(prefix, record, manifest["marker"].encode())
        record["link"]["source"] = record["extracted_package_dir"] = str(prefix / "pkgs" / dist)
        record["package_tarball_full_path"] = str(prefix / "pkgs" / record["fn"])
        replace(meta / f"{dist}.json", json.dumps(record, indent=2).encode(), 0o644)

    write_history(meta / "history", ours, superseded, manifest, installer)
    shutil.rmtree(work)
    replace(prefix / ".installer.info", json.dumps(manifest["installer_info"]).encode(), 0o644)


def relocate(prefix: Path, record: Record, marker: bytes) -> None:
    """Put the prefix where the marker is in the package's files, and the new hashes into its record."""
    for entry in record["paths_data"]["paths"]:
        if "prefix_placeholder" not in entry and entry["path_type"] != "unix_python_entry_point":
            continue
        path = prefix / entry["_path"]
        data = path.read_bytes().replace(marker, str(prefix).encode())
        replace(path, data, path.stat().st_mode & 0o777)
        if "sha256_in_prefix" in entry:
            entry["sha256_in_prefix"] = hashlib.sha256(data).hexdigest()
        if entry["path_type"] == "unix_python_entry_point":
            entry["sha256"], entry["size_in_bytes"] = hashlib.sha256(data).hexdigest(), len(data)


def remove(prefix: Path, files: list[str]) -> None:
    """Remove files of a replaced package, what Python compiled from them, and directories left empty."""
    for file in files:
        path = prefix / file
        path.unlink(missing_ok=True)
        if path.suffix == ".py":
            Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)
    for folder in sorted({parent for file in files for parent in (prefix / file).parents}, reverse=True):
        for emptied in (folder / "__pycache__", folder):
            with contextlib.suppress(OSError):
                emptied.rmdir()


def write_history(
    path: Path, ours: dict[str, Record], gone: dict[str, Record], manifest: Record, installer: str
) -> None:
    """Add a revision in conda's format, unless nothing changed."""
    text = path.read_text() if path.exists() else ""
    before: set[str] = set()
    for change in text.splitlines():
        if change.startswith("+"):
            before.add(change.rpartition("::")[2])
        elif change.startswith("-"):
            before.discard(change.rpartition("::")[2])
    changes = sorted(f"-{line(dist, record)}" for dist, record in gone.items())
    changes += sorted(f"+{line(dist, record)}" for dist, record in ours.items() if dist not in before)
    if changes:
        head = [f"==> {time.strftime('%Y-%m-%d %H:%M:%S')} <==", f"# cmd: {installer}"]
        head.append(f"# conda version: {manifest['conda_version']}")
        tail = [f"# update specs: {json.dumps(manifest['specs'])}"]
        text += "".join(f"{row}\n" for row in [*head, *changes, *tail])
    replace(path, text.encode(), 0o644)


def line(dist: str, record: Record) -> str:
    return f"{record['channel']}/{record['subdir']}::{dist}"


def replace(path: Path, data: bytes, mode: int) -> None:
    """Replace a file in one step, without writing through a hard link."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(data)
    temporary.chmod(mode)
    os.replace(temporary, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
