"""Whatever is in a spec or a lock file, it is read or refused in one line that names the file: never a traceback.

The quick run is the same every time. The slow one tries many more, and others each time.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.locks import (
    Lock,
    from_conda_lock,
    from_explicit,
    from_pixi_lock,
)
from ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils._lock_files import read_lock_file
from ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils._specs import (
    PLATFORMS,
    Spec,
    parse_spec,
    read_spec,
    spec_from_packages,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CORPUS = Path(__file__).resolve().parent.parent / "corpus"
SPECS = sorted((CORPUS / "specs").iterdir())
LOCKS = sorted((CORPUS / "locks").iterdir())
SOURCE = "the-file"
_NUMBERS = itertools.count()


@contextlib.contextmanager
def refusing(source: str) -> Iterator[None]:
    """The body may raise CondaError, in one line that names *source*, and nothing else."""
    try:
        yield
    except CondaError as error:
        message = str(error)
        assert source in message
        # Neither a second line, nor anything that moves a terminal's cursor.
        assert not re.search("[\0-\x1f\x7f-\x9f\u2028\u2029]", message), message[:500]
        assert len(message) < 1500, message[:1500]


def use_spec(spec: Spec) -> None:
    """What is done with a spec that has been read."""
    assert isinstance(spec.name, str)
    for platform in (*spec.platforms, "linux-64", PLATFORMS[-1]):
        wanted = spec.for_platform(platform)
        assert all(dependency.name for dependency in wanted.dependencies)
        assert all(name and "\0" not in value for name, value in wanted.variables)


def use_locks(locks: dict[str, Lock]) -> None:
    """What is done with locks that have been read."""
    assert locks
    for platform, lock in locks.items():
        assert lock.platform == platform
        assert lock.packages or lock.wheels
        assert all(package.sha256 or package.md5 for package in lock.packages)
        assert len(lock.identity) == 64
        assert Lock.from_dict(json.loads(json.dumps(lock.as_dict()))) == lock


# What a YAML parser can make of a file.

_WORDS = (
    *("name", "channels", "dependencies", "variables", "prefix", "platforms", "pip", "sel(linux)", "category"),
    *("version", "metadata", "package", "packages", "environments", "default", "linux-64", "noarch", "conda", "pypi"),
    *("manager", "platform", "url", "hash", "sha256", "md5", "optional", "custom_metadata", "depends", "subdir"),
    *("python", "python=3.12=0", "a[version='>=1']", "conda-forge", "https://h/c/linux-64/a-1-0.conda", "a" * 64),
    *("-e .", "--index-url x", "-r r.txt", "rich==1.0", "a @ https://h/a-1-py3-none-any.whl", "[linux]", "x # [win]"),
    *(
        "2024-13-45",
        "1e999",
        "0x",
        "~",
        "!!binary =",
        "&a",
        "*a",
        "\ufeff",
        "\0",
        "\n",
        "\r\n",
        "\t",
        "\u2028",
        "'",
        '"',
    ),
)
TEXTS = st.one_of(
    st.sampled_from(_WORDS), st.text(max_size=30), st.lists(st.sampled_from(_WORDS), max_size=3).map("".join)
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 9),
    st.integers(),
    # Not st.just: its repr would be too long for Python.
    st.builds(lambda: 10**5000),
    st.floats(),
    TEXTS,
    st.just(b"\xff"),
    st.just(datetime.date(2024, 1, 2)),
)
KEYS = st.one_of(TEXTS, st.none(), st.booleans(), st.integers(), st.floats(), st.just(datetime.date(2024, 1, 2)))
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


@st.composite
def mutated(draw: st.DrawFn, kind: str) -> Any:
    """A document of this *kind*, with some of its parts gone, doubled, nested, exchanged, or something else."""
    document = draw(st.sampled_from(DOCUMENTS[kind]))
    for _number in range(draw(st.integers(1, 3))):
        document = draw(_changed(document, depth=draw(st.integers(0, 6))))
    return document


@st.composite
def _changed(draw: st.DrawFn, value: Any, depth: int) -> Any:
    if depth and isinstance(value, dict) and value:
        key = draw(st.sampled_from(list(value)))
        change = draw(st.sampled_from(("inside", "inside", "inside", "drop", "rename", "add")))
        changed = {**value}
        if change == "inside":
            changed[key] = draw(_changed(value[key], depth - 1))
        elif change == "add":
            changed[draw(KEYS)] = draw(VALUES)
        else:
            content = changed.pop(key)
            if change == "rename":
                changed[draw(KEYS)] = content
        return changed
    if depth and isinstance(value, list) and value:
        index = draw(st.integers(0, len(value) - 1))
        change = draw(st.sampled_from(("inside", "inside", "inside", "drop", "double", "add")))
        inside = [draw(_changed(value[index], depth - 1))] if change == "inside" else [value[index]]
        middle = {"inside": inside, "drop": [], "double": inside * 2, "add": [*inside, draw(VALUES)]}[change]
        return [*value[:index], *middle, *value[index + 1 :]]
    if isinstance(value, str) and draw(st.booleans()):
        start, end = sorted((draw(st.integers(0, len(value))), draw(st.integers(0, len(value)))))
        return f"{value[:start]}{draw(TEXTS)}{value[end:]}"
    return draw(VALUES | st.just([value]) | st.just({"conda": value}))


def _documents(paths: list[Path]) -> list[Any]:
    texts = [path.read_text(encoding="utf-8-sig") for path in paths if path.suffix != ".txt"]
    return [yaml.load(text, Loader=loader) for text in texts for loader in (yaml.SafeLoader, yaml.BaseLoader)]


DOCUMENTS = {
    "conda-lock": [document for document in _documents(LOCKS) if "package" in document],
    "pixi.lock": [document for document in _documents(LOCKS) if "environments" in document],
    "spec": _documents([path for path in SPECS if "duplicate" not in path.name]),
}


@st.composite
def file_contents(draw: st.DrawFn, paths: list[Path]) -> bytes:
    """The content of a file, damaged; or of none that ever was."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
    content = draw(st.sampled_from(paths)).read_bytes()
    for _number in range(draw(st.integers(1, 3))):
        start, end = sorted((draw(st.integers(0, len(content))), draw(st.integers(0, len(content)))))
        lines = content.splitlines(keepends=True)
        number = draw(st.integers(0, max(0, len(lines) - 1)))
        insert = draw(TEXTS).encode("utf-8", "replace")
        match draw(st.sampled_from(("cut", "insert", "drop", "double", "move", "exchange", "bytes", "crlf", "bom"))):
            case "cut":
                content = content[:start]
            case "insert":
                content = content[:start] + insert + content[start:]
            case "drop":
                content = b"".join(lines[:number] + lines[number + 1 :])
            case "double":
                content = b"".join(lines[: number + 1] + lines[number:])
            case "move":
                content = b"".join(lines[:number] + lines[number + 1 :] + lines[number : number + 1])
            case "exchange":
                content = content[:start] + insert + content[min(end, start + 20) :]
            case "bytes":
                content = content[:start] + draw(st.binary(max_size=4)) + content[start:]
            case "crlf":
                content = content.replace(b"\n", b"\r\n")
            case "bom":
                content = draw(st.sampled_from((b"\xef\xbb\xbf", b"\xff\xfe"))) + content
    return content


