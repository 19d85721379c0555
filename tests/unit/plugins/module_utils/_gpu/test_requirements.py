"""What a lock says of the CUDA that it needs, in all the ways that packages have to say it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.locks import (
    Lock,
    Package,
    Wheel,
    from_conda_lock,
    from_explicit,
    from_pixi_lock,
)
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._gpu.requirements import (
    Requirements,
    lowest,
    of_lock,
)

CORPUS = Path(__file__).resolve().parents[4] / "corpus" / "locks"
CHANNEL = "https://conda.anaconda.org/conda-forge/linux-64"
SUM = "a" * 64


def lock(*files: str) -> Lock:
    """A lock of packages and wheels, given by the names of their files."""
    packages = [Package.from_url(f"{CHANNEL}/{file}.conda", SUM) for file in files if not file.endswith(".whl")]
    wheels = [Wheel.from_url(f"https://example.org/{file}", SUM) for file in files if file.endswith(".whl")]
    return Lock("linux-64", tuple(packages), tuple(wheels))


def cuda(needs: Requirements) -> str:
    return needs.toolkit.cuda if needs.toolkit else ""


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("cuda-version-12.4-h3060b56_3", "12.4"),
        ("cudatoolkit-11.8.0-h4ba93d1_13", "11.8.0"),
        ("cudatoolkit-11.0.3-h15472ef_8", "11.0.3"),
        ("cudatoolkit-11.0.221-h6bb024c_0", "11.0"),  # the number of a build, and no update
        ("cudatoolkit-10.2.89-h713d32c_10", "10.2"),
        ("cuda-runtime-12.4.1-ha804496_0", "12.4.1"),
        ("cuda-toolkit-12.9.1-h8c9d5b6_0", "12.9.1"),
        ("cuda-cudart-12.4.127-he02047a_2", "12.4"),
        ("cuda-cudart_linux-64-12.4.127-h85509e4_2", "12.4"),
        ("pytorch-cuda-12.1-ha16c6d3_6", "12.1"),
        ("pytorch-2.0.0-cuda118py310hb9d8fb4_304", "11.8"),
        ("pytorch-2.7.1-cuda129_mkl_py312_h7c3fb8d_300", "12.9"),
        ("pytorch-2.1.0-py3.10_cuda12.1_cudnn8.9.2_0", "12.1"),
        ("torchvision-0.15.2-py310_cu118", "11.8"),
        ("jaxlib-0.4.14-cuda112py310h9ae5f0e_201", "11.2"),
        ("cupy-4.1.0-py36_cuda92_0", "9.2"),
        ("pytorch-2.0.0-cpu_mkl_py310h5dcb1f1_104", ""),
        ("gromacs-2024.1-nompi_cuda_103", ""),  # the number of the build
        ("cudnn-8.9.7.29-hbc23b4c_3", ""),  # its own version, not CUDA's
        ("libcublas-12.4.5.8-he02047a_2", ""),
        ("nccl-2.19.3.1-h6103f9b_1", ""),
        ("numpy-1.26.4-py310hb13e2d6_0", ""),
        ("torch-2.1.0+cu118-cp310-cp310-linux_x86_64.whl", "11.8"),
        ("torch-2.6.0+cpu-cp310-cp310-linux_x86_64.whl", ""),
        ("torch-2.6.0-cp310-cp310-manylinux1_x86_64.whl", ""),
        ("jaxlib-0.4.13+cuda12.cudnn89-cp310-cp310-manylinux2014_x86_64.whl", "12"),
        ("nvidia_cuda_runtime_cu12-12.4.127-py3-none-manylinux2014_x86_64.whl", "12.4"),
        ("nvidia_cuda_runtime_cu11-11.8.89-py3-none-manylinux1_x86_64.whl", "11.8"),
        ("nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_x86_64.whl", "13.0"),
        ("nvidia_cuda_runtime-0.0.1a1-py3-none-any.whl", ""),  # a placeholder
        ("nvidia_cudnn_cu12-9.1.0.70-py3-none-manylinux2014_x86_64.whl", "12"),
        ("jax_cuda12_plugin-0.6.2-cp310-cp310-manylinux2014_x86_64.whl", "12"),
        ("cupy_cuda12x-13.4.1-cp310-cp310-manylinux2014_x86_64.whl", "12"),
        ("cupy_cuda118-10.6.0-cp310-cp310-manylinux1_x86_64.whl", "11.8"),
        ("cudf_cu12-25.6.0-cp310-cp310-manylinux_2_24_x86_64.whl", "12"),
        ("cuda_toolkit-13.0.2-py2.py3-none-any.whl", "13.0.2"),
    ],
)
def test_what_one_package_tells(file: str, expected: str) -> None:
    assert cuda(of_lock(lock(file))) == expected


def test_the_highest_decides_and_tells_who_asked() -> None:
    needs = of_lock(
        lock(
            "tensorflow-2.12.1-cuda112py310h457873b_1",
            "cudatoolkit-11.8.0-h4ba93d1_13",
            "nvidia_cudnn_cu11-8.9.6.50-py3-none-manylinux1_x86_64.whl",
        )
    )
    assert needs.toolkit
    assert needs.toolkit.text() == "CUDA 11.8.0 (cudatoolkit 11.8.0 h4ba93d1_13)"
    assert needs.forward is None


def test_libraries_of_a_newer_driver_are_no_need() -> None:
    needs = of_lock(lock("cuda-compat-12.4.1-hbc23b4c_0"))
    assert (needs.toolkit, needs.bound) == (None, None)
    assert needs.forward
    assert needs.forward.cuda == "12.4.1"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("", ""),
        ("*", ""),
        (">=12", "12"),
        (">=12.4,<13.0a0", "12.4"),
        ("12.*", "12"),
        ("==11.8", "11.8"),
        (">=11.2.162", "11.2.162"),
        ("<13", ""),
        (">=12.2|>=11.8", "11.8"),
        (">=12.2|<11", ""),
    ],
)
def test_the_lowest_that_a_dependency_lets_through(spec: str, expected: str) -> None:
    assert lowest(spec) == expected


ENTRY = f"""
- name: NAME
  manager: conda
  platform: linux-64
  version: "1.0"
  url: {CHANNEL}/NAME-1.0-0.conda
  hash: {{sha256: {SUM}}}
  dependencies: DEPENDENCIES
