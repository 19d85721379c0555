"""The stand-ins for frameworks: what they say of themselves, and what a solver makes of the examples with them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from lab.channel import write_repodata
from lab.frameworks import read_standins, write_standin
from lab.packages import read_index
from lab.python_package import Interpreter

from .conftest import tiny
from .test_packages import info, members

PYTHON = Interpreter(Path("/nowhere/bin/python3.10"), "3.10.13", Path("/nowhere"))
EXAMPLES = Path(__file__).resolve().parents[3] / "inventory" / "example" / "envs"
# Beside the stand-ins, the channel has real wheels of these.
WHEELS = {
    "ipykernel": ["7.3.0"],
    "ml_dtypes": ["0.5.4"],
    "numpy": ["1.23.5", "1.26.4", "2.2.6"],
    "opt_einsum": ["3.4.0"],
    "packaging": ["26.3"],
    "scipy": ["1.15.3"],
    "six": ["1.17.0"],
    "typing_extensions": ["4.5.0", "4.16.0"],
}
# A process of its own, because the interpreter can die at exit after py-rattler has worked.
SOLVE = """
import asyncio, json, os, sys
import rattler

channel, cache, cuda, *specs = sys.argv[1:]
virtual = {"__glibc": "2.36", "__linux": "5.10", "__unix": "0"} | ({"__cuda": cuda} if cuda else {})
try:
    records = asyncio.run(rattler.solve(
        sources=[channel],
        specs=[rattler.MatchSpec(spec) for spec in specs],
        gateway=rattler.Gateway(cache_dir=cache),
        platforms=["linux-64", "noarch"],
        virtual_packages=[
            rattler.GenericVirtualPackage(
                rattler.PackageName(name), rattler.Version(version), rattler.BuildString("0")
            )
            for name, version in virtual.items()
        ],
    ))
except Exception as error:
    print(json.dumps(str(error)), flush=True)
else:
    found = {record.name.normalized: f"{record.version} {record.build}" for record in records}
    print(json.dumps(found), flush=True)
os._exit(0)
"""


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stand-ins, and what else they need."""
    pytest.importorskip("rattler", reason="py-rattler is what solves in these tests")
    directory = tmp_path_factory.mktemp("frameworks") / "channel"
    tiny(directory, "python", "3.10.13", noarch=None, build="0_cpython")
    for name, versions in WHEELS.items():
        for version in versions:
            tiny(directory, name, version, "python >=3.10")
    for standin in read_standins():
        write_standin(directory, standin, PYTHON)
    write_repodata(directory)
    return directory


def solve(channel: Path, specs: Sequence[str], cuda: str) -> dict[str, str] | str:
    """Version and build of each package, or what the solver says; `cuda` is the declared `__cuda`, if any."""
    command = [sys.executable, "-c", SOLVE, channel.as_uri(), str(channel.parent / "cache"), cuda, *specs]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    answer: dict[str, str] | str = json.loads(done.stdout)
    return answer


def example(name: str) -> list[str]:
    """The dependencies of an example."""
    content = yaml.safe_load((EXAMPLES / name / "environment.yml").read_text())
    assert content["channels"] == ["conda-forge"]
    return [str(dependency) for dependency in content["dependencies"]]


def test_every_standin_says_that_it_is_one(tmp_path: Path) -> None:
    for standin in read_standins():
        package = write_standin(tmp_path, standin, PYTHON)
        index = read_index(package)
        head, _star, tail = standin.build.partition("*")
        assert index["build"].startswith(head)
        assert index["build"].endswith(tail)
        assert index["build_number"] == int(standin.build.rpartition("_")[2])
        assert "stand-in" in info(package, "about.json")["summary"]
        note = members(package, "pkg")[f"share/envfleet-lab/{standin.name}.txt"]
        assert isinstance(note, bytes)
        assert b"none of its content" in note


def test_a_dependency_more_gives_another_build(tmp_path: Path) -> None:
    one, *_others = read_standins()
    more = type(one)(**{**vars(one), "depends": ["six"]})
    assert write_standin(tmp_path, one, PYTHON).name != write_standin(tmp_path, more, PYTHON).name


