"""The Python that the lab's own is made from."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from lab import elf
from lab.paths import LabError
from lab.python_package import Interpreter, find_interpreter


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any Python in the usual places, but for the system's own."""
    for name in ("HOME", "PYENV_ROOT", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("ENVFLEET_LAB_PYTHON", raising=False)
    return tmp_path


def fake(path: Path, version: str, stdlib: str | None = None) -> Path:
    """A program that answers as the Python `version` would, laid out below `path`."""
    short = version.rpartition(".")[0]
    program = path / "bin" / f"python{short}"
    program.parent.mkdir(parents=True)
    answer = (
        f'{{"version": "{version}", "prefix": "{path}", "purelib": "/lib/python{short}/site-packages",'
        f' "stdlib": "{stdlib or f"{path}/lib/python{short}"}", "machine": "linux-x86_64"}}'
    )
    program.write_text(f"#!/bin/sh\necho '{answer}'\n")
    program.chmod(0o755)
    return program


def test_the_wanted_version_comes_first(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(nowhere / "versions" / "3.13.0", "3.13.0")
    wanted = fake(nowhere / "opt", "3.10.9")
    monkeypatch.setenv("PATH", str(wanted.parent))
    found = find_interpreter()
    assert (found.executable, found.version, found.tag, found.note) == (wanted, "3.10.9", "py310", None)


def test_another_version_is_taken_with_a_note(nowhere: Path) -> None:
    fake(nowhere / "versions" / "3.11.7", "3.11.7")
    fake(nowhere / "versions" / "3.12.1", "3.12.1")
    found = find_interpreter()
    assert found.version == "3.12.1"
    assert found.note
    assert "3.12.1" in found.note


def test_shims_and_distributions_own_pythons_are_passed_over(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shim = fake(nowhere / "a", "3.10.1").rename(nowhere / "python3.10")
    (nowhere / "shims").mkdir()
    shim.rename(nowhere / "shims" / "python3.10")
    distribution = fake(nowhere / "b", "3.10.2", stdlib="/usr/lib/python3.10")
    good = fake(nowhere / "c", "3.10.3")
    monkeypatch.setenv("PATH", os.pathsep.join(map(str, (nowhere / "shims", distribution.parent, good.parent))))
    assert find_interpreter().executable == good


def test_a_python_that_cannot_be_used_is_named(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVFLEET_LAB_PYTHON", str(nowhere / "none"))
    with pytest.raises(LabError, match="ENVFLEET_LAB_PYTHON"):
        find_interpreter()


def test_key_changes_with_the_program(tmp_path: Path) -> None:
    program = fake(tmp_path / "p", "3.10.9")
    before = Interpreter(program, "3.10.9", tmp_path).key
    os.utime(program, ns=(0, 0))
    assert Interpreter(program, "3.10.9", tmp_path).key != before


def test_elf_files_tell_what_they_need() -> None:
    program = Path(sys.executable).resolve()
    assert elf.is_elf(program)
    assert not elf.is_elf(Path(__file__))
    assert elf.glibc_needed([program]).startswith("2.")
    libraries = elf.libraries_to_bundle([program])
    assert all(path.is_file() for path in libraries.values())
    assert not any(name.startswith(("libc.", "libm.", "ld-linux")) for name in libraries)
