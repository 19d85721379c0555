"""Environments as files, held against what the real conda prints, what others can read, and what is built from them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda import construction, export
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.convergence import Wanted
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.export import Content
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.lock_writing import public_url
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.locks import (
    Lock,
    Package,
    Wheel,
    from_conda_lock,
    from_explicit,
)
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.records import Distribution, Record
from hypothesis import given
from hypothesis import strategies as st

from lab.channel import STANDIN, write_repodata
from lab.packages import PLACEHOLDER, Entry, index_of, write_package
from unit.plugins.conftest import NO_SMOKE_TEST, Node
from unit.plugins.pip_part import SITE, add_python, listed, write_wheel

if TYPE_CHECKING:
    from unit.plugins.conftest import Channel

CHANNEL = "https://conda.example.org/forge"
SUM = "a" * 64
# What the real conda 26.7.1 prints of an environment with these packages, but for the prefix.
RECORDED = """\
name: t
channels:
  - file:///srv/lab/channel
dependencies:
  - numpy=2.2.6=py310_0
  - pip=26.3=pyh_0
  - python=3.10.13=0_cpython
"""
RECORDED_FROM_HISTORY = """\
name: t
channels:
  - file:///srv/lab/channel
dependencies:
  - numpy
  - python=3.10
"""


def add_package(prefix: Path, name: str, version: str, build: str, subdir: str = "linux-64", **changes: Any) -> Path:
    """The record of a package, as conda writes it."""
    channel = changes.pop("channel", CHANNEL)
    content = {
        "name": name,
        "version": version,
        "build": build,
        "subdir": subdir,
        "url": f"{channel}/{subdir}/{name}-{version}-{build}.conda",
        "sha256": SUM,
        "md5": "b" * 32,
        "files": [],
        "requested_spec": "None",
        **changes,
    }
    path = prefix / "conda-meta" / f"{name}-{version}-{build}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def add_distribution(prefix: Path, name: str, version: str, origin: Any = None, python: str = "3.10") -> Path:
    """What pip leaves of a package."""
    path = prefix / f"lib/python{python}/site-packages/{name}-{version}.dist-info"
    path.mkdir(parents=True)
    (path / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (path / "RECORD").write_text(f"{path.name}/METADATA,,\n")
    if origin is not None:
        (path / "direct_url.json").write_text(json.dumps(origin))
    return path


def add_history(prefix: Path, *lines: str) -> None:
    head = ["==> 2026-11-23 07:49:38 <==", "# cmd: /opt/conda/bin/conda create -n t", "# conda version: 26.7.1"]
    (prefix / "conda-meta").mkdir(parents=True, exist_ok=True)
    (prefix / "conda-meta/history").write_text("".join(f"{line}\n" for line in [*head, *lines]))


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """The environment that the real conda was asked about."""
    path = tmp_path / "t"
    for name, version, build, subdir in (
        ("python", "3.10.13", "0_cpython", "linux-64"),
        ("numpy", "2.2.6", "py310_0", "linux-64"),
        ("pip", "26.3", "pyh_0", "noarch"),
    ):
        add_package(path, name, version, build, subdir, channel="file:///srv/lab/channel")
    add_history(path, "# update specs: ['numpy', 'python=3.10']")
    return path


def read(prefix: Path) -> Content:
    return export.read(str(prefix), "linux-64")


def content_of(**changes: Any) -> Content:
    """An environment without files."""
    return dataclasses.replace(Content("/nowhere", "linux-64", (), (), {}), **changes)


def record(name: str = "six", *, version: str = "1.17.0", url: str = "", subdir: str = "noarch") -> Record:
    url = url or f"{CHANNEL}/{subdir}/{name}-{version}-0.conda"
    return Record(name, version, "0", subdir, url, SUM, "", (), {})


def test_an_environment_yml_is_what_conda_prints(prefix: Path) -> None:
    assert export.environment_text(read(prefix), "t") == RECORDED
    assert export.environment_text(read(prefix), "t", from_history=True) == RECORDED_FROM_HISTORY
    without = export.environment_text(read(prefix), "t", builds=False)
    assert without == re.sub(r"(=[\d.]+)=\w+", r"\1", RECORDED)


def test_an_environment_yml_has_pip_packages_and_variables(prefix: Path) -> None:
    add_distribution(prefix, "Foo_Bar", "1.0+cu118")
    add_distribution(prefix, "einops", "0.8.1")
    (prefix / "conda-meta/state").write_text(
        json.dumps({"env_vars": {"NO": "no", "GONE": "***unset***", "A": '1: "x" # ü\n𝄞\x7f'}})
    )
    for from_history in (False, True):
        document = yaml.safe_load(export.environment_text(read(prefix), "t", from_history=from_history))
        assert list(document) == ["name", "channels", "dependencies", "variables"]
        assert document["dependencies"][-1] == {"pip": ["einops==0.8.1", "foo-bar==1.0+cu118"]}
        assert document["variables"] == {"A": '1: "x" # ü\n𝄞\x7f', "NO": "no"}
    bare = export.environment_text(read(prefix).without(["pip", "variables"]), "t")
    assert bare == RECORDED


@pytest.mark.parametrize(
    ("origin", "requirement", "doubtful"),
    [
        (None, "x==1.0", False),
        ({"url": "file:///home/alice/x", "dir_info": {"editable": True}}, "x==1.0", True),
        ({"url": "file:///tmp/x-1.0-py3-none-any.whl", "archive_info": {"hash": f"sha256={SUM}"}}, "x==1.0", True),
        (
            {"url": "https://me:pw@example.org/x.git", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}},
            "x @ git+https://example.org/x.git@c0ffee",
            False,
        ),
        (
            {"url": "https://example.org/r.git", "vcs_info": {"vcs": "git", "commit_id": "c0"}, "subdirectory": "py"},
            "x @ git+https://example.org/r.git@c0#subdirectory=py",
            False,
        ),
        (
            {"url": "https://example.org/packages/t/x/x-1.0.tar.gz", "archive_info": {"hashes": {"sha256": SUM}}},
            f"x @ https://example.org/packages/t/x/x-1.0.tar.gz#sha256={SUM}",
            False,
        ),
        ({"url": "https://example.org/x.zip", "archive_info": {}}, "x @ https://example.org/x.zip", False),
        ({"url": "https://[::1", "archive_info": {}}, "x==1.0", False),
    ],
)
def test_a_pip_package_from_outside_of_an_index_is_not_looked_for_in_one(
    origin: Any, requirement: str, doubtful: bool, prefix: Path
) -> None:
    add_distribution(prefix, "x", "1.0", origin)
    content = read(prefix)
    assert yaml.safe_load(export.environment_text(content, "t"))["dependencies"][-1] == {"pip": [requirement]}
    assert [one.startswith("x 1.0 pypi: ") for one in export.doubtful(content)] == [True] * doubtful


def test_only_the_distributions_that_python_finds_are_there(prefix: Path) -> None:
    add_distribution(prefix, "x", "1.0")
    add_distribution(prefix, "x", "0.9", python="3.9")
    add_distribution(prefix, "~x", "0.8")
    assert [one.label for one in read(prefix).distributions] == ["x 1.0 pypi"]
    add_distribution(prefix, "x", "1.1")
    with pytest.raises(CondaError, match=r"x-1\.0\.dist-info and .*x-1\.1\.dist-info are both there"):
        read(prefix)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["# update specs: ['python=3.10', 'numpy']"], ["python=3.10", "numpy"]),
        (["# update specs: [\"numpy[version='>=2,<3']\"]"], ["numpy[version='>=2,<3']"]),
        (["# update specs: ['numpy', 'not-there']"], ["numpy"]),
        (["# update specs: ['numpy', 'pip']", "# remove specs: ['pip']"], ["numpy"]),
        (["# update specs: ['numpy=1']", "# update specs: ['numpy=2', 'pip']"], ["numpy=2", "pip"]),
        (["# update specs: ['numpy=2', 'pip']", "# neutered specs: ['numpy']"], ["numpy", "pip"]),
        (["# update specs: ['conda-forge::NumPy==2.2.6']"], ["conda-forge::NumPy==2.2.6"]),
        (["# update specs: ['conda-forge/linux-64::numpy==2.2.6=py310_0[md5=b]']"], None),
        (["# install specs: numpy>=1.5.1,<3,pip >=1.0,<30"], ["numpy>=1.5.1,<3", "pip >=1.0,<30"]),
        (["# update specs: ['pip', '@', 'numpy@']"], ["pip"]),
        (["# update specs: ['https://me:pw@h/t/tk-1/c::numpy']"], ["https://h/c::numpy"]),
        (["# update specs: ['numpy[channel=https://h/x/t/tk-1/c]']"], ["numpy[channel=https://h/x/c]"]),
        (["# update specs: ['https://me:pw@h/c/linux-64/numpy-2.2.6-py310_0.conda']"], None),
    ],
)
def test_from_history_is_what_people_asked_for_and_still_have(
    lines: list[str], expected: list[str] | None, prefix: Path
) -> None:
    add_history(prefix, *lines)
    text = export.environment_text(read(prefix), "t", from_history=True)
    found = yaml.safe_load(text)["dependencies"]
    assert len(found) == 1 if expected is None else found == expected
    assert "pw" not in text
    assert "tk-1" not in text


def test_what_pixi_was_asked_for_is_in_the_records(tmp_path: Path) -> None:
    add_package(tmp_path, "numpy", "2.2.6", "0", requested_specs=["numpy >=2", "numpy <3"])
    add_package(tmp_path, "six", "1.17.0", "0", requested_spec="six")
    add_package(tmp_path, "pip", "26.3", "0")
    assert export.requested_specs(read(tmp_path)) == ["numpy >=2", "numpy <3", "six"]


@pytest.mark.parametrize("history", [None, ["+file:///srv/lab/channel/noarch::pip-26.3-pyh_0"]])
def test_where_nothing_tells_what_was_asked_for_there_is_an_error_and_no_empty_file(
    history: list[str] | None, prefix: Path
) -> None:
    (prefix / "conda-meta/history").unlink()
    if history:
        add_history(prefix, *history)
    with pytest.raises(CondaError, match=r"^from_history: nothing in .* tells what was asked for"):
        export.environment_text(read(prefix), "t", from_history=True)


@pytest.mark.parametrize(
    "specs", ["['numpy'", "[1, []", "[__import__('os')]", "[" * 9999, "['numpy', {1: []]", "['https://e.org/x.conda']"]
)
def test_a_history_that_makes_no_sense_is_an_error(specs: str, prefix: Path) -> None:
    add_history(prefix, f"# update specs: {specs}", "# update specs: ['pip']")
    with pytest.raises(CondaError, match=r"conda-meta/history cannot be read: .*: leave from_history out$"):
        export.requested_specs(read(prefix))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://conda.anaconda.org/t/tk-123-456/acme/noarch/six-1.17.0-0.conda", "acme"),
        ("https://me:se%40cret@conda.example.org/forge/noarch/six-1.17.0-0.conda", CHANNEL),
        ("https://me@conda.example.org:8443/api/t/tk_1/forge/noarch/six-1.17.0-0.conda", None),
        ("https://repo.anaconda.com/pkgs/main/noarch/six-1.17.0-0.conda", "https://repo.anaconda.com/pkgs/main"),
        ("file:///srv/t/lab/noarch/six-1.17.0-0.conda", "file:///srv/t/lab"),
        ("file:///home/alice/six-1.17.0-0.conda", ""),
        ("<unknown>/six-1.17.0-0.conda", ""),
        ("https://[::1/noarch/six-1.17.0-0.conda", ""),
    ],
)
def test_channels_are_those_of_the_packages_without_credentials(url: str, expected: str | None) -> None:
    channels = yaml.safe_load(export.environment_text(content_of(records=(record(url=url),)), "t"))["channels"]
    expected = "https://conda.example.org:8443/api/forge" if expected is None else expected
    assert channels == ([expected] if expected else [])


def test_no_format_gives_credentials_away(prefix: Path) -> None:
    secret = "https://alice:hunter2@conda.example.org/t/tk-0815/forge"
    add_package(prefix, "six", "1.17.0", "0", "noarch", channel=secret)
    add_history(prefix, f"# update specs: ['{secret}::six']")
    origin = {
        "url": "https://alice:hunter2@example.org/x-1.0-py3-none-any.whl",
        "archive_info": {"hashes": {"sha256": SUM}},
    }
    add_distribution(prefix, "x", "1.0", origin)
    content = read(prefix)
    texts = [export.environment_text(content, "t", from_history=told) for told in (False, True)]
    texts += [export.conda_lock(content), export.explicit(content.without(["pip"]))]
    for text in texts:
        assert CHANNEL in text
        assert not re.search("hunter2|alice|tk-0815", text)


@pytest.mark.parametrize("name", ["a/b", "a b", "a:b", "a#b", ""])
def test_a_name_that_conda_would_not_take_is_left_out(name: str) -> None:
    assert "name" not in yaml.safe_load(export.environment_text(content_of(), name))


scalars = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    specs=st.lists(scalars | st.from_regex(r"[a-z]+=[0-9.]+(=[a-z0-9_]+)?", fullmatch=True), min_size=1),
    channel=st.from_regex(r"\A(https?|file)://[a-z0-9./_~%:-]+/[ -~]+\Z"),
    variables=st.dictionaries(scalars, scalars, max_size=4),
    name=scalars,
)
def test_every_text_is_read_back_as_it_was(
    specs: list[str], channel: str, variables: Mapping[str, str], name: str
) -> None:
    """What is in a record or in conda's state is anybody's text."""
    url = f"{channel}/noarch/six-1.17.0-0.conda"
    asked = [dataclasses.replace(record(url=url), requested=tuple(specs))]
    content = content_of(records=tuple(asked), variables=variables)
    document = yaml.safe_load(export.environment_text(content, name, from_history=True))
    plain = [spec for spec in specs if "://" not in spec]
    assert [spec for spec in document["dependencies"] if "://" not in spec] == plain
    assert document.get("variables", {}) == variables
    assert document.get("name", name) == name
    assert document["channels"] == [export._short(channel) for channel in export.channels_of(content)]


@given(st.text(alphabet="ht:/t@.a-[]%?#", max_size=40))
def test_what_is_left_of_a_url_has_no_user(url: str) -> None:
    for of_channel in (False, True):
        left = public_url(f"https://{url}", of_channel)
        assert "@" not in re.split("[/?#]", left.partition("://")[2])[0]


def test_an_environment_without_anything_is_valid(tmp_path: Path) -> None:
    (tmp_path / "conda-meta").mkdir()
    text = export.environment_text(read(tmp_path), "empty")
    assert yaml.safe_load(text) == {"name": "empty", "channels": [], "dependencies": []}
    with pytest.raises(CondaError, match="has no package"):
        export.conda_lock(read(tmp_path))


def injuries(prefix: Path) -> Iterable[tuple[str, str]]:
    """Damage one thing after the other, each time with what the error must say."""
    meta = prefix / "conda-meta"
    (meta / "numpy-1.0-0.json.c~").touch()
    yield "half changed: conda was stopped", f"conda clean --tempfiles {prefix}"
    (meta / "numpy-1.0-0.json.c~").unlink()
    construction.begin(str(prefix))
    yield "is not finished", "wait for the run that builds it"
    construction.end(str(prefix))
    (meta / "broken-1-0.json").write_text("{")
    yield "is damaged: conda-meta/broken-1-0.json cannot be read", ""
    (meta / "broken-1-0.json").unlink()
    other = add_package(prefix, "numpy", "1.0", "0")
    yield "is damaged: it has numpy 1.0 0 and numpy 2.2.6 py310_0", "remove and install numpy"
    other.unlink()
    other = add_package(prefix, "six", "1.0", "0", "osx-64")
    yield "has packages for several platforms: linux-64, osx-64", ""
    other.unlink()
    (meta / "state").write_text('{"env_vars": [1]}')
    yield "is damaged: conda-meta/state cannot be read", ""
    (meta / "state").unlink()
    (add_distribution(prefix, "x", "1.0") / "METADATA").unlink()
    yield "is damaged: lib/python3.10/site-packages/x-1.0.dist-info/METADATA is missing", ""


def test_an_unfinished_or_damaged_environment_is_an_error_that_says_what_to_do(prefix: Path) -> None:
    for said, remedy in injuries(prefix):
        with pytest.raises(CondaError) as caught:
            read(prefix)
        assert said in str(caught.value)
        assert remedy in str(caught.value)


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: None])
def test_what_is_no_environment_is_an_error(make: Any, tmp_path: Path) -> None:
    make(tmp_path / "x")
    with pytest.raises(CondaError, match=r"^path: .*/x is no environment: it has no directory conda-meta$"):
        read(tmp_path / "x")


def test_what_may_not_be_read_is_an_error_that_says_who_may(sandbox: Path, request: pytest.FixtureRequest) -> None:
    (sandbox / "x/conda-meta").mkdir(parents=True, mode=0)
    (sandbox / "x").chmod(0o755)
    request.getfixturevalue("unprivileged")
    with pytest.raises(CondaError, match=r"^path: .*/x cannot be read: Permission denied: run this as its owner$"):
        read(sandbox / "x")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"url": ""}, "its record has no URL of it, but ''"),
        ({"url": "<unknown>/numpy-2.2.6-py310_0.conda"}, "its record has no URL of it, but '<unknown>/"),
        ({"url": "https://files.example.org/numpy-2.2.6-py3-none-any.whl"}, "its record has no URL of it, but 'https:"),
        ({"url": f"{CHANNEL}/linux-64/numpy-2.2.5-py310_0.conda"}, "its record has no URL of it, but 'https:"),
        ({"sha256": None, "md5": None}, "its record has no hash"),
    ],
)
def test_a_package_without_url_or_hash_is_named(changes: dict[str, Any], said: str, prefix: Path) -> None:
    add_package(prefix, "numpy", "2.2.6", "py310_0", **changes)
    for write in (export.explicit, export.conda_lock):
        with pytest.raises(CondaError) as caught:
            write(read(prefix))
        assert str(caught.value).startswith("numpy 2.2.6 py310_0 cannot be in a lock, ")
        assert said in str(caught.value)
        assert str(caught.value).endswith("use format: environment")
    assert "numpy=2.2.6=py310_0" in export.environment_text(read(prefix), "t")


@pytest.mark.parametrize(
    ("origin", "said"),
    [
        (None, "is from an index, and nothing tells which file it was"),
        ({"url": "file:///home/alice/x", "dir_info": {"editable": True}}, "is installed editable from file:///home"),
        ({"url": "file:///home/alice/x", "dir_info": {}}, "was built from file:///home/alice/x"),
        ({"url": "https://e.org/x.git", "vcs_info": {"vcs": "git", "commit_id": "c"}}, "was built from https://e.org"),
        ({"url": "https://e.org/x-1.0.tar.gz", "archive_info": {"hash": f"sha256={SUM}"}}, "is from https://e.org/x"),
        ({"url": "https://e.org/x-1.0-py3-none-any.whl", "archive_info": {}}, "was built from https://e.org/x"),
        ({"url": "https://e.org/y-1.0-py3-none-any.whl", "archive_info": {"hash": f"sha256={SUM}"}}, "is from https:"),
    ],
)
def test_a_pip_package_of_unknown_origin_is_named_and_never_lost(origin: Any, said: str, prefix: Path) -> None:
    add_distribution(prefix, "x", "1.0", origin)
    with pytest.raises(CondaError) as caught:
        export.conda_lock(read(prefix))
    assert f"x 1.0 pypi {said}" in str(caught.value)
    assert str(caught.value).endswith("use format: environment, or leave_out: [pip]")
    with pytest.raises(CondaError, match=r"no place for pip \(x 1\.0 pypi\): use .*conda-lock, or leave_out: \[pip\]$"):
        export.explicit(read(prefix))
    assert "numpy" in export.conda_lock(read(prefix).without(["pip"]))


def lock_in(text: str) -> Lock:
    """What our own readers make of a lock."""
    explicit = "@EXPLICIT" in text
    (lock,) = (from_explicit(text, "x") if explicit else from_conda_lock(yaml.safe_load(text), "x")).values()
    return lock


def test_wheels_are_in_a_lock_where_their_origin_is_known(prefix: Path) -> None:
    known = Wheel("known", "1.0", "https://index.example.org/known-1.0-py3-none-any.whl", "c" * 64)
    moved = Wheel("moved", "1.0", "https://index.example.org/moved-1.0-py3-none-any.whl", "d" * 64)
    gone = Wheel("gone", "1.0", "https://index.example.org/gone-1.0-py3-none-any.whl", "e" * 64)
    made_from = Lock("linux-64", (), (known, moved, gone))
    (prefix / "conda-meta/envfleet.lock").write_text(json.dumps(made_from.as_dict()))
    add_distribution(prefix, "Known", "1")
    direct = {"url": "https://e.org/moved-1.0-py3-none-any.whl", "archive_info": {"hashes": {"sha256": SUM}}}
    add_distribution(prefix, "moved", "1.0", direct)
    add_distribution(prefix, "x", "1.0", {"url": "file:///srv/x-1.0-py3-none-any.whl", **archive()})
    (prefix / "conda-meta/state").write_text('{"env_vars": {"A": "1"}}')
    lock = lock_in(export.conda_lock(read(prefix)))
    assert lock == export.lock_of(read(prefix))
    assert lock.variables == (("A", "1"),)
    assert lock.wheels == (
        known,
        Wheel("moved", "1.0", "https://e.org/moved-1.0-py3-none-any.whl", SUM),
        Wheel("x", "1.0", "file:///srv/x-1.0-py3-none-any.whl", SUM),
    )
    (prefix / "conda-meta/envfleet.lock").write_text("{}")
    with pytest.raises(CondaError, match=r"is damaged: conda-meta/envfleet\.lock cannot be read"):
        export.conda_lock(read(prefix))


def archive() -> dict[str, Any]:
    return {"archive_info": {"hash": f"sha256={SUM}"}}


def test_a_lock_that_could_not_be_installed_is_not_written(prefix: Path) -> None:
    """A package from conda that somebody has upgraded with pip."""
    add_package(prefix, "six", "1.16.0", "0", "noarch", depends=["python"])
    add_distribution(prefix, "six", "1.17.0", {"url": "https://e.org/six-1.17.0-py3-none-any.whl", **archive()})
    with pytest.raises(CondaError, match="has six from conda and from pip"):
        export.conda_lock(read(prefix))


def test_an_explicit_list_has_no_place_for_variables(prefix: Path) -> None:
    (prefix / "conda-meta/state").write_text('{"env_vars": {"A": "1"}}')
    with pytest.raises(CondaError, match=r"no place for variables \(A\): use .* leave_out: \[variables\]$"):
        export.explicit(read(prefix))
    assert export.explicit(read(prefix).without(["variables"])).count(f"#{SUM}\n") == 3


def test_a_conda_lock_file_has_dependencies_and_hashes(prefix: Path) -> None:
    add_package(prefix, "numpy", "2.2.6", "py310_0", depends=["python >=3.10,<3.11.0a0", "python_abi 3.10.* *_cp310"])
    document = yaml.safe_load(export.conda_lock(read(prefix)))
    assert document["package"][0] == {
        "name": "numpy",
        "version": "2.2.6",
        "manager": "conda",
        "platform": "linux-64",
        "dependencies": {"python": ">=3.10,<3.11.0a0", "python_abi": "3.10.* *_cp310"},
        "url": f"{CHANNEL}/linux-64/numpy-2.2.6-py310_0.conda",
        "hash": {"md5": "b" * 32, "sha256": SUM},
        "category": "main",
        "optional": False,
    }
    channels = [entry["url"] for entry in document["metadata"]["channels"]]
    assert channels == [CHANNEL, "file:///srv/lab/channel"]


def test_what_is_written_is_the_same_whatever_the_order_on_disk(prefix: Path, tmp_path: Path) -> None:
    again = tmp_path / "again/t"
    for path in sorted((prefix / "conda-meta").glob("*.json"), reverse=True):
        content = json.loads(path.read_text())
        add_package(again, **{key: content[key] for key in reversed(content)})
    add_history(again, "# update specs: ['numpy', 'python=3.10']")
    for write in (export.explicit, export.conda_lock, lambda content: export.environment_text(content, "t")):
        assert write(read(prefix)) == write(read(again))


# Built with the real rattler, exported, and built again elsewhere.


def stock(channel: Channel) -> list[Package]:
    """Packages with every kind of file that knows its prefix, and with some that do not."""
    binary = b"\x7fELF\0" + PLACEHOLDER.encode() + b"/lib\0\0tail\0" + PLACEHOLDER.encode() + b"\0"
    text = f"#!{PLACEHOLDER}/bin/python\nprefix = {PLACEHOLDER}/{PLACEHOLDER}\n"
    write_package(
        channel.directory,
        index_of("paths", "1.0", "py310_0", ["tool >=1", "python_abi 3.10.* *_cp310"]),
        [
            Entry("bin/paths", text.encode(), 0o755),
            Entry("lib/libpaths.so", binary, 0o755),
            Entry("lib/libpaths.so.1", link="libpaths.so"),
            Entry("share/paths/ünï code", b"x"),
            Entry("share/paths/empty"),
        ],
        binary_prefixes=True,
    )
    write_package(channel.directory, index_of("python_abi", "3.10", "0_cp310", [], noarch="generic"), [])
    write_repodata(channel.directory)
    listed = [channel.listed(path) for path in sorted(channel.directory.glob("*/p*.conda"))]
    return [channel.add_tool(), *listed]


def files(prefix: Path) -> dict[str, str]:
    """Everything in *prefix* by path: the sha256 of a file's content without the prefix, or what a link leads to."""
    found = {}
    for folder, folders, names in os.walk(prefix):
        for path in (Path(folder, name) for name in folders + names):
            relative = str(path.relative_to(prefix))
            if path.is_symlink():
                found[relative] = f"-> {os.readlink(path)}"
            elif path.is_file():
                data = path.read_bytes().replace(os.fsencode(prefix), b"@")
                if path.suffix == ".pyc":
                    data = b""  # the path of its source is in it, and its length
                if path.name == "RECORD":
                    data = re.sub(rb"(bin/[^,]*),.*", rb"\1", data)  # scripts have the prefix in them
                # Where a shorter prefix stands in a binary file, more is filled up behind it.
                data = re.sub(rb"(@[^\0]*)\0+", rb"\1\0", data) if b"\0" in data else data
                found[relative] = f"{path.stat().st_mode & 0o777:o} {hashlib.sha256(data).hexdigest()}"
            else:
                found[relative] = "directory"
    return found


