# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The matched set of packages for a node's GPUs, or why there is none and what would do. Pure: it asks nobody."""

from __future__ import annotations

import dataclasses
import typing as t

from . import branches
from .packages import Package, Relation, is_driver, newest
from .versions import branch as branch_of
from .versions import parsed

DEBIAN = ("debian", "ubuntu")
#: Grace Blackwell, whose nodes share NVLink across the rack, and so memory: GB200 and GB300 in the PCI ID database.
_IMEX_DEVICES = ("0x2941", "0x31c2", "0x31c3")
#: Where NVIDIA's packages lost the branch in their names: driver-installation-guide 590, Ubuntu 590 and later packages.
_UNNAMED_UBUNTU = 590
#: Likewise fabric manager, and IMEX: Fabric Manager for NVIDIA NVSwitch Systems, 580.
_UNNAMED_FABRIC = 580
#: Where a compute-only installation became one package: its page Compute-only and Desktop Installation.
_COMPUTE_ONLY = 560


class Refused(Exception):
    """There is no set that would work on the node."""

    def __init__(self, kind: str, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}: {remedy}")
        self.kind, self.reason, self.remedy = kind, reason, remedy


@dataclasses.dataclass(frozen=True)
class Wish:
    """What a person wants of the driver. One of branch and version is enough; with both, they must agree."""

    branch: str = ""
    version: str = ""
    flavour: str = "auto"  #: auto, open or proprietary
    repository: str = "distribution"  #: distribution or nvidia
    allow_end_of_life: bool = False
    trusted_key: bool = False  #: the nodes trust the key that their DKMS signs modules with
    dcgm: str = ""  #: the major version of DCGM
    toolkit: str = ""  #: what the version of the container toolkit begins with

    @property
    def number(self) -> int:
        """The branch. Raises ValueError where branch and version do not agree, or are no numbers."""
        number = branch_of(self.version or self.branch)
        if self.branch and number != branch_of(self.branch):
            raise ValueError(f"version {self.version} is not of branch {self.branch}: give one of them, or both alike")
        return number


class Names(t.NamedTuple):
    """What a repository calls the parts. All of *exact* have the version of the driver."""

    module: str
    exact: tuple[str, ...]
    other: tuple[str, ...] = ()  #: of their own versions, where they are offered
    other_module: str = ""  #: the module of the other flavour, which has to go
    imex: str = ""
    fabric_manager: str = ""
    stream: str = ""  #: the stream of a dnf module
    signed: bool = False  #: the module is signed by the distribution


