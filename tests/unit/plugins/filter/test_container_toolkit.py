"""What differs in a node's container toolkit, from the look alone, and what Docker is told."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.envfleet.gpu_cluster.plugins.filter.container_toolkit import (
    container_toolkit_findings,
    docker_with_nvidia,
)

PATH = "/var/run/cdi/nvidia.yaml"
HERE, ELSEWHERE = "/run/cdi/nvidia.yaml", "/etc/cdi/nvidia.yaml"
PROGRAM, KEY = "/usr/bin/nvidia-ctk", "/etc/apt/keyrings/key.asc"
THERE = {"state": "file", "sha256": "0" * 64, "mode": "0644", "owner": "root", "group": "root"}
ABSENT = {"state": "absent"}
DRIVER = "580.95.05"
BOTH = '{"features": {"cdi": true}, "runtimes": {"nvidia": {}}}'


def node(
    *specs: tuple[str, str], driver: str = DRIVER, version: str = "1.18.1-1", present: bool = True, **files: Any
) -> dict[str, Any]:
    toolkit = {"version": version, "cdi": [{"path": path, "version": found} for path, found in specs]}
    gpu = {"present": present, "user_space": driver, "toolkit": toolkit}
    return {"gpu": gpu, "files": {PROGRAM: files.get("program", THERE), KEY: files.get("key", THERE)}}


def found(of: dict[str, Any], **wanted: Any) -> dict[str, str]:
    return {one["subject"]: one["actual"] for one in container_toolkit_findings(of, PATH, **wanted)}


@pytest.mark.parametrize(
    ("of", "wanted", "expected"),
    [
        (node((HERE, DRIVER)), {}, {}),
        (node((HERE, DRIVER)), {"version": "1.18.1-1", "files": [{"path": KEY}], "docker": BOTH}, {}),
        (node(), {}, {PATH: "absent"}),
        (node((HERE, "535.129.03")), {}, {PATH: "CDI spec of driver 535.129.03"}),
        (node((HERE, "")), {}, {PATH: "CDI spec of driver unknown"}),
        (node((HERE, DRIVER), (ELSEWHERE, DRIVER)), {}, {ELSEWHERE: "a second CDI spec"}),
        (node((ELSEWHERE, DRIVER)), {}, {ELSEWHERE: "a second CDI spec", PATH: "absent"}),
        (node((ELSEWHERE, DRIVER), driver=""), {}, {ELSEWHERE: "a second CDI spec"}),  # nothing to write one of
        (node((HERE, DRIVER), program=ABSENT), {}, {PROGRAM: "absent"}),
        (node((HERE, DRIVER)), {"version": "1.19.0-1"}, {PROGRAM: "1.18.1-1"}),
        (node((HERE, DRIVER), version=""), {"version": "1.19.0-1"}, {}),  # no package manager's records are read
        (node((HERE, DRIVER)), {"files": [{"path": KEY, "sha256": "1" * 64}]}, {KEY: "file"}),
        (node((HERE, DRIVER), key=ABSENT), {"files": [{"path": KEY}]}, {KEY: "absent"}),
        (node((HERE, DRIVER)), {"docker": ""}, {"/etc/docker/daemon.json": "without them"}),
        (node(present=False, program=ABSENT, key=ABSENT), {"files": [{"path": KEY}], "docker": "no JSON"}, {}),
    ],
)
def test_what_differs(of: dict[str, Any], wanted: dict[str, Any], expected: dict[str, str]) -> None:
    assert found(of, **wanted) == expected


def test_a_file_of_known_content() -> None:
    text = "key\n"
    known = {"path": KEY, "content": text}
    right = {**THERE, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    assert found(node((HERE, DRIVER), key=right), files=[known]) == {}
    (finding,) = container_toolkit_findings(node((HERE, DRIVER)), PATH, files=[known])
    assert (finding["component"], finding["subject"], finding["fix"]) == ("container toolkit", KEY, "auto")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("  \n", {}),
        ('{"log-driver": "journald", "features": {"buildkit": true}}', {"log-driver": "journald"}),
        ('{"runtimes": {"kata": {"path": "kata-runtime"}}, "features": {"cdi": false}}', {}),
    ],
)
def test_docker_keeps_all_that_it_was_told(text: str, expected: dict[str, Any]) -> None:
    written = docker_with_nvidia(text)
    content, before = json.loads(written), json.loads(text if text.strip() else "{}")
    assert content["features"] == {**before.get("features", {}), "cdi": True}
    assert content["runtimes"] == {
        **before.get("runtimes", {}),
        "nvidia": {"args": [], "path": "nvidia-container-runtime"},
    }
    assert {key: value for key, value in content.items() if key not in ("features", "runtimes")} == expected
    # What has both stays as it is, to the letter.
    assert docker_with_nvidia(written) == written
    assert docker_with_nvidia(BOTH) == BOTH


@pytest.mark.parametrize("text", ["{", "[]", '{"features": 1}', '{"runtimes": ["nvidia"]}'])
def test_a_configuration_that_docker_could_not_read_is_named(text: str) -> None:
    with pytest.raises(AnsibleFilterError, match=r"/etc/docker/daemon\.json is no configuration of Docker"):
        docker_with_nvidia(text)