def installed_files(prefix: Path) -> dict[str, str]:
    """The files of its packages, and those made from them."""
    kept = ("conda-meta/frozen", "conda-meta/state")
    return {path: told for path, told in files(prefix).items() if not path.startswith("conda-meta/") or path in kept}


def records_of(prefix: Path) -> dict[str, Any]:
    """What the records say of packages and files, and not of where and how they were linked."""
    kept = ("name", "version", "build", "subdir", "url", "sha256", "md5", "depends", "files", "noarch", "timestamp")
    contents = {path.name: json.loads(path.read_text()) for path in (prefix / "conda-meta").glob("*.json")}
    return {name: {key: content.get(key) for key in kept} for name, content in contents.items()}


@pytest.fixture
def elsewhere(sandbox: Path) -> Node:
    """Another node, whose prefixes are longer."""
    return Node(sandbox / "on/quite/another/node")


def rebuilt(node: Node, lock: Lock, name: str = "ml") -> Path:
    node.converge(Wanted(name, lock, NO_SMOKE_TEST))
    return node.generation(name)


@pytest.mark.usefixtures("restore_umask")
@pytest.mark.parametrize("form", ["explicit", "conda-lock"])
def test_built_elsewhere_from_its_export_it_is_the_same_set_of_files(
    form: str, node: Node, elsewhere: Node, channel: Channel
) -> None:
    packages = stock(channel)
    variables = () if form == "explicit" else (("A", "a b"), ("B", "1"))
    lock = Lock("linux-64", tuple(packages), variables=variables)
    original = rebuilt(node, lock)
    content = read(node.link())
    exported = lock_in(export.explicit(content) if form == "explicit" else export.conda_lock(content))
    assert exported.identity == lock.identity
    assert set(exported.packages) == set(packages)

    copy = rebuilt(elsewhere, exported)
    assert copy.name == original.name
    assert str(copy) != str(original)
    assert records_of(copy) == records_of(original)
    found = installed_files(copy)
    assert found == installed_files(original)
    assert {"bin/paths", "lib/libpaths.so", "lib/libpaths.so.1", "share/paths/ünï code"} <= found.keys()
    # What the comparison leaves out of the files is there and right.
    for prefix in (original, copy):
        assert f"prefix = {prefix}/{prefix}\n" in (prefix / "bin/paths").read_text()
        assert (prefix / "lib/libpaths.so").read_bytes().count(os.fsencode(prefix)) == 2
        assert len((prefix / "lib/libpaths.so").read_bytes()) == (original / "lib/libpaths.so").stat().st_size
    again = read(elsewhere.link())
    assert export.conda_lock(again) == export.conda_lock(content)


