"""The drift report: what it tells, what it remembers, and the three forms that it is written in."""

from __future__ import annotations

import datetime
import html.parser
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._node.findings import Finding
from ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils._drift_html import page
from ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils._drift_prometheus import metrics
from ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils._drift_report import (
    TEXT_LIMIT,
    Archive,
    Node,
    Past,
    Run,
    document,
)

MISSING = Finding("base", "/opt/conda", "26.1", "absent")
FOREIGN = Finding("environment ml", "bin/x", "lock 5f0c", "foreign: <b>x</b>", "warning", "human")
OLD = Finding("driver", "module", "580", "570", fix="drain")
HOSTILE = "</script><script>alert(1)</script><img src=http://a/b onerror='x'>\" & {{ 7 * 7 }}\n\x00\udcff"
#: The inventory and the playbook are of the site, so their names hold no control characters.
NAME = HOSTILE.split("\n")[0]
START = datetime.datetime(2026, 11, 1, 12, 0, 0, tzinfo=datetime.UTC)


def run(hour: int = 0, playbook: str = "check", check: bool = False) -> Run:
    started = START + datetime.timedelta(hours=hour)
    return Run(playbook, check, started, started + datetime.timedelta(seconds=5.5))


def drifted(*findings: Finding) -> Node:
    return Node("drifted", "", list(findings))


def told(
    archive: Archive, hour: int, nodes: dict[str, Node], playbook: str = "check", check: bool = False
) -> dict[str, Any]:
    """The report of one more run, kept."""
    this = run(hour, playbook, check)
    report = document(this, nodes, archive.past(this))
    archive.keep(report, {})
    return report


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """Kept are three runs."""
    return Archive(str(tmp_path / "drift"), 3)


def names(changes: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(change["host"], change["finding"]["subject"]) for change in changes]


def test_changes_are_told_against_the_last_time_a_node_was_examined(archive: Archive) -> None:
    first = told(archive, 0, {"n1": drifted(MISSING, FOREIGN), "n2": drifted(OLD), "n3": Node("clean")})
    assert first["changes"] == {"states": [], "appeared": [], "gone": []}
    # n1 cannot be reached, n2 is not looked at, and another playbook sees other things.
    second = told(archive, 1, {"n1": Node("unreachable", "no route"), "n3": drifted(MISSING)})
    assert second["changes"]["states"] == [
        {"host": "n1", "before": "drifted", "now": "unreachable"},
        {"host": "n3", "before": "clean", "now": "drifted"},
    ]
    assert (names(second["changes"]["appeared"]), second["changes"]["gone"]) == ([("n3", "/opt/conda")], [])
    told(archive, 2, {"n1": Node("clean")}, check=True)
    # The first run is still kept, and known.
    fourth = told(archive, 3, {"n1": drifted(MISSING), "n2": drifted(OLD, FOREIGN), "n3": Node("clean")})
    assert names(fourth["changes"]["gone"]) == [("n1", "bin/x"), ("n3", "/opt/conda")]
    assert names(fourth["changes"]["appeared"]) == [("n2", "bin/x")]
    assert [finding["since"] for finding in fourth["hosts"]["n2"]["findings"]] == [
        "2026-11-01T12:00:05Z",
        "2026-11-01T15:00:05Z",
    ]
    assert (fourth["summary"]["appeared"], fourth["summary"]["gone"]) == (1, 2)


def test_a_node_that_failed_tells_neither_what_is_new_nor_what_is_gone(archive: Archive) -> None:
    told(archive, 0, {"n1": drifted(MISSING, OLD)})
    report = told(archive, 1, {"n1": Node("failed", "Task x failed.", [MISSING, FOREIGN])})
    assert (report["changes"]["appeared"], report["changes"]["gone"]) == ([], [])
    assert report["hosts"]["n1"]["findings"][0]["since"] == "2026-11-01T12:00:05Z"
    assert names(told(archive, 2, {"n1": drifted(FOREIGN)})["changes"]["gone"]) == [
        ("n1", "/opt/conda"),
        ("n1", "module"),
    ]


