"""Run converge() again and again, each time in a process of its own, with one step that fails or kills it.

    python faulty.py <orders >answers

Reads one order per line from stdin, as JSON, and answers each with a line: how the process ended, what it said, and the
steps that it took. A step is a call that reaches the file system below the order's directory, or starts a process.
"""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.convergence import Settings, Wanted, converge
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.generations import (
    Layout,
    Retention,
    SmokeTest,
)
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.locks import Lock

# What the interpreter tells its audit hooks before it does it, and which argument is a directory's descriptor.
_CHANGES = {
    "os.chmod": 2,
    "os.chown": 3,
    "os.link": 2,
    "os.mkdir": 2,
    "os.remove": 1,
    "os.rename": 2,
    "os.rmdir": 1,
    "os.symlink": 2,
    "os.truncate": -1,
    "os.utime": 3,
}
_READS = {"os.listdir", "os.scandir"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass
class Faults:
    """Counts the steps, and has one of them fail or be the last."""

    root: str
    step: int  #: which one, from 1; 0 for none
    fault: str  #: the name of an error number, or "kill"
    lasting: bool  #: whether every later change fails too
    taken: list[str] = field(default_factory=list)
    active: bool = True

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        """The audit hook."""
        if not self.active:
            return
        if event == "open":
            path, _mode, flags = arguments
            if isinstance(path, (str, bytes)):
                self.reach("open" if (flags or 0) & _WRITING else "read", os.fsdecode(path))
        elif event in _CHANGES:
            directory = arguments[_CHANGES[event]] if _CHANGES[event] > 0 else -1
            made = arguments[1] if event in ("os.link", "os.symlink") else arguments[0]
            self.reach(event[3:], _path(made, directory))
        elif event in _READS and arguments[0] is not None:
            self.reach("read", _path(arguments[0], -1))
        elif event == "fcntl.flock":
            self.reach("lock", _path(arguments[0] if isinstance(arguments[0], int) else arguments[0].fileno(), -1))
        elif event == "subprocess.Popen":
            self.reach("start", f"{self.root}/{os.path.basename(os.fspath(arguments[0]))}")

    def reach(self, kind: str, path: str) -> None:
        """One step, if it is about the node."""
        if not path.startswith(f"{self.root}/") and os.path.isabs(path):
            return
        self.taken.append(f"{kind} {path.removeprefix(self.root + '/')}")
        number = len(self.taken)
        if number == self.step or (self.lasting and 0 < self.step < number and kind not in ("read", "lock", "start")):
            if self.fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            code = getattr(errno, self.fault)
            raise OSError(code, os.strerror(code), path)

    def install(self) -> None:
        """From now on. Of writing and syncing the interpreter tells no hook, so their functions are wrapped."""
        sys.addaudithook(self.see)
        faults, fsync, pwrite, real_open = self, os.fsync, os.pwrite, io.open

        class File(io.FileIO):
            """A file whose writes are steps."""

            def write(self, data: Any) -> int:
                faults.reach("write", _path(self.fileno(), -1))
                return super().write(data)

        def counted_open(
            file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, *rest: Any, **named: Any
        ) -> Any:
            if not set(mode) & set("wax+") or buffering == 0 or rest or named:
                return real_open(file, mode, buffering, encoding, *rest, **named)
            raw = File(file, mode.replace("b", "").replace("t", ""))
            buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding)

        def counted_fsync(fd: Any) -> None:
            faults.reach("fsync", _path(fd, -1))
            fsync(fd)

        def counted_pwrite(descriptor: int, data: Any, offset: int) -> int:
            faults.reach("write", _path(descriptor, -1))
            return pwrite(descriptor, data, offset)

        os.fsync, os.pwrite = counted_fsync, counted_pwrite
        builtins.open = io.open = counted_open


def _path(place: Any, directory: int) -> str:
    """The absolute path that a call is about, where it can be known."""
    if isinstance(place, int):
        return os.path.join("/", os.readlink(f"/proc/self/fd/{place}"))  # that of a pipe is no path
    path = os.fsdecode(place)
    if directory is not None and directory >= 0:
        return os.path.join(os.readlink(f"/proc/self/fd/{directory}"), path)
    return path


def run(order: dict[str, Any]) -> dict[str, Any]:
    """What one process does."""
    root = order["root"]
    tempfile.tempdir = f"{root}/tmp"
    settings = Settings(
        layout=Layout(f"{root}/envs", f"{root}/generations"),
        pkgs_dir=f"{root}/pkgs",
        base_prefix=order["base"],
        engine="auto",
        verify="fast",
        min_free_mb=0,
        lock_timeout_seconds=0,
    )
    smoke_test = SmokeTest(tuple(order["smoke_test"]), "nobody", 60)
    wanted = Wanted("ml", Lock.from_dict(order["lock"]), smoke_test, Retention(order["keep"], 0))
    faults = Faults(root, order["step"], order["fault"], order["lasting"])
    faults.install()
    answer: dict[str, Any] = {}
    try:
        converge([wanted], settings, False)
    except CondaError as error:
        answer = {"error": str(error)}
    except BaseException:
        answer = {"traceback": traceback.format_exc()}
    faults.active = False
    return {**answer, "steps": faults.taken}


def forked(function: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What *function* returns in a process of its own, and how that ended."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with os.fdopen(writing, "wb") as stream:
            stream.write(json.dumps(function()).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        text = stream.read()
    _pid, status = os.waitpid(child, 0)
    return {"status": os.waitstatus_to_exitcode(status), **(json.loads(text) if text else {})}


def main() -> None:
    """Serve."""
    for line in sys.stdin:
        order = json.loads(line)
        sys.stdout.write(json.dumps(forked(lambda order=order: run(order))) + "\n")  # type: ignore[misc]
        sys.stdout.flush()


if __name__ == "__main__":
    main()