def test_the_modules_have_the_version_and_no_substance(tmp_path: Path) -> None:
    found = {}
    for number, standin in enumerate(standin for standin in read_standins() if standin.module):
        package = write_standin(tmp_path / str(number), standin, PYTHON)
        files = members(package, "pkg")
        place = "site-packages" if standin.noarch else PYTHON.site_packages
        source = files[f"{place}/{standin.module}.py"]
        assert isinstance(source, bytes)
        module: dict[str, object] = {"__name__": standin.module}
        exec(source.decode(), module)
        assert module["__version__"] == standin.version
        assert "stand-in" in str(module["__doc__"])
        metadata = files[f"{place}/{standin.module}-{standin.version}.dist-info/METADATA"]
        assert isinstance(metadata, bytes)
        assert f"Name: {standin.module}\nVersion: {standin.version}\n".encode() in metadata
        found[standin.build] = getattr(module.get("version"), "cuda", "not said")
    assert found["cuda118py310h*_304"] == "11.8"
    assert found["cpu_mkl_py310h*_104"] is None


@pytest.mark.parametrize(
    ("name", "cuda", "wanted"),
    [
        (
            "pytorch",
            "11.8",
            {"pytorch": "2.0.0 cuda118", "cudatoolkit": "11.8.0", "cudnn": "8.9.7", "numpy": "1.26.4", "jax": ""},
        ),
        (
            "tensorflow",
            "11.8",
            {
                "tensorflow": "2.12.1 cuda112",
                "cudatoolkit": "11.8.0",
                "cudnn": "8.8.0",
                "numpy": "1.23.5",
                "jax": "0.4",
            },
        ),
        (
            "jax",
            "12.2",
            {"jaxlib": "0.6.2 cuda129", "cuda-version": "12.9", "cudnn": "9.10.1", "numpy": "2.2.6", "cudatoolkit": ""},
        ),
    ],
)
def test_each_example_gets_its_own_cuda_and_numpy(name: str, cuda: str, wanted: dict[str, str], channel: Path) -> None:
    found = solve(channel, example(name), cuda)
    assert isinstance(found, dict), found
    for package, version in wanted.items():
        assert found.get(package, "").startswith(version)
        assert bool(version) == (package in found)


@pytest.mark.parametrize("name", ["pytorch", "tensorflow", "jax"])
def test_without_a_declared_cuda_no_example_can_be_solved(name: str, channel: Path) -> None:
    said = solve(channel, example(name), "")
    assert isinstance(said, str)
    assert "would require" in said
    assert "__cuda *, for which no candidates were found" in said


def test_a_driver_for_cuda_11_is_too_old_for_jax(channel: Path) -> None:
    said = solve(channel, example("jax"), "11.8")
    assert isinstance(said, str)
    assert "__cuda >=12" in said


def test_without_the_build_string_it_would_quietly_be_the_build_without_cuda(channel: Path) -> None:
    found = solve(channel, ["python=3.10", "pytorch=2.0"], "")
    assert isinstance(found, dict)
    assert found["pytorch"].startswith("2.0.0 cpu_mkl_")
    found = solve(channel, ["python=3.10", "pytorch=2.0"], "11.8")
    assert isinstance(found, dict)
    assert found["pytorch"].startswith("2.0.0 cuda118")


@pytest.mark.parametrize(
    ("wanted", "about"),
    [
        (["pytorch=2.0.*=cuda118*", "jaxlib=0.6.*=cuda12*"], "cudatoolkit"),
        (["tensorflow=2.12.*", "jaxlib=0.6.*=cuda12*"], "cudatoolkit"),
        (["tensorflow=2.12.*", "jax=0.6.*", "numpy<1.24"], "numpy"),
        (["pytorch=2.0.*", "numpy>=2"], "numpy"),
        (["tensorflow=2.12.*", "typing_extensions>=4.6"], "typing_extensions"),
    ],
)
def test_what_they_conflict_about(wanted: list[str], about: str, channel: Path) -> None:
    said = solve(channel, ["python=3.10", *wanted], "12.2")
    assert isinstance(said, str)
    assert about in said