_URLS = st.builds(
    "{}{}/{}-{}-{}{}{}{}".format,
    st.sampled_from(("https://h/c/", "file:///c/", "http://u:p@h/t/x/", "", "c://", "https://[::1/")) | TEXTS,
    st.sampled_from(("linux-64", "noarch", "osx-arm64")) | TEXTS,
    *(TEXTS for _part in range(3)),
    st.sampled_from((".conda", ".tar.bz2", "")),
    st.sampled_from(("#", "#sha256:", "#md5:", "")),
    st.sampled_from(("a" * 64, "b" * 32, "")) | TEXTS,
)
EXPLICIT = st.lists(_URLS | TEXTS | st.just("@EXPLICIT") | st.just("# platform: linux-64"), max_size=6).map("\n".join)


# What is tried.


def try_explicit(text: str) -> None:
    with refusing(SOURCE):
        use_locks(from_explicit(text, SOURCE))


def try_conda_lock(document: Any) -> None:
    with refusing(SOURCE):
        use_locks(from_conda_lock(document, SOURCE))


def try_pixi_lock(document: Any) -> None:
    if isinstance(document, dict):
        with refusing(SOURCE):
            use_locks(from_pixi_lock(document, SOURCE))


def try_spec(document: Any) -> None:
    with refusing(SOURCE):
        use_spec(parse_spec(document, SOURCE))


