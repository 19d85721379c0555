"""The nodes: one container with systemd and an SSH server for each host of an inventory."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from lab import mirror, pci
from lab.inventory import Node, ssh_options
from lab.paths import Cache, LabError, write_text
from lab.podman import Podman

Say = Callable[[str], None]
_T = TypeVar("_T")

PORT_LABEL = "envfleet.lab.port"
IMAGE_LABEL = "envfleet.lab.image"
VOLUME_PREFIX = "envfleet-"
_START_SECONDS = 120

# Reads our public key; lets it in as root and as alice; prints the node's own host keys.
_ADMIT = """
set -eu
key=$(cat)
for user in root alice; do
    home=$(getent passwd "$user" | cut -d: -f6)
    install -d -m 0700 -o "$user" -g "$user" "$home/.ssh"
    grep -qxsF "$key" "$home/.ssh/authorized_keys" || printf '%s\\n' "$key" >>"$home/.ssh/authorized_keys"
    chmod 0600 "$home/.ssh/authorized_keys"
    chown "$user:$user" "$home/.ssh/authorized_keys"
done
cat /etc/ssh/ssh_host_*_key.pub
"""


def up(
    podman: Podman, cache: Cache, nodes: Sequence[Node], images: Mapping[str, str], say: Say, *, fresh: bool
) -> None:
    """Have every node run and answer over SSH. Running nodes are left alone unless `fresh`.

    `images` has the image for each name that a node asks for.
    """
    public_key = _key_pair(cache)
    mirror.ensure_network(podman)
    present = {container["Names"][0]: container for container in podman.containers()}
    for node in nodes:
        image = images[node.image]
        container = present.get(node.container)
        if container and container["Labels"].get(PORT_LABEL) != str(node.port) and not fresh:
            raise LabError(
                f"container {node.container} does not serve port {node.port}: run `lab up --fresh` to remake it"
            )
        if container and fresh:
            podman.run("rm", "--force", "--time=0", node.container)
            container = None
        if container is None:
            say(f"creating {node.name} (ssh port {node.port})")
            _create(podman, cache, node, image)
        elif container["State"] != "running":
            say(f"starting {node.name}")
            podman.run("start", node.container)
        elif container["Labels"].get(IMAGE_LABEL) != image:
            say(f"{node.name} runs an older image; `lab up --fresh` remakes it")
    say(f"waiting for {len(nodes)} node(s)")
    keys = dict(zip(nodes, _each(lambda node: _admit(podman, node, public_key), nodes), strict=True))
    text = cache.known_hosts.read_text() if cache.known_hosts.exists() else ""
    write_text(cache.known_hosts, known_hosts(text, {node.port: lines for node, lines in keys.items()}))
    _each(lambda node: _wait_for_ssh(cache, node), nodes)


def down(podman: Podman, containers: Iterable[str]) -> None:
    """Remove these containers with all that is in them."""
    if names := list(containers):
        podman.run("rm", "--force", "--ignore", "--time=0", *names, seconds=120)


def remove_volumes(podman: Podman, names: Iterable[str]) -> None:
    """Remove what nodes have shared. A volume that another node still has stays."""
    for name in names:
        podman.try_run("volume", "rm", f"{VOLUME_PREFIX}{name}")


def known_hosts(text: str, host_keys: Mapping[int, Iterable[str]]) -> str:
    """`text`, a known_hosts file, with these keys (``TYPE KEY``) for these ports of 127.0.0.1 and no others."""
    replaced = {f"[127.0.0.1]:{port}" for port in host_keys}
    lines = [line for line in text.splitlines() if line.split(" ", 1)[0] not in replaced]
    lines += [f"[127.0.0.1]:{port} {key}" for port, keys in host_keys.items() for key in keys]
    return "".join(f"{line}\n" for line in sorted(lines))


def _each(act: Callable[[Node], _T], nodes: Sequence[Node]) -> list[_T]:
    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(act, nodes))


def _key_pair(cache: Cache) -> str:
    """The public half of the key pair, generated once."""
    public, key = cache.ssh_key.with_suffix(".pub"), cache.ssh_key
    if not public.exists():
        key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        key.unlink(missing_ok=True)
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "envfleet-lab", "-f", str(key)]
        subprocess.run(command, stdin=subprocess.DEVNULL, timeout=60, check=True)
    return public.read_text().strip()


def _create(podman: Podman, cache: Cache, node: Node, image: str) -> None:
    options = [f"--name={node.container}", f"--hostname={node.name}", "--systemd=always"]
    # Root of a machine may look at every process and read every file, and so may root of a node.
    options += ["--cap-add=SYS_PTRACE,DAC_READ_SEARCH"]
    # A node that is told to start anew does so.
    options += ["--restart=always"]
    options += [f"--network={mirror.NETWORK}", f"--network-alias={node.name}", f"--publish=127.0.0.1:{node.port}:22"]
    options += [f"--volume={VOLUME_PREFIX}{name}:{path}" for name, path in node.volumes]
    if node.pci:
        options += [f"--volume={pci.tree(cache, node.pci)}:{pci.DEVICES}:ro"]
    options += [f"--label={mirror.LABEL}=node", f"--label={PORT_LABEL}={node.port}", f"--label={IMAGE_LABEL}={image}"]
    try:
        podman.run("run", "--detach", *options, image)
    except LabError as error:
        podman.try_run("rm", "--force", "--ignore", "--time=0", node.container)
        raise LabError(f"{node.name}: {error}") from error


def _admit(podman: Podman, node: Node, public_key: str) -> list[str]:
    """Wait for the node's systemd, let our key in, and return the node's host keys (lines of ``TYPE KEY``)."""
    deadline = time.monotonic() + _START_SECONDS
    while (state := _system_state(podman, node)) not in ("running", "degraded"):
        if time.monotonic() > deadline:
            raise LabError(
                f"{node.name}: systemd is {state!r} after {_START_SECONDS} s; see: podman logs {node.container}"
            )
        time.sleep(0.5)
    printed = podman.run("exec", "--interactive", node.container, "sh", "-c", _ADMIT, data=public_key.encode())
    return [" ".join(line.split()[:2]) for line in printed.splitlines()]


def _system_state(podman: Podman, node: Node) -> str:
    # Without --wait, which hangs for good on a node that never gets there.
    done = podman.try_run("exec", node.container, "systemctl", "is-system-running", seconds=30)
    return done.stdout.decode().strip() or "silent"


def _wait_for_ssh(cache: Cache, node: Node) -> None:
    options = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=5", *ssh_options(cache), "-i", str(cache.ssh_key)]
    command = ["ssh", *options, "-p", str(node.port), "root@127.0.0.1", "true"]
    deadline = time.monotonic() + _START_SECONDS
    while True:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode == 0:
            return
        if time.monotonic() > deadline:
            said = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise LabError(f"{node.name}: no SSH on port {node.port} after {_START_SECONDS} s: {said}")
        time.sleep(0.5)
