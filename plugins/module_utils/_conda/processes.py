# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Child processes in a clean environment of their own."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import typing as t

from .errors import CondaError

# What a site sets to reach its network, and nothing that could steer conda, pip or Python.
_KEPT = ("http_proxy", "https_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir", "requests_ca_bundle")
_HOME = re.compile(r"envfleet-(?P<namespace>\d+)-(?P<pid>\d+)-\w+")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Result(t.NamedTuple):
    """How a child process ended."""

    returncode: int
    stdout: str
    stderr: str

    def tail(self, characters: int = 2000) -> str:
        """The end of what it printed, for a message."""
        return (self.stdout + self.stderr).strip()[-characters:]


def run(
    argv: t.Sequence[str],
    *,
    stdin: str = "",
    environment: t.Mapping[str, str] | None = None,
    path: str = "",
    user: str = "",
    groups: t.Sequence[int] = (),
    timeout_seconds: float | None = None,
    keep_lock: bool = False,
) -> Result:
    """Run *argv* with an empty home that is removed afterwards.

    :param path: a directory to find commands in first.
    :param user: who runs it; an empty string: who runs this. Needs root.
    :param groups: the groups that *user* has then besides its own.
    :param keep_lock: let the child hold the lock of files.exclusive() too, so that nobody else begins to work on the
        same tree while an orphan of a killed run still writes.
    :raises CondaError: it cannot be started, or runs past *timeout_seconds*.
    """
    with _home() as home:
        account: dict[str, t.Any] = {}
        if user:
            try:
                entry = pwd.getpwnam(user)
            except KeyError as error:
                raise CondaError(f"there is no user {user} to run {argv[0]} as") from error
            os.chown(home, entry.pw_uid, entry.pw_gid)
            account = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": list(groups)}
        variables = {name: value for name, value in os.environ.items() if name.lower() in _KEPT}
        variables.update(HOME=home, TMPDIR=home, LC_ALL="C.UTF-8", PYTHONNOUSERSITE="1")
        variables["PATH"] = f"{path}:{_PATH}".lstrip(":")
        variables.update(environment or {})
        try:
            # run_command would inherit Ansible's environment, and cannot hand on a lock or limit the time.
            with subprocess.Popen(  # pylint: disable=ansible-bad-function
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                env=variables,
                cwd=home,
                close_fds=not keep_lock,
                start_new_session=timeout_seconds is not None,
                umask=0o022,
                **account,
            ) as process:
                try:
                    stdout, stderr = process.communicate(stdin, timeout_seconds)
                except BaseException:
                    _kill(process, with_group=timeout_seconds is not None)
                    raise
        except subprocess.TimeoutExpired as error:
            raise CondaError(f"{argv[0]} did not end within {error.timeout:g} s") from error
        except OSError as error:
            raise CondaError(f"{argv[0]} cannot be run: {error}") from error
    return Result(process.returncode, stdout, stderr)


@contextlib.contextmanager
def _home() -> t.Iterator[str]:
    """An empty directory, while the body runs. Those of runs that were killed go before."""
    for name in os.listdir(tempfile.gettempdir()):
        match = _HOME.fullmatch(name)
        # The processes of another container may not be seen from here.
        if match and match["namespace"] == _namespace() and not os.path.exists(f"/proc/{match['pid']}"):
            shutil.rmtree(os.path.join(tempfile.gettempdir(), name), ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"envfleet-{_namespace()}-{os.getpid()}-") as home:
        yield home


def _namespace() -> str:
    """The number of what this process's number belongs to."""
    return str(os.stat("/proc/self/ns/pid").st_ino)


def _kill(process: subprocess.Popen[str], with_group: bool) -> None:
    """End a child, and what it has started where it has a group of its own."""
    with contextlib.suppress(ProcessLookupError):
        if with_group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
