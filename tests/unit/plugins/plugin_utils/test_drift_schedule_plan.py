"""What is decided before anything is run: windows, which nodes, how many at once, and how a run has ended."""

from __future__ import annotations

import datetime
import json
import zoneinfo
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils._drift_schedule import plan
from ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils._drift_schedule.config import Config, ScheduleError
from ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils._drift_schedule.windows import Window, allowed

NIGHT = {"days": ["mon", "sun"], "start": "22:00", "end": "06:00"}
DAY = {"days": ["wed"], "start": "09:30", "end": "17:00"}


def at(text: str) -> datetime.datetime:
    """A moment of the week that begins on Monday, the 2nd of November 2026."""
    return datetime.datetime.fromisoformat(f"2026-11-{text}")


def inside(moment: datetime.datetime, *windows: dict[str, Any]) -> bool:
    return allowed([Window.of(window) for window in windows], moment)


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("02T21:59:59", False),
        ("02T22:00:00", True),
        ("03T05:59:59", True),  # of Monday's
        ("03T06:00:00", False),
        ("03T23:00:00", False),
        ("02T05:00:00", True),  # of Sunday's, in the week before
        ("08T23:00:00", True),
        ("09T05:00:00", True),
        ("04T05:00:00", False),
        ("04T09:29:59", False),
        ("04T09:30:00", True),
        ("04T16:59:59", True),
        ("04T17:00:00", False),
    ],
)
def test_window_over_midnight_belongs_to_the_day_that_it_begins_on(moment: str, expected: bool) -> None:
    assert inside(at(moment), NIGHT, DAY) is expected


def test_no_window_means_any_time_and_no_days_mean_all_of_them() -> None:
    assert inside(at("05T12:00:00"))
    every = {"start": "12:00", "end": "12:00"}
    assert inside(at("05T11:59:00"), every)
    assert inside(at("05T12:00:00"), every)


def test_window_goes_by_the_clock_on_the_wall_when_that_is_changed() -> None:
    berlin, window = zoneinfo.ZoneInfo("Europe/Berlin"), {"start": "02:30", "end": "03:30"}

    def seen(text: str) -> bool:
        return inside(datetime.datetime.fromisoformat(text).astimezone(berlin), window)

    # 29 March: after 01:59 comes 03:00, so half of the window is left.
    assert [seen(f"2026-03-29T0{time}:00Z") for time in ("0:59", "1:00", "1:29", "1:30")] == [False, True, True, False]
    # 25 October: 02:00 to 02:59 comes twice, and so does the half of the window that is in it.
    assert [seen(f"2026-10-25T0{time}:00Z") for time in ("0:29", "0:30", "1:00", "1:30", "2:29", "2:30")] == [
        False,
        True,
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    "window",
    [
        {"days": ["monday"], "start": "01:00", "end": "02:00"},
        {"days": [], "start": "01:00", "end": "02:00"},
        {"start": "24:00", "end": "02:00"},
        {"start": 1320, "end": "02:00"},
        {"end": "02:00"},
        {"start": "01:00", "end": "02:00", "timezone": "UTC"},
    ],
)
def test_window_that_is_none_is_refused(window: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"directory": "/d", "hosts": "all", "inventory": "/i", "windows": [window]}))
    with pytest.raises(ScheduleError, match=str(path)):
        Config.read(str(path))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"inventory": ""}, "inventory, git"),
        ({"git": {"url": "https://a/b", "ref": "main", "inventory": "i"}}, "inventory, git"),
        ({"inventory": "", "git": {"url": "https://a:b@c/d", "ref": "main", "inventory": "i"}}, "password"),
        ({"inventory": "", "git": {"url": "--upload-pack=x", "ref": "main", "inventory": "i"}}, "git.url"),
        ({"inventory": "", "git": {"url": "https://a/b", "ref": "-x", "inventory": "i"}}, "git.ref"),
        ({"inventory": "", "git": {"url": "https://a/b", "ref": "x", "inventory": "../i"}}, "git.inventory"),
        ({"max_nodes": "0"}, "max_nodes"),
        ({"max_nodes": "101%"}, "max_nodes"),
        ({"report_url": "file:///etc/passwd"}, "report_url"),
        ({"maxnodes": 1}, "maxnodes"),
    ],
)
def test_configuration_that_cannot_work_is_refused_by_name(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"directory": "/d", "hosts": "all", "inventory": "/i", **change}))
    with pytest.raises(ScheduleError, match=told):
        Config.read(str(path))