def test_runs_are_rotated_and_what_a_killed_run_left_is_removed(archive: Archive, tmp_path: Path) -> None:
    runs = tmp_path / "drift/runs"
    told(archive, 0, {"n1": Node("clean")})
    abandoned, fresh, foreign = runs / ".drift.json.k2lw", runs / ".drift.json.9xyz", runs / ".notes"
    for path in (abandoned, fresh, foreign):
        path.write_text("{")
    for path in (abandoned, foreign):
        os.utime(path, (time.time() - 7200,) * 2)
    for hour in range(1, 5):
        told(archive, hour, {"n1": Node("clean")})
    reports = sorted(path.name for path in runs.glob("*.json"))
    assert [name[:15] for name in reports] == ["20261101T140005", "20261101T150005", "20261101T160005"]
    assert (abandoned.exists(), fresh.exists(), foreign.exists()) == (False, True, True)
    latest = tmp_path / "drift/drift.json"
    assert latest.read_text() == (runs / reports[-1]).read_text()
    assert latest.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"schema_version": 2}', '{"schema_version": 1, "run": {}}', "\udcff"]
)
def test_a_file_that_is_no_report_is_passed_over_and_named(archive: Archive, tmp_path: Path, text: str) -> None:
    told(archive, 0, {"n1": drifted(MISSING)})
    bad = tmp_path / "drift/runs/20261101T123000000000Z-1.json"
    bad.write_text(text, errors="surrogateescape")
    past = archive.past(run(1))
    assert past.unreadable == [str(bad)]
    assert (len(past.summaries), past.nodes["n1"]["findings"][0]["subject"]) == (1, "/opt/conda")


