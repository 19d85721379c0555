"""Three frameworks side by side on one node, as the example inventory has them, each with its own CUDA and numpy.

The lab has stand-ins for their packages (see tests/lab/frameworks.py). The numpy are real.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.locks import from_conda_lock

from acceptance import cluster

EXAMPLE = cluster.ROOT / "inventory" / "example"
SHOW = "import {module}, numpy; print({module}.__version__, numpy.__version__, {module}.lab_standin())"
# Module, version and numpy of each environment.
FRAMEWORKS = {
    "pytorch": ("torch", "2.0.0", "1.26.4"),
    "tensorflow": ("tensorflow", "2.12.1", "1.23.5"),
    "jax": ("jax", "0.6.2", "2.2.6"),
}
LABELS = {
    "pytorch": ("cudatoolkit 11.8.0", "cudnn 8.9.7.29", "pytorch 2.0.0 cuda118"),
    "tensorflow": ("cudatoolkit 11.8.0", "cudnn 8.8.0.121", "tensorflow 2.12.1 cuda112"),
    "jax": ("cuda-version 12.9", "cudnn 9.10.1.4", "jaxlib 0.6.2 cuda129"),
}


class Site:
    """The example's variables and specs, in a directory of its own, with the lab's channel for conda-forge."""

    def __init__(self, directory: Path) -> None:
        lab = cluster.lab_variables()
        # The mirror has one address for this machine and another for the nodes.
        self.here, self.there = (f"{lab[key]}/lab" for key in ("lab_mirror_host_url", "lab_mirror_url"))
        self.directory = directory
        shutil.copytree(EXAMPLE / "envs", directory / "envs")
        for spec in directory.glob("envs/*/environment.yml"):
            text = spec.read_text()
            assert text.count("  - conda-forge\n") == 1
            spec.write_text(text.replace("  - conda-forge\n", f"  - {self.here}\n"))
        content: dict[str, Any] = yaml.safe_load((EXAMPLE / "group_vars" / "gpu_nodes.yml").read_text())
        self.environments = content["conda_envs_shared"]
        # The lab's Python is made for the glibc of its nodes.
        self.virtual_packages = {**content["conda_envs_lock_virtual_packages"], "__glibc": "2.36"}

    @property
    def locks(self) -> dict[str, Path]:
        """Where the lock of each environment is, or will be."""
        return {environment["name"]: self.directory / environment["lock"] for environment in self.environments}

    def lock(self, **virtual_packages: str) -> tuple[int, str]:
        """Lock all three, with `virtual_packages` in the place of what the example declares."""
        variables = {
            "conda_envs_locks_dir": str(self.directory),
            "conda_envs_shared": self.environments,
            "gpu_cluster_channels": [self.here],
            "conda_envs_lock_virtual_packages": {**self.virtual_packages, **virtual_packages},
        }
        code, output = cluster.playbook("lock", "--diff", "--extra-vars", json.dumps(variables))
        return code, output

    def playbook(self, name: str, **more: str) -> tuple[int, str]:
        """Run a playbook with the three for all shared environments."""
        variables = {"conda_envs_locks_dir": str(self.directory), "conda_envs_shared": self.environments}
        return cluster.playbook(name, "--extra-vars", json.dumps(variables | more))


@pytest.fixture(scope="module")
def site(converged_node: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The three, locked; what the tests have put on the node goes afterwards."""
    if not str(cluster.lab_variables()["lab_python"]).startswith("3.10."):
        pytest.skip("the lab has stand-ins for frameworks for Python 3.10 alone, and this machine has none")
    site = Site(tmp_path_factory.mktemp("frameworks"))
    code, output = site.lock()
    assert code == 0, output
    for lock in site.locks.values():
        lock.write_text(lock.read_text().replace(site.here, site.there))
    yield site
    gone = [{"name": environment["name"], "state": "absent"} for environment in site.environments]
    code, output = cluster.playbook("site", "--extra-vars", json.dumps({"conda_envs_shared": gone}))
    assert code == 0, output


def test_one_run_installs_them_and_a_second_changes_nothing(site: Site) -> None:
    code, output = site.playbook("site")
    assert code == 0, output
    before = cluster.snapshot()
    code, output = site.playbook("site")
    assert code == 0, output
    assert re.search(rf"^{cluster.NODE} .* changed=0 ", output, re.MULTILINE), output
    assert f"{cluster.NODE}: remote module executions: 1\n" in output
    code, output = site.playbook("site", conda_envs_verify="full")
    assert code == 0, output
    assert re.search(rf"^{cluster.NODE} .* changed=0 ", output, re.MULTILINE), output
    assert cluster.snapshot() == before
    for name, (module, version, numpy) in FRAMEWORKS.items():
        prefix = f"/opt/envfleet/envs/{name}"
        shown = cluster.on_node(f"{prefix}/bin/python -c '{SHOW.format(module=module)}'", user="alice").stdout
        assert shown.startswith(f"{version} {numpy} A stand-in for ")
        for other, *_versions in FRAMEWORKS.values():
            # TensorFlow brings a JAX along, which is not that of the environment jax.
            found = cluster.on_node(f"{prefix}/bin/python -c 'import {other}; print({other}.__version__)'", check=False)
            assert (found.stdout.strip() == FRAMEWORKS[name][1]) == (other == module)


def test_each_lock_has_its_own_cuda(site: Site) -> None:
    numpys = set()
    for name, path in site.locks.items():
        labels = from_conda_lock(yaml.safe_load(path.read_text()), str(path))["linux-64"].labels.values()
        for wanted in LABELS[name]:
            assert any(label.startswith(wanted) for label in labels), (wanted, labels)
        numpys |= {label for label in labels if label.startswith("numpy ")}
    assert len(numpys) == len(FRAMEWORKS)


def test_they_cannot_be_one_environment(site: Site) -> None:
    """What the versions conflict about is why there are three."""
    specs = [yaml.safe_load((site.locks[name].parent / "environment.yml").read_text()) for name in FRAMEWORKS]
    together = {**specs[0], "dependencies": [wanted for spec in specs for wanted in spec["dependencies"]]}
    folder = site.directory / "envs" / "together"
    folder.mkdir()
    (folder / "environment.yml").write_text(yaml.safe_dump(together))
    alone = site.environments
    site.environments = [
        {"name": "together", "spec": "envs/together/environment.yml", "lock": "envs/together/conda-lock.yml"}
    ]
    try:
        code, output = site.lock()
    finally:
        site.environments = alone
    assert code != 0
    assert "Cannot solve the request" in output
    assert not (folder / "conda-lock.yml").exists()


@pytest.mark.parametrize(
    ("declared", "refused"), [("", ("pytorch", "tensorflow", "jax")), ("11.8", ("jax",))], ids=["no GPU", "CUDA 11"]
)
def test_nodes_that_cannot_run_them_cannot_have_them_locked(
    site: Site, tmp_path: Path, declared: str, refused: tuple[str, ...]
) -> None:
    elsewhere = Site(tmp_path / "site")
    code, output = elsewhere.lock(__cuda=declared)
    said = " ".join(output.replace("\\n", " ").split())
    assert code != 0
    for name in FRAMEWORKS:
        assert (re.search(rf"{name}: \S+/envs/{name}/environment.yml: linux-64: ", said) is not None) == (
            name in refused
        )
        assert elsewhere.locks[name].exists() == (name not in refused)
    assert ("__cuda *, for which no candidates were found" if not declared else "__cuda >=12") in said
    assert "declare what the nodes have in virtual_packages" in said
