"""The container toolkit, on a node that sees two A100 on its PCI bus, from a signed repository on its own disk.

The toolkit is NVIDIA's alone, so its packages here are stand-ins: they have those packages' names, and a program that
does what `nvidia-ctk cdi generate --output=FILE` is documented to do, with the path of the driver's library alone.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance import cluster

HOSTS = "toolkit.yml"
NODE = "toolkit-1"
PLAY = "../tests/acceptance/plays/toolkit"
SPEC = "/run/cdi/nvidia.yaml"
VERSION = "1.18.1-1"
PROGRAM = """\
#!/bin/sh
# Stand-in made by the tests of envfleet.gpu_cluster: it is not NVIDIA's.
set -eu
[ "$1 $2" = "cdi generate" ] && output=${3#--output=}
library=$(readlink -e /usr/lib/*-linux-gnu/libcuda.so.1)
cat >"$output.tmp" <<SPEC
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
- name: all
  containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
containerEdits:
  mounts:
  - hostPath: $library
    containerPath: $library
SPEC
mv "$output.tmp" "$output"
"""
PACKAGES = (
    "nvidia-container-toolkit-base",
    "nvidia-container-toolkit",
    "libnvidia-container-tools",
    "libnvidia-container1",
)
CONTROL = """\
Package: {name}
Version: {version}
Architecture: all
Maintainer: envfleet.gpu_cluster <tests@example.org>
Description: stand-in for NVIDIA's package of this name
"""


def build_package(directory: Path, name: str, version: str) -> None:
    """Add a package to the repository; the first has the program."""
    root = directory / f"{name}-{version}"
    control = CONTROL.format(name=name, version=version)
    files = {"DEBIAN/control": control, **({"usr/bin/nvidia-ctk": PROGRAM} if name == PACKAGES[0] else {})}
    for file, content in files.items():
        path = root / file
        path.parent.mkdir(parents=True)
        path.write_text(content)
        path.chmod(0o755 if content == PROGRAM else 0o644)
    deb = directory / "repository" / f"{name}_{version}_all.deb"
    deb.parent.mkdir(exist_ok=True)
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", root, deb], check=True, capture_output=True)
    data = deb.read_bytes()
    entry = f"Filename: ./{deb.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n\n"
    with (deb.parent / "Packages").open("a") as stream:
        stream.write(control + entry)


def sign(directory: Path) -> str:
    """Sign the repository with a key of its own, and return the public one."""
    repository, home = directory / "repository", directory / "gnupg"
    home.mkdir(mode=0o700)

    def gpg(*arguments: str) -> str:
        command = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", "", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout

    packages = (repository / "Packages").read_bytes()
    (repository / "Release").write_text(
        f"Suite: stable\nDate: Mon, 01 Jan 2024 00:00:00 UTC\nArchitectures: all amd64 arm64\n"
        f"SHA256:\n {hashlib.sha256(packages).hexdigest()} {len(packages)} Packages\n"
    )
    gpg("--quick-gen-key", "toolkit@example.org", "ed25519", "sign", "never")
    gpg("--clearsign", "--output", str(repository / "InRelease"), str(repository / "Release"))
    key = gpg("--armor", "--export")
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False, timeout=60)
    return key


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A node with a driver, a spec of an older one in another place, and somebody's configuration of Docker."""
    directory = tmp_path_factory.mktemp("toolkit")
    for version in ("1.17.8-1", VERSION, "1.19.0-1"):
        for name in PACKAGES:
            build_package(directory, name, version)
    public = sign(directory)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as packed:
        packed.add(directory / "repository", "repository")
    cluster.lab("up", "--fresh", "--inventory", str(cluster.INVENTORY / HOSTS))
    on_node(f"echo {base64.b64encode(archive.getvalue()).decode()} | base64 -d | tar -xz --no-same-owner -C /srv")
    on_node('mkdir -p /etc/cdi /etc/docker; printf \'{"log-driver": "journald"}\' >/etc/docker/daemon.json')
    on_node("printf 'kind: nvidia.com/gpu\\n# libcuda.so.525.60.13\\n' >/etc/cdi/nvidia.yaml")
    install_driver("535.129.03")
    yield public
    cluster.lab("down", "--inventory", str(cluster.INVENTORY / HOSTS))


def on_node(command: str) -> str:
    """What a shell command prints on the node."""
    return cluster.on_node(f"set -e; {command}", node=NODE).stdout


def install_driver(version: str) -> None:
    """What the look sees of a driver: its library."""
    on_node(f"cd /usr/lib/*-linux-gnu; touch libcuda.so.{version}; ln -sfn libcuda.so.{version} libcuda.so.1")


def play(key: str, *arguments: str) -> str:
    """Run the role, and the look after it; what was printed."""
    variables = {
        "nvidia_container_toolkit_enabled": True,
        "nvidia_container_toolkit_version": VERSION,
        "nvidia_container_toolkit_runtimes": ["podman", "docker"],
        "nvidia_container_toolkit_apt_url": "file:///srv/repository",
        "nvidia_container_toolkit_key": key,
    }
    code, output = cluster.playbook(PLAY, "--extra-vars", json.dumps(variables), *arguments, hosts=HOSTS)
    assert code == 0, output
    return output


def differences(output: str) -> list[str]:
    """What is still not as wanted; the lines are broken anywhere."""
    return re.findall(r"differs: (.*? \(expected .*?\))", " ".join(output.split()))


def is_unchanged(output: str) -> bool:
    return bool(re.search(rf"^{NODE} .* changed=0 .* failed=0 ", output, re.MULTILINE))


def state() -> str:
    return on_node(
        "find /etc /run/cdi /usr/bin -newer /srv/begin ! -name '.*' ! -type d -exec ls -l {} + 2>/dev/null || true"
    )


def test_the_toolkit_follows_the_driver(key: str) -> None:
    on_node("sleep 1; touch /srv/begin")
    foretold = play(key, "--check", "--diff")
    assert state() == ""
    assert len(differences(foretold)) == 6, foretold  # key, source, program, second spec, spec, Docker

    output = play(key)
    assert differences(output) == []
    versions = on_node(f"dpkg-query -W -f '${{Version}} ' {' '.join(PACKAGES)}").split()
    assert versions == [VERSION] * len(PACKAGES)
    assert "/libcuda.so.535.129.03\n" in on_node(f"cat {SPEC}; stat -c %a {SPEC}")
    assert on_node("ls /etc/cdi") == ""
    docker = json.loads(on_node("cat /etc/docker/daemon.json"))
    assert (docker["log-driver"], docker["features"]) == ("journald", {"cdi": True})
    assert is_unchanged(play(key))

    install_driver("580.95.05")
    (told,) = differences(play(key, "--skip-tags", "install"))
    assert told.startswith(
        f"container toolkit: /var{SPEC}: CDI spec of driver 535.129.03 (expected CDI spec of driver 580"
    )
    assert differences(play(key)) == []
    assert "/libcuda.so.580.95.05\n" in on_node(f"cat {SPEC}")
    assert is_unchanged(play(key))
