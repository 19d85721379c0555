"""The architecture of every GPU that the PCI ID list knows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._gpu.architectures import (
    architecture,
    can_be_divided,
)

CHIPS = {
    "GM": "maxwell",
    "GP": "pascal",
    "GV": "volta",
    "TU": "turing",
    "GA": "ampere",
    "AD": "ada",
    "GH": "hopper",
    "GB": "blackwell",
}
# Devices beside a GPU on the same card, bridges, and systems on a chip.
BESIDE = re.compile("Audio|USB|PCIe host|PCI bridge|NVSwitch")


def gpus() -> dict[int, str]:
    """Every GPU's name."""
    lines = Path(__file__).with_name("pci.ids").read_text().splitlines()
    listed = dict(line.split("  ", 1) for line in lines if not line.startswith("#"))
    return {int(number, 16): name for number, name in listed.items() if not BESIDE.search(name)}


def test_every_known_gpu_has_its_architecture() -> None:
    known = gpus()
    assert len(known) > 550
    wrong = {f"{number:04x} {name}" for number, name in known.items() if architecture(number) != CHIPS[name[:2]]}
    assert wrong == set()


@pytest.mark.parametrize(
    ("device", "name"),
    [
        (0x1023, "GK110BGL [Tesla K40m]"),
        (0x102D, "GK210GL [Tesla K80]"),
        (0x1180, "GK104 [GeForce GTX 680]"),
        (0x2296, "Tegra PCIe Endpoint Virtual Network"),
        (0x22BA, "AD102 High Definition Audio Controller"),
        (0x3000, "GR100, of the architecture after Blackwell"),
        (0x30C0, "GR102"),
        (0xFFFF, "what is not there yet"),
    ],
)
def test_what_is_no_gpu_of_these_has_none(device: int, name: str) -> None:
    assert architecture(device) == "", name


def test_those_that_can_be_divided_are_told() -> None:
    """As NVIDIA's table of supported GPUs has them: all of GA100 that is sold as A100, A800 or A30, and so on."""
    named = re.compile(
        r"\[(A100|A800|A30|H100|H200|H800|H20|GH200|B[123]00|HGX|GB300|RTX PRO [56]000 Blackwell( |\])(?!Gen|Emb))"
    )
    known = gpus()
    missing = {f"{n:04x} {name}" for n, name in known.items() if named.search(name) and not can_be_divided(n)}
    assert missing == set()
    never = re.compile("GeForce|Quadro|TITAN|CMP|Tesla|RTX A|RTX [0-9]000 Ada|Jetson")
    wrong = {f"{n:04x} {name}" for n, name in known.items() if never.search(name) and can_be_divided(n)}
    assert wrong == set()
