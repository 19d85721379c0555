"""Whole runs: the program as systemd starts it, with ansible-runner and Ansible, on nodes that are files."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

pytest.importorskip("ansible_runner")
jsonschema = pytest.importorskip("jsonschema")
PROGRAM = "ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils._drift_schedule"
AUTO = {"component": "base", "subject": "/opt/conda", "expected": "x", "actual": "absent"}
HUMAN = {**AUTO, "subject": "/opt/envfleet", "fix": "human"}

CHECK = """
- hosts: "{{ gpu_cluster_hosts }}"
  gather_facts: false
  tasks:
    - ansible.builtin.raw: "true"
      changed_when: false
    - envfleet.gpu_cluster.report_drift:
        findings: "{{ lookup('ansible.builtin.file', nodes ~ '/' ~ inventory_hostname) | from_json }}"
        fail: true
"""
# A node is corrected by taking the findings out of its file. One with a file NAME.slow takes its time, and one with a
# file NAME.broken fails.
SITE = """
- hosts: "{{ gpu_cluster_hosts }}"
  gather_facts: false
  tasks:
    - ansible.builtin.raw: "echo {{ inventory_hostname }} >>{{ nodes }}/../changed; touch {{ nodes }}/../at-work"
      changed_when: true
    - ansible.builtin.raw: "while test -e {{ nodes }}/{{ inventory_hostname }}.slow; do sleep 0.1; done"
      changed_when: false
    - ansible.builtin.raw: "test ! -e {{ nodes }}/{{ inventory_hostname }}.broken"
      changed_when: false
    - ansible.builtin.raw: "sed -i /opt.conda/d {{ nodes }}/{{ inventory_hostname }}"
      changed_when: true
"""
INVENTORY = """
all:
  vars:
    ansible_connection: local
    ansible_python_interpreter: "{{ ansible_playbook_python }}"
  hosts:
"""


class Fleet:
    """Nodes, and a schedule for them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "state"
        self.log = root / "log"
        for path in (self.state, self.log, root / "nodes", root / "metrics"):
            path.mkdir()
        (root / "check.yml").write_text(CHECK)
        (root / "site.yml").write_text(SITE)
        (root / "hosts.yml").write_text(INVENTORY)
        (root / "variables.json").write_text(json.dumps({"nodes": str(root / "nodes")}))
        self.config: dict[str, Any] = {
            "directory": str(self.state),
            "hosts": "all",
            "inventory": str(root / "hosts.yml"),
            "extra_vars_file": str(root / "variables.json"),
            "max_nodes": "1",
            "metrics_directory": str(root / "metrics"),
            "check_playbook": str(root / "check.yml"),
            "site_playbook": str(root / "site.yml"),
        }

    def node(self, name: str, *findings: dict[str, str], variables: str = "") -> Path:
        """Add a node. A finding is a line of its file."""
        with (self.root / "hosts.yml").open("a") as stream:
            stream.write(f"    {name}: {variables}\n")
        path = self.root / "nodes" / name
        path.write_text("[\n" + "\n".join(json.dumps(finding) for finding in findings).replace("}\n{", "},\n{") + "\n]")
        return path

    @contextlib.contextmanager
    def started(self) -> Iterator[subprocess.Popen[str]]:
        """A run that is at work. In the end nothing of it is left."""
        (self.root / "config.json").write_text(json.dumps(self.config))
        path = ":".join(part for part in os.environ["PATH"].split(":") if not part.endswith("/shims"))
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", PROGRAM, str(self.root / "config.json")],
            env={"PATH": path, "HOME": str(self.root), "LC_ALL": "C.UTF-8", "LOGS_DIRECTORY": str(self.log)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield process
        finally:
            for number in [] if process.poll() is not None else [process.pid, *descendants(process.pid)]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            process.communicate()

    def run(self) -> tuple[int, str]:
        """One run: its exit status, and what it says."""
        with self.started() as process:
            text, _ = process.communicate(timeout=60)
            return process.returncode, text

    @property
    def status(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.state / "status.json").read_text())
        return content

    @property
    def report(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.state / "report" / "drift.json").read_text())
        return content

    @property
    def metrics(self) -> dict[str, float]:
        """The samples without labels, and the states that are 1."""
        text = (self.root / "metrics" / "drift_schedule.prom").read_text()
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return {
            sample.labels.get("state", sample.name.removeprefix("gpu_cluster_drift_schedule_")): sample.value
            for sample in samples
            if not sample.labels or sample.value
        }

    @property
    def changed(self) -> list[str]:
        """The nodes that the site playbook was run on, in turn."""
        path = self.root / "changed"
        return path.read_text().split() if path.exists() else []


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """No nodes yet."""
    return Fleet(tmp_path)


