"""The audit log: what it survives, and what it tells."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._audit.log import AuditError, Log
from hypothesis import assume, given, settings
from hypothesis import strategies as st


def written(directory: Path, count: int = 6, max_bytes: int = 300) -> Log:
    """A log with so many lines, most of them rotated."""
    log = Log(str(directory), max_bytes)
    for number in range(count):
        log.append([{"host": f"node-{number}", "actions": ["point envs/ml to generations/ml/1"]}])
    return log


def files(directory: Path) -> list[Path]:
    """All files with lines."""
    return sorted(directory.glob("audit*.jsonl"))


def test_lines_chain_over_rotation(tmp_path: Path) -> None:
    log = written(tmp_path)
    assert len(files(tmp_path)) > 2
    proof = log.prove()
    assert (proof.lines, proof.head.first, proof.head.last, proof.problem) == (6, 1, 6, "")
    assert [number for number, _line in log.after(0)] == [1, 2, 3, 4, 5, 6]
    assert [number for number, _line in log.after(4)] == [5, 6]
    assert all(path.stat().st_mode & 0o777 == 0o640 for path in files(tmp_path))


def test_a_log_of_which_old_files_have_gone_is_whole(tmp_path: Path) -> None:
    log = Log(str(tmp_path), 300, keep_files=1)
    for number in range(8):
        log.append([{"host": f"node-{number}"}])
    proof = log.prove()
    assert (proof.head.last, proof.problem) == (8, "")
    assert proof.head.first > 1
    assert proof.lines == 9 - proof.head.first
    assert len(files(tmp_path)) == 2


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_byte_that_is_changed_is_found(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("log")
    log = written(directory, 4)
    path = data.draw(st.sampled_from([*files(directory), directory / "audit.head"]))
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    new = data.draw(st.integers(0, 255).filter(lambda value: value != content[place]))
    if path.suffix == ".head" and bytes([new]).isspace() and bytes([content[place]]).isspace():
        return  # the head is read as JSON, and says the same
    content[place] = new
    path.write_bytes(content)
    assert log.prove().problem


def tampered(data: st.DataObject, paths: list[Path]) -> None:
    """Do something to the lines in these files that an editor could do."""
    contents = [path.read_bytes() for path in paths]
    file = data.draw(st.integers(0, len(paths) - 1))
    size = len(contents[file])
    start, end = sorted(data.draw(st.tuples(st.integers(0, size), st.integers(0, size))))
    lines = [(number, line) for number, content in enumerate(contents) for line in content.splitlines(keepends=True)]
    one, other = (data.draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    kind = data.draw(st.sampled_from(["truncate", "cut", "insert", "swap", "move", "repeat", "files", "unlink"]))
    if kind == "truncate":
        contents[file] = contents[file][:start]
    elif kind == "cut":
        contents[file] = contents[file][:start] + contents[file][end:]
    elif kind == "insert":
        contents[file] = contents[file][:start] + data.draw(st.binary(max_size=9)) + contents[file][start:]
    elif kind == "swap":
        lines[one], lines[other] = (lines[one][0], lines[other][1]), (lines[other][0], lines[one][1])
    elif kind == "move":
        lines.insert(other, (lines[other][0], lines.pop(one)[1]))
    elif kind == "repeat":
        lines.insert(other, lines[one])
    elif kind == "files":
        contents[file], contents[0] = contents[0], contents[file]
    if kind in ("swap", "move", "repeat"):
        contents = [b"".join(line for where, line in lines if where == number) for number in range(len(paths))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    if kind == "unlink":
        paths[file].unlink()


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_whatever_is_done_to_lines_is_found(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("log")
    log = written(directory, 7, max_bytes=900)
    before = {path: path.read_bytes() for path in files(directory)}
    tampered(data, files(directory))
    assume({path: path.read_bytes() for path in files(directory)} != before)
    assert log.prove().problem
    list(log.after(0))  # what is left of it can still be told
    shutil.rmtree(directory)


def test_a_line_that_was_moved_into_another_file_is_found(tmp_path: Path) -> None:
    """The chain is whole, but whoever reads on from a number would go by the names of files, and miss it."""
    log = written(tmp_path, 7, max_bytes=900)
    one, other = (path.read_bytes().splitlines(keepends=True) for path in files(tmp_path)[:2])
    files(tmp_path)[0].write_bytes(b"".join([*one, other[0]]))
    files(tmp_path)[1].write_bytes(b"".join(other[1:]))
    assert f"ends with line number {len(one) + 1}, which is not that in its name" in log.prove().problem


def test_a_log_that_was_written_anew_is_found_by_what_others_were_told(tmp_path: Path) -> None:
    log = written(tmp_path)
    known = json.loads(log.append([{"host": "to be hidden"}])[0])["sum"]
    assert log.prove(known).problem == ""
    for path in tmp_path.iterdir():
        path.unlink()
    log = written(tmp_path, 9)
    assert log.prove().problem == ""
    assert f"no line has the sum {known}" in log.prove(known).problem


def test_what_a_killed_run_has_left_is_put_right(tmp_path: Path) -> None:
    log = written(tmp_path, 3, max_bytes=10**6)
    older = (tmp_path / "audit.head").read_bytes()
    log.append([{"host": "not in the head"}, {"host": "nor this"}])
    (tmp_path / "audit.head").write_bytes(older)
    with log_file(tmp_path).open("ab") as stream:
        stream.write(b'{"torn')
    log.append([{"host": "next"}])
    proof = log.prove()
    assert (proof.lines, proof.problem) == (6, "")


def log_file(directory: Path) -> Path:
    return directory / "audit.jsonl"


def test_a_log_that_was_tampered_with_takes_no_more(tmp_path: Path) -> None:
    log = written(tmp_path, 3, max_bytes=10**6)
    lines = log_file(tmp_path).read_text().splitlines(keepends=True)
    log_file(tmp_path).write_text("".join(lines[:-1]))
    with pytest.raises(AuditError, match="it was tampered with: keep a copy"):
        log.append([{"host": "next"}])
    assert "missing at the end" in log.prove().problem


def test_a_full_disk_leaves_the_log_whole(tmp_path: Path) -> None:
    log = written(tmp_path, 3, max_bytes=10**6)
    before = log_file(tmp_path).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 50, limits[1]))
    try:
        with pytest.raises(AuditError, match=r"cannot be written: .*File too large"):
            log.append([{"host": "too much"}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert log_file(tmp_path).read_bytes() == before
    log.append([{"host": "later"}])
    assert log.prove().problem == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_real_disk_that_is_full_for_a_while_loses_no_line_silently(tmp_path: Path) -> None:
    program = f"""
