# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The container toolkit of a node, as the look saw it, against what is wanted. Pure: it runs on the control node."""

from __future__ import annotations

import dataclasses
import json
import posixpath
import typing as t

from .._node.findings import Finding, of_files
from .versions import upstream

PROGRAM = "/usr/bin/nvidia-ctk"
DAEMON = "/etc/docker/daemon.json"
_COMPONENT = "container toolkit"
_RUNTIME = {"args": [], "path": "nvidia-container-runtime"}


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a role wants of the toolkit."""

    cdi_path: str
    version: str = ""  #: of the packages; empty for any
    files: tuple[dict[str, str], ...] = ()  #: of known content, or with nothing but a path: then it must be there
    daemon: str | None = None  #: the text of Docker's configuration, None where Docker is not wanted


def of_toolkit(node: t.Mapping[str, t.Any], wanted: Wanted) -> list[Finding]:
    """What differs; nothing on a node without an NVIDIA GPU.

    :raises ValueError: Docker's configuration cannot be read.
    """
    if not node["gpu"]["present"]:
        return []
    findings = [*_of_files(node, wanted), *_of_package(node, wanted), *_of_specs(node["gpu"], wanted)]
    if wanted.daemon is not None and with_nvidia(wanted.daemon) != wanted.daemon:
        findings.append(Finding(_COMPONENT, DAEMON, "CDI and the runtime nvidia", "without them"))
    return findings


def _of_files(node: t.Mapping[str, t.Any], wanted: Wanted) -> t.Iterator[Finding]:
    for file in wanted.files:
        if "content" in file:
            for finding in of_files(node, [file]):
                yield dataclasses.replace(finding, component=_COMPONENT)
            continue
        found = node["files"][file["path"]]
        expected = file.get("sha256") or found.get("sha256")
        if found["state"] != "file" or found["sha256"] != expected:
            yield Finding(_COMPONENT, file["path"], f"content {expected[:12]}" if expected else "file", found["state"])


def _of_package(node: t.Mapping[str, t.Any], wanted: Wanted) -> t.Iterator[Finding]:
    found = node["gpu"]["toolkit"]["version"]
    if node["files"][PROGRAM]["state"] == "absent":
        yield Finding(_COMPONENT, PROGRAM, wanted.version or "installed", "absent")
    elif wanted.version and found and upstream(found) != upstream(wanted.version):
        yield Finding(_COMPONENT, PROGRAM, wanted.version, found)


def _of_specs(gpu: t.Mapping[str, t.Any], wanted: Wanted) -> t.Iterator[Finding]:
    """Two specs name the same devices, and then no container gets any; one of another driver names lost files."""
    driver = gpu["user_space"]
    specs = {_real(spec["path"]): spec["version"] for spec in gpu["toolkit"]["cdi"]}
    wanted_path = _real(wanted.cdi_path)
    yield from (
        Finding(_COMPONENT, path, f"absent beside {wanted.cdi_path}", "a second CDI spec")
        for path in specs
        if path != wanted_path
    )
    # Without a driver there is nothing to write a spec of.
    if driver and specs.get(wanted_path) != driver:
        actual = f"CDI spec of driver {specs[wanted_path] or 'unknown'}" if wanted_path in specs else "absent"
        yield Finding(_COMPONENT, wanted.cdi_path, f"CDI spec of driver {driver}", actual)


def _real(path: str) -> str:
    """On all our systems, /var/run is a link to /run."""
    return posixpath.normpath(path.replace("/var/run/", "/run/", 1) if path.startswith("/var/run/") else path)


def with_nvidia(text: str) -> str:
    """Docker's configuration *text* with CDI and the runtime nvidia, and all else as it is; itself if it has them.

    :raises ValueError: it is none.
    """
    try:
        content = json.loads(text) if text.strip() else {}
        features, runtimes = ({**content.get(key, {})} for key in ("features", "runtimes"))
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{DAEMON} is no configuration of Docker: {error}: correct it first") from error
    if features.get("cdi") is True and "nvidia" in runtimes:
        return text
    more = {"features": {**features, "cdi": True}, "runtimes": {"nvidia": _RUNTIME, **runtimes}}
    return json.dumps({**content, **more}, indent=4) + "\n"