def test_what_can_be_corrected_is_and_people_are_told_of_the_rest_once(fleet: Fleet, root: Path) -> None:
    fleet.node("n1", AUTO)
    fleet.node("n2", AUTO, HUMAN)
    fleet.node("n3")
    fleet.node("n4", HUMAN)
    fleet.node("n5", variables="{ansible_connection: ssh, ansible_host: 127.0.0.1, ansible_port: 9}")
    fleet.config["notify_command"] = ["tee", "-a", str(fleet.root / "told")]
    code, text = fleet.run()
    assert (code, fleet.status["state"], fleet.status["bad"]) == (4, "nodes", ["n5"]), text
    assert fleet.changed == ["n1", "n2"]
    assert fleet.status["corrected"] == ["n1", "n2"]
    assert fleet.status["hosts"] == {"unreachable": 1, "failed": 0, "drifted": 2, "unchecked": 0, "clean": 2}
    # The report has the whole fleet, although the last look was at the corrected nodes alone.
    assert {name: host["state"] for name, host in fleet.report["hosts"].items()} == {
        "n1": "clean",
        "n2": "drifted",
        "n3": "clean",
        "n4": "drifted",
        "n5": "unreachable",
    }
    assert fleet.report["summary"]["gone"] == 2
    jsonschema.validate(fleet.report, json.loads((root / "docs" / "drift-report.schema.json").read_text()))
    assert "n1" in (fleet.state / "report" / "drift.html").read_text()
    assert (fleet.metrics["nodes"], fleet.metrics["exit_code"], fleet.metrics["corrected_hosts"]) == (1, 4, 2)
    assert (fleet.root / "metrics" / "drift_check.prom").exists()
    told = json.loads((fleet.root / "told").read_text())
    assert [(finding["host"], finding["fix"]) for finding in told] == [("n2", "human"), ("n4", "human")]
    assert text.count("For people") == 2
    first = fleet.status["finished"]
    fleet.node("n6")
    code, text = fleet.run()
    assert (code, fleet.changed, "For people" in text) == (4, ["n1", "n2"], False)
    assert json.loads((fleet.root / "told").read_text()) == told
    assert fleet.status["finished"] >= first
    assert not (fleet.state / "scratch").exists()


def test_first_wave_with_a_failure_is_the_last_and_its_node_is_not_in_the_way_next_time(fleet: Fleet) -> None:
    for name in ("n1", "n2", "n3", "n4"):
        fleet.node(name, AUTO)
    (fleet.root / "nodes" / "n2.broken").touch()
    fleet.config["max_nodes"] = "50%"
    code, text = fleet.run()
    assert (code, sorted(fleet.changed)) == (4, ["n1", "n2"]), text
    assert {key: fleet.status[key] for key in ("corrected", "bad", "waiting")} == {
        "corrected": ["n1"],
        "bad": ["n2"],
        "waiting": ["n3", "n4"],
    }
    assert "No other node is corrected" in text
    events = (fleet.state / "artifacts").glob("*-correct-1/job_events/*.json")
    assert {"runner_on_failed", "playbook_on_stats"} == {json.loads(path.read_text())["event"] for path in events}
    code, text = fleet.run()
    assert code == 4, text
    assert {key: fleet.status[key] for key in ("corrected", "bad", "waiting")} == {
        "corrected": ["n3", "n4"],
        "bad": ["n2"],
        "waiting": [],
    }


def test_outside_the_window_nodes_wait_and_with_correct_off_people_do(fleet: Fleet) -> None:
    fleet.node("n1", AUTO)
    later = [datetime.datetime.now() + datetime.timedelta(hours=hours) for hours in (6, 7)]
    fleet.config["windows"] = [{"start": f"{later[0]:%H:%M}", "end": f"{later[1]:%H:%M}"}]
    code, text = fleet.run()
    assert (code, fleet.status["state"], fleet.status["waiting"], fleet.changed) == (0, "waiting", ["n1"], []), text
    fleet.config |= {"windows": [], "correct": False}
    code, text = fleet.run()
    assert (code, fleet.status["people"], fleet.changed) == (3, 1, []), text


