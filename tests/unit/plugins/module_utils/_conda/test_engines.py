"""What every engine has to do, and what each says when it fails.

The contract is tested with every engine that there is: py-rattler of the tests' own Python, and a conda, a mamba and a
micromamba where CONDA_EXE, MAMBA_EXE or PATH lead to one. What a real conda said when it failed is kept in recorded/.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import pickle
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zstandard
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda import engines
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.convergence import converge
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.files import remove_tree
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.locks import Lock, Package
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.records import (
    compare_files,
    compare_with_lock,
    read_records,
)

from lab.packages import PLACEHOLDER, Entry, index_of, write_package

if TYPE_CHECKING:
    from unit.plugins.conftest import Channel, Node

RECORDED = Path(__file__).with_name("recorded")


def executable(name: str) -> str:
    """Where the conda, mamba or micromamba of this machine is, or an empty string."""
    stated = os.environ.get("CONDA_EXE" if name == "conda" else "MAMBA_EXE", "")
    return stated if os.path.basename(stated) == name else shutil.which(name) or ""


@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.skipif(name != "rattler" and not executable(name), reason=f"no {name}"))
        for name in engines.ENGINES
    ]
)
def engine(request: pytest.FixtureRequest) -> engines.Engine:
    """Each engine that there is."""
    if request.param == "rattler":
        return engines.RattlerEngine(sys.executable)
    path = executable(request.param)
    return engines.CondaEngine(path) if request.param == "conda" else engines.MambaEngine(request.param, path)


@pytest.fixture
def places(sandbox: Path) -> tuple[str, str]:
    """A prefix to be made, and a package cache."""
    return str(sandbox / "prefix"), str(sandbox / "pkgs")


def problems(prefix: str, packages: Sequence[Package]) -> list[object]:
    """What is wrong with *prefix*, if it must be just *packages*."""
    records, found = read_records(prefix)
    return [*found, *compare_with_lock(records, Lock("linux-64", tuple(packages))), *compare_files(prefix, records)]


def with_md5(channel: Channel, package: Package) -> Package:
    """The same package, in a lock that knows nothing but md5 sums."""
    archive = channel.directory / package.subdir / package.file_name
    return dataclasses.replace(package, sha256="", md5=hashlib.md5(archive.read_bytes()).hexdigest())


def as_tar_bz2(channel: Channel, package: Package) -> Package:
    """The same package in the older format."""
    archive = channel.directory / package.subdir / package.file_name
    older = archive.with_suffix(".tar.bz2")
    with zipfile.ZipFile(archive) as parts, tarfile.open(older, "w:bz2") as merged:
        for part in [name for name in parts.namelist() if name.endswith(".tar.zst")]:
            with tarfile.open(fileobj=io.BytesIO(zstandard.decompress(parts.read(part)))) as stream:
                for member in stream:
                    merged.addfile(member, stream.extractfile(member) if member.isfile() else None)
    return channel.listed(older)


def test_a_prefix_is_just_what_the_lock_says(
    engine: engines.Engine, channel: Channel, mirror: Channel, places: tuple[str, str]
) -> None:
    prefix, cache = places
    packages = (channel.add_tool("one"), mirror.add_tool("two"))
    engine.install(packages, prefix, cache)
    assert problems(prefix, packages) == []
    records, _problems = read_records(prefix)
    assert {record.url for record in records} == {package.url for package in packages}
    # Each file has a sum to be held against, but for links.
    assert {record.name: sorted(record.sums) for record in records} == {
        name: [f"bin/{name}", f"share/{name}/data"] for name in ("one", "two")
    }
    done = subprocess.run([f"{prefix}/bin/one", "a b"], capture_output=True, text=True, check=True)
    assert done.stdout == "one 1.0 a b\n"
    history = Path(prefix, "conda-meta", "history").read_text()
    assert re.search(r"^\+\S+::one-1\.0-0$", history, re.MULTILINE)


def test_all_may_read_what_was_installed_whatever_the_umask(
    engine: engines.Engine, channel: Channel, places: tuple[str, str], restore_umask: None
) -> None:
    prefix, cache = places
    os.umask(0o077)
    engine.install([channel.add_tool()], prefix, cache)
    modes = {
        name: stat.S_IMODE(os.stat(os.path.join(prefix, name)).st_mode)
        for name in ("", "bin", "bin/tool", "share/tool/data", "conda-meta", "conda-meta/tool-1.0-0.json")
    }
    assert modes == {
        "": 0o755,
        "bin": 0o755,
        "bin/tool": 0o755,
        "share/tool/data": 0o644,
        "conda-meta": 0o755,
        "conda-meta/tool-1.0-0.json": 0o644,
    }


def test_links_stay_links_and_files_do_not_become_any(
    engine: engines.Engine, channel: Channel, places: tuple[str, str]
) -> None:
    prefix, cache = places
    entries = [
        Entry("lib/libx.so.1.2", b"\x7fELF"),
        Entry("lib/libx.so.1", link="libx.so.1.2"),
        Entry("lib/libx.so", link="libx.so.1"),
        Entry("lib64", link="lib"),
        Entry("etc/elsewhere", link="no-such-file"),
    ]
    package = channel.add("links", "1.0", entries)
    engine.install([package], prefix, cache)
    assert problems(prefix, [package]) == []
    assert {entry.path: os.readlink(f"{prefix}/{entry.path}") for entry in entries if entry.link} == {
        entry.path: entry.link for entry in entries if entry.link
    }
    assert not os.path.islink(f"{prefix}/lib/libx.so.1.2")
    assert Path(prefix, "lib64", "libx.so").read_bytes() == b"\x7fELF"


def test_the_prefix_is_put_into_text_and_into_programs(
    engine: engines.Engine, channel: Channel, places: tuple[str, str]
) -> None:
    prefix, cache = places
    entries = [
        Entry("etc/text", f"{PLACEHOLDER}/share and {PLACEHOLDER}".encode()),
        Entry("bin/program", b"\x7fELF\0" + f"{PLACEHOLDER}/share:{PLACEHOLDER}/lib".encode() + b"\0end", 0o755),
    ]
    package = channel.add("relocated", "1.0", entries)
    engine.install([package], prefix, cache)
    assert problems(prefix, [package]) == []
    assert Path(prefix, "etc", "text").read_text() == f"{prefix}/share and {prefix}"
    program = Path(prefix, "bin", "program").read_bytes()
    assert len(program) == len(entries[1].data)
    assert program.startswith(b"\x7fELF\0" + f"{prefix}/share:{prefix}/lib".encode() + b"\0")
    assert program.endswith(b"\0end")


def test_noarch_python_gets_its_entry_points_and_its_place_in_that_python(
    engine: engines.Engine, channel: Channel, places: tuple[str, str]
) -> None:
    prefix, cache = places
    major_minor = f"3.{sys.version_info[1]}"
    library = f"lib/python{major_minor}"
    # Not a Python of its own, but one in the place where a package has it.
    script = f'#!/bin/sh\nPYTHONPATH={PLACEHOLDER}/{library}/site-packages exec {shlex.quote(sys.executable)} "$@"\n'
    python = channel.add(
        "python",
        f"{major_minor}.0",
        [
            Entry(f"bin/python{major_minor}", script.encode(), 0o755),
            Entry("bin/python", link=f"python{major_minor}"),
            Entry(f"{library}/os.py", b""),
        ],
    )
    path = write_package(
        channel.directory,
        index_of("greeter", "1.0", "pyh_0", ["python"], noarch="python"),
        [Entry("site-packages/greeter.py", b"def main():\n    print('hello')\n")],
        entry_points=["greet = greeter:main"],
    )
    packages = [channel.listed(path), python]
    engine.install(packages, prefix, cache)
    assert problems(prefix, packages) == []
    assert Path(prefix, library, "site-packages", "greeter.py").exists()
    done = subprocess.run([f"{prefix}/bin/greet"], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("hello\n", "")
    assert subprocess.run(["head", "-1", f"{prefix}/bin/greet"], capture_output=True, check=True).stdout.startswith(
        f"#!{prefix}/bin/python".encode()
    )


def scripted(channel: Channel, name: str, depends: Sequence[str], script: str, *entries: Entry) -> Package:
    """A package with a post-link script."""
    lines = Entry(f"bin/.{name}-post-link.sh", f"#!/bin/bash\n{script}\n".encode(), 0o755)
    return channel.listed(write_package(channel.directory, index_of(name, "1.0", "0", depends), [lines, *entries]))


def test_link_scripts_are_run_when_what_they_need_is_in_place(
    engine: engines.Engine, channel: Channel, places: tuple[str, str]
) -> None:
    prefix, cache = places
    activation = Entry("etc/conda/activate.d/base.sh", b"export ACTIVATED=yes\n")
    packages = [
        channel.add_tool(),
        scripted(channel, "zero", [], "echo zero >$PREFIX/linked; echo never mind >$PREFIX/.messages.txt", activation),
        scripted(
            channel, "middle", ["zero >=1", "tool"], 'echo "$PKG_NAME $PKG_VERSION $PKG_BUILDNUM" >>$PREFIX/linked'
        ),
        scripted(channel, "above", ["middle"], f'{PLACEHOLDER}/bin/tool "$PKG_NAME $ACTIVATED" >>$PREFIX/linked'),
    ]
    if engine.name == "rattler":
        packages.reverse()  # conda and its kin take packages as they are listed
    engine.install(packages, prefix, cache)
    assert problems(prefix, packages) == []
    assert Path(prefix, "linked").read_text() == "zero\nmiddle 1.0 0\ntool 1.0 above yes\n"
    assert not Path(prefix, ".messages.txt").exists()


def test_a_link_script_that_fails_is_quoted(engine: engines.Engine, channel: Channel, places: tuple[str, str]) -> None:
    if isinstance(engine, engines.MambaEngine):
        pytest.skip("mamba takes no notice of it, and nobody can tell from what it leaves")
    script = "echo said aloud; echo left in writing >$PREFIX/.messages.txt; exit 3"
    with pytest.raises(CondaError) as caught:
        engine.install([scripted(channel, "fussy", [], script)], *places)
    assert all(words in str(caught.value) for words in ("fussy", "said aloud", "left in writing", "3"))


def test_records_say_what_the_packages_say_of_themselves(
    engine: engines.Engine, channel: Channel, places: tuple[str, str]
) -> None:
    prefix, cache = places
    path = write_package(channel.directory, index_of("tool", "1.0", "0", ["other >=2"]), [Entry("data", b"x")])
    engine.install([channel.listed(path)], prefix, cache)
    record = json.loads(Path(prefix, "conda-meta", "tool-1.0-0.json").read_text())
    assert (record["depends"], record["build_number"], record["timestamp"]) == (["other >=2"], 0, 1_700_000_000_000)
    assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("hashed_by", ["sha256", "md5"])
@pytest.mark.parametrize("form", ["conda", "tar.bz2"])
def test_either_format_is_installed_by_either_sum(
    form: str, hashed_by: str, engine: engines.Engine, mirror: Channel, places: tuple[str, str]
) -> None:
    prefix, cache = places
    package = mirror.add_tool()
    if form == "tar.bz2":
        package = as_tar_bz2(mirror, package)
    if hashed_by == "md5":
        package = with_md5(mirror, package)
    for number in range(2):  # with an empty cache, and from it
        engine.install([package], f"{prefix}-{number}", cache)
        assert problems(f"{prefix}-{number}", [package]) == []
        assert Path(f"{prefix}-{number}", "bin", "tool-link").exists()


def test_what_was_downloaded_is_not_downloaded_again(
    engine: engines.Engine, mirror: Channel, places: tuple[str, str]
) -> None:
    prefix, cache = places
    package = mirror.add_tool()
    engine.install([package], prefix, cache)
    Path(mirror.directory, "linux-64", package.file_name).unlink()
    engine.install([package], f"{prefix}-2", cache)
    assert Path(f"{prefix}-2", "bin", "tool").exists()


@pytest.mark.parametrize("hashed_by", ["sha256", "md5"])
def test_the_cache_does_not_stand_in_for_another_archive_of_that_name(
    hashed_by: str, engine: engines.Engine, mirror: Channel, places: tuple[str, str]
) -> None:
    prefix, cache = places

    def published(content: bytes) -> Package:
        package = mirror.add("tool", "1.0", [Entry("data", content)])
        return package if hashed_by == "sha256" else with_md5(mirror, package)

    engine.install([published(b"first")], prefix, cache)
    engine.install([published(b"second")], f"{prefix}-2", cache)
    assert Path(f"{prefix}-2", "data").read_bytes() == b"second"


def test_what_is_forgotten_is_fetched_again(engine: engines.Engine, mirror: Channel, places: tuple[str, str]) -> None:
    prefix, cache = places
    package = mirror.add_tool()
    engine.install([package], prefix, cache)
    with open(f"{prefix}/share/tool/data", "a") as stream:  # reaches the cache, of which it is a hard link
        stream.write("damage")
    engines.forget([package], cache)
    engine.install([package], f"{prefix}-2", cache)
    assert problems(f"{prefix}-2", [package]) == []


def test_a_damaged_cache_does_not_stay_damaged(
    engine: engines.Engine, mirror: Channel, node: Node, restore_umask: None
) -> None:
    package = mirror.add_tool()
    base = sys.prefix if engine.name == "rattler" else str(Path(executable(engine.name)).parents[1])

    def install(name: str) -> Path:
        node.converge(node.want(package, name=name), engine=engine.name, base_prefix=base)
        return node.generation(name)

    data = install("first") / "share" / "tool" / "data"
    data.write_text("other content"[: data.stat().st_size])  # reaches the cache, of which it is a hard link
    assert problems(str(install("second")), [package]) == []


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("other content", "hash mismatch|ChecksumMismatch|incorrect downloads"),
        ("cut off", "hash mismatch|ChecksumMismatch|incorrect downloads"),
        ("gone", "404"),
        ("no archive", "InvalidArchive|invalid|extract"),
    ],
)
def test_a_wrong_archive_on_the_mirror_is_one_clear_error(
    fault: str, message: str, engine: engines.Engine, mirror: Channel, places: tuple[str, str]
) -> None:
    package = mirror.add_tool()
    archive = Path(mirror.directory, "linux-64", package.file_name)
    if fault == "other content":
        mirror.add("tool", "1.0", [Entry("bin/tool", b"evil")])
    elif fault == "cut off":
        archive.write_bytes(archive.read_bytes()[:-50])
    elif fault == "no archive":
        archive.write_bytes(b"<html>this is no package</html>" * 9)
        package = mirror.listed(archive)
    else:
        archive.unlink()
    with pytest.raises(CondaError, match=message) as caught:
        engine.install([package], *places)
    assert "tool-1.0-0" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert not Path(places[0], "bin").exists()


def test_a_channel_that_nobody_answers_for_is_named(engine: engines.Engine, places: tuple[str, str]) -> None:
    url = "http://127.0.0.1:9/channel/linux-64/tool-1.0-0.conda"
    with pytest.raises(CondaError, match=re.escape(url)):
        engine.install([Package.from_url(url, "0" * 64)], *places)


def test_a_prefix_that_cannot_be_made_is_named(
    engine: engines.Engine, channel: Channel, places: tuple[str, str]
) -> None:
    obstacle = Path(places[0])
    obstacle.write_text("a file")
    with pytest.raises(CondaError, match=re.escape(str(obstacle))):
        engine.install([channel.add_tool()], str(obstacle / "prefix"), places[1])


def test_what_a_killed_engine_leaves_is_in_nobodys_way(
    engine: engines.Engine, mirror: Channel, places: tuple[str, str]
) -> None:
    prefix, cache = places
    entries = [Entry(f"share/big/{number}", bytes([number]) * 100_000) for number in range(50)]
    packages = [mirror.add(f"big{one}", "1.0", [Entry(f"{e.path}-{one}", e.data) for e in entries]) for one in "abcdef"]
    order = json.dumps([package.as_dict() for package in packages])
    script = (
        "import json, sys\n"
        f"from {engines.__name__} import *\n"
        f"engine = object.__new__({type(engine).__name__})\n"
        "vars(engine).update(json.loads(sys.argv[1]))\n"
        "engine.install([Package(**one) for one in json.load(sys.stdin)], sys.argv[2], sys.argv[3])\n"
    )
    command = [sys.executable, "-c", script, json.dumps(vars(engine)), prefix, cache]
    for reached in (cache, prefix):
        with subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True) as process:
            assert process.stdin is not None
            process.stdin.write(order)
            process.stdin.close()
            deadline = time.monotonic() + 60
            while not any(Path(reached).glob("**/big*")) and time.monotonic() < deadline:
                time.sleep(0.002)
            os.killpg(process.pid, signal.SIGKILL)
        assert any(Path(reached).glob("**/big*")), "it was not killed half-way"
        remove_tree(prefix)
    engine.install(packages, prefix, cache)
    assert problems(prefix, packages) == []


def test_hostile_environment_variables_do_not_reach_the_engine(
    engine: engines.Engine, channel: Channel, places: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("PYTHONPATH", "PYTHONHOME", "CONDA_PKGS_DIRS", "RATTLER_CACHE_DIR", "CONDARC", "MAMBA_ROOT_PREFIX"):
        monkeypatch.setenv(name, str(tmp_path / "evil"))
    engine.install([channel.add_tool()], *places)
    assert Path(places[0], "bin", "tool").exists()
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_archives_of_file_channels_are_checked_before_an_engine_believes_them(kind: str, channel: Channel) -> None:
    directory = channel.directory / "with % and blank"
    package = dataclasses.replace(channel, directory=directory, url=directory.as_uri()).add_tool()
    archive = directory / "linux-64" / package.file_name
    if kind == "md5":
        package = Package.from_url(package.url, md5=hashlib.md5(archive.read_bytes()).hexdigest())
    engines.require_archives([package, Package.from_url("http://127.0.0.1:9/linux-64/x-1-0.conda", "0" * 64)])
    archive.write_bytes(archive.read_bytes() + b"x")
    with pytest.raises(CondaError, match=r"hash mismatch: .* is not the archive of the lock: expected"):
        engines.require_archives([package])
    archive.unlink()
    with pytest.raises(CondaError, match=r"cannot be read: No such file or directory"):
        engines.require_archives([package])


def test_a_base_without_py_rattler_says_so_in_one_line(channel: Channel, places: tuple[str, str]) -> None:
    script = places[0] + "-python"
    Path(script).write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    Path(script).chmod(0o755)
    with pytest.raises(CondaError, match=r"No module named 'rattler'"):
        engines.RattlerEngine(script).install([channel.add_tool()], *places)
    with pytest.raises(CondaError, match=r"/no/python cannot be run"):
        engines.RattlerEngine("/no/python").install([], *places)


def test_an_engine_that_is_killed_is_an_error(channel: Channel, places: tuple[str, str]) -> None:
    script = places[0] + "-python"
    Path(script).write_text("#!/bin/sh\necho something >&2\nkill -9 $$\n")
    Path(script).chmod(0o755)
    with pytest.raises(CondaError, match=r"something"):
        engines.RattlerEngine(script).install([channel.add_tool()], *places)


def test_the_engine_is_found_by_its_files_alone(tmp_path: Path) -> None:
    def base(name: str, *files: str) -> str:
        for file in files:
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return str(tmp_path / name)

    python, conda, rattler = "bin/python", "bin/conda", "lib/python3.10/site-packages/rattler/__init__.py"
    full = base("base [1]", python, conda, rattler)
    for wanted, directory, expected in (
        ("auto", full, "rattler"),
        ("rattler", full, "rattler"),
        ("conda", full, "conda"),
        ("auto", base("miniconda", python, conda), "conda"),
        ("auto", base("odd", conda, rattler), "conda"),
        ("auto", base("miniforge", python, conda, "bin/mamba"), "conda"),
        ("mamba", str(tmp_path / "miniforge"), "mamba"),
        ("auto", base("both", "bin/micromamba", "bin/mamba"), "mamba"),
        ("micromamba", str(tmp_path / "both"), "micromamba"),
        ("auto", base("bare", "bin/micromamba"), "micromamba"),
    ):
        assert engines.select(wanted, directory, "option").name == expected
    for wanted, directory, message in (
        ("auto", base("venv", python), "option: the engine auto is not in .*venv, which has none: install it with the"),
        ("rattler", str(tmp_path / "miniconda"), "option: the engine rattler is not in .*, which has conda"),
        ("mamba", full, "option: the engine mamba is not in .*, which has rattler, conda$"),
        ("conda", str(tmp_path / "both"), "option: the engine conda is not in .*, which has mamba, micromamba$"),
    ):
        with pytest.raises(CondaError, match=message):
            engines.select(wanted, directory, "option")


def test_the_engine_works_from_inside_an_archive(channel: Channel, places: tuple[str, str]) -> None:
    """Modules come to a node as a zip file, where a source has no path of its own."""
    source = Path(engines.__file__).parent
    archive = Path(places[0] + ".zip")
    with zipfile.ZipFile(archive, "w") as stream:
        for file in sorted(source.glob("*.py")):
            stream.write(file, f"shipped/_conda/{file.name}")
        stream.writestr("shipped/__init__.py", "")
    script = (
        "import json, sys\nsys.path.insert(0, sys.argv[1])\nfrom shipped._conda import engines, locks\n"
        "packages = [locks.Package(**one) for one in json.load(sys.stdin)]\n"
        "engines.RattlerEngine(sys.executable).install(packages, sys.argv[2], sys.argv[3])\n"
    )
    order = json.dumps([channel.add_tool().as_dict()])
    command = [sys.executable, "-c", script, str(archive), *places]
    done = subprocess.run(command, input=order, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path(places[0], "bin", "tool").exists()


def test_only_the_named_packages_leave_the_cache(tmp_path: Path) -> None:
    for name in ("tool-1.0-0", "tool-1.0-1", "toolbox-1.0-0"):
        (tmp_path / name / "info").mkdir(parents=True)
        (tmp_path / f"{name}.conda").touch()
    (tmp_path / "tool-1.0-0.lock").touch()
    shutil.copytree(tmp_path, nested := tmp_path / "https" / "mirror" / "linux-64")  # as mamba has it
    engines.forget([Package.from_url("http://x/linux-64/tool-1.0-0.conda", "0" * 64)], str(tmp_path))
    others = ["tool-1.0-1", "tool-1.0-1.conda", "toolbox-1.0-0", "toolbox-1.0-0.conda"]
    assert sorted(os.listdir(nested)) == others
    assert sorted(os.listdir(tmp_path)) == ["https", *others]
    engines.forget([], str(tmp_path))
    engines.forget([Package.from_url("http://x/linux-64/tool-1.0-1.conda", "0" * 64)], str(tmp_path / "missing"))
    assert sorted(os.listdir(nested)) == others


# What conda and its kin say when they fail. In recorded/ is what a real one printed, shortened and with other paths:
# a script that prints it again stands for the program.

TOOL = Package.from_url("http://mirror.lab/linux-64/tool-1.0-0.conda", "0" * 64)
Saying = Callable[..., str]


@pytest.fixture
def saying(sandbox: Path) -> Saying:
    """Make a program that prints what is given, ends as it is told, and notes how it was called."""

    def program(stdout: str | Path = "", stderr: str | Path = "", ends: str = "exit 0", name: str = "conda") -> str:
        path = sandbox / "base" / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        texts = [text.read_text() if isinstance(text, Path) else text for text in (stdout, stderr)]
        called = f'printf "%s\\n" "$*" >>{sandbox}/called; env >>{sandbox}/called; cat "${{@: -1}}" >>{sandbox}/called'
        prints = [f"printf %s {shlex.quote(text)}" for text in texts]
        path.write_text(f"#!/bin/bash\n{called}\n{prints[0]}\n{prints[1]} >&2\n{ends}\n")
        path.chmod(0o755)
        return str(path)

    return program


# What conda prints when it has installed something it solved for; after an @EXPLICIT list it prints nothing.
PLANNED = """{
  "success": true,
  "actions": {
    "FETCH": [],
    "PREFIX": "/opt/envs/x"
  },
  "prefix": "/opt/envs/x"
}"""
EXIT_WITH_NOTHING_MADE = """Preparing transaction: ...working... done
{
  "caused_by": "None",
  "error": "CondaSystemExit: Exiting 1",
  "exception_name": "CondaSystemExit",
  "exception_type": "<class 'conda.exceptions.CondaSystemExit'>",
  "message": "Exiting 1"
}
"""
NOT_ALLOWED = """{
  "caused_by": "None",
  "channel_name": "ev2",
  "channel_url": "file:///srv/ev2",
  "error": "ChannelNotAllowed: Channel not included in allowlist:\\n  channel name: ev2\\n  channel url: file:///srv/ev2\\n",
  "exception_name": "ChannelNotAllowed",
  "exception_type": "<class 'conda.exceptions.ChannelNotAllowed'>",
  "message": "Channel not included in allowlist:\\n  channel name: ev2\\n  channel url: file:///srv/ev2\\n",
  "warning": "Channel not included in allowlist"
}

