"""What every engine has to do, and what each says when it fails."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda import engines
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.locks import Lock, Package
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.processes import Result
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.records import (
    compare_files,
    compare_with_lock,
    read_records,
)

from lab.packages import Entry

if TYPE_CHECKING:
    from unit.plugins.conftest import Channel

CONDA = os.environ.get("CONDA_EXE", "")


@pytest.fixture(
    params=[
        "rattler",
        pytest.param("conda", marks=pytest.mark.skipif(not CONDA, reason="CONDA_EXE names no conda to test with")),
    ]
)
def engine(request: pytest.FixtureRequest) -> engines.Engine:
    """Each engine that there is."""
    return engines.CondaEngine(CONDA) if request.param == "conda" else engines.RattlerEngine(sys.executable)


@pytest.fixture
def places(sandbox: Path) -> tuple[str, str]:
    """A prefix to be made, and a package cache."""
    return str(sandbox / "prefix"), str(sandbox / "pkgs")


def test_a_prefix_is_just_what_the_lock_says(
    engine: engines.Engine, channel: Channel, mirror: Channel, places: tuple[str, str]
) -> None:
    prefix, cache = places
    packages = (channel.add_tool("one"), mirror.add_tool("two"))
    engine.install(packages, prefix, cache)
    records, problems = read_records(prefix)
    lock = Lock("linux-64", packages)
    assert problems + compare_with_lock(records, lock) + compare_files(prefix, records) == []
    assert {record.url for record in records} == {package.url for package in packages}
    done = subprocess.run([f"{prefix}/bin/one", "a b"], capture_output=True, text=True, check=True)
    assert done.stdout == "one 1.0 a b\n"
    assert os.readlink(f"{prefix}/bin/one-link") == "one"
    history = Path(prefix, "conda-meta", "history").read_text()
    assert re.search(r"^\+\S+::one-1\.0-0$", history, re.MULTILINE)


def test_records_say_what_the_packages_say_of_themselves(
    engine: engines.Engine, channel: Channel, places: tuple[str, str]
) -> None:
    prefix, cache = places
    engine.install([channel.add_tool()], prefix, cache)
    path = Path(prefix, "conda-meta", "tool-1.0-0.json")
    record = json.loads(path.read_text())
    assert (record["depends"], record["build_number"], record["timestamp"]) == ([], 0, 1_700_000_000_000)
    assert record["requested_specs"] == []


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
        md5 = hashlib.md5(Path(mirror.directory, "linux-64", package.file_name).read_bytes()).hexdigest()
        return package if hashed_by == "sha256" else Package.from_url(package.url, md5=md5)

    engine.install([published(b"first")], prefix, cache)
    engine.install([published(b"second")], f"{prefix}-2", cache)
    assert Path(f"{prefix}-2", "data").read_bytes() == b"second"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("other content", "hash mismatch|ChecksumMismatch"),
        ("cut off", "hash mismatch|ChecksumMismatch"),
        ("gone", "404"),
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
    else:
        archive.unlink()
    with pytest.raises(CondaError, match=message) as caught:
        engine.install([package], *places)
    assert "tool-1.0-0.conda" in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert not Path(places[0], "bin").exists()


def test_hostile_environment_variables_do_not_reach_the_engine(
    engine: engines.Engine, channel: Channel, places: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("PYTHONPATH", "PYTHONHOME", "CONDA_PKGS_DIRS", "RATTLER_CACHE_DIR", "CONDARC"):
        monkeypatch.setenv(name, str(tmp_path / "evil"))
    engine.install([channel.add_tool()], *places)
    assert Path(places[0], "bin", "tool").exists()
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_archives_of_file_channels_are_checked_before_an_engine_believes_them(kind: str, channel: Channel) -> None:
    package = channel.add_tool("a-tool with%blank")
    archive = channel.directory / "linux-64" / package.file_name
    if kind == "md5":
        package = Package.from_url(package.url, md5=hashlib.md5(archive.read_bytes()).hexdigest())
    url = archive.as_uri()
    package = Package.from_url(url, package.sha256, package.md5)
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
    ):
        assert engines.select(wanted, directory, "option").name == expected
    for wanted, directory, message in (
        ("auto", base("venv", python), "option: the engine auto is not in .*venv, which has none: install it with the"),
        ("rattler", str(tmp_path / "miniconda"), "option: the engine rattler is not in .*, which has conda"),
        ("mamba", full, "which has rattler, conda"),
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
    engines.forget([Package.from_url("http://x/linux-64/tool-1.0-0.conda", "0" * 64)], str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == ["tool-1.0-1", "tool-1.0-1.conda", "toolbox-1.0-0", "toolbox-1.0-0.conda"]


# In the form that conda 26.7.1 prints. The refused channel is a recorded one, shortened; the others are made after it.
NOT_ALLOWED = """{
  "caused_by": "None",
  "channel_name": "ev2",
  "channel_url": "file:///srv/ev2",
  "error": "ChannelNotAllowed: Channel not included in allowlist:\\n  channel name: ev2\\n",
  "exception_name": "ChannelNotAllowed",
  "exception_type": "<class 'conda.exceptions.ChannelNotAllowed'>",
  "message": "Channel not included in allowlist:\\n  channel name: ev2\\n",
  "warning": "Channel not included in allowlist"
}