def names(distribution: t.Mapping[str, str], repository: str, number: int, flavour: str, kernel: str = "") -> Names:
    """The packages of a headless driver. With *kernel*, the module signed for it, if there is one."""
    is_open = flavour == branches.OPEN
    dash_open, other_dash_open = ("-open", "") if is_open else ("", "-open")
    fabric = f"nvidia-fabricmanager{'' if number >= _UNNAMED_FABRIC else f'-{number}'}"
    imex = f"nvidia-imex{'' if number >= _UNNAMED_FABRIC else f'-{number}'}"
    if distribution["id"] not in DEBIAN:
        modules = ("kmod-nvidia-open-dkms", "kmod-nvidia-latest-dkms")
        module, other_module = modules if is_open else modules[::-1]
        fabric = fabric if number >= _UNNAMED_FABRIC else "nvidia-fabric-manager"
        stream = (
            f"{number}-{'open' if is_open else 'dkms'}" if distribution["version"].partition(".")[0] in "89" else ""
        )
        exact: tuple[str, ...] = (module, "nvidia-driver-cuda", "nvidia-kmod-common")
        return Names(module, exact, ("nvidia-persistenced",), other_module, imex, fabric, stream)
    if repository == "nvidia" and distribution["id"] == "debian":
        modules = ("nvidia-kernel-open-dkms", "nvidia-kernel-dkms")
        module, other_module = modules if is_open else modules[::-1]
        user_space = (
            ("nvidia-driver-cuda",) if number >= _COMPUTE_ONLY else ("libcuda1", "nvidia-smi", "libnvidia-cfg1")
        )
        exact = (module, *user_space, "firmware-nvidia-gsp")
        return Names(module, exact, ("nvidia-persistenced",), other_module, imex, fabric)
    if repository == "nvidia":
        named = "" if number >= _UNNAMED_UBUNTU else f"-{number}"
        module = f"nvidia-dkms{named}{dash_open}"
        exact = (module, f"libnvidia-compute{named}")
        other = (f"nvidia-utils{named}", f"nvidia-compute-utils{named}", "nvidia-persistenced")
        return Names(module, exact, other, f"nvidia-dkms{named}{other_dash_open}", imex, fabric)
    if distribution["id"] == "debian":
        module = f"nvidia{dash_open}-kernel-dkms"
        exact = (module, "libcuda1", "nvidia-smi", "libnvidia-cfg1", "firmware-nvidia-gsp")
        return Names(module, exact, ("nvidia-persistenced",), f"nvidia{other_dash_open}-kernel-dkms")
    server, others = f"{number}-server{dash_open}", f"nvidia-dkms-{number}-server{other_dash_open}"
    exact = (f"nvidia-headless-no-dkms-{server}", f"nvidia-utils-{number}-server")
    fabric, imex = f"nvidia-fabricmanager-{number}", f"nvidia-imex-{number}"
    if kernel:
        module = f"linux-modules-nvidia-{server}-{kernel.rpartition('-')[2]}"
        return Names(module, exact, (module,), others, imex, fabric, signed=True)
    module = f"nvidia-dkms-{server}"
    return Names(module, (module, *exact), (), others, imex, fabric)


def plan(
    gpu: t.Mapping[str, t.Any],
    distribution: t.Mapping[str, str],
    wish: Wish,
    offered: t.Iterable[Package],
    today: str,
) -> dict[str, t.Any]:
    """The set of packages for the GPUs of Contract *gpu*, on a distribution with id, version, and arch as in x86_64.

    Raises Refused where there is none, and ValueError for a wish that contradicts itself.
    """
    by_name: dict[str, list[Package]] = {}
    for package in newest(offered):
        by_name.setdefault(package.name, []).append(package)
    number = wish.number
    flavour = choose_flavour(gpu, distribution, wish, today)
    named = names(distribution, wish.repository, number, flavour)
    if gpu["secure_boot"] and not wish.trusted_key:
        named = _signed(gpu, distribution, wish, number, flavour, by_name)
    needed = list(named.exact) + ([named.fabric_manager or "fabric manager"] if gpu["nvswitch"] else [])
    if any(one["device"] in _IMEX_DEVICES for one in gpu["devices"]):
        needed.append(named.imex or "IMEX")
    release, chosen, passed_over = _newest_set(by_name, needed, named, wish, distribution)
    extras = _extras(gpu, by_name, wish, number)
    roots = {name: chosen[name].version for name in (*needed, *named.other) if name in chosen} | extras
    pins = {name: package.version for name, package in sorted(chosen.items()) if is_driver(name)} | extras
    branch = branches.of(number)
    return {
        "version": release,
        "branch": number,
        "kind": branch.kind,
        "end_of_life": branch.end_of_life,
        "max_cuda": branch.max_cuda,
        "flavour": flavour,
        "module": named.module,
        "packages": roots,
        "remove": [named.other_module],
        "pins": pins,
        "preferences": preferences(pins) if distribution["id"] in DEBIAN else "",
        "stream": named.stream,
        "fabric_manager": named.fabric_manager if gpu["nvswitch"] else "",
        "passed_over": passed_over,
    }


