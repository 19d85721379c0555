"""Run podman, with the settings that this machine needs and no others."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.paths import Cache, LabError, write_text

# What podman asks for when it may; a lower hard limit makes it fail unless it may raise limits.
_PODMAN_NOFILE = 1048576
# Counted over all of root's processes on the machine, and refused on some machines when higher.
_NPROC = 32768
_CAP_SYS_RESOURCE = 24


@dataclass(frozen=True)
class Host:
    """What decides about podman's settings on a machine."""

    cgroup_hybrid: bool
    may_raise_limits: bool
    nofile: int
    """Hard limit of open files; -1 for none."""
    nproc: int
    """Hard limit of processes; -1 for none."""
    runc: str | None
    """Path of runc, if installed."""

    @classmethod
    def detect(cls) -> Host:
        status = Path("/proc/self/status").read_text()
        bounding = next(line.split()[1] for line in status.splitlines() if line.startswith("CapBnd:"))
        return cls(
            cgroup_hybrid=not Path("/sys/fs/cgroup/cgroup.controllers").exists(),
            may_raise_limits=os.geteuid() != 0 or bool(int(bounding, 16) >> _CAP_SYS_RESOURCE & 1),
            nofile=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
            nproc=resource.getrlimit(resource.RLIMIT_NPROC)[1],
            runc=shutil.which("runc", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"),
        )


def containers_conf(host: Host) -> str | None:
    """The containers.conf that podman needs on `host`; None where its own defaults work."""
    sections = []
    if not host.may_raise_limits and 0 <= host.nofile < _PODMAN_NOFILE:
        nproc = _NPROC if host.nproc < 0 else min(_NPROC, host.nproc)
        limits = [f"nofile={host.nofile}:{host.nofile}", f"nproc={nproc}:{nproc}"]
        sections.append(f"[containers]\ndefault_ulimits = {json.dumps(limits)}\n")
    if host.cgroup_hybrid:
        if host.runc is None:
            raise LabError("this machine has no unified cgroups, where podman's crun fails: install runc")
        sections.append('[engine]\nruntime = "runc"\n')
    return "".join(sections) or None


class Podman:
    """The podman command. Every call has a time limit, so that nothing hangs."""

    def __init__(self, cache: Cache) -> None:
        if shutil.which("podman") is None:
            raise LabError("podman is not installed: install podman 4.3 or later")
        self.environment: dict[str, str] = {}
        """What children need besides our own environment; empty on a plain host."""
        # Whoever names a file of their own has settled the matter.
        if "CONTAINERS_CONF" not in os.environ and (text := containers_conf(Host.detect())):
            path = cache.root / "containers.conf"
            write_text(path, text)
            self.environment["CONTAINERS_CONF"] = str(path)

    def try_run(self, *arguments: str, seconds: float = 60, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run podman with `data` on its input and return what came, whatever its exit code."""
        try:
            return subprocess.run(
                ["podman", *arguments],
                input=data,
                capture_output=True,
                timeout=seconds,
                check=False,
                env=os.environ | self.environment,
            )
        except subprocess.TimeoutExpired as error:
            raise LabError(
                f"podman {arguments[0]} did not end within {seconds:.0f} s: {' '.join(arguments)}"
            ) from error

    def run(self, *arguments: str, seconds: float = 60, data: bytes = b"") -> str:
        """Run podman and return its output; LabError with the last of its messages when it fails."""
        done = self.try_run(*arguments, seconds=seconds, data=data)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines() or ["(no message)"]
            raise LabError(f"podman {arguments[0]} failed ({done.returncode}): {' | '.join(said[-3:])}")
        return done.stdout.decode().strip()

    def containers(self, *filters: str) -> list[dict[str, Any]]:
        """Containers in any state, as podman describes them (Names, State, Labels, Image)."""
        chosen = [f"--filter={name}" for name in filters]
        found = json.loads(self.run("ps", "--all", *chosen, "--format=json") or "[]")
        return sorted(found or [], key=lambda container: str(container["Names"][0]))

    def image_exists(self, image: str) -> bool:
        return self.try_run("image", "exists", image).returncode == 0
