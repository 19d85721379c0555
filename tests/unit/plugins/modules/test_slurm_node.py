"""The module, with programs in the place of scontrol and squeue that print what Slurm 22.05.8 has printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.envfleet.gpu_cluster.plugins.modules import slurm_node

RECORDED = Path(__file__).parent.parent / "module_utils" / "_slurm" / "recorded" / "22.05.8"
PROGRAMS = {
    "scontrol": """#!/bin/sh
if [ "$1" = show ]; then cat "$PLAYED/now"; exit; fi
printf '%s\\n' "$*" >>"$PLAYED/updates"
case $3 in *DRAIN) next=drained ;; *) next=idle ;; esac
cp "$RECORDED/$next.txt" "$PLAYED/now"
""",
    "squeue": """#!/bin/sh
[ -n "$SQUEUE_USERS" ] || cat "$PLAYED/jobs"
""",
}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Slurm with an idle node, and somebody's filters for squeue."""
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    play(tmp_path, "idle")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("PLAYED", str(tmp_path))
    monkeypatch.setenv("RECORDED", str(RECORDED))
    monkeypatch.setenv("SQUEUE_USERS", "nobody")
    return tmp_path


def play(slurm: Path, state: str, jobs: str = "") -> None:
    """Let Slurm tell that from now on."""
    (slurm / "now").write_text((RECORDED / f"{state}.txt").read_text())
    (slurm / "jobs").write_text(jobs)
    (slurm / "updates").write_text("")


def call(capsys: pytest.CaptureFixture[str], **options: Any) -> dict[str, Any]:
    """Call the module as Ansible does."""
    options = {"name": "rec-1", "poll": 0.01, "timeout": 0.05, **options}
    with patch_module_args(options), pytest.raises(SystemExit) as end:
        slurm_node.main()
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert bool(end.value.code) == answer.get("failed", False)
    return answer


def test_drain_and_resume(slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = {"state": "drained", "reason": "driver 535.309.01"}
    told = call(capsys, **wanted, _ansible_check_mode=True)
    assert (told["changed"], (slurm / "updates").read_text()) == (True, "")

    done = call(capsys, **wanted)
    update = "update NodeName=rec-1 State=DRAIN Reason=envfleet: driver 535.309.01\n"
    assert (slurm / "updates").read_text() == update
    assert (done["changed"], done["ours"], done["drained"]) == (True, True, True)
    assert done["actions"] == told["actions"] == ["drain rec-1 (envfleet: driver 535.309.01)"]
    assert done["diff"] == {"before": "IDLE: without a reason\n", "after": "DRAIN: envfleet: driver 535.309.01\n"}
    assert call(capsys, **wanted)["changed"] is False

    resumed = call(capsys, state="resumed")
    assert (resumed["changed"], resumed["states"], resumed["ours"]) == (True, ["IDLE"], False)
    assert (slurm / "updates").read_text() == f"{update}update NodeName=rec-1 State=RESUME\n"
    assert call(capsys, state="resumed")["changed"] is False


def test_filters_of_the_environment_hide_no_jobs(slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    play(slurm, "draining", "7|alice|SUSPENDED\n")
    answer = call(capsys, state="drained", reason="driver 1")
    assert answer["jobs"] == [{"id": "7", "user": "alice", "state": "SUSPENDED"}]
    assert (answer["ours"], answer["drained"], answer["changed"]) == (True, False, False)


def test_somebody_elses_drain_is_left(slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    play(slurm, "others")
    for options in ({"state": "drained", "reason": "driver 1"}, {"state": "resumed"}):
        answer = call(capsys, **options)
        assert (answer["changed"], answer["left"].startswith("rec-1 is IDLE+DRAIN by root: fan 3")) == (False, True)
    assert (slurm / "updates").read_text() == ""


def test_a_host_without_slurm_is_one_clear_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "there is no scontrol on this host: delegate the task" in call(capsys)["msg"]
