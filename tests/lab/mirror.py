"""The mirror: one container that serves the channel and the installers to the nodes over HTTP."""

from __future__ import annotations

import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from lab.image import mirror_image
from lab.paths import Cache, LabError, fingerprint, publish_tree, scratch_directory
from lab.podman import Podman

Say = Callable[[str], None]

NETWORK = "envfleet-lab"
CONTAINER = "envfleet-lab-mirror"
URL = f"http://{CONTAINER}:8080"
"""The mirror as nodes see it."""
CHANNEL_URL = f"{URL}/lab"
LABEL = "envfleet.lab"
"""Container label that says what part a container of ours plays: ``mirror`` or ``node``."""

_KEY_LABEL = "envfleet.lab.key"
_START_SECONDS = 60


class Channel(Protocol):
    """What the lab's other half knows about the channel it built."""

    @property
    def directory(self) -> Path: ...
    @property
    def python(self) -> str: ...


class Installer(Protocol):
    """What the lab's other half knows about an installer it built."""

    @property
    def version(self) -> str: ...
    @property
    def file(self) -> Path: ...
    @property
    def sha256(self) -> str: ...


def host_url() -> str:
    """The mirror as this machine sees it."""
    return f"http://127.0.0.1:{os.environ.get('ENVFLEET_LAB_MIRROR_PORT', '18080')}"


def channel_key(channel: Channel) -> str:
    """Changes with the channel: the repodata holds the hash of every package."""
    return fingerprint(*(channel.directory / subdir / "repodata.json" for subdir in ("linux-64", "noarch")))


def publish(cache: Cache, channel: Channel, installers: Sequence[Installer]) -> None:
    """Lay the channel out as www/lab and the installers as www/installers."""
    publish_tree(cache.www, "lab", channel_key(channel), channel.directory)
    with scratch_directory(cache.root / "publish") as scratch:
        for installer in installers:
            os.link(installer.file, scratch / installer.file.name)
        key = fingerprint(*(f"{installer.file.name} {installer.sha256}" for installer in installers))
        publish_tree(cache.www, "installers", key, scratch)


def ensure_network(podman: Podman) -> None:
    """The lab's own network; podman's default one has no DNS."""
    if podman.try_run("network", "exists", NETWORK).returncode:
        podman.run("network", "create", NETWORK)


def start(podman: Podman, cache: Cache, say: Say) -> None:
    """Have the mirror answer; made anew when its image or its place has changed."""
    image = mirror_image(podman, cache, say)
    cache.www.mkdir(parents=True, exist_ok=True)
    ensure_network(podman)
    key = fingerprint(image, str(cache.www), host_url())
    found = podman.containers(f"name=^{CONTAINER}$")
    if found and found[0]["Labels"].get(_KEY_LABEL) != key:
        podman.run("rm", "--force", "--time=0", CONTAINER)
        found = []
    if not found:
        say("starting the mirror")
        options = [f"--name={CONTAINER}", f"--hostname={CONTAINER}", f"--network={NETWORK}", "--systemd=always"]
        options += [f"--label={LABEL}=mirror", f"--label={_KEY_LABEL}={key}", f"--volume={cache.www}:/srv/www:ro,z"]
        podman.run("run", "--detach", *options, f"--publish={host_url().removeprefix('http://')}:8080", image)
    elif found[0]["State"] != "running":
        say("starting the mirror")
        podman.run("start", CONTAINER)
    _wait()


def _wait() -> None:
    # No proxy of this machine's stands between it and itself.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline, said = time.monotonic() + _START_SECONDS, ""
    while time.monotonic() < deadline:
        try:
            with opener.open(f"{host_url()}/", timeout=5):
                return
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            said = str(error)
            time.sleep(0.3)
    raise LabError(
        f"the mirror does not answer at {host_url()} after {_START_SECONDS} s: {said}; see: podman logs {CONTAINER}"
    )


def stop(podman: Podman) -> None:
    """Take the mirror off the network, as in an outage; `start` brings it back."""
    if podman.containers(f"name=^{CONTAINER}$"):
        podman.run("stop", "--time=10", CONTAINER)


def remove(podman: Podman) -> None:
    """Remove the mirror's container. What it served stays in the cache."""
    podman.run("rm", "--force", "--ignore", "--time=0", CONTAINER)