def test_a_lock_with_md5_sums_alone_is_exported_with_what_the_records_have(node: Node, channel: Channel) -> None:
    package = channel.add_tool()
    md5 = hashlib.md5((channel.directory / "linux-64" / package.file_name).read_bytes()).hexdigest()
    lock = Lock("linux-64", (dataclasses.replace(package, sha256="", md5=md5),))
    rebuilt(node, lock)
    content = read(node.link())
    assert lock_in(export.explicit(content)).identity == lock.identity
    assert lock_in(export.conda_lock(content)).identity == lock.identity


@pytest.mark.usefixtures("restore_umask")
def test_with_its_pip_packages_it_is_the_same_set_of_files(node: Node, elsewhere: Node, mirror: Channel) -> None:
    wheels = tuple(
        listed(write_wheel(mirror.directory / "wheels", name, files={f"{name}/data": b"x"}), f"{mirror.url}/wheels")
        for name in ("first", "Second.part")
    )
    lock = Lock("linux-64", (add_python(mirror), mirror.add_tool()), wheels, (("A", "1"),))
    original = rebuilt(node, lock)
    exported = lock_in(export.conda_lock(read(node.link())))
    assert exported.identity == lock.identity
    copy = rebuilt(elsewhere, exported)
    found = installed_files(copy)
    assert found == installed_files(original)
    assert {"bin/first", "bin/Second.part", f"{SITE}/first/data", "conda-meta/state"} <= found.keys()
    for prefix in (original, copy):
        assert f"{prefix}/bin/python" in (prefix / "bin/first").read_text().splitlines()[0]