"""
FROZEN = """{
  "caused_by": "None",
  "error": "EnvironmentIsFrozenError: Cannot modify '/opt/conda'. The environment is marked as frozen.",
  "exception_name": "EnvironmentIsFrozenError",
  "exception_type": "<class 'conda.exceptions.EnvironmentIsFrozenError'>",
  "message": "Cannot modify '/opt/conda'. The environment is marked as frozen."
}
"""
NOT_FOUND = """{
  "caused_by": "None",
  "channels_formatted": "\\n  - file:///srv/lab/channel",
  "error": "PackagesNotFoundInChannelsError: The following packages are not available from current channels:",
  "exception_name": "PackagesNotFoundInChannelsError",
  "exception_type": "<class 'conda.exceptions.PackagesNotFoundInChannelsError'>",
  "message": "The following packages are not available from current channels:\\n\\n  - x\\n\\nCurrent channels:\\n"
}
"""


@pytest.mark.parametrize(
    ("recorded", "message"),
    [
        (
            "wrong-hash",
            r"conda: ChecksumMismatchError: Conda detected a mismatch .* 'http://mirror.lab/linux-64/tool-1.0-0.conda'"
            r".* expected sha256: 0{64} actual sha256: d0",
        ),
        (
            "gone",
            "conda: CondaHTTPError: HTTP 404 File not found for url <http://mirror.lab/linux-64/gone-1.0-0.conda>",
        ),
        ("unreachable", "conda: CondaHTTPError: HTTP 000 CONNECTION FAILED for url <http://127.0.0.1:9/linux-64/gone"),
        ("broken-archive", "conda: InvalidArchiveError: Error with archive /opt/envfleet/pkgs/rubbish-1.0-0.conda"),
        ("damaged-cache", "conda: SafetyError: The package for tool located at .* appears to be corrupted. The path"),
        ("post-link", "conda: LinkError: post-link script failed .*==> script messages <== said .*return code: 3$"),
        ("unwritable-prefix", "conda: CondaError: Unable to create prefix directory '/opt/envfleet/generations/ml/0'"),
        ("unwritable-cache", "conda: NoWritablePkgsDirError: No writeable pkgs directories .*- /opt/envfleet/pkgs$"),
        ("full-cache", "the disk is full: conda: CondaError: Failed to write to .*.conda.partial errno: 28$"),
        ("full-extract", "the disk is full: conda: InvalidArchiveError: Error with archive .*big-1.0-0.conda"),
        ("full-prefix", r"the disk is full: conda: OSError: \[Errno 28\] No space left on device$"),
        ("shared-cold-cache-prose", "conda ended with 1: ERROR: Encountered corrupt package tarball at .*m8-1.0-0"),
        ("shared-cold-cache-unforeseen", r"conda: OSError: OSError\('Path .*index.json is not a file'\)$"),
    ],
)
def test_what_conda_26_7_said_becomes_one_clear_error(
    recorded: str, message: str, saying: Saying, places: tuple[str, str]
) -> None:
    conda = saying(RECORDED / "conda-26.7.1" / f"{recorded}.out", ends="exit 1")
    with pytest.raises(CondaError, match=f"^{message}") as caught:
        engines.CondaEngine(conda).install([TOOL], *places)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("stdout", "message"),
    [
        (RECORDED / "conda-26.7.1" / "damaged-cache.out", "conda: SafetyError: The package for tool located at"),
        (EXIT_WITH_NOTHING_MADE, "conda: CondaSystemExit: Exiting 1$"),
        (NOT_ALLOWED, "conda: ChannelNotAllowed: Channel not included in allowlist: channel name: ev2 channel url: fi"),
        (FROZEN, "conda: EnvironmentIsFrozenError: Cannot modify '/opt/conda'"),
        (NOT_FOUND, "conda: PackagesNotFoundInChannelsError: The following packages are not available .* - x"),
        (
            '{\n  "exception_name": "NoSpaceLeftError",\n  "message": "No space left on devices."\n}',
            "the disk is full: co",
        ),
        (PLANNED, "conda ended with 0 and has not installed tool 1.0 0: .*/opt/envs/x"),
        ("", "conda ended with 0 and has not installed tool 1.0 0$"),
        ("prose\n{broken\n", r"conda ended with 0 and has not installed tool 1.0 0: prose\n\{broken$"),
    ],
)
def test_that_conda_ended_with_0_does_not_mean_that_it_has_done_anything(
    stdout: str | Path, message: str, saying: Saying, places: tuple[str, str]
) -> None:
    with pytest.raises(CondaError, match=f"(?s)^{message}"):
        engines.CondaEngine(saying(stdout)).install([TOOL], *places)


def test_an_error_counts_though_success_is_told_after_it(saying: Saying, places: tuple[str, str]) -> None:
    damaged = (RECORDED / "conda-26.7.1" / "damaged-cache.out").read_text()
    conda = saying(f"{damaged}Preparing transaction: done\n{PLANNED}\n")
    with pytest.raises(CondaError, match=r"^conda: SafetyError: The package for tool"):
        engines.CondaEngine(conda).install([TOOL], *places)


@pytest.mark.parametrize("stdout", ["", "\n", PLANNED, f"Collecting: done\n{PLANNED}\n"])
def test_conda_has_succeeded_when_the_records_are_there_and_no_exception_is_told(
    stdout: str, saying: Saying, places: tuple[str, str]
) -> None:
    record = f"{places[0]}/conda-meta/{TOOL.record_name}"
    conda = saying(stdout, "a warning\n", ends=f"mkdir -p {os.path.dirname(record)} && touch {record}")
    engines.CondaEngine(conda).install([TOOL], *places)


@pytest.mark.parametrize(
    ("stdout", "stderr", "ends", "message"),
    [
        (
            "",
            RECORDED / "conda-26.7.1" / "usage.err",
            "exit 2",
            "conda ended with 2: usage: conda .*unrecognized argum",
        ),
        (PLANNED, "", "kill -9 $$", "conda ended with -9"),
        ('{\n  "cut": [', "", "exit 1", "conda ended with 1"),
        ("", "OSError: [Errno 28] No space left on device", "exit 1", "the disk is full: conda ended with 1"),
    ],
)
def test_a_conda_that_prints_no_json_is_quoted(
    stdout: str, stderr: str | Path, ends: str, message: str, saying: Saying, places: tuple[str, str]
) -> None:
    with pytest.raises(CondaError, match=f"(?s)^{message}"):
        engines.CondaEngine(saying(stdout, stderr, ends)).install([TOOL], *places)


MAMBA_PLAN = """{
    "actions": {
        "PREFIX": "/opt/envfleet/generations/ml/0"
    },
    "dry_run": false,
    "prefix": "/opt/envfleet/generations/ml/0",
    "success": true
}
"""


@pytest.mark.parametrize(
    ("stderr", "ends", "message"),
    [
        (
            "error    libmamba File not valid: SHA256 doesn't match expectation "
            '"/opt/envfleet/pkgs/http/mirror.lab/linux-64/tool-1.0-0.conda"\n    Expected: 0000\n    Actual: d099\n'
            "critical libmamba Found incorrect downloads. Aborting\n",
            "exit 1",
            "File not valid: SHA256 doesn't match expectation "
            '"/opt/envfleet/pkgs/http/mirror.lab/linux-64/tool-1.0-0.conda" Expected: 0000 Actual: d099'
            ": Found incorrect downloads. Aborting",
        ),
        (
            "warning  libmamba never mind\n"
            "critical libmamba Download error (7) Couldn't connect to server [http://127.0.0.1:9/x]\n    Failed to\n",
            "exit 1",
            "Download error (7) Couldn't connect to server [http://127.0.0.1:9/x] Failed to",
        ),
        (
            "create: The following argument was not expected: --no-such\nRun with --help for more information.\n",
            "exit 109",
            "ended with 109: create: The following argument was not expected: --no-such "
            "Run with --help for more information.",
        ),
    ],
)
def test_what_mamba_2_8_said_becomes_one_clear_error(
    stderr: str, ends: str, message: str, saying: Saying, places: tuple[str, str]
) -> None:
    with pytest.raises(CondaError, match=f"^mamba: {re.escape(message)}$"):
        engines.MambaEngine("mamba", saying("", stderr, ends)).install([TOOL], *places)


def test_that_mamba_ended_with_0_does_not_mean_that_it_has_done_anything(
    saying: Saying, places: tuple[str, str]
) -> None:
    """So it ends when it is interrupted, and so says its plan."""
    program = saying(MAMBA_PLAN, "warning  libmamba Interrupted by user")
    with pytest.raises(CondaError, match=r"(?s)^mamba ended with 0 and has not installed tool 1.0 0: .*Interrupted"):
        engines.MambaEngine("mamba", program).install([TOOL], *places)


def test_terms_of_service_are_never_accepted_but_the_way_out_is_told(
    saying: Saying, places: tuple[str, str], sandbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")  # has conda accept everything
    monkeypatch.setenv("CONDA_PLUGINS_AUTO_ACCEPT_TOS", "true")
    conda = saying(RECORDED / "conda-26.7.1" / "terms-of-service.out", ends="exit 1")
    with pytest.raises(CondaError) as caught:
        engines.CondaEngine(conda).install([TOOL], *places)
    assert str(caught.value) == (
        "conda: CondaToSNonInteractiveError: the terms of service of http://mirror.lab are not accepted on this node: "
        "leave it out of miniconda_channels, or accept them, if you may, as root with: "
        f"{conda} tos accept --site --override-channels --channel http://mirror.lab"
    )
    called = (sandbox / "called").read_text()
    assert not re.search(r"^(CI|CONDA_PLUGINS.*)=", called, re.MULTILINE)


def test_how_conda_and_its_kin_are_called(saying: Saying, places: tuple[str, str], sandbox: Path) -> None:
    prefix, cache = places
    by_md5 = Package.from_url("http://mirror.lab/noarch/b-2-0.tar.bz2", md5="1" * 32)
    for name in ("conda", "mamba", "micromamba"):
        (sandbox / "called").unlink(missing_ok=True)
        program = saying(name=name)
        engine = engines.select(name, str(sandbox / "base"), "option")
        with pytest.raises(CondaError, match=rf"^{name} ended with 0 and has not installed tool 1.0 0$"):
            engine.install([TOOL, by_md5], prefix, cache)
        called = (sandbox / "called").read_text().splitlines()
        assert called[0].startswith(f"create --yes --quiet --json --prefix {prefix} --file /")
        assert called[-3:] == ["@EXPLICIT", f"{TOOL.url}#{'0' * 64}", f"{by_md5.url}#{'1' * 32}"]
        assert {f"CONDA_PKGS_DIRS={cache}", "CONDA_SAFETY_CHECKS=enabled", "CONDA_EXTRA_SAFETY_CHECKS=true"} < {*called}
        os.unlink(program)


def test_two_runs_never_have_their_engines_at_work_at_once(
    saying: Saying, node: Node, sandbox: Path, restore_umask: None
) -> None:
    """conda, for one, breaks when two of it fill one package cache, and may end with 0 then."""
    saying(ends=f"echo begin >>{sandbox}/log; sleep 0.3; echo end >>{sandbox}/log; exit 1")
    settings = node.settings(engine="conda", base_prefix=str(sandbox / "base"))
    script = (
        "import pickle, sys\n"
        f"from {converge.__module__} import converge\n"
        "converge(*pickle.loads(bytes.fromhex(sys.argv[1])))\n"
    )
    orders = [pickle.dumps(([node.want(TOOL, name=name)], settings, False)).hex() for name in ("one", "two", "three")]
    runs = [
        subprocess.Popen([sys.executable, "-c", script, order], stderr=subprocess.PIPE, text=True) for order in orders
    ]
    said = [run.communicate(timeout=60)[1] for run in runs]
    assert all("conda ended with 1" in text for text in said), said
    assert (sandbox / "log").read_text().split() == ["begin", "end"] * 3


def test_all_documents_are_read_with_prose_between_them() -> None:
    damaged = (RECORDED / "conda-26.7.1" / "damaged-cache.out").read_text()
    text = f'prose {{"not": 1}}\n{damaged}{PLANNED}\ndone\n{{broken\n{{"a": {{\n"b": 1}}}}\n'
    assert [sorted(document)[0] for document in engines._json_documents(text)] == ["error", "actions", "a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("failed to fetch x\n  Caused by: y\n  Caused by: z\n", "failed to fetch x: y: z"),
        ("failed to fetch x: y\n\n  Caused by: y\n  Caused by: y: z\n", "failed to fetch x: y: y: z"),
        ("only this", "only this"),
        ("\n", "rattler ended without a word"),
    ],
)
def test_a_chain_of_causes_becomes_one_line(text: str, message: str) -> None:
    assert engines._one_line(text) == message
