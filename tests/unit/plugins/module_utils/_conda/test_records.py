"""The installed state as its files tell it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.locks import Lock, Package
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.records import (
    compare_files,
    compare_with_lock,
    read_records,
    sha256_of,
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
