"""Kernels of a node, and its modules on disk."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._gpu.kernels import (
    installed_modules,
    kernels,
    module_version,
    resolved,
)

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")


def write_module(path: Path, version: str) -> Path:
    """A kernel module's image, as far as its description goes."""
    entries = "".join(f"{entry}\\0" for entry in ("license=NVIDIA", "srcversion=version=1", f"version={version}"))
    source = f'__attribute__((section(".modinfo"), used)) static const char description[] = "{entries}";'
    path.parent.mkdir(parents=True, exist_ok=True)
    command = ["gcc", "-x", "c", "-c", "-g", "-o", str(path), "-"]
    subprocess.run(command, input=source, text=True, check=True, timeout=60)
    return path


def boot(root: Path, *names: str) -> None:
    (root / "boot").mkdir()
    for name in names:
        (root / "boot" / f"vmlinuz-{name}").touch()


def test_the_newest_kernel_boots_next(tmp_path: Path) -> None:
    boot(tmp_path, "6.1.0-9-amd64", "6.1.0-41-amd64", "5.10.0-99-amd64", "0-rescue-0123456789abcdef")
    (tmp_path / "proc/sys/kernel").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/osrelease").write_text("6.1.0-9-amd64\n")
    assert kernels(str(tmp_path)) == {"running": "6.1.0-9-amd64", "next": "6.1.0-41-amd64", "headers": []}


def test_a_saved_default_boots_next_while_it_is_there(tmp_path: Path) -> None:
    boot(tmp_path, "5.14.0-427.el9.x86_64", "5.14.0-503.el9.x86_64")
    (tmp_path / "boot/grub2").mkdir()
    environment = tmp_path / "boot/grub2/grubenv"
    environment.write_text(
        f"# GRUB Environment Block\nsaved_entry={'0a' * 16}-5.14.0-427.el9.x86_64\nboot_success=1\n##"
    )
    assert kernels(str(tmp_path))["next"] == "5.14.0-427.el9.x86_64"
    environment.write_text(f"saved_entry={'0a' * 16}-5.14.0-70.el9.x86_64\n")
    assert kernels(str(tmp_path))["next"] == "5.14.0-503.el9.x86_64"


def test_a_container_boots_what_runs(tmp_path: Path) -> None:
    (tmp_path / "proc/sys/kernel").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/osrelease").write_text("6.1.0-9-amd64\n")
    assert kernels(str(tmp_path))["next"] == "6.1.0-9-amd64"


def test_headers_count_where_the_link_to_them_leads_somewhere(tmp_path: Path) -> None:
    for name in ("6.1.0-40-amd64", "6.1.0-41-amd64", "6.1.0-42-amd64"):
        (tmp_path / "lib/modules" / name).mkdir(parents=True)
    for name in ("6.1.0-40-amd64", "6.1.0-41-amd64"):
        (tmp_path / "lib/modules" / name / "build").symlink_to(f"/usr/src/linux-headers-{name}")
    (tmp_path / "usr/src/linux-headers-6.1.0-41-amd64").mkdir(parents=True)
    assert kernels(str(tmp_path))["headers"] == ["6.1.0-41-amd64"]


def test_what_dkms_has_installed_is_on_disk(tmp_path: Path) -> None:
    for name, link, target in (
        ("nvidia-current", "kernel-6.1.0-41-amd64-x86_64", "535.309.01/6.1.0-41-amd64/x86_64"),
        ("nvidia", "kernel-6.8.0-90-generic-x86_64", "580.95.05/6.8.0-90-generic/x86_64"),
        ("nvidia-fs", "nonsense", "2.22/x"),
        ("zfs", "kernel-6.1.0-41-amd64-x86_64", "2.1.11/6.1.0-41-amd64/x86_64"),
    ):
        place = tmp_path / "var/lib/dkms" / name
        place.mkdir(parents=True)
        (place / link).symlink_to(target)
    # Built, but not installed:
    (tmp_path / "var/lib/dkms/nvidia/590.48.01/6.8.0-90-generic/x86_64").mkdir(parents=True)
    assert installed_modules(str(tmp_path)) == {"6.1.0-41-amd64": "535.309.01", "6.8.0-90-generic": "580.95.05"}


@needs_gcc
@pytest.mark.parametrize(
    "place",
    [
        "kernel/nvidia-535srv/nvidia.ko",
        "extra/nvidia/nvidia.ko",
        "extra/drivers/video/nvidia/nvidia.ko",
        "weak-updates/nvidia/nvidia.ko",
        "updates/dkms/nvidia-current.ko",
    ],
)
def test_a_prebuilt_module_says_its_version(place: str, tmp_path: Path) -> None:
    write_module(tmp_path / "lib/modules/6.8.0-90-generic" / place, "535.274.02")
    assert installed_modules(str(tmp_path)) == {"6.8.0-90-generic": "535.274.02"}


@needs_gcc
def test_a_damaged_module_says_nothing(tmp_path: Path) -> None:
    whole = write_module(tmp_path / "nvidia.ko", "535.274.02").read_bytes()
    assert module_version(str(tmp_path / "nvidia.ko")) == "535.274.02"
    for content in (b"", b"\x7fELF", whole[:100], whole[: len(whole) // 2], b"\x28\xb5\x2f\xfd" + whole):
        (tmp_path / "damaged.ko").write_bytes(content)
        assert module_version(str(tmp_path / "damaged.ko")) == ""
    assert module_version(str(tmp_path / "missing.ko")) == ""


def test_links_lead_below_the_root(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("/b/c")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/c").symlink_to("d")
    assert resolved(str(tmp_path), "a") == str(tmp_path / "b/d")
    (tmp_path / "loop").symlink_to("loop")
    assert resolved(str(tmp_path), "loop") == str(tmp_path / "loop")
