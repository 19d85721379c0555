"""The lab's command line, as far as it needs no container."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.__main__ import main


def test_an_error_is_one_line_and_exit_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENVFLEET_LAB_CACHE", str(tmp_path))
    assert main(["up", "--inventory", str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err == f"lab: error: no such inventory: {tmp_path / 'nowhere'}\n"


@pytest.mark.parametrize(
    "arguments",
    [[], ["up"], ["down"], ["down", "--all", "--inventory", "x"], ["mirror", "restart"], ["lock", "--spec", "x"]],
)
def test_incomplete_commands_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    assert "usage: lab" in capsys.readouterr().err
