"""A generation packed, and unpacked where nobody knows of it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.envfleet.gpu_cluster.plugins.modules import conda_env_archive

from lab.packages import PLACEHOLDER, Entry

if TYPE_CHECKING:
    from unit.plugins.conftest import Channel, Node

pytestmark = pytest.mark.usefixtures("restore_umask")
# Two strings, the first with the prefix in it twice, as linkers write them: what follows must stay where it is.
BINARY = f"\x7fELF{PLACEHOLDER}/lib:{PLACEHOLDER}/lib64\0the end\0{PLACEHOLDER}\0\1".encode()
HOOKS = {"activate": "export TOOL_HOME=$CONDA_PREFIX/share\n", "deactivate": "unset TOOL_HOME\n"}


@pytest.fixture
def packed(node: Node, channel: Channel) -> Path:
    """A node with an environment that has all kinds of files."""
    entries = [
        Entry("bin/native", BINARY, 0o755),
        Entry("lib/module.py", f"PREFIX = {PLACEHOLDER!r}\n".encode()),
        *(Entry(f"etc/conda/{kind}.d/tool.sh", text.encode()) for kind, text in HOOKS.items()),
    ]
    node.install(channel.add("native", "1.0", entries), channel.add_tool())
    return node.root / "ml.tar.gz"


def call(capsys: pytest.CaptureFixture[str], node: Node, check_mode: bool = False, **options: Any) -> dict[str, Any]:
    """Call the module as Ansible does."""
    layout = {"envs_dir": node.layout.envs_dir, "generations_dir": node.layout.generations_dir}
    arguments = {"name": "ml", **layout, "_ansible_check_mode": check_mode, **options}
    with patch_module_args(arguments), pytest.raises(SystemExit) as end:
        conda_env_archive.main()
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert bool(end.value.code) == answer.get("failed", False)
    return answer


def unpack(archive: Path, prefix: Path) -> None:
    prefix.mkdir(parents=True)
    subprocess.run(["tar", "-xzf", str(archive), "-C", str(prefix)], check=True)


def sums(prefix: Path) -> dict[str, str]:
    """sha256 of what the packages put into *prefix*, as if it had not been told where it is."""
    found = {}
    for path in sorted(prefix.rglob("*")):
        if path.is_file() and not path.is_symlink() and "conda-meta" not in path.parts and "envfleet" not in path.name:
            data = path.read_bytes().replace(str(prefix).encode(), b"@")
            found[str(path.relative_to(prefix))] = hashlib.sha256(data.replace(b"\0", b"")).hexdigest()
    return found


def test_what_is_unpacked_works_wherever_it_is(
    packed: Path, node: Node, capsys: pytest.CaptureFixture[str], sandbox: Path
) -> None:
    assert call(capsys, node, dest=str(packed))["changed"]
    elsewhere = sandbox / "other-site/mine"
    unpack(packed, elsewhere)
    with tarfile.open(packed) as archive:
        assert {(member.uid, member.gid, member.mtime) for member in archive} == {(0, 0, 315532800)}
    # Before it is told where it is, each file is that of its package.
    assert (elsewhere / "bin/native").read_bytes() == BINARY
    shutil.move(node.root, sandbox / "gone")

    subprocess.run([sys.executable, elsewhere / "bin/conda-unpack"], check=True)
    assert (elsewhere / "lib/module.py").read_text() == f"PREFIX = {str(elsewhere)!r}\n"
    path = str(elsewhere).encode()
    lengths = [len(part) for part in BINARY.split(b"the end")]
    native = (elsewhere / "bin/native").read_bytes()
    assert native.startswith(b"\x7fELF" + path + b"/lib:" + path + b"/lib64\0")
    assert [len(part) for part in native.split(b"the end")] == lengths
    assert native.rstrip(b"\0\1").endswith(b"\0" + path)

    script = (
        "set -eu; . '{}/bin/activate'; echo $TOOL_HOME; {}; . deactivate; echo ${{CONDA_PREFIX-no}} ${{TOOL_HOME-no}}"
    )
    for shell in filter(shutil.which, ("bash", "zsh")):
        run = ["env", "-i", "PATH=/usr/bin:/bin", shell, "-c", script.format(elsewhere, "tool hello")]
        shown = subprocess.run(run, check=True, capture_output=True, text=True).stdout
        assert shown == f"{elsewhere}/share\ntool 1.0 hello\nno no\n", shell


def test_it_has_the_files_of_the_generation_and_nothing_that_guards_them(
    packed: Path, node: Node, capsys: pytest.CaptureFixture[str], sandbox: Path
) -> None:
    call(capsys, node, dest=str(packed))
    copy = sandbox / "copy"
    unpack(packed, copy)
    subprocess.run([sys.executable, copy / "bin/conda-unpack"], check=True)
    found = sums(copy)
    added = {"bin/activate", "bin/deactivate", "bin/conda-unpack"}
    assert {path: value for path, value in found.items() if path not in added} == sums(node.generation())
    assert added <= found.keys()
    assert sorted(path.name for path in (copy / "conda-meta").iterdir()) == [
        "history",
        "native-1.0-0.json",
        "tool-1.0-0.json",
    ]


def test_the_same_lock_is_packed_once(
    packed: Path, node: Node, channel: Channel, capsys: pytest.CaptureFixture[str], audited: Any
) -> None:
    assert call(capsys, node, check_mode=True, dest=str(packed))["changed"]
    assert not packed.exists()
    assert call(capsys, node, dest=str(packed), mode="0640")["changed"]
    assert packed.stat().st_mode & 0o777 == 0o640
    first = packed.read_bytes()
    with audited() as audit:
        assert not call(capsys, node, dest=str(packed))["changed"]
    assert audit.events == []
    packed.unlink()
    call(capsys, node, dest=str(packed))
    assert packed.read_bytes() == first
    node.install(channel.add_tool(version="2.0"))
    assert call(capsys, node, check_mode=True, dest=str(packed))["changed"]
    assert packed.read_bytes() == first
    assert call(capsys, node, dest=str(packed))["changed"]


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b\x08\0"])
def test_whatever_is_in_the_way_is_replaced(
    content: bytes, packed: Path, node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    packed.write_bytes(content)
    assert call(capsys, node, dest=str(packed))["changed"]
    assert not call(capsys, node, dest=str(packed))["changed"]


def test_bad_input_leaves_no_archive(packed: Path, node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no environment nl in" in call(capsys, node, name="nl", dest=str(packed))["msg"]
    assert "does not end in .tar.gz" in call(capsys, node, dest="/x.zip")["msg"]
    assert "there is no directory /no/such" in call(capsys, node, dest="/no/such/x.tar.gz")["msg"]
    file = node.generation() / "lib/module.py"
    before = file.stat()
    file.chmod(0o644)
    file.write_text("X" * before.st_size)
    assert "ml is damaged: lib/module.py" in call(capsys, node, dest=str(packed))["msg"]
    assert list(packed.parent.glob("ml.tar*")) == []


def test_an_edit_that_hides_is_found(packed: Path, node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    """One that restores size and time."""
    file = node.generation() / "bin/native"
    before = file.stat()
    data = file.read_bytes()
    with file.open("r+b") as stream:
        stream.write(data.replace(b"the end", b"the odd"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    answer = call(capsys, node, dest=str(packed))
    assert "bin/native is not the file of its package" in answer["msg"]
    assert list(packed.parent.glob("ml.tar*")) == []
