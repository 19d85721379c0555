"""Locks as text, which says the same when it is read back."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import yaml
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.lock_writing import (
    Entry,
    conda_lock_text,
    dependencies_of,
    explicit_text,
    public_url,
)
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.locks import (
    Lock,
    Package,
    Wheel,
    from_conda_lock,
    from_explicit,
)
from hypothesis import given
from hypothesis import strategies as st

CHANNEL = "https://conda.example.org/forge"
NUMPY = Package.from_url(f"{CHANNEL}/linux-64/numpy-1.26.4-py310_0.conda", "a" * 64, "b" * 32)
TZDATA = Package.from_url(f"{CHANNEL}/noarch/tzdata-2024a-0.tar.bz2", "", "1" * 32)
PYTHON = Package.from_url(f"{CHANNEL}/linux-64/python-3.10.13-0.conda", "d" * 64)
SIX = Wheel("six", "1.17.0", "https://pypi.example.org/six-1.17.0-py2.py3-none-any.whl", "c" * 64)
EXPECTED = """\
version: 1
metadata:
  content_hash:
    linux-64: first
  channels:
    - url: https://conda.example.org/forge
      used_env_vars: []
  platforms:
    - linux-64
  sources:
    - environment.yml
  custom_metadata:
    envfleet.variables.MODE: "yes"
package:
  - name: numpy
    version: "1.26.4"
    manager: conda
    platform: linux-64
    dependencies:
      __glibc: ">=2.17,<3.0.a0"
      python: ">=3.10,<3.11.0a0"
    url: https://conda.example.org/forge/linux-64/numpy-1.26.4-py310_0.conda
    hash:
      md5: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb
      sha256: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
    category: main
    optional: false
  - name: six
    version: "1.17.0"
    manager: pip
    platform: linux-64
    dependencies: {}
    url: https://pypi.example.org/six-1.17.0-py2.py3-none-any.whl
    hash:
      sha256: cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc
    category: main
    optional: false