def choose_flavour(gpu: t.Mapping[str, t.Any], distribution: t.Mapping[str, str], wish: Wish, today: str) -> str:
    """The flavour of the kernel module for these GPUs. Raises Refused where branch or flavour is not for them."""
    number, architectures, machine = wish.number, gpu["architectures"], distribution["arch"]
    if not gpu["present"]:
        raise Refused("no-gpu", "the node has no NVIDIA GPU of its own", "leave the branch and the version empty here")
    suitable = [str(one) for one in branches.alive(today) if branches.common_flavours(architectures, one, machine)]
    instead = f"take one of the branches {', '.join(suitable)}" if suitable else "no living branch runs all of its GPUs"
    for architecture in architectures:
        if not branches.flavours(architecture, number, machine):
            support = branches.ARCHITECTURES[architecture]
            if support.last and number > support.last:
                reason = (
                    f"branch {number} does not run GPUs of {architecture.title()}, whose last one is {support.last}"
                )
                raise Refused("gpu-too-old", reason, instead)
            reason = f"branch {number} does not know GPUs of {architecture.title()}, whose first one is {support.first}"
            raise Refused("gpu-too-new", reason, instead)
    possible = branches.common_flavours(architectures, number, machine)
    if not possible:
        told = ", ".join(f"{one} {'/'.join(branches.flavours(one, number, machine))}" for one in architectures)
        raise Refused("mixed", f"no kernel module runs all GPUs of the node ({told})", "move some of the GPUs")
    if wish.flavour not in ("auto", *possible):
        names_of = ", ".join(one.title() for one in architectures)
        kind = "open-needed" if wish.flavour == branches.PROPRIETARY else "open-impossible"
        reason = f"branch {number} runs {names_of} with the {possible[0]} kernel module alone"
        raise Refused(kind, reason, f"set the flavour to {possible[0]} or auto")
    if branches.ended(number, today) and not wish.allow_end_of_life:
        reason = f"NVIDIA has ended branch {number} in {branches.of(number).end_of_life}"
        raise Refused("end-of-life", reason, f"{instead}, or allow branches whose life has ended")
    return possible[0] if wish.flavour == "auto" else wish.flavour


def _signed(
    gpu: t.Mapping[str, t.Any],
    distribution: t.Mapping[str, str],
    wish: Wish,
    number: int,
    flavour: str,
    by_name: t.Mapping[str, list[Package]],
) -> Names:
    named = names(distribution, wish.repository, number, flavour, gpu["kernel"]["next"])
    if not named.signed or named.module not in by_name:
        reason = (
            "Secure Boot is on, and a module that DKMS builds here is signed with a key that the firmware trusts not"
        )
        remedy = "enrol the key of DKMS (mokutil --import) and say that it is trusted, or switch Secure Boot off"
        if distribution["id"] == "ubuntu":
            remedy += ", or take modules that Ubuntu has signed from its own archive"
        raise Refused("secure-boot", reason, remedy)
    return named


def _newest_set(
    by_name: t.Mapping[str, list[Package]],
    needed: t.Sequence[str],
    named: Names,
    wish: Wish,
    distribution: t.Mapping[str, str],
) -> tuple[str, dict[str, Package], list[dict[str, str]]]:
    """The newest version at which the set is whole, with all packages that it pulls in, and what newer ones lack."""
    number = wish.number
    versions = {
        package.driver
        for name in named.exact
        for package in by_name.get(name, ())
        if package.driver.partition(".")[0] == str(number) and wish.version in ("", package.driver, package.version)
    }
    passed_over: list[dict[str, str]] = []
    for release in sorted(versions, key=parsed, reverse=True):
        try:
            return release, _closure(by_name, needed, named, release), passed_over
        except _Unsatisfied as error:
            passed_over.append({"version": release, "reason": str(error)})
    where = f"the {'NVIDIA' if wish.repository == 'nvidia' else distribution['id']} repository"
    remedy = "take another branch or version"
    if wish.repository != "nvidia":
        remedy += ", or the repository nvidia"
    if passed_over:
        reason = "; ".join(f"{one['version']}: {one['reason']}" for one in passed_over)
        kind = "not-offered" if all("is not offered" in one["reason"] for one in passed_over) else "unsatisfiable"
        raise Refused(kind, f"{where} has no whole set ({reason})", remedy)
    offers = sorted({package.driver for name in named.exact for package in by_name.get(name, ())}, key=parsed)
    told = f"it has {', '.join(offers)}" if offers else f"it has no {named.exact[0]}"
    raise Refused("not-offered", f"{where} does not offer {wish.version or f'branch {number}'}: {told}", remedy)


