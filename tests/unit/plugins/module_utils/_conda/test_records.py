"""The installed state as its files tell it."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.files import sha256_of
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.locks import Lock, Package, Wheel
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.records import (
    compare_files,
    compare_with_lock,
    read_distributions,
    read_records,
)

CONTENT = b"content\n"
SUM = hashlib.sha256(CONTENT).hexdigest()
OTHER = "0" * 64


def path(name: str, kind: str = "hardlink", **sums: str) -> dict[str, str]:
    return {"_path": name, "path_type": kind, **sums}


def write_record(prefix: Path, *paths: dict[str, str], file_name: str = "", **changes: Any) -> Path:
    """A record as conda and rattler write it."""
    content = {
        "name": "six",
        "version": "1.17.0",
        "build": "0",
        "build_number": 0,
        "subdir": "noarch",
        "url": "https://conda.example.org/forge/noarch/six-1.17.0-0.conda",
        "sha256": SUM,
        "md5": "a" * 32,
        "files": [one["_path"] for one in paths],
        "paths_data": {"paths_version": 1, "paths": list(paths)},
        **changes,
    }
    folder = prefix / "conda-meta"
    folder.mkdir(exist_ok=True)
    record = folder / (file_name or f"{content['name']}-{content['version']}-{content['build']}.json")
    record.write_text(json.dumps(content))
    return record


def lock_of(**changes: str) -> Lock:
    fields = {"name": "six", "version": "1.17.0", "build": "0", "subdir": "noarch", "url": "", "sha256": SUM, "md5": ""}
    return Lock("linux-64", (Package(**(fields | changes)),))


def kinds(problems: Any) -> list[tuple[str, str]]:
    return [(problem.kind, problem.subject) for problem in problems]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"name": "x"}', '{"name": "x", "paths_data": []}', "\udcff"]
)
def test_a_record_that_cannot_be_read_is_a_problem_not_a_crash(content: str, tmp_path: Path) -> None:
    write_record(tmp_path, path("a"))
    (tmp_path / "conda-meta" / "bad-1-0.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    records, problems = read_records(str(tmp_path))
    assert [record.label for record in records] == ["six 1.17.0 0"]
    assert kinds(problems) == [("record", "conda-meta/bad-1-0.json")]
    assert problems[0].detail.startswith("cannot be read: ")


def test_what_is_no_record_is_not_read(tmp_path: Path) -> None:
    write_record(tmp_path)
    for name in ("history", "frozen", "envfleet.manifest", "state"):
        (tmp_path / "conda-meta" / name).write_text("{")
    assert kinds(read_records(str(tmp_path))[1]) == []
    assert read_records(str(tmp_path / "nowhere")) == ([], [])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"url": "http://mirror/noarch/six-1.17.0-0.conda"}, []),
        ({"version": "1.18.0"}, [("changed", "six", "expected six 1.18.0 0, found six 1.17.0 0")]),
        ({"build": "1"}, [("changed", "six", "expected six 1.17.0 1, found six 1.17.0 0")]),
        ({"sha256": OTHER}, [("changed", "six", "six 1.17.0 0 was made from another archive")]),
        ({"sha256": "", "md5": "a" * 32}, []),
        ({"sha256": "", "md5": "b" * 32}, [("changed", "six", "six 1.17.0 0 was made from another archive")]),
        (
            {"name": "seven"},
            [
                ("missing", "seven", "seven 1.17.0 0 is not installed"),
                ("foreign", "six", "six 1.17.0 0 is not in the lock"),
            ],
        ),
    ],
)
def test_records_are_held_against_the_lock(
    changes: dict[str, str], expected: list[tuple[str, str, str]], tmp_path: Path
) -> None:
    write_record(tmp_path)
    records, _problems = read_records(str(tmp_path))
    found = compare_with_lock(records, lock_of(**changes))
    assert [(problem.kind, problem.subject, problem.detail) for problem in found] == expected


@pytest.mark.parametrize("version", ["1.0", "9.0"])
def test_a_second_record_of_a_package_does_not_hide_behind_the_first(version: str, tmp_path: Path) -> None:
    write_record(tmp_path)
    write_record(tmp_path, version=version)
    found = compare_with_lock(read_records(str(tmp_path))[0], lock_of())
    assert ("foreign", "six") in kinds(found)


def test_every_recorded_sum_is_checked(tmp_path: Path) -> None:
    for name in ("same", "changed", "relocated", "unrelocated", "changed.pyc", "unsummed"):
        (tmp_path / name).write_bytes(CONTENT)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "x.pyc").write_bytes(CONTENT)
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "unreadable").mkdir()
    write_record(
        tmp_path,
        path("same", sha256=SUM),
        path("changed", sha256=OTHER),
        path("relocated", sha256=OTHER, sha256_in_prefix=SUM),
        path("unrelocated", sha256=SUM, sha256_in_prefix=OTHER),
        path("changed.pyc", sha256=OTHER),
        path("missing", sha256=SUM),
        path("unreadable", sha256=SUM),
        path("unsummed"),
        path("link", "softlink", sha256=OTHER),
        path("missing-link", "softlink", sha256=OTHER),
        # Byte code is made anew in the prefix.
        path("__pycache__/x.pyc", sha256=OTHER),
    )
    records, problems = read_records(str(tmp_path))
    assert not problems
    found = compare_files(str(tmp_path), records)
    assert kinds(found) == [
        ("changed", "changed"),
        ("changed", "unrelocated"),
        ("changed", "changed.pyc"),
        ("missing", "missing"),
        ("changed", "unreadable"),
        ("missing", "missing-link"),
    ]
    assert found[0].detail == "file of six 1.17.0 0 has other content"
    assert found[3].detail == "file of six 1.17.0 0 is missing"


def test_the_sum_is_of_the_whole_file(tmp_path: Path) -> None:
    content = bytes(range(256)) * 9000
    (tmp_path / "big").write_bytes(content)
    assert sha256_of(str(tmp_path / "big")) == hashlib.sha256(content).hexdigest()
    assert sha256_of(str(tmp_path / "nothing")) == ""


SITE = "lib/python3.10/site-packages"
DIGEST = "sha256=" + base64.urlsafe_b64encode(bytes.fromhex(SUM)).decode().rstrip("=")


def write_distribution(
    prefix: Path, stem: str = "Foo.Bar-1.0", *rows: str, metadata: str | None = None, **files: str
) -> Path:
    """What pip leaves of a wheel with a module; *files* are further ones in its dist-info."""
    name, version = stem.split("-")
    info = prefix / SITE / f"{stem}.dist-info"
    info.mkdir(parents=True)
    module = prefix / SITE / f"{name.lower()}.py"
    module.write_bytes(CONTENT)
    (info / "METADATA").write_text(metadata or f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nText\n")
    for file, text in files.items():
        (info / file.replace("__", ".")).write_text(text)
    rows = (f"{module.name},{DIGEST},{len(CONTENT)}", *rows, f"{info.name}/METADATA,,", f"{info.name}/RECORD,,")
    (info / "RECORD").write_text("".join(f"{row}\n" for row in rows))
    return info


def wheel(version: str = "1.0", name: str = "foo-bar") -> Wheel:
    return Wheel(name, version, "", SUM)


def test_a_distribution_is_told_as_its_files_tell_it(tmp_path: Path) -> None:
    scripts = (f"../../../bin/foo,{DIGEST},8", f'"a,b.py",{DIGEST},8', f"__pycache__/x.cpython-310.pyc,{DIGEST},8")
    write_distribution(tmp_path, "Foo.Bar-1.0", *scripts, f"/etc/passwd,{DIGEST},8", INSTALLER="pip\n")
    ((found,), problems) = read_distributions(str(tmp_path))
    assert problems == []
    assert (found.name, found.version, found.installer, found.label) == ("foo-bar", "1.0", "pip", "foo-bar 1.0 pypi")
    info = f"{SITE}/Foo.Bar-1.0.dist-info"
    assert found.directory == info
    module, data, cached = f"{SITE}/foo.bar.py", f"{SITE}/a,b.py", f"{SITE}/__pycache__/x.cpython-310.pyc"
    lists = (f"{info}/METADATA", f"{info}/RECORD")
    assert found.files == (module, "bin/foo", data, cached, "/etc/passwd", *lists)
    assert found.sums == dict.fromkeys((module, "bin/foo", data), SUM)  # nothing outside of the prefix is read
    assert (found.direct_url, found.editable) == (None, False)


@pytest.mark.parametrize(
    ("text", "editable"),
    [
        ('{"url": "file:///home/me/foo", "dir_info": {"editable": true}}', True),
        ('{"url": "file:///home/me/foo", "dir_info": {}}', False),
        ('{"url": "https://x/foo.whl", "archive_info": {}}', False),
        ('{"url": "file:///x", "dir_info": [1]}', False),
    ],
)
def test_a_distribution_tells_where_it_is_from(text: str, editable: bool, tmp_path: Path) -> None:
    write_distribution(tmp_path, direct_url__json=text)
    ((found,), _problems) = read_distributions(str(tmp_path))
    assert (found.direct_url, found.editable) == (json.loads(text), editable)


def test_what_conda_has_installed_is_no_distribution_of_its_own(tmp_path: Path) -> None:
    write_distribution(tmp_path)
    (tmp_path / "lib" / "python3.1").symlink_to("python3.10")
    (found,) = read_distributions(str(tmp_path))[0]
    write_record(tmp_path, path(f"{found.directory}/METADATA"))
    assert read_distributions(str(tmp_path)) == ([], [])
    assert read_distributions(str(tmp_path), []) == ([found], [])
    assert read_distributions(str(tmp_path / "nowhere")) == ([], [])


UNREADABLE: dict[str, tuple[Any, list[str]]] = {
    "no RECORD": (lambda info: (info / "RECORD").unlink(), ["RECORD"]),
    "no METADATA": (lambda info: (info / "METADATA").unlink(), ["METADATA"]),
    "no sum": (lambda info: (info / "RECORD").write_text("foo.py,sha256=???,1\n"), ["RECORD"]),
    "no table": (lambda info: (info / "RECORD").write_text("x" * 200_000), ["RECORD"]),
    "bytes": (lambda info: (info / "RECORD").write_bytes(b"\xff,,\n"), []),
    "no JSON": (lambda info: (info / "direct_url.json").write_text("{"), ["direct_url.json"]),
    "no mapping": (lambda info: (info / "direct_url.json").write_text("[]"), ["direct_url.json"]),
    "deep": (lambda info: (info / "direct_url.json").write_text("[" * 100_000), ["direct_url.json"]),
    "a directory": (lambda info: (info / "INSTALLER").mkdir(), ["INSTALLER"]),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_distribution_that_cannot_be_read_is_a_problem_not_a_crash(name: str, tmp_path: Path) -> None:
    info = write_distribution(tmp_path)
    damage, files = UNREADABLE[name]
    damage(info)
    ((found,), problems) = read_distributions(str(tmp_path))
    assert found.label == "foo-bar 1.0 pypi"
    assert kinds(problems) == [("record", f"{found.directory}/{file}") for file in files]


@pytest.mark.parametrize(
    ("wheels", "expected"),
    [
        ((wheel(),), []),
        ((wheel("1"),), []),
        ((wheel("1.0.1"),), [("changed", "foo-bar", "expected foo-bar 1.0.1 pypi, found foo-bar 1.0 pypi")]),
        ((), [("foreign", "foo-bar", "foo-bar 1.0 pypi is not in the lock")]),
        ((wheel(), wheel(name="baz")), [("missing", "baz", "baz 1.0 pypi is not installed")]),
    ],
)
def test_distributions_are_held_against_the_lock(
    wheels: tuple[Wheel, ...], expected: list[tuple[str, str, str]], tmp_path: Path
) -> None:
    write_distribution(tmp_path)
    write_record(tmp_path)
    lock = dataclasses.replace(lock_of(), wheels=wheels)
    found = compare_with_lock(read_records(str(tmp_path))[0], lock, read_distributions(str(tmp_path))[0])
    assert [(problem.kind, problem.subject, problem.detail) for problem in found] == expected


def test_a_second_version_of_a_distribution_is_foreign(tmp_path: Path) -> None:
    write_distribution(tmp_path)
    write_distribution(tmp_path, "foo_bar-2.0")
    lock = Lock("linux-64", (), (wheel("2.0"),))
    found = compare_with_lock([], lock, read_distributions(str(tmp_path))[0])
    assert [problem.detail for problem in found] == ["foo-bar 2.0 pypi is there beside foo-bar 1.0 pypi"]


def test_the_same_version_from_elsewhere_is_found(tmp_path: Path) -> None:
    write_distribution(tmp_path, direct_url__json='{"url": "file:///home/me/foo"}')
    found = compare_with_lock([], Lock("linux-64", (), (wheel(),)), read_distributions(str(tmp_path))[0])
    assert [(one.kind, one.detail) for one in found] == [
        ("changed", "foo-bar 1.0 pypi was installed by hand from file:///home/me/foo")
    ]


def test_the_files_of_a_distribution_are_checked(tmp_path: Path) -> None:
    write_distribution(tmp_path, "Foo.Bar-1.0", f"gone.py,{DIGEST},8", "unsummed.py,,")
    (tmp_path / SITE / "foo.bar.py").write_bytes(CONTENT.upper())
    (tmp_path / SITE / "unsummed.py").touch()
    found = compare_files(str(tmp_path), read_distributions(str(tmp_path))[0])
    assert [(problem.kind, problem.subject, problem.detail) for problem in found] == [
        ("changed", f"{SITE}/foo.bar.py", "file of foo-bar 1.0 pypi has other content"),
        ("missing", f"{SITE}/gone.py", "file of foo-bar 1.0 pypi is missing"),
    ]


def test_a_file_of_two_distributions_may_be_that_of_either(tmp_path: Path) -> None:
    other = "sha256=" + "A" * 43
    write_distribution(tmp_path, "one-1.0", f"common.py,{other},8")
    write_distribution(tmp_path, "two-1.0", f"common.py,{DIGEST},8")
    distributions = read_distributions(str(tmp_path))[0]
    (tmp_path / SITE / "common.py").write_bytes(CONTENT)
    assert compare_files(str(tmp_path), distributions) == []
    (tmp_path / SITE / "common.py").write_bytes(CONTENT.upper())
    assert len(compare_files(str(tmp_path), distributions)) == 2
