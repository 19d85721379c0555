"""The driver from Debian's real archive, on a node that sees two A100 on its PCI bus and has no kernel of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from acceptance import cluster

HOSTS = "driver.yml"
NODE = "driver-1"
PLAY = "../tests/acceptance/plays/driver"
WANTED = {"nvidia_driver_branch": "535", "nvidia_driver_allow_end_of_life": True, "nvidia_driver_headers": False}
BUILD_SECONDS = 2400
# The newest version of each kernel module in the archive, asked for beside what apt on the node knows.
_OFFERED = """
directory=$(mktemp -d)
mkdir $directory/lists
sed -n 's| main$| contrib non-free|p' /etc/apt/sources.list /etc/apt/sources.list.d/security.list >$directory/list
options="-o Dir::Etc::SourceList=$directory/list -o Dir::Etc::SourceParts=/dev/null"
options="$options -o Dir::State::Lists=$directory/lists -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache="
apt-get -qq $options update >&2
for name in nvidia-open-kernel-dkms nvidia-kernel-dkms; do apt-cache $options madison $name | head -n 1; done
"""
# All that the role may touch, with the state of each package.
_STATE = (
    "find /etc -newer /tmp/begin; find /etc/apt -type f -exec sha256sum {} +;"
    " dpkg-query -W -f '${Package} ${Version} ${db:Status-Status}\\n'"
)


@pytest.fixture(scope="module")
def node() -> Iterator[None]:
    """A node with Debian's main archive and its security updates, as the installer leaves it."""
    cluster.lab("up", "--fresh", "--inventory", str(cluster.INVENTORY / HOSTS))
    on_node(
        "sed -n 's|^deb \\(.*\\)/* bookworm main$|deb \\1-security bookworm-security main|p' /etc/apt/sources.list"
        " >/etc/apt/sources.list.d/security.list; test -s /etc/apt/sources.list.d/security.list; touch /tmp/begin"
    )
    yield
    cluster.lab("down", "--inventory", str(cluster.INVENTORY / HOSTS))


class Offers(NamedTuple):
    """NVIDIA's newest versions in the archive, as each flavour of the kernel module has them."""

    open: str
    proprietary: str


@pytest.fixture(scope="module")
def offers(node: None) -> Offers:
    """Of Debian 12, which has them apart: the open module stayed behind what security updates brought."""
    found = [line.split()[2].partition("-")[0] for line in on_node(_OFFERED).splitlines()]
    if found[0] == found[1]:
        pytest.skip(f"the archive has both kernel modules at {found[0]}")
    return Offers(*found)


def on_node(command: str) -> str:
    """What a shell command prints on the node."""
    return cluster.on_node(f"set -e; {command}", node=NODE).stdout


def play(*arguments: str, **variables: object) -> tuple[int, str]:
    """Run the role, and the look after it: the exit code, and what was printed."""
    given = json.dumps({**WANTED, **variables})
    process = cluster.start_playbook(PLAY, "--extra-vars", given, *arguments, hosts=HOSTS)
    output, _nothing = process.communicate(timeout=BUILD_SECONDS)
    return process.returncode, output


def versions(*names: str) -> set[str]:
    """The versions of those packages, all of which must be installed."""
    shown = on_node(f"dpkg-query -W -f '${{db:Status-Status}} ${{Version}}\\n' {' '.join(names)}").splitlines()
    assert {line.split()[0] for line in shown} == {"installed"}, shown
    return {line.split()[1].partition("-")[0] for line in shown}


def differences(output: str) -> list[str]:
    """What the look after the role found, each as a line with its fix behind."""
    return re.findall(r"differs: (.*?\((?:auto|drain|human)\))", " ".join(output.split()))


def unchanged(output: str) -> bool:
    """Whether the run changed nothing."""
    return bool(re.search(rf"^{NODE} .* changed=0 .* failed=0 ", output, re.MULTILINE))


def test_what_cannot_work_is_refused_before_any_change(offers: Offers) -> None:
    before = on_node(_STATE)
    refusals: dict[str, dict[str, object]] = {
        "NVIDIA has ended branch 535 in 2026-06": {"nvidia_driver_allow_end_of_life": False},
        f"nvidia-open-kernel-dkms is not offered at this version, but at {offers.open}": {
            "nvidia_driver_version": offers.proprietary,
            "nvidia_driver_flavour": "open",
        },
        "does not offer branch 580": {"nvidia_driver_branch": "580"},
    }
    for reason, variables in refusals.items():
        code, output = play(**variables)
        assert code != 0
        assert reason in " ".join(output.split()), output
    code, output = play("--check", "--diff")
    assert code == 0, output
    assert re.search(rf"^\+libcuda1 {offers.proprietary}-", output, re.MULTILINE), output
    assert on_node(_STATE) == before