class _Unsatisfied(Exception):
    """A package of the set cannot be had at the version that the others need."""


def _closure(
    by_name: t.Mapping[str, list[Package]], needed: t.Iterable[str], named: Names, release: str
) -> dict[str, Package]:
    """By name, the packages of the driver that *needed* at *release* pull in."""
    chosen: dict[str, Package] = {}
    for name in needed:
        found = [package for package in by_name.get(name, ()) if package.driver == release]
        if not found:
            others = ", ".join(package.version for package in by_name.get(name, ()))
            raise _Unsatisfied(f"{name} is not offered at this version" + (f", but at {others}" if others else ""))
        chosen[name] = found[0]
    for name in named.other:
        found = sorted(by_name.get(name, ()), key=lambda package: package.driver != release)
        if found:
            chosen[name] = found[0]
    queue = list(chosen.values())
    while queue:
        package = queue.pop(0)
        for group in package.depends:
            found_one = _answer(package, group, chosen, by_name, release)
            if found_one and found_one.name not in chosen:
                chosen[found_one.name] = found_one
                queue.append(found_one)
    return chosen


def _answer(
    package: Package,
    group: tuple[Relation, ...],
    chosen: t.Mapping[str, Package],
    by_name: t.Mapping[str, list[Package]],
    release: str,
) -> Package | None:
    """What answers a dependency; None where that is a matter of the rest of the distribution."""
    for relation in group:
        for one in chosen.values():
            if one.satisfies(relation):
                return one
    for relation in group:
        found = [one for some in by_name.values() for one in some if one.name not in chosen and one.satisfies(relation)]
        if found:
            return min(found, key=lambda one: (one.driver != release, one.name != relation.name, len(one.name)))
        if not is_driver(relation.name):
            return None
    wanted = " | ".join(map(str, group))
    there = [f"{relation.name} {chosen[relation.name].version}" for relation in group if relation.name in chosen]
    has = f"the set has {', '.join(there)}" if there else "no repository has it"
    raise _Unsatisfied(f"{package.name} {package.version} needs {wanted}, and {has}")


def _extras(
    gpu: t.Mapping[str, t.Any], by_name: t.Mapping[str, list[Package]], wish: Wish, number: int
) -> dict[str, str]:
    """DCGM and the container toolkit, which have versions of their own."""
    wanted = {}
    if wish.dcgm:
        # CUDA 13 has left out what came before Turing, so those GPUs take the one for 12.
        old = any(
            branches.ARCHITECTURES.get(one, branches.ARCHITECTURES["turing"]).last for one in gpu["architectures"]
        )
        cuda = 12 if old else branches.of(number).max_cuda
        wanted[f"datacenter-gpu-manager-{wish.dcgm}-cuda{cuda}"] = wish.dcgm
    if wish.toolkit:
        wanted["nvidia-container-toolkit"] = wish.toolkit
    extras = {}
    for name, version in wanted.items():
        found = [one for one in by_name.get(name, ()) if f"{one.driver}.".startswith(f"{version}.")]
        if not found:
            reason = f"no repository offers {name} {version}"
            raise Refused("not-offered", reason, "take the repository nvidia, or leave this part out")
        extras[name] = found[0].version
    return extras


def preferences(pins: t.Mapping[str, str]) -> str:
    """The pins as apt_preferences(5): no other version is installed, by no upgrade, attended or not."""
    by_version: dict[str, list[str]] = {}
    for name, version in sorted(pins.items()):
        by_version.setdefault(version, []).append(name)
    stanzas = [
        f"Package: {' '.join(some)}\nPin: version {version}\nPin-Priority: 1001\n"
        for version, some in sorted(by_version.items())
    ]
    return "# Managed by envfleet.gpu_cluster (role nvidia_driver): changes made here are undone.\n" + "\n".join(
        stanzas
    )
