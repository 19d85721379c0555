"""The callback drift_report and the action report_drift, with Ansible itself."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Play = Callable[..., tuple[int, str]]
Tasks = list[dict[str, Any]]

FINDING = {"component": "base", "subject": "/opt/conda", "expected": "26.1", "actual": "absent"}
REMARK = {**FINDING, "subject": "a remark", "severity": "warning", "fix": "human"}
REPORT = "envfleet.gpu_cluster.report_drift"
SECRET = "hunter2-do-not-tell"

PACKAGES = """#!/usr/bin/python
from ansible.module_utils.basic import AnsibleModule
AnsibleModule({}, supports_check_mode=True).exit_json(changed=True, results=["one", "two"])
"""


def report(*findings: dict[str, str], **task: Any) -> dict[str, Any]:
    return {"name": "Report", REPORT: {"findings": list(findings), "fail": True}, **task}


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Run one play over hosts on this machine, and say how it ended and what was printed."""

    def run(
        tasks: Tasks,
        *arguments: str,
        hosts: str = "one,two",
        play: str = "check",
        keep: str = "100",
        before: Any = None,
        **keywords: Any,
    ) -> tuple[int, str]:
        path = tmp_path / f"{play}.yml"
        content = {"hosts": "all", "gather_facts": False, "tasks": tasks, **keywords}
        path.write_text(yaml.safe_dump([before, content] if before else [content]))
        variables: dict[str, dict[str, str]] = {name: {"ansible_connection": "local"} for name in hosts.split(",")}
        if "gone" in variables:
            variables["gone"] = {"ansible_connection": "ssh", "ansible_ssh_args": "-o ProxyCommand=false"}
        common = {"ansible_python_interpreter": sys.executable, "secret": SECRET}
        inventory = {"all": {"hosts": variables, "vars": common}}
        (tmp_path / "hosts.yml").write_text(yaml.safe_dump(inventory))
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")},
            "ANSIBLE_HOME": str(tmp_path / "home"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
            "ANSIBLE_CALLBACKS_ENABLED": "envfleet.gpu_cluster.drift_report",
            "ANSIBLE_NOCOLOR": "1",
            "GPU_CLUSTER_DRIFT_REPORT_KEEP": keep,
        }
        if "directory" not in arguments:
            environment["GPU_CLUSTER_DRIFT_REPORT_DIRECTORY"] = str(tmp_path / "drift")
        done = subprocess.run(
            [
                str(Path(sys.prefix, "bin", "ansible-playbook")),
                "-i",
                "hosts.yml",
                str(path),
                *(argument for argument in arguments if argument != "directory"),
            ],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.fixture
def drift(tmp_path: Path) -> Path:
    """The directory of the report, which is not there yet."""
    return tmp_path / "drift"


def states(drift: Path) -> dict[str, str]:
    hosts = json.loads((drift / "drift.json").read_text())["hosts"]
    return {name: host["state"] for name, host in hosts.items()}


def last_lines(said: str) -> list[str]:
    """What is printed below the banner."""
    return [line for line in said.split("DRIFT REPORT")[1].splitlines()[1:] if line.strip()]


def test_reported_findings_are_written_and_counted(play: Play, drift: Path, root: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    tasks = [
        report(FINDING, REMARK, when="inventory_hostname == 'one'"),
        report(REMARK, when="inventory_hostname == 'two'"),
        report(when="inventory_hostname == 'three'"),
    ]
    code, said = play(tasks, hosts="one,two,three,four")
    assert code == 2, said
    assert "base: /opt/conda: absent (expected 26.1)" in said
    # Drift is no failure, a remark fails nothing, and who did not report is not clean.
    assert states(drift) == {"one": "drifted", "two": "drifted", "three": "clean", "four": "unchecked"}
    assert last_lines(said) == [
        "4 nodes: 1 clean, 1 unchecked, 2 drifted; 3 findings (1 auto, 2 human)",
        f"0 new, 0 gone since last time: {drift}/drift.html",
    ]
    content = json.loads((drift / "drift.json").read_text())
    jsonschema.validate(content, json.loads((root / "docs/drift-report.schema.json").read_text()))
    assert {path.name for path in drift.iterdir()} == {"drift.json", "drift.html", "drift_check.prom", "runs"}
    files = [path for path in drift.rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o644}

    code, said = play([report()], hosts="one,two,three,four")
    assert code == 0, said
    assert last_lines(said)[1].startswith("0 new, 3 gone since last time: ")


def test_a_host_that_fails_or_cannot_be_reached_is_never_clean(play: Play, drift: Path) -> None:
    tasks: Tasks = [
        report(),
        {"name": "Look", "ansible.builtin.ping": None, "when": "inventory_hostname == 'gone'"},
        {"name": "Break", "ansible.builtin.fail": {"msg": SECRET}, "when": "inventory_hostname == 'broken'"},
        {"name": "Pass", "ansible.builtin.fail": None, "when": "inventory_hostname == 'one'", "ignore_errors": True},
    ]
    code, _said = play(tasks, hosts="one,broken,gone")
    assert code in (4, 6)
    assert states(drift) == {"broken": "failed", "gone": "unreachable", "one": "clean"}
    content = (drift / "drift.json").read_text()
    assert json.loads(content)["hosts"]["broken"]["reason"] == "Failed in the task: Break"
    assert SECRET not in content
    # Nobody got as far as the report, and all must be told of nevertheless.
    tasks = [{"name": "Look", "ansible.builtin.ping": None}, report()]
    play(tasks, hosts="gone")
    assert states(drift) == {"gone": "unreachable"}
    before = {"hosts": "localhost", "gather_facts": False, "tasks": [{"ansible.builtin.debug": None}]}
    play([tasks[0], report(FINDING)], before=before, hosts="gone,one,two", serial=1, max_fail_percentage=0)
    assert states(drift) == {"gone": "unreachable", "one": "unchecked", "two": "unchecked"}


def test_in_check_mode_a_task_that_would_change_is_a_finding(play: Play, drift: Path, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("")
    # Package managers' modules return results although there is no loop.
    (tmp_path / "library").mkdir()
    (tmp_path / "library/packages.py").write_text(PACKAGES)
    (tmp_path / "there").chmod(0o600)
    tasks: Tasks = [
        {
            "name": "Write",
            "ansible.builtin.copy": {"content": "{{ secret }}", "dest": f"{tmp_path}/{{{{ item }}}}"},
            "loop": ["file", "other"],
            "notify": "Restart",
        },
        {"name": "Hide", "no_log": True, "ansible.builtin.copy": {"content": "x", "dest": f"{tmp_path}/{SECRET}"}},
        {
            "name": "Hide items",
            "no_log": True,
            "ansible.builtin.file": {"path": f"{tmp_path}/{{{{ item }}}}", "state": "touch"},
            "loop": [SECRET],
        },
        {
            "name": "Loop",
            "ansible.builtin.file": {"path": "{{ item.path }}", "state": "directory"},
            "loop": [{"path": str(tmp_path / "a"), "password": SECRET}, {"path": str(tmp_path), "password": SECRET}],
        },
        {"name": "Keep", "ansible.builtin.file": {"path": str(tmp_path / "there"), "mode": "0600"}},
        {"name": "Act", "check_mode": False, "ansible.builtin.command": "true"},
        {"name": "Install", "packages": None},
        {"name": "Group", "ansible.builtin.group_by": {"key": "x"}},
    ]
    handlers = [{"name": "Restart", "ansible.builtin.file": {"path": str(tmp_path / "b"), "state": "touch"}}]
    code, said = play(tasks, "--check", hosts="one", play="site", handlers=handlers)
    assert code == 0, said
    assert last_lines(said)[0] == "1 node: 1 drifted; 6 findings (6 auto)"
    (host,) = json.loads((drift / "drift.json").read_text())["hosts"].values()
    assert [finding["subject"] for finding in host["findings"]] == [
        f"Write: {tmp_path}/file",
        f"Write: {tmp_path}/other",
        "Hide",
        "Hide items",
        f"Loop: {tmp_path}/a",
        "Install",
    ]
    assert {(f["component"], f["severity"], f["fix"]) for f in host["findings"]} == {("task", "warning", "auto")}
    assert (drift / "drift_site_check.prom").exists()
    for path in drift.rglob("*"):
        assert path.is_dir() or SECRET not in path.read_text()

    play(tasks[4:5], "--check", hosts="one", play="site")
    assert states(drift) == {"one": "clean"}


@pytest.mark.parametrize("keywords", [{"any_errors_fatal": True}, {"max_fail_percentage": 0}])
def test_in_check_mode_a_node_that_was_examined_in_part_is_not_clean(
    play: Play, drift: Path, keywords: dict[str, Any]
) -> None:
    tasks: Tasks = [
        {"name": "Look", "ansible.builtin.file": {"path": "/", "state": "directory"}},
        {"name": "Break", "ansible.builtin.fail": None, "when": "inventory_hostname == 'broken'"},
        {"name": "Look on", "ansible.builtin.file": {"path": "/", "state": "directory"}},
    ]
    play(tasks, "--check", hosts="one,broken", play="site", **keywords)
    assert states(drift) == {"broken": "failed", "one": "unchecked"}
    # Where the play goes on without it, the others are examined to the end.
    play(tasks, "--check", hosts="one,broken", play="site")
    assert states(drift) == {"broken": "failed", "one": "clean"}


def test_a_limited_run_leaves_the_metrics_of_the_other_nodes(play: Play, drift: Path) -> None:
    tasks: Tasks = [
        {"name": "Look", "ansible.builtin.ping": None, "when": "inventory_hostname == 'gone'"},
        report(FINDING, when="inventory_hostname == 'two'"),
        report(when="inventory_hostname == 'one'"),
    ]
    # A node that has left the inventory is in the metrics no more.
    play([report(FINDING)], hosts="removed")
    play(tasks, hosts="one,two,gone")
    play([report()], "--limit=one", hosts="one,two,gone")
    assert states(drift) == {"one": "clean"}
    text = (drift / "drift_check.prom").read_text()
    found = dict(re.findall(r'^gpu_cluster_drift_hosts{playbook="check",state="(\w+)"} (\d+)$', text, re.MULTILINE))
    assert found == {"unreachable": "1", "failed": "0", "drifted": "1", "unchecked": "0", "clean": "1"}
    assert 'component="base",severity="error",fix="auto"} 1\n' in text
    # Without a limit, the run is all there is to tell of.
    play([report()], hosts="one,two")
    found = dict(re.findall(r'state="(\w+)"} ([1-9])$', (drift / "drift_check.prom").read_text(), re.MULTILINE))
    assert found == {"clean": "2"}


def test_a_run_that_looks_at_nothing_leaves_the_report_alone(play: Play, drift: Path) -> None:
    code, said = play([{"name": "Change", "ansible.builtin.command": "true"}])
    assert (code, "DRIFT REPORT" in said, drift.exists()) == (0, False, False), said


def test_without_a_directory_there_are_two_lines_and_no_file(play: Play, drift: Path) -> None:
    _code, said = play([report(FINDING, when="inventory_hostname == 'one'"), report()], "directory")
    assert last_lines(said) == ["2 nodes: 1 clean, 1 drifted; 1 finding (1 auto)", "one drifted (1)"]
    _code, said = play([report()], "directory")
    assert last_lines(said)[1] == "Nothing has drifted."
    assert not drift.exists()


def test_runs_are_rotated(play: Play, drift: Path) -> None:
    for _run in range(3):
        play([report()], hosts="one", keep="2")
    assert len(list((drift / "runs").iterdir())) == 2


def test_a_directory_that_cannot_be_written_is_named_and_fails_no_run(play: Play, drift: Path) -> None:
    drift.write_text("a file")
    code, said = play([report()], hosts="one")
    assert code == 0, said
    assert "the drift report cannot be written" in said.replace("\n", " ")
    assert last_lines(said)[:2] == ["1 node: 1 clean; no findings", "Nothing has drifted."]
    assert drift.read_text() == "a file"


@pytest.mark.parametrize(
    ("finding", "message"),
    [
        ({**FINDING, "fix": "later"}, "value of fix must be one of: auto, drain, human, got: later"),
        ({**FINDING, "severity": "info"}, "value of severity must be one of: error, warning, got: info"),
        ({"component": "base"}, "missing required arguments: actual, expected, subject"),
    ],
)
def test_a_finding_that_is_none_fails_and_the_host_is_not_clean(
    play: Play, drift: Path, finding: dict[str, str], message: str
) -> None:
    code, said = play([report(finding)], hosts="one")
    assert code == 2
    assert message in said
    assert states(drift) == {"one": "failed"}


def test_findings_with_no_log_are_not_told(play: Play, drift: Path) -> None:
    hidden = {**FINDING, "actual": SECRET}
    play([report(hidden, no_log=True)], hosts="one")
    assert SECRET not in (drift / "drift.json").read_text() + (drift / "drift.html").read_text()
    assert states(drift) == {"one": "failed"}