def test_pins_keep_the_open_module_and_the_rest_together(offers: Offers) -> None:
    """Debian 12 has the open module at an older version than the newest driver, and no set of both."""
    code, output = play(nvidia_driver_flavour="open")
    assert code == 0, output
    names = ("nvidia-open-kernel-dkms", "libcuda1", "nvidia-smi", "libnvidia-ml1", "firmware-nvidia-gsp")
    assert versions(*names) == {offers.open}
    # Nothing was built, and the role says so; all else is as wanted.
    (difference,) = differences(output)
    assert re.fullmatch(r"driver: kernel module for \S+: not built: its headers are absent .* \(human\)", difference)

    code, output = play(nvidia_driver_flavour="open")
    assert code == 0, output
    assert unchanged(output), output

    # An upgrade, attended or not, leaves all of it alone, although the archive has newer ones.
    assert offers.proprietary in on_node("apt-cache madison libcuda1")
    assert "nvidia" not in on_node("apt-get --simulate dist-upgrade | grep ^Inst || true")


def test_the_other_flavour_and_its_version_come_in_one_transaction(offers: Offers) -> None:
    code, output = play(nvidia_driver_version=offers.proprietary, nvidia_driver_flavour="proprietary")
    assert code == 0, output
    assert versions("nvidia-kernel-dkms", "libcuda1", "nvidia-smi", "firmware-nvidia-gsp") == {offers.proprietary}
    assert "installed" not in on_node("dpkg-query -W -f '${db:Status-Status}\\n' nvidia-open-kernel-dkms || true")
    code, output = play(nvidia_driver_version=offers.proprietary, nvidia_driver_flavour="proprietary")
    assert code == 0, output
    assert unchanged(output), output


@pytest.mark.slow
@pytest.mark.parametrize("flavour", ["proprietary", "open"])
def test_dkms_builds_the_module_for_the_kernel_that_will_boot(flavour: str, offers: Offers) -> None:
    """The kernel itself is not there, for a container boots none. Its name and its headers are.

    The open module of Debian 12 cannot be built for the kernels of Debian's security updates from 6.1.0-53 on, where
    pci_resize_resource has one more argument. So that one is built for the oldest kernel that is offered by default.
    """
    version: str = getattr(offers, flavour)
    # DKMS builds for every kernel that has headers.
    on_node("apt-get -qq --yes purge '?name(^linux-headers-)' 2>&1; rm -f /boot/vmlinuz-* /boot/config-*")
    on_node("apt-get -qq update")
    shown = on_node(
        "apt-cache show linux-headers-amd64 | sed -n 's/^Depends: linux-headers-\\([^ ]*\\).*/\\1/p'"
    ).split()
    kernel = {"proprietary": shown[0], "open": shown[-1]}[flavour]
    on_node(f"touch /boot/vmlinuz-{kernel} /boot/config-{kernel}")
    given = {
        "nvidia_driver_version": version,
        "nvidia_driver_flavour": flavour,
        "nvidia_driver_headers": True,
        "nvidia_driver_headers_packages": [f"linux-headers-{kernel}"] if flavour == "open" else [],
    }
    code, output = play(**given)
    assert code == 0, output
    module = on_node(
        f"find /lib/modules/{kernel}/updates -name 'nvidia-current*.ko*' | grep -E '/nvidia-current(-open)?[.]ko'"
    )
    assert on_node(f"/usr/sbin/modinfo -F version {module}").strip() == version
    assert on_node("readlink -e /usr/lib/x86_64-linux-gnu/libcuda.so.1").strip().endswith(f"libcuda.so.{version}")
    licence = on_node(f"/usr/sbin/modinfo -F license {module}").strip()
    assert licence == {"open": "Dual MIT/GPL", "proprietary": "NVIDIA"}[flavour]
    # Only the kernel that runs here, which is not Debian's, is still to be left.
    (difference,) = differences(output)
    assert f"has no module, but {kernel} has" in difference
    code, output = play(**given)
    assert code == 0, output
    assert unchanged(output), output