def try_packages(packages: Any) -> None:
    with refusing(SOURCE):
        use_spec(spec_from_packages(packages, ["conda-forge"], SOURCE))


def _in_a_file(content: bytes, directory: Path, use: Callable[[str], None]) -> None:
    # A name of its own, for readers remember files by name and time.
    path = directory / f"file-{next(_NUMBERS)}"
    path.write_bytes(content)
    try:
        with refusing(path.name):
            use(str(path))
    finally:
        path.unlink()


TRIALS: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], None]]] = {
    "explicit": (EXPLICIT, try_explicit),
    "any lock": (VALUES, try_conda_lock),
    "conda-lock": (mutated("conda-lock"), try_conda_lock),
    "any pixi.lock": (st.dictionaries(KEYS, VALUES), try_pixi_lock),
    "pixi.lock": (mutated("pixi.lock"), try_pixi_lock),
    "any spec": (VALUES, try_spec),
    "spec": (mutated("spec"), try_spec),
    "packages": (st.lists(VALUES, max_size=3) | VALUES, try_packages),
}
FILES: dict[str, tuple[st.SearchStrategy[bytes], Callable[[str], None]]] = {
    "lock files": (file_contents(LOCKS), lambda path: use_locks(read_lock_file(path))),
    "spec files": (file_contents(SPECS), lambda path: use_spec(read_spec(path))),
    # A site's variables may name the wrong one.
    "specs as locks": (file_contents(SPECS), lambda path: use_locks(read_lock_file(path))),
    "locks as specs": (file_contents(LOCKS), lambda path: use_spec(read_spec(path))),
}


def _run(name: str, directory: Path, examples: int, *, same: bool) -> None:
    if name in TRIALS:
        strategy, trial = TRIALS[name]
    else:
        strategy, use = FILES[name]

        def trial(content: bytes) -> None:
            _in_a_file(content, directory, use)

    # Anything that takes this long is a hang to a person, and would be one on a busy machine too.
    deadline = datetime.timedelta(seconds=5)
    health = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
    run = settings(
        max_examples=examples, deadline=deadline, derandomize=same, database=None, suppress_health_check=health
    )
    run(given(strategy)(trial))()


@pytest.mark.parametrize("name", [*TRIALS, *FILES])
def test_nothing_gives_a_traceback(name: str, tmp_path: Path) -> None:
    _run(name, tmp_path, 60, same=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TRIALS, *FILES])
def test_nothing_gives_a_traceback_at_length(name: str, tmp_path: Path) -> None:
    _run(name, tmp_path, 2000, same=False)


# Files that break readers of YAML.

