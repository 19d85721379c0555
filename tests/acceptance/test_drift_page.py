"""The page of the drift report in a real browser."""

from __future__ import annotations

import datetime
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._node.findings import Finding
from ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils._drift_html import page
from ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils._drift_report import Archive, Node, Run, document

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
NODES = 1000
KINDS = [
    Finding("policy", "/etc/conda/.condarc", "content 5f0c61d3c1a2", "content 9b7a8f5e6d7c"),
    Finding(
        "environment ml", "lib/python3.12/site-packages/six.py", "lock 5f0c61d3c1a2", "missing: file of six 1.17.0"
    ),
    Finding("driver", "user space", "branch 580", "570.195.03", fix="drain"),
    Finding("policy", "/etc/conda/condarc", "absent", "file", "warning", "human"),
]
START = datetime.datetime(2026, 11, 1, 12, 0, 0, tzinfo=datetime.UTC)


def fleet(hour: int) -> dict[str, Node]:
    """An example: of each hundred nodes most are clean, and every hour others are not."""
    nodes = {f"gpu{number:04}": Node("clean") for number in range(1, NODES + 1)}
    for number, name in enumerate(nodes):
        chance = (number * 37 + hour * 11 + number // 7 * 5) % 100
        if chance < 12:
            nodes[name] = Node("drifted", "", KINDS[: chance % 4 + 1])
        elif chance == 12:
            nodes[name] = Node("unreachable", "Could not be reached for the task: Look once for all roles")
        elif chance == 13:
            nodes[name] = Node("failed", "Failed in the task: Look once for all roles")
    return nodes


def write_page(directory: Path) -> Path:
    """The page of a day's last run."""
    archive = Archive(str(directory), 100)
    for hour in range(24):
        started = START + datetime.timedelta(hours=hour)
        run = Run("check", False, started, started + datetime.timedelta(seconds=71))
        past = archive.past(run)
        report = document(run, fleet(hour), past)
        archive.keep(report, {"drift.html": page(report, past.summaries)})
    return directory / "drift.html"


@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium")
@pytest.mark.parametrize(("name", "size"), [("desktop", "1280,1000"), ("phone", "500,1000")])
def test_a_thousand_nodes_in_a_browser(tmp_path: Path, name: str, size: str) -> None:
    """With GPU_CLUSTER_DRIFT_PICTURES, a directory, the pictures are kept there."""
    picture = Path(os.environ.get("GPU_CLUSTER_DRIFT_PICTURES", tmp_path)) / f"drift-report-{name}.png"
    options = [
        "--headless=new",
        "--no-sandbox",  # which root needs, and containers
        "--disable-gpu",
        "--hide-scrollbars",
        "--enable-logging=stderr",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={size}",
    ]
    address = write_page(tmp_path / "report").as_uri()
    done = subprocess.run(
        [CHROMIUM, *options, "--dump-dom", address], capture_output=True, text=True, check=True, timeout=120
    )
    # Whatever the page or its content security policy has to complain of is a line of the console.
    assert not re.findall(r".*:CONSOLE.*", done.stderr)
    assert all(f"gpu{number:04}" in done.stdout for number in range(1, NODES + 1))
    subprocess.run(
        [CHROMIUM, *options, f"--screenshot={picture}", address], capture_output=True, check=True, timeout=120
    )
    assert picture.read_bytes().startswith(b"\x89PNG")
