"""Wheels made into conda packages."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from lab.packages import PLACEHOLDER, read_index
from lab.python_package import Interpreter
from lab.wheels import REQUIREMENTS, Wheel, conda_version, convert

from .test_packages import info, members

PYTHON = Interpreter(Path("/nowhere/bin/python3.10"), "3.10.13", Path("/nowhere"))

METADATA = """\
Metadata-Version: 2.1
Name: Some.Thing
Version: 1.5
License: MIT
Requires-Python: >=3.8
Requires-Dist: six (>=1.16)
Requires-Dist: typing-extensions ~=4.6 ; python_version < "3.11"
Requires-Dist: tomli ; python_version >= "3.11"
Requires-Dist: colorama ; sys_platform == "win32"
Requires-Dist: pytest ; extra == "test"
"""
ENTRY_POINTS = "[console_scripts]\nThing = some_thing.cli:main.run [fast]\n[other.group]\nx = y:z\n"


def wheel(folder: Path, tag: str) -> Path:
    """A wheel with a module, a script, data, and an entry point."""
    path = folder / f"some_thing-1.5-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("some_thing/__init__.py", "x = 1\n")
        archive.writestr("some_thing-1.5.data/scripts/plain", "#!python\nprint()\n")
        archive.writestr("some_thing-1.5.data/data/share/thing.txt", "data")
        archive.writestr("some_thing-1.5.dist-info/METADATA", METADATA)
        archive.writestr("some_thing-1.5.dist-info/entry_points.txt", ENTRY_POINTS)
        archive.writestr("some_thing-1.5.dist-info/RECORD", "some_thing/__init__.py,,\n")
    return path


def record_rows(package: Path, site_packages: str) -> dict[str, str]:
    data = members(package, "pkg")[f"{site_packages}/some_thing-1.5.dist-info/RECORD"]
    assert isinstance(data, bytes)
    return dict(line.split(",", 1) for line in data.decode().splitlines())


def test_pure_wheel_fits_every_python(tmp_path: Path) -> None:
    package = convert(wheel(tmp_path, "py3-none-any"), tmp_path, PYTHON)
    index = read_index(package)
    assert (index["name"], index["version"], index["build"], index["subdir"]) == (
        "some-thing",
        "1.5",
        "pyh_0",
        "noarch",
    )
    assert index["noarch"] == "python"
    assert index["depends"] == ["python >=3.8", "six >=1.16", "typing_extensions >=4.6,4.*"]
    assert info(package, "link.json")["noarch"]["entry_points"] == ["Thing = some_thing.cli:main.run"]
    files = members(package, "pkg")
    assert "site-packages/some_thing/__init__.py" in files
    assert files["python-scripts/plain"] == f"#!{PLACEHOLDER}/bin/python\nprint()\n".encode()
    assert files["share/thing.txt"] == b"data"


def test_compiled_wheel_fits_one_python_and_brings_its_scripts(tmp_path: Path) -> None:
    package = convert(wheel(tmp_path, "cp310-cp310-manylinux_2_17_x86_64.manylinux2014_x86_64"), tmp_path, PYTHON)
    index = read_index(package)
    assert (index["build"], index["subdir"]) == ("py310_0", "linux-64")
    assert index["depends"][0] == "python >=3.10,<3.11.0a0"
    assert index["depends"][-1] == "__glibc >=2.17"
    files = members(package, "pkg")
    assert "lib/python3.10/site-packages/some_thing/__init__.py" in files
    script = files["bin/Thing"]
    assert isinstance(script, bytes)
    assert script.startswith(f"#!{PLACEHOLDER}/bin/python\n".encode())
    assert b"from some_thing.cli import main\n" in script
    assert b"sys.exit(main.run())" in script


@pytest.mark.parametrize(
    ("tag", "site_packages"),
    [("py3-none-any", "site-packages"), ("cp310-abi3-linux_x86_64", "lib/python3.10/site-packages")],
)
def test_pip_finds_every_file_in_the_record(tmp_path: Path, tag: str, site_packages: str) -> None:
    package = convert(wheel(tmp_path, tag), tmp_path, PYTHON)
    rows = record_rows(package, site_packages)
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"x = 1\n").digest()).rstrip(b"=").decode()
    assert rows["some_thing/__init__.py"] == f"sha256={digest},6"
    assert set(rows) == {
        "some_thing/__init__.py",
        "some_thing-1.5.dist-info/INSTALLER",
        "some_thing-1.5.dist-info/METADATA",
        "some_thing-1.5.dist-info/RECORD",
        "some_thing-1.5.dist-info/entry_points.txt",
        "../../../bin/plain",
        "../../../bin/Thing",
        "../../../share/thing.txt",
    }
    # What the installer will change has no hash.
    assert rows["../../../bin/plain"] == ","
    assert members(package, "pkg")[f"{site_packages}/some_thing-1.5.dist-info/INSTALLER"] == b"conda\n"


@pytest.mark.parametrize(
    ("pep440", "conda"),
    [
        ("", ""),
        (">=1.2,<2", "<2,>=1.2"),
        ("==1.*", "1.*"),
        ("==1.5", "==1.5"),
        ("~=1.4.2", ">=1.4.2,1.4.*"),
        ("!=3.0.*,>=2.7", "!=3.0.*,>=2.7"),
    ],
)
def test_versions_in_condas_words(pep440: str, conda: str) -> None:
    assert conda_version(SpecifierSet(pep440)) == conda


def test_licence_texts_are_not_names(tmp_path: Path) -> None:
    path = tmp_path / "a-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "a-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: a\nVersion: 1\nLicense: Copyright\n  All of it\n"
        )
    assert Wheel(path).license == "unknown"


def test_pins_are_exact_and_hashed_and_name_no_host() -> None:
    for file in REQUIREMENTS:
        lines = [
            line for line in file.read_text().replace("\\\n", "").splitlines() if not line.lstrip().startswith("#")
        ]
        assert lines
        for line in lines:
            pin, *hashes = line.split()
            (specifier,) = Requirement(pin).specifier
            assert specifier.operator == "=="
            assert hashes
            assert all(one.startswith("--hash=sha256:") for one in hashes)


def test_older_pins_are_of_packages_that_have_newer_ones() -> None:
    newer, older = (
        {
            pin.name: pin.specifier
            for pin in map(Requirement, (line.split()[0] for line in lines if "==" in line and line[0] != "#"))
        }
        for lines in (file.read_text().splitlines() for file in REQUIREMENTS)
    )
    assert older
    for name, specifier in older.items():
        assert str(specifier) != str(newer[name])