import os, sys
sys.path[:] = {sys.path!r}
from {Log.__module__} import AuditError, Log
log, kept, refused, filler = Log({str(tmp_path)!r}, 3000), [], 0, {str(tmp_path / "filler")!r}
for number in range(300):
    try:
        log.append([{{"n": number, "text": "x" * 100}}])
        kept.append(number)
    except AuditError:
        refused += 1
    if number == 40:
        with open(filler, "wb", buffering=0) as stream:
            try:
                while True:
                    stream.write(b"x" * 100)
            except OSError:
                pass
    if number == 80:
        os.unlink(filler)
proof = log.prove()
assert not proof.problem, proof
assert proof.lines == len(kept), (proof, len(kept))
assert [__import__("json").loads(line)["n"] for _number, line in log.after(0)] == kept
assert 20 < refused < 300, refused
print(refused)
"""
    mount = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=256k tmpfs "$1" && exec "$2" -c "$3"', "sh"]
    done = subprocess.run([*mount, str(tmp_path), sys.executable, program], capture_output=True, text=True, check=False)
    if "mount:" in done.stderr or "unshare:" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr


def test_many_processes_write_one_chain(tmp_path: Path) -> None:
    program = f"import sys; sys.path[:] = {sys.path!r}; from {Log.__module__} import Log\n"
    program += f"for n in range(20): Log({str(tmp_path)!r}, 2000).append([{{'n': n}}, {{'n': -n}}])"
    processes = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    proof = Log(str(tmp_path)).prove()
    assert (proof.lines, proof.problem) == (120, "")


def test_a_kill_at_any_moment_leaves_a_log_that_goes_on(tmp_path: Path) -> None:
    program = f"import sys; sys.path[:] = {sys.path!r}; from {Log.__module__} import Log\n"
    program += f"n = 0\nwhile True: n += 1; Log({str(tmp_path)!r}, 1500).append([{{'n': n}}]); print(n, flush=True)"
    acknowledged = 0
    for delay in range(6):
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            for _line in range(3 + delay):
                process.stdout.readline()
                acknowledged += 1
            os.kill(process.pid, signal.SIGKILL)
            acknowledged += len(process.stdout.readlines())
    log = Log(str(tmp_path))
    log.append([{"n": 0}])
    proof = log.prove()
    assert proof.problem == ""
    assert acknowledged < proof.lines <= acknowledged + 7
    shutil.rmtree(tmp_path)
