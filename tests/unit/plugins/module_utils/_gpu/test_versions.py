"""Versions of drivers and of CUDA."""

from __future__ import annotations

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._gpu import versions


def test_versions_are_compared_as_numbers() -> None:
    assert versions.parsed("535.54.03") == (535, 54, 3)
    assert versions.parsed("535.104.05") > versions.parsed("535.54.03")
    assert versions.branch("580.95.05") == 580


@pytest.mark.parametrize("wrong", ["", "535.", "535-server", "latest", "535.54.03\n", "٥٣٥"])
def test_what_is_no_version_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="is no version"):
        versions.parsed(wrong)


@pytest.mark.parametrize(
    ("package", "expected"),
    [
        ("535.309.01-0+deb12u1", "535.309.01"),
        ("3:610.57.04-1.el9", "610.57.04"),
        ("580.95.05-0ubuntu0.24.04.1", "580.95.05"),
        ("unknown", ""),
    ],
)
def test_nvidias_version_in_a_packages(package: str, expected: str) -> None:
    assert versions.upstream(package) == expected
