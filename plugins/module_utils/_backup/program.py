# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the units of systemd start: a run, or a drill. It ends with the status that tells how it went."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import sys
import time
import typing as t

from .._conda.errors import CondaError
from .._conda.files import write_file
from .config import Config
from .errors import BackupError, FullError, OverlapError
from .restoring import drill
from .saving import Outcome, save

#: What can be asked for, and how its metrics begin.
_VERBS = {"save": "gpu_cluster_backup", "drill": "gpu_cluster_backup_drill"}
_HELP = {
    "exit_code": "How the last run ended; 0 is well.",
    "last_run_timestamp_seconds": "When the last run ended.",
    "last_success_timestamp_seconds": "When the last run ended that went well.",
    "duration_seconds": "How long the last run took.",
    "added_bytes": "What the last run added to the repository.",
    "environments": "How many environments the last run dealt with.",
    "environment_last_success_timestamp_seconds": "When it last went well, for each environment.",
}


def main() -> int:
    """Do what the command line says: VERB CONFIGURATION. The exit status."""
    _program, verb, path = sys.argv
    try:
        config = Config.read(path)
        with _alone(os.path.join(config.directory, f"{verb}.lock")):
            return _run(verb, config)
    except BackupError as error:
        sys.stderr.write(f"{error}\n")
        return error.code


@contextlib.contextmanager
def _alone(path: str) -> t.Iterator[None]:
    """Hold the lock file *path*, which children inherit, so that an orphan's work is waited for too.

    :raises OverlapError: another run holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.set_inheritable(descriptor, True)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise OverlapError("Another run is at work.") from None
    finally:
        os.close(descriptor)


def _run(verb: str, config: Config) -> int:
    os.umask(0o077)
    started, outcome = time.time(), Outcome()
    failure: BackupError | None = None
    try:
        if verb == "save":
            save(config, config.under_systemd(), outcome, _say)
        else:
            # Nothing that this node remembers may stand in for what is in the repository.
            drill(config, config.under_systemd(cached=False), outcome, _say)
    except BackupError as error:
        failure = error
    except OSError as error:
        kind = FullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else BackupError
        failure = kind(f"env_backup_directory: {error}")
    except CondaError as error:
        failure = BackupError(str(error))
    for warning in outcome.warnings:
        _say(f"warning: {warning}")
    for key, reason in outcome.failed.items():
        _say(f"failed: {key}: {reason}")
    if failure:
        _say(str(failure))
    _tell(verb, config, outcome, started, failure)
    return failure.code if failure else 0


def _say(message: str) -> None:
    sys.stdout.write(f"{message}\n")
    sys.stdout.flush()  # so that the journal has the time of it


def _tell(verb: str, config: Config, outcome: Outcome, started: float, failure: BackupError | None) -> None:
    """Write down how it went, for people and for node_exporter."""
    path = os.path.join(config.directory, f"{verb}.json")
    ended = time.time()
    try:
        with open(path, encoding="utf-8") as stream:
            before = json.load(stream)
    except (OSError, ValueError):
        before = {}
    known = {key: at for key, at in before.get("environments", {}).items() if key in outcome.failed or failure}
    status = {
        "started": started,
        "ended": ended,
        "exit_code": failure.code if failure else 0,
        "message": str(failure or ""),
        "last_success": before.get("last_success", 0) if failure else ended,
        "environments": {**known, **dict.fromkeys(outcome.done, ended)},
        **dataclasses.asdict(outcome),
    }
    try:
        write_file(path, json.dumps(status, indent=1, sort_keys=True) + "\n", 0o640)
        folder = config.metrics_directory or config.directory
        name = "env_backup.prom" if verb == "save" else "env_backup_drill.prom"
        write_file(os.path.join(folder, name), _metrics(_VERBS[verb], status), 0o644)
    except OSError as error:
        _say(f"warning: how it went cannot be written down: {error}")


def _metrics(name: str, status: dict[str, t.Any]) -> str:
    """The status as Prometheus reads it."""
    values: dict[str, dict[str, float]] = {
        "exit_code": {"": status["exit_code"]},
        "last_run_timestamp_seconds": {"": status["ended"]},
        "last_success_timestamp_seconds": {"": status["last_success"]},
        "duration_seconds": {"": status["ended"] - status["started"]},
        "environments": {'{result="done"}': len(status["done"]), '{result="failed"}': len(status["failed"])},
        "environment_last_success_timestamp_seconds": {
            f'{{environment="{_escaped(key)}"}}': at for key, at in sorted(status["environments"].items())
        },
    }
    if name == _VERBS["save"]:
        values["added_bytes"] = {"": sum(one["added_bytes"] for one in status["done"].values())}
    lines = []
    for metric, samples in values.items():
        lines += [f"# HELP {name}_{metric} {_HELP[metric]}", f"# TYPE {name}_{metric} gauge"]
        lines += [f"{name}_{metric}{labels} {value}" for labels, value in samples.items()]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
