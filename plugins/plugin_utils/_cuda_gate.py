# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""The gate between drivers and environments: what comes of the CUDA in locks on a node."""

from __future__ import annotations

import dataclasses
import typing as t

from ..module_utils._conda.errors import CondaError
from ..module_utils._conda.locks import Lock
from ..module_utils._gpu import compatibility, requirements
from ..module_utils._gpu.compatibility import INCOMPATIBLE, PTX, Judgement
from ..module_utils._gpu.requirements import Requirements
from ..module_utils._gpu.versions import parsed
from ..module_utils._node.findings import Finding

GATES = ("error", "warn", "off")
_VGA = "0x0300"  # the class of GPUs for a screen: none of NVIDIA's for data centers has it


@dataclasses.dataclass(frozen=True)
class Graphics:
    """What of a node decides."""

    driver: str
    architectures: tuple[str, ...]
    data_center: bool  #: may all of its GPUs be of the kind that takes cuda-compat?

    @classmethod
    def of(cls, node: t.Mapping[str, t.Any], driver: str = "") -> Graphics | None:
        """What the look at *node* told, with *driver* in the place of its own; None without a GPU or a known driver.

        :raises CondaError: *driver* is no version.
        """
        if driver:
            try:
                parsed(driver)
            except ValueError as error:
                raise CondaError(f"driver: {error}") from error
        gpu = node.get("gpu") or {}
        if not gpu.get("present"):
            return None
        # A program finds the library. The module may be older until the node starts again.
        driver = driver or gpu.get("user_space") or gpu.get("module", {}).get("loaded") or ""
        if not driver:
            return None
        used = [one for one in gpu.get("devices", ()) if one["kind"] == "gpu" and one.get("driver") != "vfio-pci"]
        return cls(
            driver,
            tuple(gpu.get("architectures", ())),
            bool(used) and not any(one["class"].startswith(_VGA) for one in used),
        )


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What comes of one environment on one node."""

    environment: str
    verdict: str  #: compatible, ptx or incompatible
    needs: str  #: the CUDA, such as 12.4; empty for none
    driver: str
    reason: str

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return dataclasses.asdict(self)

    def finding(self, gate: str) -> Finding:
        """For those that are not compatible."""
        severity = "error" if self.verdict == INCOMPATIBLE and gate == "error" else "warning"
        expected = f"a driver for CUDA {self.needs}"
        return Finding(f"environment {self.environment}", "CUDA", expected, self.reason, severity, "human")


def verdicts(
    environments: t.Iterable[t.Mapping[str, t.Any]],
    locks: t.Mapping[str, t.Mapping[str, Lock]],
    node: t.Mapping[str, t.Any],
    driver: str = "",
) -> list[Verdict]:
    """One for each of *environments* that is to be on *node* and has one of *locks* for its platform.

    None for a node that has no GPU, or no driver that is known: nothing can be said there.

    :raises CondaError: *driver* is no version.
    """
    graphics = Graphics.of(node, driver)
    if graphics is None:
        return []
    result = []
    for environment in environments:
        name = environment["name"]
        lock = locks[name].get(node["system"]["platform"])
        if lock:  # one that is to be absent has none
            needed = requirements.of_lock(lock)
            judgement = judge(needed, graphics)
            cuda = needed.highest.cuda if needed.highest else ""
            result.append(Verdict(name, judgement.verdict, cuda, graphics.driver, judgement.reason))
    return result


def judge(needed: Requirements, graphics: Graphics) -> Judgement:
    """What comes of all that is *needed*: the worst decides, and tells who asked."""
    judgements = [Judgement(compatibility.COMPATIBLE, "it has no CUDA")]
    if toolkit := needed.toolkit:
        found = [compatibility.of_architecture(toolkit.cuda, one) for one in graphics.architectures]
        found.append(_forward(compatibility.of_driver(toolkit.cuda, graphics.driver), needed, graphics))
        judgements = [_asked(found, toolkit.package)]
    if bound := needed.bound:
        found = [_forward(compatibility.of_bound(bound.cuda, graphics.driver), needed, graphics)]
        judgements.append(_asked(found, bound.package))
    return compatibility.worst(judgements)


def _asked(judgements: t.Sequence[Judgement], package: str) -> Judgement:
    decisive = compatibility.worst(judgements)
    return dataclasses.replace(decisive, reason=f"{decisive.reason}; {package} asks for it")


def _forward(judgement: Judgement, needed: Requirements, graphics: Graphics) -> Judgement:
    """*judgement* of the driver alone, unless the lock brings the libraries of a newer one."""
    forward = needed.forward
    if judgement.verdict != INCOMPATIBLE or not forward or not needed.highest:
        return judgement
    if parsed(forward.cuda)[:2] < parsed(needed.highest.cuda)[:2]:
        return judgement
    if not graphics.data_center:
        return dataclasses.replace(
            judgement, reason=f"{judgement.reason}; {forward.package} is for NVIDIA's data center GPUs alone"
        )
    return Judgement(PTX, f"{judgement.reason}, or the libraries of {forward.package}, on data center GPUs alone")
