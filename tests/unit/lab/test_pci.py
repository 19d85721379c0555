"""PCI devices that a node of the lab sees."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lab import pci
from lab.inventory import lab_nodes
from lab.paths import Cache, LabError


def test_a_tree_has_the_files_of_the_kernel(tmp_path: Path) -> None:
    tree = pci.tree(Cache(tmp_path), "h100-hgx")
    switch = tree / "0000:07:00.0"
    read = {name: (switch / name).read_text() for name in ("vendor", "device", "class", "subsystem_device", "revision")}
    assert read == {
        "vendor": "0x10de\n",
        "device": "0x22a3\n",
        "class": "0x068000\n",
        "subsystem_device": "0x1796\n",
        "revision": "0xa1\n",
    }
    config = (switch / "config").read_bytes()
    assert len(config) == 256
    assert config[:4] == bytes.fromhex("de10a322")
    assert config[8:12] == bytes.fromhex("a1008006")
    assert config[0x2C:0x30] == bytes.fromhex("de109617")
    assert len((switch / "resource").read_text().splitlines()) == 13
    assert len(list(tree.iterdir())) == 12


def test_a_bound_device_leads_to_its_driver(tmp_path: Path) -> None:
    (device,) = pci.tree(Cache(tmp_path), "passthrough").iterdir()
    assert os.path.basename(os.readlink(device / "driver")) == "vfio-pci"


def test_a_tree_is_made_once_and_stays_readable_for_everybody(tmp_path: Path) -> None:
    tree = pci.tree(Cache(tmp_path), "intel")
    inode = tree.stat().st_ino
    assert pci.tree(Cache(tmp_path), "intel") == tree
    assert tree.stat().st_ino == inode
    assert tree.stat().st_mode & 0o555 == 0o555


@pytest.mark.parametrize("path", sorted(pci.LISTS.glob("*.yml")), ids=lambda path: path.stem)
def test_every_list_is_one(path: Path, tmp_path: Path) -> None:
    devices = pci.read_list(path)
    assert len({device.address for device in devices}) == len(devices)
    tree = pci.tree(Cache(tmp_path), path.stem)
    assert sorted(os.listdir(tree)) == sorted(device.address for device in devices)


@pytest.mark.skipif(shutil.which("lspci") is None, reason="lspci is not installed")
def test_lspci_reads_a_tree(tmp_path: Path) -> None:
    (tmp_path / "bus/pci").mkdir(parents=True)
    (tmp_path / "bus/pci/devices").symlink_to(pci.tree(Cache(tmp_path), "gb200"))
    command = ["lspci", "-n", "-A", "linux-sysfs", "-O", f"sysfs.path={tmp_path}/bus/pci"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "0008:00:00.0 0604: 10de:22b1\n" in printed
    assert "0008:01:00.0 0302: 10de:2941 (rev a1)\n" in printed


def test_a_list_that_does_not_exist_is_named_with_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"lab_pci: there is no .*/k80\.yml; it is one of a100, .*h100-hgx, "):
        pci.tree(Cache(tmp_path), "k80")


@pytest.mark.parametrize(
    "text",
    ["just: wrong\n", "- {id: '10de:20f1', type: '030200'}\n", "- {at: [a], id: GPU, type: '030200'}\n", ""],
)
def test_a_wrong_list_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yml"
    path.write_text(text)
    with pytest.raises(LabError, match=r"wrong\.yml: no list of PCI devices"):
        pci.read_list(path)


def test_a_host_asks_for_a_list() -> None:
    hosts = {
        "gpu": {"ansible_host": "127.0.0.1", "ansible_port": 1, "lab_pci": "a100"},
        "plain": {"ansible_host": "127.0.0.1", "ansible_port": 2},
    }
    assert [node.pci for node in lab_nodes({"_meta": {"hostvars": hosts}})] == ["a100", ""]