_LAUGHS = "a0: &a0 [lol, lol]\n" + "".join(
    f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]\n" for number in range(1, 40)
)
NASTY: dict[str, str | bytes] = {
    "nothing": "",
    "blanks": " \n\t\n",
    "a NUL": "name: a\0b\n",
    "UTF-16": "name: x\ndependencies: [python]\n".encode("utf-16"),
    "Latin-1": "name: caf\xe9\n".encode("latin-1"),
    "an archive": b"PK\x03\x04" + bytes(range(256)),
    "a tag": "name: !!python/object/apply:os.system [false]\ndependencies: !mine [python]\n",
    "several documents": "name: a\n---\nname: b\n",
    "an open bracket": "dependencies: [",
    "brackets": "[" * 200_000,
    "dashes": "- " * 200_000,
    "brackets behind comments": "[ # ]\n" * 50_000,
    "mappings": "".join(f"{' ' * depth}a:\n" for depth in range(1500)),
    "closed brackets": "dependencies: " + "[" * 3000 + "]" * 3000 + "\n",
    "an impossible date": "name: 2024-13-45\ndependencies: [2024-13-45]\nversion: 2024-13-45\n",
    "a huge number": f"version: {'9' * 5000}\ndependencies: [{'9' * 5000}]\n",
    "a huge exponent": "version: 1e999\ndependencies: [1e999, .nan, -.inf]\n",
    "base 60": "version: 1:2:3\ndependencies: [1:2:3]\n",
    "an equals sign": "dependencies: [=]\nname: =\n",
    "a merge": "a: &a {name: x}\n<<: *a\ndependencies: [python]\n",
    "a merge of a text": "<<: x\ndependencies: [python]\n",
    "an unknown alias": "dependencies: *nothing\n",
    "itself": "&a [*a]\n",
    "itself as dependencies": "dependencies: &a [*a]\n",
    "itself as pip": "dependencies: [pip: &a [*a]]\n",
    "itself as a package": "version: 1\npackage: [&a {name: *a, manager: *a, platform: *a, url: *a, hash: *a}]\n",
    "itself as a lock": "&a\nversion: 6\nenvironments: {default: *a}\npackages: {linux-64: [*a]}\n",
    "laughs": _LAUGHS,
    "laughs as dependencies": f"{_LAUGHS}dependencies: *a39\n",
    "laughs as a dependency": f"dependencies: [*a39]\nx: {{\n{_LAUGHS.replace(chr(10), ', ')}}}\n",
    "laughs behind": "".join(f"- {line}" for line in _LAUGHS.splitlines(keepends=True)),
    "laughs as a package": f"version: 1\n{_LAUGHS}package: [*a39, {{name: *a39}}]\n",
    "laughs as a name": f"version: 1\n{_LAUGHS}package: [{{name: *a39, manager: x, platform: x, url: x}}]\n",
    "laughs as a version": f"{_LAUGHS}version: *a39\nenvironments: {{}}\n",
    "laughs as an environment": f"version: 6\n{_LAUGHS}environments: *a39\npackages: *a39\n",
    "laughs as an entry": f"version: 6\n{_LAUGHS}environments: {{default: {{packages: {{linux-64: *a39}}}}}}\n"
    "packages: []\n",
    "laughs as a hash": f"version: 6\n{_LAUGHS}environments: {{default: {{packages: {{linux-64: [conda: x]}}}}}}\n"
    "packages: [{conda: x, sha256: *a39}]\n",
    "laughs as variables": f"{_LAUGHS}variables: {{A: *a39}}\ndependencies: [python]\n",
    "a long line": f"@EXPLICIT\nhttps://h/c/linux-64/{'a-' * 100_000}1-0.conda\n",
    "a long dependency": f"dependencies: ['{'a ' * 50_000}']\n",
    "many brackets in a dependency": f"dependencies: ['a{'[' * 20_000}']\n",
    "many blanks in a dependency": f"dependencies: ['a{' ' * 50_000}!']\n",
    "many commas in a dependency": f"dependencies: ['a >=1{',>=1' * 5000} !']\n",
    "a long selector": f"dependencies:\n  - a  # [{'not ' * 5000}linux]\n",
    "many selectors": "dependencies:\n" + "  - a  # [linux\n" * 3000,
    "a long comment": f"dependencies:\n  - a  {'#' * 20_000}[\n",
    "a long URL of pip": f"dependencies: [pip: ['a @ https://h/{'(' * 20_000}']]\n",
    "long options of pip": f"dependencies: [pip: ['-{'-' * 20_000}']]\n",
    "an unclosed quote of pip": 'dependencies: [pip: ["--index-url \'x"]]\n',
}


@pytest.mark.parametrize("read", [lambda path: use_spec(read_spec(path)), lambda path: use_locks(read_lock_file(path))])
@pytest.mark.parametrize("content", NASTY.values(), ids=NASTY)
def test_nasty_files_are_refused_or_read(content: str | bytes, read: Callable[[str], None], tmp_path: Path) -> None:
    content = content.encode() if isinstance(content, str) else content
    _in_a_file(content, tmp_path, read)


@pytest.mark.parametrize("name", ["missing", "", "with a NUL \0", "/dev/null", "/", "x" * 5000, "\ud800"])
def test_paths_that_cannot_be_read_are_refused(name: str, tmp_path: Path) -> None:
    for read in (read_spec, read_lock_file):
        with pytest.raises(CondaError) as caught:
            read(str(tmp_path / name))
        assert "cannot be read" in str(caught.value) or name == "/dev/null"


def test_a_refusal_is_one_line() -> None:
    """The check above sees what it is there for."""
    for message in ("no file named", f"{SOURCE}\nsecond line", f"{SOURCE} {'x' * 2000}"):
        with pytest.raises(AssertionError), refusing(SOURCE):
            raise CondaError(message)
    with pytest.raises(KeyError), refusing(SOURCE):
        raise KeyError(SOURCE)
    assert re.search(r"\*a0", _LAUGHS)