@pytest.mark.usefixtures("restore_umask")
def test_what_a_user_installed_with_pip_becomes_part_of_a_shared_environment(
    node: Node, sandbox: Path, mirror: Channel
) -> None:
    mine = node.install(add_python(mirror), mirror.add_tool(), name="mine")
    for mark in mine.glob("lib/python3*/EXTERNALLY-MANAGED"):
        mark.unlink()
    url = f"{mirror.url}/wheels/{write_wheel(mirror.directory / 'wheels', 'by-url').name}"
    local = write_wheel(sandbox / "wheels", "by-path")
    pip = [sys.executable, "-m", "pip", "--isolated", "--python", str(mine / "bin/python"), "install", "--no-compile"]
    pip += ["--no-deps", "--no-cache-dir", "--no-index", "--disable-pip-version-check", "--root-user-action", "ignore"]
    subprocess.run([*pip, url, str(local)], check=True, capture_output=True, timeout=120)

    content = read(mine)
    assert [one.name for one in content.distributions] == ["by-path", "by-url"]
    shared = rebuilt(node, lock_in(export.conda_lock(content)))
    of_pip = {path for one in content.distributions for path in one.files if not path.endswith(".pyc")}
    of_pip = {path for path in of_pip if not path.endswith(("/RECORD", "/direct_url.json"))}
    found, wanted = files(shared), files(mine)
    assert {path: found[path] for path in of_pip} == {path: wanted[path] for path in of_pip}
    assert {"bin/by-url", f"{SITE}/by_path.py"} <= of_pip

    pip_section = yaml.safe_load(export.environment_text(content, "mine"))["dependencies"][-1]["pip"]
    sha256 = hashlib.sha256((mirror.directory / "wheels/by_url-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    assert pip_section == ["by-path==1.0", f"by-url @ {url}#sha256={sha256}"]


def stand_in(home: Path, channel: Channel, *arguments: str) -> None:
    """Run the stand-in conda as a user would."""
    root = home / "conda"
    for directory in (root / "conda-meta", home / "node/etc/conda/condarc.d"):
        directory.mkdir(parents=True, exist_ok=True)
    (root / "conda-meta/history").touch()
    (home / "node/etc/conda/condarc.d/policy.yml").write_text(f"channels: [{channel.url}]\n")
    code = (
        "import sys; from pathlib import Path; from conda_standin.cli import main;"
        f"sys.exit(main(sys.argv[1:], root=Path({str(root)!r}), etc=Path({str(home / 'node')!r})))"
    )
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(STANDIN)}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.usefixtures("restore_umask")
def test_what_a_user_made_by_hand_becomes_a_shared_environment(node: Node, channel: Channel, sandbox: Path) -> None:
    packages = stock(channel)
    write_repodata(channel.directory)
    mine = sandbox / "alice/envs/mine"
    stand_in(sandbox / "alice", channel, "create", "-y", "-q", "-p", str(mine), "tool")
    stand_in(sandbox / "alice", channel, "install", "-y", "-q", "-p", str(mine), "paths")
    content = read(mine)
    spec = yaml.safe_load(export.environment_text(content, "mine", from_history=True))
    assert spec == {"name": "mine", "channels": [channel.url], "dependencies": ["tool", "paths"]}

    for number, form in enumerate((export.conda_lock, export.explicit)):
        lock = lock_in(form(content))
        assert {package.key for package in lock.packages} == {package.key for package in packages}
        shared = rebuilt(node, lock, f"shared{number}")
        # Those of the packages are the same; a generation has some more that keep jobs in it.
        of_packages = {file for record in content.records for file in record.files}
        found, wanted = installed_files(shared), installed_files(mine)
        assert {path: found[path].split()[-1] for path in of_packages} == {
            path: wanted[path].split()[-1] for path in of_packages
        }
        assert records_of(shared).keys() == records_of(mine).keys()


def test_others_can_read_what_is_exported(node: Node, channel: Channel, tmp_path: Path) -> None:
    rattler = pytest.importorskip("rattler")
    packages = stock(channel)
    node.install(*packages)
    content = read(node.link())
    for spec in yaml.safe_load(export.environment_text(content, "ml"))["dependencies"]:
        match = rattler.MatchSpec(spec)
        assert [match.name.normalized, f"=={match.version}".replace("====", "==")] == [
            spec.split("=")[0],
            f"=={spec.split('=')[1]}",
        ]
    path = tmp_path / "conda-lock.yml"
    path.write_text(export.conda_lock(content))
    environment = rattler.LockFile.from_path(path).default_environment()
    (found,) = environment.conda_repodata_records().values()
    assert {(r.name.normalized, r.url, r.sha256.hex()) for r in found} == {(p.name, p.url, p.sha256) for p in packages}
    assert {r.name.normalized: list(r.depends) for r in found}["paths"] == ["python_abi 3.10.* *_cp310", "tool >=1"]


def test_a_distribution_knows_where_it_is_from() -> None:
    """Whatever direct_url.json says: it is anybody's text."""
    for origin in ({}, {"url": 5}, {"url": None, "archive_info": 3}, {"archive_info": {"hashes": [], "hash": 7}}):
        one = Distribution("x", "1.0", "pip", "x.dist-info", (), {}, origin)
        content = content_of(distributions=(one,))
        assert "x==1.0" in export.environment_text(content, "t")
        with pytest.raises(CondaError, match=r"x 1\.0 pypi"):
            export.lock_of(content)
