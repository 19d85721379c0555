"""Finding the Debian mirror that apt uses."""

from __future__ import annotations

import pytest

from lab.image import debian_mirror
from lab.paths import LabError

MIRROR = "http://mirror.example/debian/"


@pytest.mark.parametrize(
    "lines",
    [
        [f"Debian|bookworm|{MIRROR}"],
        ["Debian|bookworm-security|http://mirror.example/security/", f"Debian|bookworm|{MIRROR}"],
        [
            "Debian|bookworm-updates|http://updates.example/",
            "Docker|bookworm|http://d.example/",
            f"Debian|trixie|{MIRROR}",
        ],
    ],
)
def test_the_mirror_is_that_of_the_main_archive(lines: list[str]) -> None:
    assert debian_mirror("\n".join(lines)) == MIRROR


@pytest.mark.parametrize("text", ["", "Ubuntu|noble|http://ubuntu.example/"])
def test_a_machine_without_a_debian_mirror_is_told_what_to_set(text: str) -> None:
    with pytest.raises(LabError, match="ENVFLEET_LAB_IMAGE"):
        debian_mirror(text)
