"""Drift: what was seen, held against what is wanted."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda import kernels
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.access import Access
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.convergence import Wanted
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.generations import SmokeTest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.locks import Lock, Package
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._node.findings import (
    TOLD,
    Finding,
    of_base,
    of_environments,
    of_files,
)

WANTED = "py310_26.5.3-1@" + "a" * 64
IPYKERNEL = Package.from_url("https://conda.example.org/x/noarch/ipykernel-7.0-0.conda", "a" * 64)
WANTED_LOCK = Lock("linux-64", (IPYKERNEL,), variables=(("THREADS", "8"),))
LOCK, OLD_LOCK = WANTED_LOCK.identity, "2" * 64
TOLD_LOCK, TOLD_OLD = f"lock {LOCK[:12]}", f"lock {OLD_LOCK[:12]}"


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
FOLDER = {"path": "/etc/x", "state": "directory", "mode": "2750", "owner": "a"}
FOUND_FOLDER = {"state": "directory", "mode": "2750", "owner": "a", "group": "root"}


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
        (FOLDER, FOUND_FOLDER, None),
        (FOLDER, {"state": "absent"}, ("mode 2750, owner a, group root", "absent")),
        (FOLDER, FILE, ("mode 2750, owner a, group root", "file")),
        ({"path": "/etc/x", "state": "absent"}, {"state": "absent"}, None),
        ({"path": "/etc/x", "state": "absent"}, FILE, ("absent", "file")),
        ({"path": "/etc/x", "state": "absent", "fix": "human"}, FILE, ("absent", "file")),
        ({"path": "/etc/x", "content": "ü"}, FILE | {"sha256": hashlib.sha256("ü".encode()).hexdigest()}, None),
    ],
)
def test_managed_files_are_held_against_content_and_owner(
    wanted: dict[str, str], found: dict[str, str], expected: tuple[str, str] | None
) -> None:
    findings = of_files({"files": {"/etc/x": found}}, [wanted])
    assert [(finding.expected, finding.actual) for finding in findings] == ([expected] if expected else [])
    # What is in a directory is not ours to remove.
    fix = "human" if found["state"] == "directory" else wanted.get("fix", "auto")
    assert all((one.component, one.subject, one.fix) == ("policy", "/etc/x", fix) for one in findings)


def test_a_directory_that_is_open_is_closed_by_the_next_run() -> None:
    (finding,) = of_files({"files": {"/etc/x": FOUND_FOLDER | {"mode": "0777"}}}, [FOLDER])
    assert (finding.expected, finding.actual, finding.fix) == ("mode 2750", "mode 0777", "auto")


def environment(
    generation: str | None = "/g/1", identity: str | None = LOCK, *problems: Any, **more: Any
) -> dict[str, Any]:
    found = {"generation": generation, "identity": identity, "problems": list(problems), "leftovers": [], "unused": []}
    return {"environments": {"ml": {**found, "kernelspec": kernelspec("absent"), **more}}}


def kernelspec(state: str, text: str = "") -> dict[str, str]:
    return {"path": "/kernels/ml", "state": state, "text": text}


def want(**changes: Any) -> Wanted:
    return Wanted(**{"name": "ml", "lock": WANTED_LOCK, "smoke_test": SmokeTest((), "nobody", 9), **changes})


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (environment(), []),
        ({"environments": {}}, [("/envs/ml", TOLD_LOCK, "absent", "auto")]),
        (environment(None, None), [("/envs/ml", TOLD_LOCK, "absent", "auto")]),
        (environment(identity=OLD_LOCK), [("/envs/ml", TOLD_LOCK, TOLD_OLD, "auto")]),
        (
            environment("/g/1", LOCK, problem("foreign", "foo")),
            [("foo", TOLD_LOCK, "foreign: is so", "auto")],
        ),
        (
            environment(None, None, problem("obstacle", "/envs/ml")),
            [("/envs/ml", TOLD_LOCK, "obstacle: is so", "human")],
        ),
        (
            environment(None, None, problem("link", "/envs/ml")),
            [("/envs/ml", TOLD_LOCK, "link: is so", "auto")],
        ),
        (
            environment("/g/1", OLD_LOCK, problem("missing")),
            [
                ("bin/x", TOLD_LOCK, "missing: is so", "auto"),
                ("/envs/ml", TOLD_LOCK, TOLD_OLD, "auto"),
            ],
        ),
        (
            environment(leftovers=["/g/2"]),
            [("/g/2", "absent", "unfinished prefix", "auto")],
        ),
    ],
)
def test_environments_are_held_against_their_locks(node: dict[str, Any], expected: list[Any]) -> None:
    findings = of_environments(node, [want()], "/envs")
    assert told(findings) == expected
    for finding in findings:
        assert finding.component == "environment ml"
        assert finding.severity == ("warning" if finding.subject == "/g/2" else "error")


OURS = kernels.render("ml", "/g/1", WANTED_LOCK.variables)
KERNEL = "kernelspec of /g/1"


@pytest.mark.parametrize(
    ("found", "wanted", "expected"),
    [
        (kernelspec("ours", OURS), True, None),
        (kernelspec("absent"), True, (KERNEL, "kernel: is missing", "auto")),
        (kernelspec("unfinished"), True, (KERNEL, "kernel: is missing", "auto")),
        (
            kernelspec("ours", OURS.replace("/g/1", "/g/0")),
            True,
            (KERNEL, "kernel: leads to another generation or was edited", "auto"),
        ),
        (kernelspec("foreign"), True, (KERNEL, "obstacle: is no kernelspec of this collection", "human")),
        (kernelspec("absent"), False, None),
        (kernelspec("foreign"), False, None),
        (kernelspec("ours", OURS), False, ("absent", "kernel: should not be there", "auto")),
        (kernelspec("unfinished"), False, ("absent", "kernel: should not be there", "auto")),
    ],
)
def test_a_kernelspec_is_held_against_the_generation_it_must_start(
    found: dict[str, str], wanted: bool, expected: tuple[str, ...] | None
) -> None:
    findings = of_environments(environment(kernelspec=found), [want(kernel=wanted)], "/envs")
    assert told(findings) == ([("/kernels/ml", *expected)] if expected else [])
    # The run that builds the right generation writes its kernelspec too.
    (finding,) = of_environments(environment(identity=OLD_LOCK, kernelspec=found), [want(kernel=wanted)], "/envs")
    assert finding.actual == TOLD_OLD


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ({"environments": {}}, []),
        (environment(None, None), []),
        (environment(), [("/envs/ml", "absent", TOLD_LOCK, "auto")]),
        (environment("/g/1", None, problem("manifest", "/g/1")), [("/envs/ml", "absent", "is there", "auto")]),
        (environment(None, None, problem("link", "/envs/ml")), [("/envs/ml", "absent", "is there", "auto")]),
        (environment(None, None, problem("obstacle", "/envs/ml")), [("/envs/ml", "absent", "is there", "human")]),
        (environment(None, None, unused=["/g/1"]), [("/g/1", "absent", "generation that nobody uses", "auto")]),
        (environment(None, None, leftovers=["/g/2"]), [("/g/2", "absent", "unfinished prefix", "auto")]),
        (
            environment(None, None, kernelspec=kernelspec("ours", OURS)),
            [("/kernels/ml", "absent", "kernelspec", "auto")],
        ),
        (environment(None, None, kernelspec=kernelspec("foreign")), []),
    ],
)
def test_an_environment_that_should_be_gone_is_told(node: dict[str, Any], expected: list[Any]) -> None:
    assert told(of_environments(node, [want(state="absent", lock=Lock("linux-64", ()))], "/envs")) == expected


DAMAGED = environment("/g/1", LOCK, problem("missing"), problem("foreign", "foo"))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [("error", "auto"), ("error", "auto")]),
        ({"repair": False}, [("error", "human"), ("error", "human")]),
        ({"foreign_packages": "report"}, [("error", "auto"), ("warning", "human")]),
        ({"state": "verified"}, [("error", "human"), ("error", "human")]),
    ],
)
def test_what_no_run_will_mend_is_for_a_person(changes: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    findings = of_environments(DAMAGED, [want(**changes)], "/envs")
    assert [(finding.severity, finding.fix) for finding in findings] == expected
    # Another lock is reason enough for another generation, which has no damage.
    old = environment("/g/1", OLD_LOCK, problem("missing"))
    fixes = [finding.fix for finding in of_environments(old, [want(**changes)], "/envs")]
    assert fixes == (["human"] if changes.get("state") else ["auto"]) * 2


def test_who_may_use_a_generation_is_told_where_it_differs() -> None:
    chemists = Access(group="chem", mode="0750")
    (finding,) = of_environments(environment(), [want(access=chemists)], "/envs")
    assert (finding.expected, finding.actual) == (
        f"{TOLD_LOCK} with group chem, mode 0750, umask 0022",
        TOLD_LOCK,
    )
    node = environment(identity=want(access=chemists).identity)
    assert of_environments(node, [want(access=chemists)], "/envs") == []
    (finding,) = of_environments(environment(identity=f"{LOCK}@edited"), [want()], "/envs")
    assert finding.actual == f"{TOLD_LOCK} with unknown access"


def test_environments_that_nobody_asked_for_are_no_finding() -> None:
    assert of_environments(environment(None, None, problem("obstacle")), [], "/envs") == []


def test_a_finding_is_data_and_one_line() -> None:
    (finding,) = of_base(base(None, None), "/opt/conda", WANTED)
    assert finding.text() == "base: /opt/conda: absent (expected py310_26.5.3-1)"
    assert Finding(**finding.as_dict()) == finding
