# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which CUDA a lock needs, by the names, versions and build strings of its packages. Pure: it reads no file."""

from __future__ import annotations

import dataclasses
import re
import typing as t

from .._conda.locks import Lock, Package, Wheel
from .versions import parsed

# Their versions are those of the whole toolkit: 12.4.1.
_TOOLKITS = frozenset(("cuda", "cuda-runtime", "cuda-toolkit", "cudatoolkit"))
# Of theirs, only two numbers are the toolkit's: 12.4.127.
_PARTS = re.compile(
    r"cuda-version|pytorch-cuda|cuda-cudart(?:_linux-\w+)?|nvidia-cuda-(?:runtime|nvrtc|cupti)(?:-cu\d+)?"
)
_NUMBERS = re.compile(r"\d+\.\d+(?:\.\d+)*")
# pytorch 2.0.0 cuda118py310h..., pytorch 2.1.0 py3.10_cuda12.1_cudnn8.9.2_0, torchvision 0.15.2 py310_cu118. An integer
# behind an underscore may be the number of the build instead.
_BUILD = re.compile(r"(?:^|_)cu(?:da)?(?:(\d{2,3})(?![\d.])|_?(\d+\.\d+))")
# torch 2.1.0+cu118, jaxlib 0.4.13+cuda12.cudnn89
_LOCAL = re.compile(r"\+cu(?:da)?(\d{2,3})(?!\d)")
# nvidia-cudnn-cu12, jax-cuda12-plugin, cupy-cuda12x, cupy-cuda118
_NAME = re.compile(r"(?:^|-)cu(?:da)?(\d{2,3})x?(?:-|$)")
_BOUND = re.compile(r"([<>=!~]*)\s*(\d+(?:\.\d+)*)")


@dataclasses.dataclass(frozen=True)
class Need:
    """A CUDA, and the package that asks for it."""

    cuda: str  #: 12.4.1, 12.4, or 12 where a package tells no more
    package: str  #: as people write it

    def text(self) -> str:
        """For a person."""
        return f"CUDA {self.cuda} ({self.package})"


@dataclasses.dataclass(frozen=True)
class Requirements:
    """What a lock needs."""

    toolkit: Need | None = None  #: the newest CUDA that something in it was made with
    bound: Need | None = None  #: the newest that the driver itself must know, whatever was made with it
    forward: Need | None = None  #: the newest that it brings the driver's libraries for, by cuda-compat

    @property
    def highest(self) -> Need | None:
        """The need that says most to a person."""
        return _highest(need for need in (self.toolkit, self.bound) if need)


def of_lock(lock: Lock) -> Requirements:
    """What *lock* needs, nothing if it has no CUDA."""
    needs = [need for package in lock.packages for need in _of_package(package)]
    needs += [need for wheel in lock.wheels for need in _of_wheel(wheel)]
    bounds = [Need(cuda, label) for label, spec in lock.cuda if (cuda := lowest(spec))]
    forward = [Need(_release(one.version), one.label) for one in lock.packages if one.name == "cuda-compat"]
    return Requirements(_highest(needs), _highest(bounds), _highest(need for need in forward if need.cuda))


def lowest(spec: str) -> str:
    """The lowest version that *spec*, the part of a dependency behind __cuda, lets through; empty for any."""
    alternatives = []
    for alternative in spec.split("|"):
        found: list[tuple[str, str]] = _BOUND.findall(alternative)
        bounds = [version for operator, version in found if operator[:1] not in ("<", "!")]
        if not bounds:
            return ""
        alternatives.append(max(bounds, key=parsed))
    return min(alternatives, key=parsed)


def _highest(needs: t.Iterable[Need]) -> Need | None:
    return max(needs, key=lambda need: parsed(need.cuda), default=None)


def _of_package(package: Package) -> t.Iterator[Need]:
    yield from _of_version(package)
    if found := _BUILD.search(package.build):
        yield Need(found[2] or _dotted(found[1]), package.label)


def _of_wheel(wheel: Wheel) -> t.Iterator[Need]:
    yield from _of_version(wheel)
    for found in (_LOCAL.search(wheel.version), _NAME.search(wheel.name)):
        if found:
            yield Need(_dotted(found[1]), wheel.label)


def _of_version(one: Package | Wheel) -> t.Iterator[Need]:
    if one.name in _TOOLKITS:
        cuda = _release(one.version)
    elif _PARTS.fullmatch(one.name):
        cuda = ".".join(_release(one.version).split(".")[:2])
    else:
        return
    # NVIDIA has put empty placeholders of version 0.0.1 into the index.
    if cuda and parsed(cuda) >= (1,):
        yield Need(cuda, one.label)


def _release(version: str) -> str:
    """12.4.1 of a version; 11.0 of 11.0.221, whose third number is that of a build and not of an update."""
    found = _NUMBERS.match(version)
    numbers = found[0].split(".")[:3] if found else []
    return ".".join(numbers[:2] if len(numbers) > 2 and len(numbers[2]) > 1 else numbers)


def _dotted(digits: str) -> str:
    """11.8 of 118, 9.2 of 92, and 12 of 12."""
    return digits if len(digits) == 2 and digits[0] == "1" else f"{digits[:-1]}.{digits[-1]}"