"""
DAMAGED_CACHE = """{
  "errors": [
    {
      "caused_by": "None",
      "error": "SafetyError: The package for six located at /pkgs/six-1.17.0-0\\nappears to be corrupted.",
      "exception_name": "SafetyError",
      "exception_type": "<class 'conda.exceptions.SafetyError'>",
      "message": "The package for six located at /pkgs/six-1.17.0-0\\nappears to be corrupted."
    }
  ],
  "exception_name": "CondaMultiError",
  "exception_type": "<class 'conda.CondaMultiError'>"
}
{
  "actions": {"FETCH": [], "LINK": [], "PREFIX": "/opt/envs/x"},
  "prefix": "/opt/envs/x",
  "success": true
}
"""
EXIT_WITH_NOTHING_MADE = """Preparing transaction: ...working... done
{
  "caused_by": "None",
  "error": "CondaSystemExit: Exiting 1",
  "exception_name": "CondaSystemExit",
  "exception_type": "<class 'conda.exceptions.CondaSystemExit'>",
  "message": "Exiting 1"
}
"""
WRONG_SUM = """{
  "caused_by": "None",
  "errors": [
    {
      "error": "ChecksumMismatchError: Conda detected a mismatch between the expected content and downloaded content",
      "exception_name": "ChecksumMismatchError",
      "message": "Conda detected a mismatch between the expected content and downloaded content"
    }
  ],
  "exception_name": "CondaMultiError",
  "message": "Multiple errors"
}
"""
PLANNED = """{
  "success": true,
  "actions": {
    "FETCH": [],
    "PREFIX": "/opt/envs/x"
  },
  "prefix": "/opt/envs/x"
}"""


def test_a_full_disk_comes_first_whichever_engine_says_so() -> None:
    document = {"exception_name": "NoSpaceLeftError", "message": "No space left on devices."}
    with pytest.raises(CondaError, match=r"^the disk is full: conda: NoSpaceLeftError"):
        engines._require_conda_success(Result(1, json.dumps(document), ""))
    with pytest.raises(CondaError, match=r"^the disk is full: conda ended with 1: .*No space left on device"):
        engines._require_conda_success(Result(1, "", "OSError: [Errno 28] No space left on device"))


@pytest.mark.parametrize("stdout", ["", "\n", PLANNED, f"Collecting: done\n{PLANNED}\n"])
def test_conda_without_an_exception_has_succeeded(stdout: str) -> None:
    engines._require_conda_success(Result(0, stdout, "a warning\n"))


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (
            Result(1, NOT_ALLOWED, ""),
            "conda: ChannelNotAllowed: Channel not included in allowlist:\n  channel name: ev2",
        ),
        (Result(0, DAMAGED_CACHE, ""), "conda: SafetyError: The package for six located at /pkgs/six-1.17.0-0"),
        (Result(0, EXIT_WITH_NOTHING_MADE, ""), "conda: CondaSystemExit: Exiting 1"),
        (Result(1, WRONG_SUM, ""), "conda: ChecksumMismatchError: Conda detected a mismatch"),
        (
            Result(2, "", "conda: error: unrecognized arguments: --x\n"),
            "conda ended with 2: conda: error: unrecognized",
        ),
        (Result(-9, PLANNED, ""), "conda ended with -9"),
        (Result(1, '{\n  "cut": [', ""), "conda ended with 1"),
    ],
)
def test_conda_has_failed_when_any_document_speaks_of_an_exception(result: Result, message: str) -> None:
    with pytest.raises(CondaError, match=rf"^{re.escape(message)}"):
        engines._require_conda_success(result)


def test_all_documents_are_read_with_prose_between_them() -> None:
    text = f'prose {{"not": 1}}\n{DAMAGED_CACHE}done\n{{broken\n{{"a": {{\n"b": 1}}}}\n'
    assert [sorted(document)[0] for document in engines._json_documents(text)] == ["errors", "actions", "a"]


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
