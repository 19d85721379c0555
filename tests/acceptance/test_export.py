"""What is on a node, written down by whoever it belongs to, is built again with the same files."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from acceptance import cluster

ENVS = "/opt/envfleet/envs"
TOOLS = {"name": "tools", "lock": "envs/tools/conda-lock.yml"}
MINE = "/home/alice/.conda/envs/mine"
# What alice does in a login shell: conda packages, a variable, and a wheel of her own.
WHEEL = """
import zipfile
with zipfile.ZipFile("byhand-1.0-py3-none-any.whl", "w") as wheel:
    wheel.writestr("byhand.py", "def main(): print('by hand')")
    info = "byhand-1.0.dist-info/"
    wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: byhand\\nVersion: 1.0\\n")
    wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
    wheel.writestr(info + "entry_points.txt", "[console_scripts]\\nbyhand = byhand:main\\n")
    wheel.writestr(info + "RECORD", "".join(name + ",,\\n" for name in wheel.namelist()))
"""
MAKE = f"""
set -e
cd
conda create -y -q -n mine python=3.10 pip
conda install -y -q -n mine 'numpy>=1.20'
python3 -c {shlex.quote(WHEEL)}
~/.conda/envs/mine/bin/python -m pip install -q --no-index ./byhand-1.0-py3-none-any.whl
"""
# Runs on the node: the sha256 of all that packages and wheels have put into each prefix, the prefix left out, and for a
# link where it leads to. What differs by nature is left out: byte code, and what pip notes of how it was called.
LISTING = """
import glob, hashlib, json, os, re, sys
def told(prefix, path):
    full = os.path.join(prefix, path)
    if os.path.islink(full):
        return "-> " + os.readlink(full)
    data = open(full, "rb").read().replace(prefix.encode(), b"@")
    return hashlib.sha256(re.sub(rb"(@[^\\0]*)\\0+", rb"\\1\\0", data) if b"\\0" in data else data).hexdigest()
def listed(prefix):
    for record in map(json.load, map(open, glob.glob(prefix + "/conda-meta/*.json"))):
        yield from record["files"]
    for record in glob.glob(prefix + "/lib/python3.*/site-packages/*.dist-info/RECORD"):
        for row in open(record):
            yield os.path.relpath(os.path.join(os.path.dirname(record), "..", row.split(",")[0]), prefix)
found = {}
for prefix in sys.argv[1:]:
    real = os.path.realpath(prefix)
    paths = {path for path in listed(real) if not re.search(r"\\.pyc$|/direct_url.json$|dist-info/RECORD$", path)}
    found[prefix] = {path: told(real, path) for path in sorted(paths)}
print(json.dumps(found))
"""


def contents(*prefixes: str) -> list[dict[str, str]]:
    """What is in each of *prefixes* on the node."""
    shown = cluster.on_node(f"/usr/bin/python3 -c {shlex.quote(LISTING)} {' '.join(prefixes)}").stdout
    found: dict[str, dict[str, str]] = json.loads(shown)
    return [found[prefix] for prefix in prefixes]


def export(dest: str, *, user: str = "root", **options: Any) -> str:
    """Have the module write *dest* on the node as *user*, and say what is in it."""
    ansible = [str(Path(sys.executable).with_name("ansible")), "-i", str(cluster.INVENTORY / "hosts.yml"), cluster.NODE]
    module = ["-m", "envfleet.gpu_cluster.conda_env_export", "-a", json.dumps({**options, "dest": dest})]
    done = subprocess.run(
        [*ansible, "-e", f"ansible_user={user}", *module], cwd=cluster.ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return cluster.on_node(f"cat {dest}", user=user).stdout


def site(*environments: Mapping[str, Any]) -> None:
    """Bring the node to these environments beside its own."""
    code, output = cluster.playbook("site", "-e", json.dumps({"conda_envs_shared": [TOOLS, *environments]}))
    assert code == 0, output


@pytest.fixture
def cleaned_up() -> Iterator[None]:
    """Afterwards the node has nothing but its own environments."""
    yield
    gone = " ".join(f"/opt/envfleet/*/{name}" for name in ("copy", "listed", "mine"))
    cluster.on_node(f"rm -rf {gone} ~alice/.conda/envs/* ~alice/*.yml ~alice/*.txt ~alice/*.whl")


@pytest.mark.usefixtures("converged_node", "cleaned_up")
def test_what_a_user_has_made_becomes_a_shared_environment(tmp_path: Path) -> None:
    cluster.on_node(f"bash -lc {shlex.quote(MAKE)}", user="alice")
    spec = yaml.safe_load(export("~/environment.yml", user="alice", path="~/.conda/envs/mine", from_history=True))
    assert spec["name"] == "mine"
    assert spec["channels"] == [cluster.lab_variables()["gpu_cluster_channels"][0]]
    assert [re.split("[=>[]", one)[0] for one in spec["dependencies"][:-1]] == ["python", "pip", "numpy"]
    assert spec["dependencies"][-1] == {"pip": ["byhand==1.0"]}

    lock = tmp_path / "conda-lock.yml"
    lock.write_text(export("~/conda-lock.yml", user="alice", path="~/.conda/envs/mine", format="conda-lock"))
    site({"name": "mine", "lock": str(lock), "smoke_test": ["byhand"]})
    hers, shared = contents(MINE, f"{ENVS}/mine")
    assert shared == hers
    assert {"bin/byhand", "lib/python3.10/site-packages/byhand.py", "bin/python3.10"} <= hers.keys()
    assert len(hers) > 1000
    shown = cluster.on_node(f"{ENVS}/mine/bin/python -c 'import numpy, byhand; byhand.main()'", user="alice").stdout
    assert shown == "by hand\n"


@pytest.mark.usefixtures("converged_node", "cleaned_up")
def test_a_shared_environment_is_built_again_from_each_format(tmp_path: Path) -> None:
    formats = {"copy": ("conda-lock", "conda-lock.yml"), "listed": ("explicit", "explicit.txt")}
    for form, file in formats.values():
        (tmp_path / file).write_text(export(f"/tmp/{file}", name="tools", format=form))
    site(*({"name": name, "lock": str(tmp_path / file)} for name, (_form, file) in formats.items()))
    export("~/environment.yml", user="alice", name="tools")
    cluster.on_node("bash -lc 'conda env create -y -q -n again -f ~/environment.yml'", user="alice")

    original, *copies = contents(*(f"{ENVS}/{name}" for name in ("tools", *formats)), "/home/alice/.conda/envs/again")
    assert copies == [original] * 3
    assert len(original) > 1000
    # One that was built anew for its damage has a number behind its identifier.
    links = [cluster.on_node(f"readlink {ENVS}/{name}").stdout.strip() for name in ("tools", *formats)]
    ids = {Path(link).name.partition("-")[0] for link in links}
    assert len(ids) == 1  # the same identity: all were made from the same packages
