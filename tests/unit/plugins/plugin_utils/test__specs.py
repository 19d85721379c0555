"""What an environment.yml says, and that nothing of it is lost without a word."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError
from ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils._specs import (
    PLATFORMS,
    Dependency,
    PipPart,
    parse_spec,
    read_spec,
    spec_from_packages,
)

SHA = "a" * 64


def dependency(text: str) -> Dependency:
    return parse_spec({"dependencies": [text]}, "env.yml").for_platform("linux-64").dependencies[0]


def pip_part(*lines: Any) -> PipPart:
    return parse_spec({"dependencies": [{"pip": list(lines)}]}, "env.yml").for_platform("linux-64").pip


@pytest.mark.parametrize(
    ("text", "name", "constraint"),
    [
        ("numpy", "numpy", ""),
        ("NumPy", "numpy", ""),
        ("numpy=1.26", "numpy", "=1.26"),
        ("numpy = 1.26", "numpy", "=1.26"),
        ("numpy==1.26", "numpy", "==1.26"),
        ("numpy 1.26", "numpy", "1.26"),
        ("numpy>=1.2,<2", "numpy", ">=1.2,<2"),
        ("numpy >= 1.2 , < 2", "numpy", ">=1.2,<2"),
        ("numpy 1.8|1.9.*", "numpy", "1.8|1.9.*"),
        ("numpy~=1.2", "numpy", "~=1.2"),
        ("numpy !=1.3", "numpy", "!=1.3"),
        ("numpy 1.26.* py310_0", "numpy", "1.26.* py310_0"),
        ("numpy=1.26.0=py310_0", "numpy", "==1.26.0 py310_0"),
        ("pytorch=2.0.*=*cuda*", "pytorch", "2.0.* *cuda*"),
        ("pytorch=*=cuda*", "pytorch", "* cuda*"),
        ("python=3.10.* *_cpython", "python", "3.10.* *_cpython"),
        ("foo 1!2.0+cu118", "foo", "1!2.0+cu118"),
        ("numpy[version='>=1',build=*cuda*]", "numpy", "[version='>=1',build=*cuda*]"),
        ("numpy=1.26[build_number='>=3']", "numpy", "=1.26[build_number='>=3']"),
        ("__cuda>=11", "__cuda", ">=11"),
        ("numpy=1.26  # a reason", "numpy", "=1.26"),
    ],
)
def test_match_specs_in_every_form(text: str, name: str, constraint: str) -> None:
    assert dependency(text) == Dependency(name, constraint)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("conda-forge::numpy>=1", Dependency("numpy", ">=1", "conda-forge")),
        ("conda-forge/label/dev::numpy", Dependency("numpy", "", "conda-forge/label/dev")),
        ("conda-forge/linux-64::numpy", Dependency("numpy", "", "conda-forge", "linux-64")),
        ("https://example.org/c/noarch::numpy", Dependency("numpy", "", "https://example.org/c", "noarch")),
        ("numpy[channel=conda-forge]", Dependency("numpy", "", "conda-forge")),
        ("numpy[version='>=1', channel='c', subdir=noarch]", Dependency("numpy", "[version='>=1']", "c", "noarch")),
        ("https://example.org/c/linux-64/a-b-1.0-0.conda", Dependency("a-b", "https://example.org/c/linux-64/a-b-1.0-0.conda")),
    ],
)  # fmt: skip
def test_where_a_package_may_come_from(text: str, expected: Dependency) -> None:
    assert dependency(text) == expected


@pytest.mark.parametrize(
    "text",
    ["numpy >=1.2 <2", "a b c d", "numpy=", "==1.0", "foo[", "foo]", "*", "-e .", "nümpy", "foo/bar", "a::b::c", "::a"],
)
def test_what_conda_would_not_understand_is_refused(text: str) -> None:
    with pytest.raises(CondaError, match=r"^env\.yml: (dependencies|channels): '"):
        dependency(text)


SELECTORS = """\
dependencies:
  - python
  - a  # [linux]
  - b  # [win]
  - c  #[osx or linux64]
  - d  # [not win and (aarch64 or arm64)]
  - e  # newer ones crash on [osx]
  - f  # see [1]
  - sel(unix): g
  - sel(win): h >=2
  # - i  [linux]
