"""What restic's words mean. They were recorded from restic 0.14."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._backup import errors
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._backup.restic import Repository, read_variables
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError

SAID = {
    "Fatal: wrong password or no key found": errors.PasswordError,
    "Fatal: unable to open config file: stat repo/config: no such file or directory\n"
    "Is there a repository at the following location?\nrepo": errors.MissingError,
    "unable to create lock in backend: repository is already locked by PID 14684 on vm by root (UID 0, GID 0)\n"
    "lock was created at 2026-11-29 14:59:43 (1.957242629s ago)\nstorage ID 816fc8fe\n"
    "the `unlock` command can be used to remove stale locks": errors.LockedError,
    "ignoring error for /src/a/big: ciphertext verification failed\n"
    "ignoring error for /src/a/big: UtimesNano: no such file or directory\nFatal: There were 2 errors": (
        errors.DamagedError
    ),
    "ignoring error for /: id 459721e86c not found in repository\nFatal: There were 2 errors": errors.DamagedError,
    "Fatal: Unmarshal: invalid character 'X' looking for beginning of value": errors.DamagedError,
    "panic: runtime error: slice bounds out of range [16:4]\n\ngoroutine 1 [running]:": errors.DamagedError,
    "Fatal: unable to save snapshot: write /repo/data/6b/6be5-tmp-29: no space left on device": errors.FullError,
    "Fatal: unable to open repository at /repo: ReadDir: open /repo/keys: permission denied": errors.BackupError,
    "": errors.BackupError,
}


def restic_says(folder: Path, said: str, status: int, printed: str = "[]") -> Repository:
    """A repository whose restic prints what the real one has printed once."""
    (folder / "restic").write_text(
        f"#!/bin/sh\ncat <<'END'\n{printed}\nEND\ncat >&2 <<'END'\n{said}\nEND\nexit {status}\n"
    )
    (folder / "restic").chmod(0o755)
    return Repository("/repo", "/password", variables={"PATH": f"{folder}:{os.environ['PATH']}"})


@pytest.mark.parametrize(("said", "kind"), SAID.items(), ids=range(len(SAID)))
def test_each_fault_has_a_kind_and_names_the_variable(
    tmp_path: Path, said: str, kind: type[errors.BackupError]
) -> None:
    with pytest.raises(errors.BackupError) as caught:
        restic_says(tmp_path, said, 1).snapshots()
    assert type(caught.value) is kind
    variable = "env_backup_password_file" if kind is errors.PasswordError else "env_backup_repository"
    assert str(caught.value).startswith(f"{variable}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "kind"), [(10, errors.MissingError), (11, errors.LockedError), (12, errors.PasswordError)]
)
def test_newer_restics_tell_it_by_their_status(tmp_path: Path, status: int, kind: type[errors.BackupError]) -> None:
    with pytest.raises(kind):
        restic_says(tmp_path, "Fatal: other words", status).snapshots()


def test_a_list_that_is_not_whole_is_damage_though_restic_calls_it_a_success(tmp_path: Path) -> None:
    said = "could not load snapshot e473de42: load <snapshot/e473de4292>: invalid data returned"
    with pytest.raises(errors.DamagedError):
        restic_says(tmp_path, said, 0).snapshots()


def test_what_could_not_be_read_whole_is_saved_but_not_complete(tmp_path: Path) -> None:
    printed = '{"message_type":"summary","data_added":5,"snapshot_id":"31feebcd"}'
    saved = restic_says(tmp_path, "error: lstat: permission denied", 3, printed).backup(["/x"], "node", "private:/x")
    assert (saved.id, saved.added_bytes, saved.complete) == ("31feebcd", 5, False)


def test_snapshots_come_in_the_order_of_their_times(tmp_path: Path) -> None:
    one = '{"id":"b2","time":"2026-11-29T15:00:00.1Z","hostname":"n","tags":["envfleet","shared:ml"],"paths":["/p"]}'
    two = one.replace("b2", "a1").replace("15:00", "14:00")
    found = restic_says(tmp_path, "", 0, f"[{one},{two}]").snapshots()
    assert [(snapshot.id, snapshot.key) for snapshot in found] == [("a1", "shared:ml"), ("b2", "shared:ml")]


def test_variables_are_read_as_systemd_reads_them(tmp_path: Path) -> None:
    (tmp_path / "environment").write_text("# keys\nAWS_ACCESS_KEY_ID=abc\nAWS_SECRET_ACCESS_KEY='d=e f'\n\nnothing\n")
    found = read_variables(str(tmp_path / "environment"))
    assert found == {"AWS_ACCESS_KEY_ID": "abc", "AWS_SECRET_ACCESS_KEY": "d=e f"}
    with pytest.raises(CondaError, match="env_backup_environment_file"):
        read_variables(str(tmp_path / "missing"))


def test_a_repository_is_made_only_where_its_file_system_is(tmp_path: Path) -> None:
    with pytest.raises(errors.MissingError, match="mount the file system"):
        Repository(str(tmp_path / "not/mounted"), "/password").create()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(shutil.which("restic") is None, reason="restic is not installed")
def test_the_real_one_saves_and_restores(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("x\n")
    (tmp_path / "data").write_text("data")
    path = {"PATH": os.environ["PATH"]}
    repository = Repository(str(tmp_path / "repository"), str(tmp_path / "password"), variables=path)
    repository.create()
    repository.create()
    saved = repository.backup([str(tmp_path / "data")], "node", "private:/x")
    (snapshot,) = repository.snapshots("node", "private:/x")
    assert snapshot.id.startswith(saved.id)
    repository.restore(snapshot.id, str(tmp_path / "target"))
    assert (tmp_path / f"target/{tmp_path}/data").read_text() == "data"