def test_a_full_report_follows_the_schema(archive: Archive, root: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((root / "docs/drift-report.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    hostile = Finding("environment " + HOSTILE, HOSTILE, HOSTILE, "x" * 2000, "warning", "human")
    told(archive, 0, {"n1": drifted(MISSING, hostile), "n2": Node("clean")})
    nodes = {"n1": drifted(OLD, hostile, hostile), "n2": Node("unreachable", HOSTILE), "n3": Node()}
    report = json.loads(json.dumps(told(archive, 1, nodes)))
    validator.validate(report)
    assert report["summary"]["hosts"] == {"unreachable": 1, "failed": 0, "drifted": 1, "unchecked": 1, "clean": 0}
    assert len(report["hosts"]["n1"]["findings"][1]["actual"]) == TEXT_LIMIT
    # The same finding twice is one.
    assert report["summary"]["findings"] == 2
    for key in ("schema_version", "run", "hosts"):
        assert not validator.is_valid({name: value for name, value in report.items() if name != key})
    assert not validator.is_valid({**report, "secret": 1})


class _Tags(html.parser.HTMLParser):
    """All tags with their attributes, and whether they are balanced."""

    _VOID = frozenset({"meta", "link", "input", "rect"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self._VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


def test_the_page_escapes_everything_and_needs_nothing_else(archive: Archive) -> None:
    hostile = Finding("environment " + HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    told(archive, 0, {NAME: drifted(MISSING), "n2": drifted(FOREIGN)}, playbook=NAME)
    this = run(1, NAME)
    past = archive.past(this)
    nodes = {NAME: drifted(hostile), "n2": Node("failed", HOSTILE), "n3": Node("clean")}
    text = page(document(this, nodes, past), past.summaries)
    parsed = _Tags(text)
    assert [tag for tag, _attributes in parsed.tags].count("script") == 1
    assert {tag for tag, _attributes in parsed.tags} & {"img", "iframe", "b", "object", "base"} == set()
    names = {name for _tag, attributes in parsed.tags for name in attributes}
    assert not {name for name in names if name.startswith("on") or name in ("src", "style", "srcset", "action")}
    links = [attributes["href"] for _tag, attributes in parsed.tags if "href" in attributes]
    assert all(link == "data:," or (link and link.startswith("#n")) for link in links)
    targets = {f"#{attributes['id']}" for _tag, attributes in parsed.tags if "id" in attributes}
    assert {link for link in links if link != "data:,"} <= targets
    assert "{{ 7 * 7 }}" in text
    assert "HASH" not in text
    assert "\x00" not in text


def test_the_page_never_shows_a_node_as_clean_that_is_not(archive: Archive) -> None:
    nodes = {f"n{i}": Node(state) for i, state in enumerate(("unreachable", "failed", "unchecked", "clean"))}
    text = page(document(run(), nodes, Past()), [])
    shown = re.findall(r'class="state (\w+)" title="(n\d): (\w+)"', text)
    assert shown == [(state, f"n{i}", state) for i, state in enumerate(("unreachable", "failed", "unchecked", "clean"))]
    assert page(document(run(), {}, Past()), [])
    assert "Nothing has changed." in page(document(run(), {"n1": Node("clean")}, Past()), [])


def test_the_page_of_a_thousand_nodes_is_small_and_made_quickly(archive: Archive) -> None:
    nodes = {f"node{i:04}": drifted(MISSING, FOREIGN, OLD) if i % 5 == 0 else Node("clean") for i in range(1000)}
    before = time.process_time()
    text = page(document(run(), nodes, Past()), [])
    assert time.process_time() - before < 5
    assert len(text) < 1_000_000
    assert text.count("<section ") == 200


def samples(text: str) -> dict[str, float]:
    """Each series with its value. A line that is none of the format fails."""
    found: dict[str, float] = {}
    label = r'[a-zA-Z_]\w*="(?:[^"\\\n]|\\["\\n])*"'
    for line in text.splitlines():
        if not line.startswith("# "):
            matched = re.fullmatch(rf"(\w+\{{{label}(?:,{label})*\}}) (-?[\d.]+(?:e[+-]?\d+)?)", line)
            assert matched, line
            assert matched[1] not in found
            found[matched[1]] = float(matched[2])
    return found


def test_metrics_have_help_type_and_few_series(archive: Archive) -> None:
    own = [Finding(f"kind{i}{HOSTILE if i == 0 else ''} name{i}", f"/p{i}", "a", "b") for i in range(100)]
    nodes = {f"node{i}": drifted(MISSING, OLD, *own) for i in range(50)}
    text = metrics(document(run(playbook=HOSTILE), nodes, Past()))
    found = samples(text)
    families = {name.partition("{")[0] for name in found}
    for kind in ("HELP", "TYPE"):
        assert set(re.findall(rf"^# {kind} (\w+) .+$", text, re.MULTILINE)) == families
    assert "node1" not in text.replace("name1", "")
    assert len(found) < 120
    total = sum(value for name, value in found.items() if name.startswith("gpu_cluster_drift_findings{"))
    assert total == 50 * 102


def test_metrics_tell_zeros_too(archive: Archive) -> None:
    found = samples(metrics(document(run(check=True), {"n1": drifted(OLD), "n2": Node("clean")}, Past())))
    series = 'gpu_cluster_drift_findings{{playbook="check --check",component="driver",severity="error",fix="{}"}}'
    assert [found[series.format(fix)] for fix in ("auto", "drain", "human")] == [0, 1, 0]
    assert found['gpu_cluster_drift_hosts{playbook="check --check",state="unreachable"}'] == 0
    ended = found['gpu_cluster_drift_run_timestamp_seconds{playbook="check --check"}']
    assert ended == int(run().finished.timestamp())


def test_a_prometheus_client_reads_the_metrics() -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    text = metrics(document(run(playbook='a"\\\nb'), {"n1": drifted(OLD, FOREIGN)}, Past()))
    read = [sample for family in parser.text_string_to_metric_families(text) for sample in family.samples]
    assert len(read) == len(samples(text))
    assert {sample.labels["playbook"] for sample in read} == {'a"\\\nb'}