"""


def written(*packages: Package | Wheel, **changes: Any) -> str:
    arguments: dict[str, Any] = {"channels": [CHANNEL], "content_hash": {"linux-64": "first"}}
    return conda_lock_text({"linux-64": [Entry(package) for package in packages]}, **{**arguments, **changes})


def test_a_conda_lock_file_has_one_field_a_line_whatever_the_order() -> None:
    entries = [Entry(SIX), Entry(NUMPY, dependencies_of(["python >=3.10,<3.11.0a0", "__glibc >=2.17,<3.0.a0"]))]
    texts = {
        conda_lock_text(
            {"linux-64": order},
            channels=[CHANNEL],
            content_hash={"linux-64": "first"},
            sources=["environment.yml"],
            variables={"MODE": "yes"},
        )
        for order in (entries, entries[::-1])
    }
    assert texts == {EXPECTED}


def test_a_conda_lock_file_says_the_same_when_it_is_read_back() -> None:
    lock = Lock("linux-64", (NUMPY, PYTHON, TZDATA), (SIX,), (("A", "1"), ("B", "")))
    text = written(*lock.packages, *lock.wheels, variables=dict(lock.variables))
    assert from_conda_lock(yaml.safe_load(text), "lock") == {"linux-64": lock}


def test_platforms_stand_side_by_side() -> None:
    other = dataclasses.replace(NUMPY, subdir="linux-aarch64", url=NUMPY.url.replace("linux-64", "linux-aarch64"))
    text = conda_lock_text(
        {"linux-aarch64": [Entry(other)], "linux-64": [Entry(TZDATA), Entry(NUMPY)]},
        channels=[CHANNEL],
        content_hash={"linux-64": "1", "linux-aarch64": "2"},
    )
    document = yaml.safe_load(text)
    assert [(p["name"], p["platform"]) for p in document["package"]] == [
        ("numpy", "linux-64"),
        ("numpy", "linux-aarch64"),
        ("tzdata", "linux-64"),
    ]
    assert {platform: len(lock.packages) for platform, lock in from_conda_lock(document, "lock").items()} == {
        "linux-64": 2,
        "linux-aarch64": 1,
    }


SCALARS = st.one_of(
    st.text(),
    st.from_regex(r"\A[-+.\d_:eExXobTZ]{1,12}\Z"),
    st.sampled_from(
        ["null", "~", "Yes", "on", "N", "true", "=", "<<", "1e5", "0x1f", "12:30:00", "2024-01-01", ".inf"]
    ),
)


@given(st.lists(SCALARS, max_size=4))
def test_every_text_is_read_back_as_it_was(values: list[str]) -> None:
    variables = {f"V{number}": value for number, value in enumerate(values)}
    text = written(NUMPY, variables=variables, sources=values)
    document = yaml.safe_load(text)
    assert document["metadata"]["sources"] == values
    assert dict(from_conda_lock(document, "lock")["linux-64"].variables) == variables
    text.encode("ascii")


def test_an_explicit_list_says_the_same_when_it_is_read_back() -> None:
    lock = Lock("linux-64", (NUMPY, TZDATA))
    text = explicit_text(lock)
    assert from_explicit(text, "list")["linux-64"].identity == lock.identity
    assert text.splitlines()[-3:] == ["@EXPLICIT", f"{NUMPY.url}#{'a' * 64}", f"{TZDATA.url}#{'1' * 32}"]


@pytest.mark.parametrize(
    ("lock", "message"),
    [
        (Lock("linux-64", (NUMPY,), (SIX,)), r"no place for pip packages \(six\): use a conda-lock file"),
        (Lock("linux-64", (NUMPY,), (), (("A", "b"),)), r"no place for variables \(A\)"),
        (Lock("linux-64", (dataclasses.replace(NUMPY, sha256="", md5=""),)), "numpy 1.26.4 py310_0 .* has no hash"),
    ],
)
def test_what_an_explicit_list_cannot_say_is_refused(lock: Lock, message: str) -> None:
    with pytest.raises(CondaError, match=message):
        explicit_text(lock)


def test_a_package_without_a_hash_is_not_written() -> None:
    with pytest.raises(CondaError, match=r"numpy 1\.26\.4 py310_0 .* has no hash"):
        written(dataclasses.replace(NUMPY, sha256="", md5=""))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (NUMPY.url, NUMPY.url),
        (NUMPY.url.replace("://", "://me:pw@"), NUMPY.url),
        ("https://example.org/t/TOKEN/forge/noarch/a-1-0.conda", "https://example.org/forge/noarch/a-1-0.conda"),
        ("file:///a/b", "file:///a/b"),
    ],
)
def test_passwords_and_tokens_do_not_get_into_a_lock(url: str, expected: str) -> None:
    assert public_url(url) == expected
    package = dataclasses.replace(NUMPY, url=url)
    for text in (written(package, channels=[url]), explicit_text(Lock("linux-64", (package,)))):
        assert expected in text
        assert "pw" not in text
        assert "TOKEN" not in text


@pytest.mark.parametrize(
    ("depends", "expected"),
    [
        (["python"], {"python": ""}),
        (["python >=3.10,<3.11.0a0", "abi 3.10.* *_cp310"], {"python": ">=3.10,<3.11.0a0", "abi": "3.10.* *_cp310"}),
        (["a >=1", "a <2", "a"], {"a": ">=1,<2"}),
        (["a >=1", "a 1.* cuda*"], {"a": ">=1,1.* cuda*"}),
        (["a[version='>=1']", "b>=2"], {"a": "[version='>=1']", "b": ">=2"}),
    ],
)  # fmt: skip
def test_dependencies_have_one_constraint_for_each_name(depends: list[str], expected: dict[str, str]) -> None:
    assert dependencies_of(depends) == expected
