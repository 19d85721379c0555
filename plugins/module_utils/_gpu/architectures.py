# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which architecture a GPU of NVIDIA is of, and whether it can be divided, by its number on the PCI bus."""

from __future__ import annotations

#: First and last number of a range in which all GPUs are of one architecture, as the PCI ID list names their chips
#: (https://pci-ids.ucw.cz/read/PC/10de, August 2026). Older GPUs than Maxwell, and newer than Blackwell, are unknown.
_ARCHITECTURES = (
    (0x1340, 0x143F, "maxwell"),  # GM1xx, GM2xx
    (0x15C0, 0x15FF, "pascal"),  # GP100
    (0x1600, 0x16FF, "maxwell"),  # GM204
    (0x1720, 0x172F, "pascal"),  # GP100
    (0x1740, 0x17FF, "maxwell"),  # GM107, GM200
    (0x1B00, 0x1D7F, "pascal"),  # GP102 to GP108
    (0x1D80, 0x1DFF, "volta"),  # GV100
    (0x1E00, 0x1FFF, "turing"),  # TU102 to TU117
    (0x2080, 0x20FF, "ampere"),  # GA100
    (0x2180, 0x21FF, "turing"),  # TU116
    (0x2200, 0x227F, "ampere"),  # GA102
    (0x2300, 0x23FF, "hopper"),  # GH100
    (0x2400, 0x25FF, "ampere"),  # GA103 to GA107
    (0x2680, 0x28FF, "ada"),  # AD102 to AD107
    (0x2900, 0x2FFF, "blackwell"),  # GB100, GB102, GB20x, GB10
    (0x3180, 0x33FF, "blackwell"),  # GB110, GB112, GB120
)
#: Those that Multi-Instance GPU is there for (https://docs.nvidia.com/datacenter/tesla/mig-user-guide, Supported GPUs).
_MIG = (
    (0x20B0, 0x20BF),  # A100, A30
    (0x20D0, 0x20FF),  # A100, A800; what lies between is sold for mining
    (0x2300, 0x23FF),  # H100, H200, GH200
    (0x2900, 0x29FF),  # B100, B200, GB200
    (0x2BB1, 0x2BBC),  # RTX PRO 5000 and 6000 Blackwell
    (0x3180, 0x33FF),  # B300, GB300
)


def architecture(device: int) -> str:
    """The architecture of the GPU with this PCI device id, from maxwell to blackwell; empty where it is unknown."""
    return next((name for first, last, name in _ARCHITECTURES if first <= device <= last), "")


def can_be_divided(device: int) -> bool:
    """Does the GPU with this PCI device id have Multi-Instance GPU?"""
    return any(first <= device <= last for first, last in _MIG)
