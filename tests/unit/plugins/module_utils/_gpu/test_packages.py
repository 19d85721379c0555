"""What apt-cache and dnf print becomes packages, and versions are ordered as dpkg orders them."""

from __future__ import annotations

import itertools
import shutil
import subprocess

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._gpu import packages
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._gpu.packages import Package, Relation

ORDERED = [
    "535.171.04-1~deb12u1",
    "535.171.04-1",
    "535.261.03-1",
    "535.309.01-0+deb12u1",
    "535.309.01-1",
    "550.163.01-2",
    "580.95.05-0ubuntu0.24.04.1",
    "580.126.20-0ubuntu0.24.04.1",
    "1:4.4.1-1",
    "3:580.95.05-1.el9",
    "3:610.57.04-1.el9",
]


def test_versions_in_order() -> None:
    for older, newer in itertools.pairwise(ORDERED):
        assert packages.compared(older, newer) < 0 < packages.compared(newer, older)
        assert packages.compared(older, older) == 0


@pytest.mark.skipif(not shutil.which("dpkg"), reason="no dpkg here")
@pytest.mark.parametrize(
    "other", ["1.0~rc1", "1.0", "1.0a", "1.0+b1", "1.0-1", "1.0-1~x", "1.00", "1.0.1", "0:1.0", "1:0.5"]
)
def test_versions_as_dpkg_has_them(other: str) -> None:
    for one in ["1.0~rc1", "1.0", "1.0a", "1.0+b1", "1.0-1", "1.0-1~x", "1.00", "1.0.1", "0:1.0", "1:0.5"]:
        less = subprocess.run(["dpkg", "--compare-versions", one, "lt", other], check=False).returncode == 0
        assert (packages.compared(one, other) < 0) == less, (one, other)


def test_apt_stanzas() -> None:
    text = """Package: libcuda1
Version: 535.309.01-0+deb12u1
Architecture: amd64
Depends: nvidia-alternative (= 535.309.01-0+deb12u1), libc6 (>= 2.34), a:any | b
Pre-Depends: nvidia-legacy-check (>= 495)
Provides: libcuda-12.2-1, libcuda.so.1 (= 535.309.01)
Description: CUDA
 Depends: nothing

Package: libcuda1
Version: 535.309.01-0+deb12u1
Architecture: i386
"""
    (package,) = packages.parse_apt(text, "x86_64")
    assert package.driver == "535.309.01"
    assert package.depends == (
        (Relation("nvidia-legacy-check", ">=", "495"),),
        (Relation("nvidia-alternative", "=", "535.309.01-0+deb12u1"),),
        (Relation("libc6", ">=", "2.34"),),
        (Relation("a"), Relation("b")),
    )
    assert package.provides == (Relation("libcuda-12.2-1"), Relation("libcuda.so.1", "=", "535.309.01"))


def test_what_a_package_satisfies() -> None:
    package = Package(
        "firmware-nvidia-gsp",
        "535.309.01-1",
        provides=(Relation("firmware-nvidia-gsp", "=", "535.309.01"), Relation("gsp")),
    )
    assert package.satisfies(Relation("firmware-nvidia-gsp", "=", "535.309.01"))
    assert package.satisfies(Relation("firmware-nvidia-gsp", ">=", "535"))
    assert package.satisfies(Relation("gsp"))
    assert not package.satisfies(Relation("gsp", ">=", "1"))  # what is provided without a version has none
    assert not package.satisfies(Relation("firmware-nvidia-gsp", "=", "535.261.03"))


def test_rpm_lines() -> None:
    text = (
        "nvidia-open|3:610.57.04-1.el9|x86_64\n\nnvidia-fabricmanager|0:610.57.04-1|x86_64\nnvidia-open|3:1-1|aarch64\n"
    )
    assert [(one.name, one.version, one.driver) for one in packages.parse_rpm(text, "x86_64")] == [
        ("nvidia-open", "3:610.57.04-1.el9", "610.57.04"),
        ("nvidia-fabricmanager", "610.57.04-1", "610.57.04"),
    ]