"""


@pytest.mark.parametrize(
    ("platform", "names"),
    [
        ("linux-64", "python a c f g"),
        ("linux-aarch64", "python a d f g"),
        ("osx-arm64", "python c d e f g"),
        ("win-64", "python b f h"),
    ],
)
def test_selectors(platform: str, names: str, tmp_path: Path) -> None:
    (tmp_path / "environment.yml").write_text(SELECTORS)
    wanted = read_spec(str(tmp_path / "environment.yml")).for_platform(platform)
    assert [dependency.name for dependency in wanted.dependencies] == names.split()


def test_a_selector_that_nobody_knows_is_no_comment(tmp_path: Path) -> None:
    (tmp_path / "environment.yml").write_text("dependencies:\n  - a\n  - b  # [py310]\n")
    with pytest.raises(CondaError, match=r"environment\.yml, line 3: the selector \[py310\] is not understood"):
        read_spec(str(tmp_path / "environment.yml"))


def test_channels_variables_and_the_rest(tmp_path: Path) -> None:
    (tmp_path / "environment.yml").write_text(
        "name: ml\nprefix: /home/me/ml\ncategory: main\nplatforms: [linux-64, linux-aarch64]\n"
        "channels: [pytorch, https://example.org/c/, ./local, nodefaults]\n"
        "dependencies: [python=3.10]\nvariables: {VERSION: 1.10, FLAG: yes, EMPTY: ''}\n"
    )
    spec = read_spec(str(tmp_path / "environment.yml"))
    wanted = spec.for_platform("linux-64")
    assert (spec.name, spec.platforms) == ("ml", ("linux-64", "linux-aarch64"))
    assert wanted.channels == ("pytorch", "https://example.org/c", (tmp_path / "local").as_uri())
    assert (wanted.nodefaults, wanted.defaults) == (True, False)
    # As it is written: YAML would make 1.1 and True of these.
    assert wanted.variables == (("EMPTY", ""), ("FLAG", "yes"), ("VERSION", "1.10"))


def test_the_pip_part_is_what_pip_would_read(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "requirements.txt").write_text(
        f"six==1.17.0 \\\n    --hash=sha256:{SHA}\n-c constraints.txt\n--find-links=wheels\n"
    )
    (tmp_path / "more" / "constraints.txt").write_text("idna<3  # for old friends\n")
    (tmp_path / "environment.yml").write_text(
        "dependencies:\n  - python\n  - pip:\n"
        "    - Requests[socks]>=2; python_version >= '3.8'\n"
        "    - -r more/requirements.txt\n"
        "    - --extra-index-url https://download.example.org/whl/cu118\n"
        "    - -i https://index.example.org/simple\n"
        "    - https://example.org/torch-2.0.1%2Bcu118-cp310-cp310-linux_x86_64.whl\n"
        "    - --pre\n"
    )
    wanted = read_spec(str(tmp_path / "environment.yml")).for_platform("linux-64")
    assert wanted.pip == PipPart(
        requirements=(
            'Requests[socks]>=2; python_version >= "3.8"',
            "six==1.17.0",
            "torch @ https://example.org/torch-2.0.1%2Bcu118-cp310-cp310-linux_x86_64.whl",
        ),
        constraints=("idna<3",),
        hashes=(("six", SHA),),
        index_url="https://index.example.org/simple",
        extra_index_urls=("https://download.example.org/whl/cu118",),
        find_links=(str(tmp_path / "more" / "wheels"),),
        pre=True,
    )
    # Somebody has to install it, so conda adds pip too.
    assert [dependency.name for dependency in wanted.dependencies] == ["python", "pip"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("-e .", "is editable, and no lock can hold that: build a wheel"),
        ("--editable=./here", "is editable"),
        ("git+https://example.org/me/it", "has no hash that a lock could hold: build a wheel"),
        ("it @ git+https://example.org/me/it@v1", "has no hash that a lock could hold"),
        ("./it", "has no hash that a lock could hold"),
        ("modules/it", "has no hash that a lock could hold"),
        ("it @ https://example.org/it-1.0.tar.gz", "is no URL of a wheel"),
        ("https://example.org/it.zip", "is no URL of a wheel"),
        ("it==1 --global-option=x", "has '--global-option=x'"),
        ("it==1 --hash=md5:aa", "only --hash=sha256"),
        ("--no-binary=:all:", "has the option --no-binary, which cannot be part of a lock"),
        ("--index-url", "lacks a value"),
        ("-r nowhere.txt", "is relative, and there is no file"),
        ("-r /nowhere.txt", "cannot be read: No such file"),
        ("a b c", "is no requirement"),
        ("--find-links 'x", "is not understood"),
    ],
)
def test_what_no_lock_can_hold_of_the_pip_part(line: str, message: str) -> None:
    with pytest.raises(CondaError, match=rf"^env\.yml: .*pip: .*{re.escape(message)}"):
        pip_part(line)


def test_a_requirements_file_that_includes_itself(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("-r b.txt\n")
    (tmp_path / "b.txt").write_text("-r a.txt\n")
    with pytest.raises(CondaError, match="includes itself"):
        parse_spec({"dependencies": [{"pip": ["-r a.txt"]}]}, "env.yml", str(tmp_path))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (None, "is no environment.yml: write a list of packages"),
        ([], "is no environment.yml: write a list of packages"),
        ({}, "dependencies: a list of packages is wanted, not None"),
        ({"dependencies": "numpy"}, "dependencies: a list of packages is wanted, not 'numpy'"),
        ({"dependencies": [], "dependency": []}, "dependency: unknown, and not one of name, channels"),
        ({"dependencies": [1.5]}, "dependencies: a text is wanted, not 1.5: put it in quotes"),
        ({"dependencies": [None]}, "dependencies: a text is wanted, not None"),
        ({"dependencies": [["a"]]}, r"dependencies: a text is wanted, not \['a'\]"),
        ({"dependencies": ["a\0b"]}, "dependencies: a line of text is wanted"),
        ({"dependencies": ["\ud800"]}, "dependencies: a line of text is wanted"),
        ({"dependencies": [{"npm": ["a"]}]}, "dependencies: 'npm' is no part that can be locked"),
        ({"dependencies": [{"sel(aix)": "a"}]}, r"dependencies: 'sel\(aix\)': use sel\(\) of unix, linux"),
        ({"dependencies": [{"pip": "a"}]}, "pip: a list is wanted, not 'a': begin each entry with a dash"),
        ({"dependencies": [], "channels": "conda-forge"}, "channels: a list is wanted"),
        ({"dependencies": [], "channels": ["https://[x"]}, "channels: 'https://\\[x' is no URL"),
        ({"dependencies": [], "channels": ["a b"]}, "channels: 'a b' is neither a channel's name nor a URL"),
        ({"dependencies": [], "channels": ["https://me:pw@x.org/c"]}, "channels: a URL holds a password or token"),
        ({"dependencies": [], "channels": ["https://x.org/t/TOKEN/c"]}, "channels: a URL holds a password or token"),
        ({"dependencies": [], "name": "a/b"}, "name: 'a/b' has one of the characters"),
        ({"dependencies": [], "platforms": ["noarch"]}, "platforms: 'noarch' is none of linux-64"),
        ({"dependencies": [], "variables": ["A=b"]}, "variables: NAME: VALUE pairs are wanted"),
        ({"dependencies": [], "variables": {"A-B": "c"}}, "variables: 'A-B' is no name for a variable"),
        ({"dependencies": [], "variables": {"A": True}}, "variables: A: a text is wanted, not True: put it in quotes"),
        ({"dependencies": [], "variables": {"A": "b\0"}}, "variables: A: no environment can hold"),
    ],
)  # fmt: skip
def test_every_fault_names_file_and_key(document: Any, message: str) -> None:
    with pytest.raises(CondaError, match=f"^env.yml.*{message}") as caught:
        parse_spec(document, "env.yml")
    assert "pw" not in str(caught.value)
    assert "TOKEN" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"dependencies: [", "is no YAML: .*line 1"),
        (b"dependencies: [a]\ndependencies: [b]\n", "is no YAML: the key 'dependencies' is there twice"),
        (b"dependencies: [!!python/object/apply:os.system [x]]", "is no YAML: could not determine a constructor"),
        (b"dependencies: [!!int x]", "is no YAML: could not determine a constructor"),
        (b"dependencies: &a [*a]", "dependencies: a text is wanted"),
        (b"dependencies: [\xff]", "cannot be read: it is no text in UTF-8"),
        (b"[" * 10_000, "cannot be read as YAML|is no YAML"),
    ],
)
def test_files_that_are_no_spec(text: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "env.yml"
    path.write_bytes(text)
    with pytest.raises(CondaError, match=message) as caught:
        read_spec(str(path))
    assert str(path) in str(caught.value)


def test_a_spec_without_a_file() -> None:
    wanted = spec_from_packages(["numpy", {"pip": ["six"]}], ["conda-forge"]).for_platform("linux-64")
    assert ([d.name for d in wanted.dependencies], wanted.channels) == (["numpy", "pip"], ("conda-forge",))
    with pytest.raises(CondaError, match=r"^packages: dependencies: 'a b c d'"):
        spec_from_packages(["a b c d"])


def test_every_platform_can_be_asked_for() -> None:
    spec = parse_spec("dependencies: [a]\n", "env.yml")
    assert {len(spec.for_platform(platform).dependencies) for platform in PLATFORMS} == {1}
