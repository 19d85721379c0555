"""A shared environment taken along to a place that knows nothing of this collection."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from acceptance import cluster

ARCHIVE = "/srv/tools.tar.gz"
USE = """
set -eu
mkdir -p ~/taken/along && tar -xzf /srv/tools.tar.gz -C ~/taken/along
cd / && . ~/taken/along/bin/activate && conda-unpack
python -c 'import requests, ssl, sys; print(sys.prefix)'
pip --version
grep -rl -e /opt/envfleet/generations ~/taken/along --exclude-dir=conda-meta --exclude=conda-unpack || echo clean
"""


def pack() -> str:
    """Run the module on the node, and tell whether it changed something."""
    ansible = [str(Path(sys.executable).with_name("ansible")), "-i", str(cluster.INVENTORY / "hosts.yml"), cluster.NODE]
    module = ["-m", "envfleet.gpu_cluster.conda_env_archive", "-a", f"name=tools dest={ARCHIVE}"]
    done = subprocess.run([*ansible, *module], cwd=cluster.ROOT, capture_output=True, text=True, check=True)
    return done.stdout.split()[2]


@pytest.mark.usefixtures("converged_node")
def test_a_person_uses_it_without_conda_and_without_the_shared_environments() -> None:
    cluster.on_node(f"rm -f {ARCHIVE}")
    assert (pack(), pack()) == ("CHANGED", "SUCCESS")
    cluster.on_node("mv /opt/envfleet /opt/away && rm -rf ~alice/taken")
    try:
        shown = cluster.on_node(f"bash -c {shlex.quote(USE)}", user="alice").stdout.splitlines()
    finally:
        cluster.on_node("mv /opt/away /opt/envfleet; rm -rf ~alice/taken")
    assert shown[0] == "/home/alice/taken/along"
    assert shown[1].startswith("pip ")
    assert "/home/alice/taken/along/lib/python3.10" in shown[1]
    assert shown[2] == "clean"
