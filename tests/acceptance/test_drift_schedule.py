"""Drift is corrected on a schedule, by a control node and by a node that pulls: with systemd, ssh and git, for real."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import pytest
from prometheus_client.parser import text_string_to_metric_families

from acceptance import cluster, schedule
from acceptance.schedule import CONTROL, DIRECTORY, ENV, FLEET, HOLD, HOSTS, PULL, SECRETS, on

NODES = ("--limit", CONTROL)
CONDARC = "/etc/conda/.condarc"
EDIT = f"echo 'channels: [defaults]' >>{CONDARC}"
EDITED = f"grep -q defaults {CONDARC}"
SIX = f"{ENV}/lib/python3.10/site-packages/six.py"
# The program of the service, as its user starts it.
SECOND = (
    "cd /; runuser -u envfleet-drift -- env PYTHONPATH=/opt/envfleet/drift/collections "
    "/opt/envfleet/drift/bin/python -P "
    "-m ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils._drift_schedule /etc/envfleet-drift/config.json"
)
# Runs on the node: what a correction is doing there ends at once, in the middle of it.
CUT = "pkill -KILL -f '^/usr/bin/python3|^sh -c while'"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[schedule.Site]:
    """A control node and a node in pull mode with their schedules; the first runs make nodes of bare machines."""
    cluster.lab("up", "--fresh", "--inventory", str(cluster.INVENTORY / HOSTS))
    made = schedule.Site(tmp_path_factory.mktemp("site"))
    made.remove()
    try:
        made.write()
        made.commit()
        made.encrypt()
        schedule.prepare()
        schedule.endpoint("start")
        made.apply()
        with ThreadPoolExecutor() as pool:  # the timer starts the other
            pulled = pool.submit(schedule.run, PULL)
            on(CONTROL, schedule.waiting(f"test -e {DIRECTORY}/status.json"))
            assert pulled.result()["state"] == "corrected"
        yield made
    finally:
        made.remove()
        cluster.lab("down", "--inventory", str(cluster.INVENTORY / HOSTS))


@pytest.fixture
def control(site: schedule.Site) -> schedule.Site:
    """No run but those of the test, which begins with nodes that are right."""
    schedule.quiet(CONTROL)
    assert schedule.run(CONTROL)["exit_code"] == 0, schedule.log(CONTROL)
    return site


def metrics(node: str, directory: str) -> dict[str, float]:
    """The metrics without labels that a node has for Prometheus, by name."""
    text = on(node, f"cat {directory}/drift_check.prom {directory}/drift_schedule.prom") + "\n"
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert samples
    return {sample.name.removeprefix("gpu_cluster_drift_"): sample.value for sample in samples if not sample.labels}


def valid(report: dict[str, Any]) -> dict[str, Any]:
    """A report that is as its schema says."""
    jsonschema.validate(report, json.loads((cluster.ROOT / "docs" / "drift-report.schema.json").read_text()))
    return report


def artifacts(node: str, started: str) -> dict[str, str]:
    """What the playbooks of the run that *started* then have printed."""
    names = on(node, f"cd {DIRECTORY}/artifacts; ls -d {re.sub('[-:]', '', started)[:-3]}*").split()
    return {name.partition("-")[2]: on(node, f"cat {DIRECTORY}/artifacts/{name}/stdout") for name in names}


def test_a_second_run_of_the_role_changes_nothing(site: schedule.Site) -> None:
    assert re.findall(r"changed=(\d+)", site.apply()) == ["0", "0"]


def test_the_timer_fires_and_what_has_drifted_is_corrected(control: schedule.Site) -> None:
    on(FLEET[0], f"rm {SIX}")
    on(FLEET[1], EDIT)
    on(CONTROL, f"systemctl start envfleet-drift.timer; {schedule.waiting(schedule.ACTIVE)}")
    schedule.quiet(CONTROL)

    told = schedule.status(CONTROL)
    assert told["state"] == "corrected"
    assert told["corrected"] == list(FLEET)
    assert cluster.on_node(f"{ENV}/bin/python -c 'import six'", node=FLEET[0], user="alice").returncode == 0
    assert cluster.on_node(EDITED, node=FLEET[1], check=False).returncode == 1
    # No more than one node at once.
    printed = artifacts(CONTROL, told["started"])
    assert list(printed) == ["check", "correct-1", "correct-2", "verify"]
    assert [set(re.findall(r"schedule-[12]", printed[f"correct-{number}"])) for number in (1, 2)] == [
        {FLEET[0]},
        {FLEET[1]},
    ]
    report = valid(json.loads(on(CONTROL, f"cat {DIRECTORY}/report/drift.json")))
    assert {name: host["state"] for name, host in report["hosts"].items()} == dict.fromkeys(FLEET, "clean")
    runs = on(CONTROL, f"cat {DIRECTORY}/report/runs/*.json.gz | zcat || cat {DIRECTORY}/report/runs/*.json")
    assert SIX.rpartition("tools/")[2] in runs
    assert CONDARC in runs
    page = on(CONTROL, f"cat {DIRECTORY}/report/drift.html")
    assert all(name in page for name in FLEET)
    assert metrics(CONTROL, schedule.METRICS)["schedule_exit_code"] == 0


def test_runs_never_overlap(control: schedule.Site) -> None:
    lines = on(CONTROL, "journalctl --no-pager --output=json --unit=envfleet-drift.service").splitlines()
    runs: dict[str, list[int]] = {}
    for line in map(json.loads, lines):
        if line.get("_COMM") == "python":
            runs.setdefault(line["_SYSTEMD_INVOCATION_ID"], []).append(int(line["__MONOTONIC_TIMESTAMP"]))
    spans = sorted((min(times), max(times)) for times in runs.values())
    assert len(spans) > 1
    assert all(before[1] < after[0] for before, after in itertools.pairwise(spans))


def test_a_second_start_ends_at_once_and_a_killed_run_is_made_good(control: schedule.Site) -> None:
    right = on(FLEET[0], f"readlink -e {ENV}")
    on(FLEET[0], f"touch {HOLD}; rm {SIX}")
    on(CONTROL, "systemctl start --no-block envfleet-drift.service")
    # The new generation is built, and its smoke test runs.
    on(FLEET[0], schedule.waiting("pgrep -f '[t]est -e /run/hold'"))

    listing = f"cd {DIRECTORY}; ls artifacts; cat running.json; sha256sum status.json told.json report/drift.json"
    before = on(CONTROL, listing)
    second = cluster.on_node(SECOND, node=CONTROL, check=False)
    assert second.returncode == 75
    assert "Another run is at work" in second.stdout
    assert on(CONTROL, listing) == before

    on(CONTROL, "systemctl kill --signal=KILL envfleet-drift.service")
    on(CONTROL, schedule.waiting("systemctl is-failed envfleet-drift.service"))
    on(FLEET[0], f"{CUT}; rm {HOLD}")
    assert on(FLEET[0], f"readlink -e {ENV}") == right
    assert on(FLEET[0], "find /opt/envfleet -name '.*.building'")

    told = schedule.run(CONTROL)
    assert told["interrupted"]
    assert f"The run of {told['interrupted']} was cut." in schedule.log(CONTROL)
    assert told["state"] == "corrected"
    assert metrics(CONTROL, schedule.METRICS)["schedule_interrupted"] == 1
    prefix = on(FLEET[0], f"readlink -e {ENV}")
    assert prefix != right
    assert not on(FLEET[0], "find /opt/envfleet -name '.*.building'")
    assert cluster.on_node(f"{ENV}/bin/python -c 'import requests, six'", node=FLEET[0], user="alice").returncode == 0
    assert schedule.run(CONTROL)["interrupted"] == ""


def test_what_is_for_people_is_left_alone_and_told_once(control: schedule.Site) -> None:
    on(FLEET[0], f"mv {ENV} {ENV}.aside; mkdir {ENV}; echo mine >{ENV}/notes")
    told = []
    for _number in range(2):
        status = schedule.run(CONTROL)
        assert (status["state"], status["exit_code"]) == ("people", 3)
        assert on(FLEET[0], f"cat {ENV}/notes") == "mine"
        told.append([line for line in schedule.log(CONTROL).splitlines() if line.startswith("For people (human): ")])
    assert told[0] == told[1]
    assert len(told[0]) == 1
    assert f"{FLEET[0]}: environment tools: {ENV}" in told[0][0]
    notified = on(CONTROL, f"cat {DIRECTORY}/notified")
    assert [(found["host"], found["subject"]) for found in json.loads(notified)] == [(FLEET[0], ENV)]

    on(FLEET[0], f"rm -r {ENV}; mv {ENV}.aside {ENV}")
    assert schedule.run(CONTROL)["state"] == "clean"


def test_outside_the_window_drift_is_told_and_stays(control: schedule.Site) -> None:
    in_three_days = on(CONTROL, "LC_ALL=C date --date='3 days' +%a").lower()
    window = {"drift_schedule_windows": [{"days": [in_three_days], "start": "00:00", "end": "00:00"}]}
    state = "find /etc /opt/envfleet -newermt @0 ! -name '.ansible*' -printf '%p %y %m %U %l %T@\\n' | sort | sha256sum"
    before = on(CONTROL, state)
    foretold = control.apply("--check", "--diff", *NODES, **window)
    assert on(CONTROL, state) == before
    assert re.search(rf'^\+ +"{in_three_days}"$', foretold, re.MULTILINE)
    done = control.apply("--diff", *NODES, **window)
    assert re.findall(r"^[-+] .*|changed=\d+", foretold, re.MULTILINE) == re.findall(
        r"^[-+] .*|changed=\d+", done, re.MULTILINE
    )
    try:
        schedule.quiet(CONTROL)
        on(FLEET[1], EDIT)
        status = schedule.run(CONTROL)
        assert (status["state"], status["exit_code"], status["waiting"]) == ("waiting", 0, [FLEET[1]])
        on(FLEET[1], EDITED)
        report = valid(json.loads(on(CONTROL, f"cat {DIRECTORY}/report/drift.json")))
        assert [found["subject"] for found in report["hosts"][FLEET[1]]["findings"]] == [CONDARC]
        assert metrics(CONTROL, schedule.METRICS)["schedule_waiting_hosts"] == 1
    finally:
        control.apply(*NODES)
    schedule.quiet(CONTROL)
    # Unless the timer has had it done already.
    assert schedule.run(CONTROL)["exit_code"] == 0
    assert cluster.on_node(EDITED, node=FLEET[1], check=False).returncode == 1


def test_a_node_that_pulls_follows_its_repository_and_outlives_it(site: schedule.Site) -> None:
    old = on(PULL, f"readlink -e {ENV}")
    site.write(lock="conda-lock-next.yml")
    commit = site.commit()
    on(PULL, EDIT)
    status = schedule.run(PULL)
    assert (status["state"], status["commit"]) == ("corrected", commit)
    assert on(PULL, f"readlink -e {ENV}") != old
    assert cluster.on_node(EDITED, node=PULL, check=False).returncode == 1

    # Neither the server of the repository answers, nor what takes the reports.
    before = on(CONTROL, f"ls {schedule.REPORTS}").split()
    schedule.endpoint("stop")
    on(
        PULL,
        "cp /etc/hosts /root; echo 127.0.0.1 envfleet-lab-mirror >/etc/hosts; "
        "getent hosts schedule-control >>/etc/hosts",
    )
    on(PULL, EDIT)
    status = schedule.run(PULL)
    assert (status["state"], status["commit"], status["unsent_reports"]) == ("corrected", commit, 1)
    assert "git failed" in status["stale"]
    assert cluster.on_node(EDITED, node=PULL, check=False).returncode == 1
    assert metrics(PULL, f"{DIRECTORY}/report")["schedule_checkout_stale"] == 1

    on(PULL, "cat /root/hosts >/etc/hosts")
    schedule.endpoint("start")
    status = schedule.run(PULL)
    assert (status["state"], status["stale"], status["unsent_reports"]) == ("clean", "", 0)
    new = sorted(set(on(CONTROL, f"ls {schedule.REPORTS}").split()) - set(before))
    assert len(new) == 2
    for name in new:
        report = valid(json.loads(on(CONTROL, f"cat {schedule.REPORTS}/{name}")))
        assert report["hosts"][PULL]["state"] == "clean"


@pytest.mark.usefixtures("control")
def test_nothing_secret_is_told_and_the_service_cannot_change_its_orders() -> None:
    words = shlex.quote("\n".join(SECRETS.values()))
    for node in (CONTROL, PULL, *FLEET):
        assert cluster.on_node(f"journalctl --no-pager | grep -F {words}", node=node, check=False).stdout == ""
    for node in (CONTROL, PULL):
        # The unit reads the extra variables from where only root and its user may.
        found = on(node, f"grep -rlF {words} {DIRECTORY} {schedule.METRICS} /etc /opt/envfleet /tmp /run", check=False)
        assert found.split() == ["/etc/envfleet-drift/extra_vars.json"]
        assert on(node, "stat -c %a /etc/envfleet-drift/extra_vars.json") == "640"
    places = "/etc/envfleet-drift /etc/systemd/system/envfleet-drift.* /opt/envfleet/drift /opt/envfleet/drift/"
    writable = on(CONTROL, f"runuser -u envfleet-drift -- find {places} -writable ! -type l", check=False)
    assert writable == ""
    for secret in ("/root/drift_key", "/root/vault_password"):
        assert cluster.on_node(f"runuser -u envfleet-drift -- cat {secret}", node=CONTROL, check=False).returncode == 1


def test_absent_removes_everything(site: schedule.Site) -> None:
    output = site.apply(drift_schedule_state="absent")
    assert "failed=0" in output
    for node in (CONTROL, PULL):
        left = "/etc /opt /var/lib /run -xdev -not -path '/run/log/*' -name '*drift*' -not -path '*/conda-meta/*'"
        assert on(node, f"find {left}") == ""
        assert on(node, "systemctl list-units --all --plain --no-legend 'envfleet-drift*'") == ""
        assert cluster.on_node("getent passwd envfleet-drift", node=node, check=False).returncode == 2
        assert on(node, f"ls {schedule.METRICS} 2>/dev/null", check=False) == ""
    assert re.findall(r"changed=(\d+)", site.apply(drift_schedule_state="absent")) == ["0", "0"]