def host(*fixes: str, state: str = "") -> dict[str, Any]:
    """A node with a finding for each of *fixes*; a remark is one that nobody suffers from."""
    findings = [
        {
            "component": "base",
            "subject": f"/{fix}",
            "expected": "a",
            "actual": "b",
            "severity": "warning" if fix == "remark" else "error",
            "fix": "human" if fix == "remark" else fix,
            "since": "2026-11-01T00:00:00Z",
        }
        for fix in fixes
    ]
    state = state or ("drifted" if findings else "clean")
    return {"state": state, "examined": state in ("drifted", "clean"), "reason": "", "findings": findings}


def fleet(**hosts: dict[str, Any]) -> dict[str, Any]:
    return {"hosts": hosts}


def test_only_examined_nodes_with_something_to_correct_are_corrected() -> None:
    report = fleet(
        a=host("auto"),
        b=host("drain"),
        c=host("human", "auto"),
        d=host("auto", state="failed"),
        e=host(),
        f=host("remark"),
    )
    assert plan.correctable(report) == ["a", "c"]
    assert plan.correctable(report, bad={"a", "e"}) == ["c", "a"]


@pytest.mark.parametrize(
    ("max_nodes", "examined", "expected"),
    [("3", 1000, 3), ("10%", 1000, 100), ("10%", 19, 1), ("10%", 5, 1), ("10%", 0, 1), ("100%", 7, 7), ("33%", 10, 3)],
)
def test_share_of_nodes_is_of_those_that_were_examined(max_nodes: str, examined: int, expected: int) -> None:
    hosts = {f"n{number}": host() for number in range(examined)}
    hosts |= {f"u{number}": host(state="unreachable") for number in range(100)}
    assert plan.at_once(max_nodes, fleet(**hosts)) == expected


def test_waves_have_all_nodes_once() -> None:
    assert plan.waves(["a", "b", "c", "d", "e"], 2) == [["a", "b"], ["c", "d"], ["e"]]
    assert plan.waves([], 2) == []


@pytest.mark.parametrize(
    ("hosts", "wanted", "tried", "failed", "correct", "state", "code", "people"),
    [
        ({"a": host()}, [], [], [], True, "clean", 0, 0),
        ({"a": host("remark")}, [], [], [], True, "clean", 0, 0),
        ({"a": host()}, ["a"], ["a"], [], True, "corrected", 0, 0),
        ({"a": host("auto")}, ["a"], [], [], True, "waiting", 0, 0),
        ({"a": host("auto")}, ["a"], [], [], False, "people", 3, 1),
        # A correction that does not help is not tried for ever in silence.
        ({"a": host("auto")}, ["a"], ["a"], [], True, "people", 3, 1),
        ({"a": host("drain", "human", "remark")}, [], [], [], True, "people", 3, 2),
        ({"a": host("auto"), "b": host("human")}, ["a"], ["a"], ["a"], True, "nodes", 4, 1),
        ({"a": host(), "b": host(state="unreachable")}, ["a"], ["a"], [], True, "nodes", 4, 0),
        ({"a": host(), "b": host(state="unchecked")}, [], [], [], True, "nodes", 4, 0),
    ],
)
def test_outcome_tells_the_worst(
    hosts: dict[str, Any],
    wanted: list[str],
    tried: list[str],
    failed: list[str],
    correct: bool,
    state: str,
    code: int,
    people: int,
) -> None:
    outcome = plan.outcome(fleet(**hosts), wanted, tried, failed, correct)
    assert (outcome.state, outcome.exit_code, outcome.people) == (state, code, people)


def test_people_are_told_again_of_what_was_gone_for_a_while_but_not_of_what_nobody_could_see() -> None:
    first = fleet(a=host("human", "auto"), b=host("drain"))
    known = set(plan.for_people(first))
    assert known == {("a", "base", "/human", "b"), ("b", "base", "/drain", "b")}
    second = fleet(a=host(), b=host(state="unreachable"))
    assert plan.still_known(known, second) == {("b", "base", "/drain", "b")}