"""


def test_what_packages_of_a_conda_lock_demand_of_the_driver() -> None:
    entries = ENTRY.replace("NAME", "one").replace("DEPENDENCIES", "{__cuda: '>=12.4', python: ''}")
    entries += ENTRY.replace("NAME", "two").replace("DEPENDENCIES", "{__cuda: '*', __cudax: '>=13'}")
    found = from_conda_lock({"version": 1, "package": yaml.safe_load(entries)}, "lock")["linux-64"]
    assert found.cuda == (("one 1.0 0", ">=12.4"), ("two 1.0 0", "*"))
    needs = of_lock(found)
    assert needs.toolkit is None
    assert needs.bound
    assert (needs.bound.cuda, needs.bound.package) == ("12.4", "one 1.0 0")
    # It changes nothing of what is installed.
    assert found.identity == Lock("linux-64", found.packages).identity


def test_what_packages_of_a_pixi_lock_demand_of_the_driver() -> None:
    url = f"{CHANNEL}/cuda-version-12.9-h4f385c5_3.conda"
    document = {
        "version": 6,
        "environments": {"default": {"channels": [], "packages": {"linux-64": [{"conda": url}]}}},
        "packages": [{"conda": url, "sha256": SUM, "constrains": ["cudatoolkit 12.9|12.9.*", "__cuda >=12"]}],
    }
    needs = of_lock(from_pixi_lock(document, "lock")["linux-64"])
    assert needs.toolkit
    assert needs.bound
    assert (needs.toolkit.cuda, needs.bound.cuda) == ("12.9", "12")
    assert needs.highest == needs.toolkit


def test_a_lock_that_others_have_made() -> None:
    text = (CORPUS / "conda-lock-cuda.txt").read_text()
    needs = of_lock(from_explicit(text, "lock")["linux-64"])
    assert needs.highest
    assert needs.highest.text() == "CUDA 11.0.3 (cudatoolkit 11.0.3 h15472ef_8)"


@pytest.mark.parametrize("name", ["mamba-explicit.txt", "snakemake-faidx.txt", "mamba-zlib.conda-lock.yml"])
def test_locks_of_others_without_cuda_need_nothing(name: str) -> None:
    text = (CORPUS / name).read_text()
    locks = from_explicit(text, name) if name.endswith(".txt") else from_conda_lock(yaml.safe_load(text), name)
    assert locks
    assert {of_lock(one) for one in locks.values()} == {Requirements()}
