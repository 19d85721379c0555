"""The node's own sources tell where the archive is, and what it lacks of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._gpu import repositories
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._gpu.repositories import RepositoryError, Source

BOOKWORM = {"id": "debian", "version": "12", "codename": "bookworm", "arch": "x86_64"}
NOBLE = {"id": "ubuntu", "version": "24.04", "codename": "noble", "arch": "aarch64"}
LINES = """# the archive
deb http://mirror/debian bookworm main contrib  # with a remark
deb-src http://mirror/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/d.gpg] http://mirror/debian-security bookworm-security main
deb https://elsewhere/apt bookworm stable
deb http://flat/ ./
"""
STANZAS = """# Ubuntu's own
Types: deb deb-src
URIs: http://ports/ubuntu
Suites: noble noble-updates
Components: main universe restricted
Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg

Enabled: no
Types: deb
URIs: http://ports/ubuntu
Suites: noble-proposed
Components: main

Types: deb
URIs: https://elsewhere/
Suites: /
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
"""
KEYRING = "/usr/share/keyrings/ubuntu-archive-keyring.gpg"


def test_lines() -> None:
    found = repositories.parse_list(LINES)
    assert found == [
        Source("http://mirror/debian", "bookworm", ("main", "contrib")),
        Source(
            "http://mirror/debian-security",
            "bookworm-security",
            ("main",),
            "/usr/share/keyrings/d.gpg",
        ),
        Source("https://elsewhere/apt", "bookworm", ("stable",)),
        Source("http://flat/", "./", ()),
    ]


def test_stanzas() -> None:
    *ubuntu, other = repositories.parse_sources(STANZAS)
    assert ubuntu == [
        Source("http://ports/ubuntu", suite, ("main", "universe", "restricted"), KEYRING)
        for suite in ("noble", "noble-updates")
    ]
    assert other.uri == "https://elsewhere/"
    assert other.signed_by.split() == ["-----BEGIN", "PGP", "PUBLIC", "KEY", "BLOCK-----", ".", "abc"]
    assert repositories.parse_sources(other.text()) == [other]


def test_what_the_node_lacks_of_debian() -> None:
    consulted, lacking = repositories.archive(repositories.parse_list(LINES), BOOKWORM)
    wanted = ("contrib", "non-free", "non-free-firmware")
    assert [(one.suite, one.components) for one in consulted] == [("bookworm", wanted), ("bookworm-security", wanted)]
    assert [(one.suite, one.components) for one in lacking] == [("bookworm", wanted[1:]), ("bookworm-security", wanted)]
    assert {one.uri for one in lacking} == {"http://mirror/debian", "http://mirror/debian-security"}
    # With them there, nothing is lacking, and all is asked as before.
    assert repositories.archive([*repositories.parse_list(LINES), *lacking], BOOKWORM) == (consulted, [])


def test_what_the_node_lacks_of_ubuntu() -> None:
    _consulted, lacking = repositories.archive(repositories.parse_sources(STANZAS), NOBLE)
    assert {one.components for one in lacking} == {("multiverse",)}
    assert {one.signed_by for one in lacking} == {KEYRING}


def test_a_node_without_the_archive() -> None:
    with pytest.raises(RepositoryError, match="no source of apt on the node is the archive of debian bookworm"):
        repositories.archive([Source("https://elsewhere/apt", "bookworm", ("stable",))], BOOKWORM)


def test_sources_of_the_node_without_our_own(tmp_path: Path) -> None:
    parts = tmp_path / "etc/apt/sources.list.d"
    parts.mkdir(parents=True)
    (parts.parent / "sources.list").write_text("deb http://mirror/debian bookworm main\n")
    (parts / "more.list").write_text("deb http://more/ bookworm main\n")
    (parts / "ubuntu.sources").write_text(STANZAS)
    (parts / Path(repositories.SOURCES).name).write_text(
        "Types: deb\nURIs: http://ours\nSuites: bookworm\nComponents: main\n"
    )
    assert {one.uri for one in repositories.apt_sources(str(tmp_path))} == {
        "http://mirror/debian",
        "http://more/",
        "http://ports/ubuntu",
        "https://elsewhere/",
    }


@pytest.mark.parametrize(
    ("system", "url"),
    [
        (BOOKWORM, "https://mirror/debian12/x86_64"),
        (NOBLE, "https://mirror/ubuntu2404/sbsa"),
        ({"id": "rocky", "version": "9.4", "arch": "x86_64"}, "https://mirror/rhel9/x86_64"),
    ],
)
def test_places_in_the_repository_of_nvidia(system: dict[str, str], url: str) -> None:
    """Without the minor version of Debian, and with NVIDIA's name for processors of Arm."""
    assert repositories.nvidia_url("https://mirror/{distribution}/{architecture}/", system) == url


def test_the_key_becomes_a_part_of_the_source() -> None:
    source = repositories.nvidia_source("https://mirror/debian12/x86_64", "BEGIN\n\nabc\nEND\n")
    assert source.text() == (
        "Types: deb\nURIs: https://mirror/debian12/x86_64/\nSuites: /\nSigned-By: \n BEGIN\n .\n abc\n END\n"
    )


def test_dnf_sees_the_pinned_versions_alone() -> None:
    text = repositories.yum_text("https://mirror", "https://mirror/key", ["3:580.95.05-1.el9", "3:580.95.05-1.el9"])
    assert "includepkgs=*-3:580.95.05-1.el9.*\n" in text
    assert "gpgcheck=1\n" in text


def test_os_release() -> None:
    text = 'ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\nPRETTY_NAME="Debian GNU/Linux 12"\n'
    assert repositories.distribution(text, "x86_64") == BOOKWORM


def test_errors_of_apt_name_the_place() -> None:
    with pytest.raises(RepositoryError, match="apt cannot read http://mirror: E: refused"):
        repositories.ask_apt(
            lambda argv: (100, "", "E: refused\n"), [Source("http://mirror", "bookworm", ("main",))], "x86_64"
        )