def test_run_that_is_killed_is_told_of_and_no_run_begins_before_it_is_dead(fleet: Fleet) -> None:
    node = fleet.node("n1", AUTO)
    slow = fleet.root / "nodes" / "n1.slow"
    slow.touch()
    with fleet.started():
        wait_for(fleet.root / "at-work")
        code, text = fleet.run()
        assert (code, (fleet.state / "status.json").exists()) == (75, False), text
    assert "opt/conda" in node.read_text()
    slow.unlink()
    (fleet.state / ".status.json.half").write_text("{")
    code, text = fleet.run()
    assert (code, fleet.status["state"]) == (0, "corrected"), text
    assert "was cut" in text
    assert fleet.status["interrupted"]
    assert fleet.metrics["interrupted"] == 1
    assert {path.name for path in fleet.state.iterdir()} == {
        "artifacts",
        "report",
        "run.lock",
        "status.json",
        "told.json",
    }
    code, text = fleet.run()
    assert (code, fleet.status["interrupted"], fleet.changed) == (0, "", ["n1", "n1"]), text


def test_run_that_is_told_to_stop_stops_and_says_so(fleet: Fleet) -> None:
    fleet.node("n1", AUTO)
    (fleet.root / "nodes" / "n1.slow").touch()
    with fleet.started() as process:
        wait_for(fleet.root / "at-work")
        process.terminate()
        process.communicate(timeout=60)
    assert (process.returncode, fleet.status["state"], fleet.status["message"]) == (1, "failed", "it was told to stop")
    assert fleet.metrics["failed"] == 1
    assert not (fleet.state / "running.json").exists()


def test_run_that_examines_nothing_fails_and_leaves_the_report(fleet: Fleet) -> None:
    fleet.node("n1")
    fleet.run()
    before = fleet.report
    fleet.config["hosts"] = "nobody"
    code, text = fleet.run()
    assert (code, fleet.status["state"], fleet.report) == (1, "failed", before), text
    assert "examined no node" in text


def test_pull_examines_this_node_alone_and_artifacts_rotate(fleet: Fleet) -> None:
    fleet.node("n1", HUMAN)
    fleet.node("n2", HUMAN, variables="{ansible_connection: ssh, ansible_host: 127.0.0.1, ansible_port: 9}")
    fleet.config |= {"node": "n2", "keep_runs": 2}
    for _ in range(3):
        code, text = fleet.run()
        assert (code, list(fleet.report["hosts"])) == (3, ["n2"]), text
    assert len(list((fleet.state / "artifacts").iterdir())) == 2
    assert len(list((fleet.state / "report" / "runs").iterdir())) == 2


def wait_for(path: Path) -> None:
    """Wait until *path* is there."""
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} does not appear"
        time.sleep(0.05)


def descendants(number: int) -> Iterator[int]:
    """The processes below one, as systemd would find them in the control group."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == number:
                child = int(path.parent.name)
                yield child
                yield from descendants(child)


def test_each_correction_is_in_the_audit_log_and_without_one_drift_is_found_and_left(fleet: Fleet) -> None:
    fleet.node("n1", AUTO)
    fleet.node("n2", AUTO)
    code, text = fleet.run()
    assert (code, fleet.changed) == (0, ["n1", "n2"]), text
    log = fleet.log / "audit.jsonl"
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert [entry["host"] for entry in entries if entry["event"] == "change"] == ["n1", "n1", "n2", "n2"]
    assert len({entry["run"] for entry in entries}) == 2  # one for each wave, and none for the looks
    assert {entry["playbook"] for entry in entries if entry["event"] == "begin"} == {"site.yml"}
    log.write_text(log.read_text().replace("n1", "n7"))
    (fleet.log / "audit.head").write_text("{}")
    fleet.node("n3", AUTO)
    code, text = fleet.run()
    assert (code, fleet.status["bad"], fleet.changed) == (4, ["n3"], ["n1", "n2"]), text
    assert "nothing is changed without an audit log" in text
    assert fleet.report["hosts"]["n3"]["state"] == "drifted"
