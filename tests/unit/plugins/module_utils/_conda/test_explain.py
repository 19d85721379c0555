"""What differs, in the words of a person: packages where there are any."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda import prefixes

SITE = "lib/python3.10/site-packages"
SOURCE = b"value = 1\n"


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """A finished prefix with one package in it."""
    for folder in ("conda-meta", f"{SITE}/six-1.dist-info", f"{SITE}/__pycache__", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / SITE / "six.py").write_bytes(SOURCE)
    (tmp_path / SITE / "six-1.dist-info" / "METADATA").write_text("Name: six\nVersion: 1\n")
    (tmp_path / SITE / "__pycache__" / "six.pyc").write_bytes(b"code")
    (tmp_path / "loose").write_bytes(SOURCE)
    write_record(tmp_path, "six", "1", [f"{SITE}/six.py", f"{SITE}/six-1.dist-info/METADATA"])
    prefixes.finish(str(tmp_path), "x", "test")
    return tmp_path


def write_record(prefix: Path, name: str, version: str, files: list[str]) -> None:
    paths = [
        {"_path": path, "path_type": "hardlink", "sha256": hashlib.sha256((prefix / path).read_bytes()).hexdigest()}
        for path in files
        if (prefix / path).is_file()
    ]
    record = {"name": name, "version": version, "build": "0", "files": files, "paths_data": {"paths": paths}}
    (prefix / "conda-meta" / f"{name}-{version}-0.json").write_text(json.dumps(record))


def write_distribution(prefix: Path, installer: str | None, *extra: str) -> None:
    """What pip and uv leave of a package called foo."""
    site = prefix / SITE
    info = site / "foo-2.0.dist-info"
    (site / "foo").mkdir()
    info.mkdir()
    (site / "foo" / "__init__.py").write_bytes(SOURCE)
    (prefix / "bin" / "foo").write_text("#!/bin/sh\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Foo\nVersion: 2.0\n\nLong\ntext\n")
    if installer is not None:
        (info / "INSTALLER").write_text(f"{installer}\n")
    digest = base64.urlsafe_b64encode(hashlib.sha256(SOURCE).digest()).decode().rstrip("=")
    rows = [
        f"foo/__init__.py,sha256={digest},{len(SOURCE)}",
        "../../../bin/foo,,",
        *(f"{path},," for path in extra),
        "foo-2.0.dist-info/METADATA,,",
        "foo-2.0.dist-info/RECORD,,",
    ]
    (info / "RECORD").write_bytes("".join(f"{row}\n" for row in rows).encode("utf-8", "surrogateescape"))


def found(prefix: Path) -> list[tuple[str, str, str]]:
    manifest = prefixes.read_manifest(str(prefix))
    assert manifest
    problems = prefixes.check(str(prefix), manifest)
    return [(problem.kind, problem.subject, problem.detail) for problem in problems]


@pytest.mark.parametrize(
    ("installer", "told"), [("pip", "pip"), ("uv", "uv"), (None, "an unknown tool"), ("", "an unknown tool")]
)
def test_a_distribution_installed_by_hand_is_one_problem(installer: str | None, told: str, prefix: Path) -> None:
    write_distribution(prefix, installer)
    assert found(prefix) == [("foreign", "foo", f"foo 2.0 was installed by hand with {told}")]


@pytest.mark.parametrize("path", ["/etc/foo/conf", "/", "../../../../../../../outside", '"a,b"', "\udcff.py"])
def test_a_list_of_files_with_strange_paths_does_no_harm(path: str, prefix: Path) -> None:
    write_distribution(prefix, "pip", path)
    result: list[list[tuple[str, str, str]]] = []
    thread = threading.Thread(target=lambda: result.append(found(prefix)), daemon=True)
    thread.start()
    thread.join(10)
    assert result == [[("foreign", "foo", "foo 2.0 was installed by hand with pip")]]


def test_files_beside_those_of_a_distribution_are_told(prefix: Path) -> None:
    write_distribution(prefix, "pip")
    (prefix / "bin" / "own").touch()
    assert found(prefix)[1:] == [("unexpected", "bin/own", "is in no package of the lock")]


def test_a_distribution_without_anything_readable_is_still_named(prefix: Path) -> None:
    info = prefix / SITE / "bar-1.dist-info"
    info.mkdir()
    (info / "METADATA").symlink_to("nowhere")
    assert found(prefix) == [("foreign", "bar", "bar 1 was installed by hand with an unknown tool")]


def test_an_upgrade_by_hand_tells_both_sides(prefix: Path) -> None:
    (prefix / SITE / "six-1.dist-info" / "METADATA").unlink()
    (prefix / SITE / "six-1.dist-info").rmdir()
    write_distribution(prefix, "pip")
    assert found(prefix) == [
        ("missing", f"{SITE}/six-1.dist-info", "directory of six 1 0 is missing"),
        ("foreign", "foo", "foo 2.0 was installed by hand with pip"),
    ]


@pytest.fixture
def with_wheel(prefix: Path) -> Path:
    """The same, and a wheel of the lock."""
    write_distribution(prefix, "pip")
    prefixes.finish(str(prefix), "x", "test")
    return prefix


def test_the_wheel_of_a_damaged_file_is_named(with_wheel: Path) -> None:
    module = f"{SITE}/foo/__init__.py"
    (with_wheel / module).write_bytes(SOURCE.upper() + b"#")
    ((kind, subject, detail),) = found(with_wheel)
    assert (kind, subject, detail.partition(":")[0]) == ("changed", module, "file of foo 2.0 pypi")
    (with_wheel / module).unlink()
    assert found(with_wheel) == [("missing", module, "file of foo 2.0 pypi is missing")]


def test_the_file_of_a_wheel_may_be_touched(with_wheel: Path) -> None:
    touch(with_wheel / SITE / "foo" / "__init__.py")
    assert found(with_wheel) == []


def test_a_removed_wheel_is_named_once(with_wheel: Path) -> None:
    """What `pip uninstall` leaves does not tell which files there were."""
    shutil.rmtree(with_wheel / SITE / "foo")
    shutil.rmtree(with_wheel / SITE / "foo-2.0.dist-info")
    assert found(with_wheel) == [
        ("missing", f"{SITE}/foo", "file of no package is missing"),
        ("missing", f"{SITE}/foo-2.0.dist-info", "foo 2.0 pypi was removed by hand"),
    ]


def test_another_version_put_in_by_hand_tells_both_sides(with_wheel: Path) -> None:
    info = with_wheel / SITE / "foo-2.0.dist-info"
    (info / "METADATA").write_text("Name: Foo\nVersion: 3.0\n")
    (info / "RECORD").write_text((info / "RECORD").read_text().replace("foo-2.0", "foo-3.0"))
    info.rename(info.with_name("foo-3.0.dist-info"))
    (with_wheel / SITE / "foo" / "__init__.py").write_bytes(b"value = 3\n")
    assert found(with_wheel) == [
        ("missing", f"{SITE}/foo-2.0.dist-info", "foo 2.0 pypi was removed by hand"),
        ("foreign", "foo", "foo 3.0 was installed by hand with pip"),
    ]


def test_a_package_installed_by_hand_that_overwrites_a_file_of_another_is_told_twice(prefix: Path) -> None:
    write_distribution(prefix, "pip", "six.py")
    (prefix / SITE / "six.py").write_bytes(b"another\n")
    assert [(kind, subject) for kind, subject, _detail in found(prefix)] == [
        ("changed", f"{SITE}/six.py"),
        ("foreign", "foo"),
    ]


def test_a_package_installed_by_hand_with_conda_is_one_problem(prefix: Path) -> None:
    (prefix / "share" / "seven").mkdir(parents=True)
    (prefix / "share" / "seven" / "data").touch()
    write_record(prefix, "seven", "7", ["share/seven/data"])
    assert found(prefix) == [("foreign", "seven", "seven 7 0 was installed by hand with conda")]


def test_a_record_that_cannot_be_read_is_told_once(prefix: Path) -> None:
    (prefix / "conda-meta" / "bad-1-0.json").write_text("{")
    ((kind, subject, _detail),) = found(prefix)
    assert (kind, subject) == ("record", "conda-meta/bad-1-0.json")


def touch(path: Path, mode: int = 0o644) -> None:
    os.utime(path, ns=(1, 1))
    path.chmod(mode)


CHANGES: dict[str, tuple[Callable[[Path], object], list[tuple[str, str]]]] = {
    "owned file touched": (lambda p: touch(p / SITE / "six.py"), []),
    "owned file edited": (lambda p: (p / SITE / "six.py").write_bytes(SOURCE.upper()), [("changed", f"{SITE}/six.py")]),
    "owned file touched and opened up": (
        lambda p: touch(p / SITE / "six.py", 0o666),
        [("changed", f"{SITE}/six.py")],
    ),
    "file of no package touched": (lambda p: touch(p / "loose"), [("changed", "loose")]),
    "byte code removed": (lambda p: (p / SITE / "__pycache__" / "six.pyc").unlink(), []),
    "byte code added": (lambda p: (p / SITE / "__pycache__" / "new.pyc").touch(), []),
    "byte code changed": (
        lambda p: (p / SITE / "__pycache__" / "six.pyc").write_bytes(b"evil"),
        [("changed", f"{SITE}/__pycache__/six.pyc")],
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_only_what_matters_is_told(name: str, prefix: Path) -> None:
    change, expected = CHANGES[name]
    change(prefix)
    assert [(kind, subject) for kind, subject, _detail in found(prefix)] == expected


def test_the_package_of_a_damaged_file_is_named(prefix: Path) -> None:
    (prefix / SITE / "six.py").unlink()
    assert found(prefix) == [("missing", f"{SITE}/six.py", "file of six 1 0 is missing")]
