"""The images of the nodes and of the mirror, built from the packages that this machine's own apt uses."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from lab.paths import Cache, LabError, fingerprint, scratch_directory
from lab.podman import Podman

Say = Callable[[str], None]

_CONTAINERS = Path(__file__).parent / "containers"
_PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "python3",
    "openssh-server",
    "sudo",
    "ca-certificates",
    "iproute2",
    "procps",
)
_BUILD_SECONDS = 1200


def debian_mirror(index_targets: str) -> str:
    """The mirror of Debian's main archive among lines of ``ORIGIN|CODENAME|REPO_URI`` from apt.

    Update and security archives, whose codename has a suffix, hold no whole suite.
    """
    for line in index_targets.splitlines():
        origin, codename, uri = line.split("|", 2)
        if origin == "Debian" and "-" not in codename:
            return uri
    raise LabError("apt on this machine uses no Debian mirror: set ENVFLEET_LAB_IMAGE to a Debian image, by name")


def _base(podman: Podman, cache: Cache, say: Say) -> str:
    """An image of a minimal Debian: the one that ENVFLEET_LAB_IMAGE names, or our own."""
    if named := os.environ.get("ENVFLEET_LAB_IMAGE"):
        if not podman.image_exists(named):
            say(f"pulling {named}")
            podman.run("pull", named, seconds=_BUILD_SECONDS)
        return named
    suite = os.environ.get("ENVFLEET_LAB_SUITE", "bookworm")
    if os.geteuid() or not (debootstrap := shutil.which("debootstrap", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")):
        raise LabError("building a node image takes root and debootstrap; or set ENVFLEET_LAB_IMAGE to a Debian image")
    targets = ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(CODENAME)|$(REPO_URI)", "Created-By: Packages"]
    mirror = debian_mirror(subprocess.run(targets, capture_output=True, text=True, timeout=60, check=True).stdout)
    image = f"localhost/envfleet-base:{fingerprint(suite, mirror, *_PACKAGES)}"
    if podman.image_exists(image):
        return image
    say(f"building Debian {suite} with debootstrap (about a minute)")
    with scratch_directory(cache.root / "image") as scratch:
        root, log = scratch / "root", scratch / "debootstrap.log"
        include = f"--include={','.join(_PACKAGES)}"
        with log.open("wb") as output:
            done = subprocess.run(
                # In a mount namespace, what it mounts is gone with it, even when it is killed.
                ["unshare", "--mount", debootstrap, "--variant=minbase", include, suite, str(root), mirror],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=_BUILD_SECONDS,
                check=False,
            )
        # It leaves an almost empty tree behind when it fails, which would still make an image.
        if done.returncode or not (root / "sbin" / "init").exists():
            kept = cache.root / "debootstrap.log"
            shutil.copy(log, kept)
            raise LabError(
                f"debootstrap failed ({done.returncode}): {log.read_text().strip().splitlines()[-1]}; see {kept}"
            )
        for package in (root / "var/cache/apt/archives").glob("*.deb"):
            package.unlink()
        archive = scratch / "root.tar"
        tar = ["tar", "--directory", str(root), "--numeric-owner", "--create", "--file", str(archive), "."]
        subprocess.run(tar, timeout=_BUILD_SECONDS, check=True)
        podman.run("import", "--quiet", str(archive), image, seconds=_BUILD_SECONDS)
    return image


def _derive(podman: Podman, name: str, base: str, say: Say, **arguments: str) -> str:
    """The image of `containers/NAME.Containerfile` upon `base`, tagged only once it is complete."""
    recipe = _CONTAINERS / f"{name}.Containerfile"
    base_id = podman.run("image", "inspect", "--format={{.Id}}", base)
    image = f"localhost/envfleet-{name}:{fingerprint(recipe, base_id, repr(sorted(arguments.items())))}"
    if not podman.image_exists(image):
        say(f"building the {name} image")
        options = [f"--build-arg={key}={value}" for key, value in {"BASE": base, **arguments}.items()]
        # Docker's image format keeps STOPSIGNAL and CMD alike; layers would only fill the disk.
        build = [
            "build",
            "--quiet",
            "--format=docker",
            "--layers=false",
            *options,
            f"--tag={image}",
            "--file=-",
            str(_CONTAINERS),
        ]
        podman.run(*build, seconds=_BUILD_SECONDS, data=recipe.read_bytes())
        listed = podman.run(
            "images", f"--filter=reference=localhost/envfleet-{name}", "--format={{.Repository}}:{{.Tag}}"
        )
        for old in set(listed.split()) - {image}:
            podman.try_run("image", "rm", old)  # refused, and rightly, while a container uses it
    return image


def node_image(podman: Podman, cache: Cache, say: Say) -> str:
    """The name of the node image, built if missing."""
    return _derive(podman, "node", _base(podman, cache, say), say, PACKAGES=" ".join(_PACKAGES))


def image_named(name: str, podman: Podman, cache: Cache, say: Say) -> str:
    """The node image, or the one that `containers/NAME.Containerfile` makes of it; built if missing."""
    node = node_image(podman, cache, say)
    if name == "node":
        return node
    if not (_CONTAINERS / f"{name}.Containerfile").is_file():
        known = ", ".join(sorted(path.stem for path in _CONTAINERS.glob("*.Containerfile")))
        raise LabError(f"lab_image: there is no image {name}; it is one of {known}")
    return _derive(podman, name, node, say)


def mirror_image(podman: Podman, cache: Cache, say: Say) -> str:
    """The name of the mirror image, built if missing."""
    return _derive(podman, "mirror", node_image(podman, cache, say), say)
