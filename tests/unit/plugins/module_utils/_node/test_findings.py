"""Drift: what was seen, held against what is wanted."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._node.findings import (
    TOLD,
    Finding,
    of_base,
    of_environments,
    of_files,
)

WANTED = "py310_26.5.3-1@" + "a" * 64
LOCK, OLD_LOCK = "1" * 64, "2" * 64


def problem(kind: str, subject: str = "bin/x", detail: str = "is so") -> dict[str, str]:
    return {"kind": kind, "subject": subject, "detail": detail}


def base(
    target: str | None = "/versions/x",
    identity: str | None = WANTED,
    *problems: dict[str, str],
    leftovers: tuple[str, ...] = (),
) -> dict[str, Any]:
    found = {"link": "/opt/conda", "target": target, "identity": identity, "problems": list(problems)}
    return {"base": {**found, "leftovers": list(leftovers)}}


def told(findings: list[Finding]) -> list[tuple[str, str, str, str]]:
    return [(finding.subject, finding.expected, finding.actual, finding.fix) for finding in findings]


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (base(), []),
        (base(None, None), [("/opt/conda", "py310_26.5.3-1", "absent", "auto")]),
        (
            base("/versions/y", "py310_26.3.2-2@" + "b" * 64),
            [("/opt/conda", "py310_26.5.3-1", "py310_26.3.2-2", "auto")],
        ),
        (
            base("/versions/y", "py310_26.5.3-1@" + "b" * 64),
            [("/opt/conda", "py310_26.5.3-1", "py310_26.5.3-1 from another installer (bbbbbbbbbbbb)", "auto")],
        ),
        (
            base("/versions/x", WANTED, problem("changed")),
            [("bin/x", "py310_26.5.3-1", "changed: is so", "auto")],
        ),
        (
            base("/versions/x", None, problem("manifest", "/versions/x")),
            [("/versions/x", "py310_26.5.3-1", "manifest: is so", "auto")],
        ),
        (
            base(None, None, problem("link", "/opt/conda")),
            [("/opt/conda", "py310_26.5.3-1", "link: is so", "auto")],
        ),
        (
            base(None, None, problem("obstacle", "/opt/conda")),
            [("/opt/conda", "py310_26.5.3-1", "obstacle: is so", "human")],
        ),
        (
            base("/versions/y", "old@b", problem("missing")),
            [("bin/x", "py310_26.5.3-1", "missing: is so", "auto"), ("/opt/conda", "py310_26.5.3-1", "old", "auto")],
        ),
    ],
)
def test_a_base_is_held_against_version_and_sum(node: dict[str, Any], expected: list[Any]) -> None:
    findings = of_base(node, "/opt/conda", WANTED)
    assert told(findings) == expected
    assert {(finding.component, finding.severity) for finding in findings} <= {("base", "error")}


def test_an_unfinished_base_is_a_warning() -> None:
    findings = of_base(base(leftovers=("/versions/z",)), "/opt/conda", WANTED)
    assert told(findings) == [("/versions/z", "absent", "unfinished prefix", "auto")]
    assert [finding.severity for finding in findings] == ["warning"]


def test_a_look_at_another_base_proves_nothing() -> None:
    with pytest.raises(ValueError, match=r"the look was at /opt/conda, not at /srv/conda"):
        of_base(base(), "/srv/conda", WANTED)


def test_many_problems_of_a_kind_become_a_number() -> None:
    problems = [problem("missing", f"lib/{number}") for number in range(TOLD + 5)]
    problems += [problem("changed", f"bin/{number}") for number in range(TOLD)]
    findings = of_base(base("/versions/x", WANTED, *problems), "/opt/conda", WANTED)
    assert len(findings) == 2 * TOLD + 1
    assert told(findings)[-1] == ("5 more", "py310_26.5.3-1", "missing", "auto")


CONTENT = "channels: [lab]\n"
SUM = hashlib.sha256(CONTENT.encode()).hexdigest()
FILE = {"state": "file", "mode": "0644", "owner": "root", "group": "root", "sha256": SUM}
CONDARC = {"path": "/etc/x", "content": CONTENT}
LINK = {"path": "/etc/x", "target": "/opt/conda/profile.sh"}


@pytest.mark.parametrize(
    ("wanted", "found", "expected"),
    [
        (CONDARC, FILE, None),
        (CONDARC, {"state": "absent"}, (f"content {SUM[:12]}, mode 0644, owner root, group root", "absent")),
        (CONDARC, {"state": "directory"}, (f"content {SUM[:12]}, mode 0644, owner root, group root", "directory")),
        (CONDARC, FILE | {"sha256": "f" * 64}, (f"content {SUM[:12]}", "content ffffffffffff")),
        (CONDARC, FILE | {"mode": "0666", "owner": "eve"}, ("mode 0644, owner root", "mode 0666, owner eve")),
        (CONDARC | {"mode": "0600"}, FILE, ("mode 0600", "mode 0644")),
        (CONDARC | {"owner": "a", "group": "b"}, FILE, ("owner a, group b", "owner root, group root")),
        (LINK, {"state": "link", "target": LINK["target"], "mode": "0777", "owner": "root", "group": "root"}, None),
        (LINK, {"state": "link", "target": "/x"}, (f"target {LINK['target']}", "target /x")),
        (LINK, FILE, (f"target {LINK['target']}", "file")),
        ({"path": "/etc/x", "state": "absent"}, {"state": "absent"}, None),
        ({"path": "/etc/x", "state": "absent"}, FILE, ("absent", "file")),
        ({"path": "/etc/x", "content": "ü"}, FILE | {"sha256": hashlib.sha256("ü".encode()).hexdigest()}, None),
    ],
)
def test_managed_files_are_held_against_content_and_owner(
    wanted: dict[str, str], found: dict[str, str], expected: tuple[str, str] | None
) -> None:
    findings = of_files({"files": {"/etc/x": found}}, [wanted])
    assert [(finding.expected, finding.actual) for finding in findings] == ([expected] if expected else [])
    assert all(
        (finding.component, finding.subject, finding.fix) == ("policy", "/etc/x", "auto") for finding in findings
    )


def environment(
    generation: str | None = "/g/1", identity: str | None = LOCK, *problems: Any, **more: Any
) -> dict[str, Any]:
    found = {"generation": generation, "identity": identity, "problems": list(problems), "leftovers": [], **more}
    return {"environments": {"ml": found}}


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (environment(), []),
        ({"environments": {}}, [("/envs/ml", "lock 111111111111", "absent", "auto")]),
        (environment(None, None), [("/envs/ml", "lock 111111111111", "absent", "auto")]),
        (environment(identity=OLD_LOCK), [("/envs/ml", "lock 111111111111", "lock 222222222222", "auto")]),
        (
            environment("/g/1", LOCK, problem("foreign", "foo")),
            [("foo", "lock 111111111111", "foreign: is so", "auto")],
        ),
        (
            environment(None, None, problem("obstacle", "/envs/ml")),
            [("/envs/ml", "lock 111111111111", "obstacle: is so", "human")],
        ),
        (
            environment(None, None, problem("link", "/envs/ml")),
            [("/envs/ml", "lock 111111111111", "link: is so", "auto")],
        ),
        (
            environment("/g/1", OLD_LOCK, problem("missing")),
            [
                ("bin/x", "lock 111111111111", "missing: is so", "auto"),
                ("/envs/ml", "lock 111111111111", "lock 222222222222", "auto"),
            ],
        ),
        (
            environment(leftovers=["/g/2"]),
            [("/g/2", "absent", "unfinished prefix", "auto")],
        ),
    ],
)
def test_environments_are_held_against_their_locks(node: dict[str, Any], expected: list[Any]) -> None:
    findings = of_environments(node, {"ml": {"link": "/envs/ml", "identity": LOCK}})
    assert told(findings) == expected
    for finding in findings:
        assert finding.component == "environment ml"
        assert finding.severity == ("warning" if finding.subject == "/g/2" else "error")


def test_environments_that_nobody_asked_for_are_no_finding() -> None:
    assert of_environments(environment(None, None, problem("obstacle")), {}) == []


def test_a_finding_is_data_and_one_line() -> None:
    (finding,) = of_base(base(None, None), "/opt/conda", WANTED)
    assert finding.text() == "base: /opt/conda: absent (expected py310_26.5.3-1)"
    assert Finding(**finding.as_dict()) == finding
