# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Drift: what the look saw, held against what is wanted. Pure: it runs on the control node and touches nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import posixpath
import typing as t

from .._conda import kernels
from .._conda.access import Access, lock_identity
from .._conda.convergence import Wanted
from .._conda.errors import CondaError

#: Of one kind of problem in one prefix, how many are told one by one.
TOLD = 20


@dataclasses.dataclass(frozen=True)
class Finding:
    """One difference between a node and what it should be."""

    component: str  #: base, policy, or environment NAME
    subject: str  #: the path or package it is about
    expected: str
    actual: str
    severity: str = "error"  #: error: users are affected; warning: they are not yet
    fix: str = "auto"  #: auto: the next run corrects it; drain: needs an empty node; human: a person must decide

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return dataclasses.asdict(self)

    def text(self) -> str:
        """For a person, in one line."""
        return f"{self.component}: {self.subject}: {self.actual} (expected {self.expected})"


def of_base(node: t.Mapping[str, t.Any], link: str, identity: str) -> list[Finding]:
    """The base against its wanted *identity*, which is VERSION@SHA256."""
    found = node["base"]
    wanted = identity.partition("@")[0]
    if found["link"] != link:
        raise ValueError(f"the look was at {found['link']}, not at {link}")
    if found["target"] is None and not found["problems"]:
        return [Finding("base", link, wanted, "absent")]
    findings = _of_problems("base", found["problems"], wanted) + _of_leftovers("base", found["leftovers"])
    if found["identity"] and found["identity"] != identity:
        findings.append(Finding("base", link, wanted, _identity_text(found["identity"], identity)))
    return findings


def _identity_text(found: str, wanted: str) -> str:
    version, _at, digest = found.partition("@")
    return f"{version} from another installer ({digest[:12]})" if version == wanted.partition("@")[0] else version


def of_files(node: t.Mapping[str, t.Any], files: t.Sequence[t.Mapping[str, t.Any]]) -> list[Finding]:
    """Managed files, directories and links, given as path with content, state or target, and mode, owner, group.

    A file that no run corrects has a fix and a severity of its own.
    """
    findings = []
    for wanted in files:
        path = wanted["path"]
        found = node["files"][path]
        expected = _expected_file(wanted)
        differing = {key: found.get(key) for key, value in expected.items() if found.get(key) != value}
        severity, fix = wanted.get("severity", "error"), wanted.get("fix", "auto")
        if found["state"] != expected["state"]:
            # What somebody has put in a directory is not ours to remove.
            fix = "human" if found["state"] in ("directory", "other") else fix
            findings.append(
                Finding("policy", path, _file_text(expected, expected), found["state"], severity=severity, fix=fix)
            )
        elif differing:
            findings.append(Finding("policy", path, _file_text(expected, differing), _file_text(found, differing)))
    return findings


def _expected_file(wanted: t.Mapping[str, t.Any]) -> dict[str, str]:
    if wanted.get("state") == "absent":
        return {"state": "absent"}
    if "target" in wanted:
        return {"state": "link", "target": wanted["target"]}
    whose = {"owner": wanted.get("owner", "root"), "group": wanted.get("group", "root")}
    if wanted.get("state") == "directory":
        return {"state": "directory", "mode": wanted.get("mode", "0755"), **whose}
    content = hashlib.sha256(wanted["content"].encode("utf-8")).hexdigest()
    return {"state": "file", "sha256": content, "mode": wanted.get("mode", "0644"), **whose}


def _file_text(values: t.Mapping[str, str], keys: t.Collection[str]) -> str:
    told = []
    for key in keys:
        if key == "sha256":
            told.append(f"content {str(values.get(key))[:12]}")
        elif key != "state":
            told.append(f"{key} {values.get(key)}")
    return ", ".join(told) or values["state"]


def of_environments(node: t.Mapping[str, t.Any], environments: t.Iterable[Wanted], envs_dir: str) -> list[Finding]:
    """Shared environments, whose names are in *envs_dir*, against what is wanted of them."""
    findings = []
    for wanted in environments:
        component, link = f"environment {wanted.name}", posixpath.join(envs_dir, wanted.name)
        found = node["environments"].get(wanted.name)
        if wanted.state == "absent":
            of_this = _of_unwanted(component, link, found) if found else []
        else:
            of_this = _of_wanted(component, link, wanted, found)
        of_this += _of_leftovers(component, found["leftovers"] if found else ())
        if wanted.state == "verified":
            of_this = [dataclasses.replace(finding, fix="human") for finding in of_this]
        findings += of_this
    return findings


def of_unlocked(names: t.Iterable[str], envs_dir: str) -> list[Finding]:
    """Shared environments of which nothing can be said, because their specs were never solved."""
    return [
        Finding(f"environment {name}", posixpath.join(envs_dir, name), "a lock", "is not locked yet") for name in names
    ]


def _of_wanted(component: str, link: str, wanted: Wanted, found: t.Mapping[str, t.Any] | None) -> list[Finding]:
    expected = _lock_text(wanted.identity)
    if found is None or (found["generation"] is None and not found["problems"]):
        return [Finding(component, link, expected, "absent")]
    findings = _of_problems(component, found["problems"], expected)
    if found["identity"] == wanted.identity:
        # Another generation would be reason enough for a new one.
        findings = [_judged(finding, wanted) for finding in findings]
        findings += _of_kernelspec(component, found, wanted)
    elif found["identity"]:
        findings.append(Finding(component, link, expected, _lock_text(found["identity"])))
    return findings


def _judged(finding: Finding, wanted: Wanted) -> Finding:
    """A damage of the right generation: the next run may have been told to leave it."""
    if wanted.foreign_packages == "report" and finding.actual.startswith("foreign"):
        return dataclasses.replace(finding, severity="warning", fix="human")
    return finding if wanted.repair else dataclasses.replace(finding, fix="human")


def _of_unwanted(component: str, link: str, found: t.Mapping[str, t.Any]) -> list[Finding]:
    """What is there of an environment that should not be. What processes still use is no drift."""
    findings = []
    if found["generation"] or found["problems"]:
        obstacle = any(problem["kind"] == "obstacle" for problem in found["problems"])
        actual = _lock_text(found["identity"]) if found["identity"] else "is there"
        findings.append(Finding(component, link, "absent", actual, fix="human" if obstacle else "auto"))
    findings += [
        Finding(component, path, "absent", "generation that nobody uses", "warning") for path in found["unused"]
    ]
    if found["kernelspec"]["state"] in ("ours", "unfinished"):
        findings.append(Finding(component, found["kernelspec"]["path"], "absent", "kernelspec"))
    return findings


def _of_kernelspec(component: str, found: t.Mapping[str, t.Any], wanted: Wanted) -> list[Finding]:
    kernelspec = kernels.Kernelspec(**found["kernelspec"])
    text = kernels.expected(wanted.name, found["generation"], wanted.kernel, wanted.lock, kernelspec)
    problems = [problem.as_dict() for problem in kernels.compare(kernelspec, text)]
    return _of_problems(component, problems, f"kernelspec of {found['generation']}" if text else "absent")


def _lock_text(identity: str) -> str:
    text = f"lock {identity[:12]}"
    if identity == lock_identity(identity):
        return text
    try:
        return f"{text} with {Access.of(identity).text()}"
    except CondaError:
        return f"{text} with unknown access"


def _of_leftovers(component: str, paths: t.Iterable[str]) -> list[Finding]:
    """Prefixes that are not finished: a killed run left them, or another run is at work on them now."""
    return [Finding(component, path, "absent", "unfinished prefix", "warning") for path in paths]


def _of_problems(component: str, problems: t.Sequence[t.Mapping[str, str]], expected: str) -> list[Finding]:
    """Tell the first of each kind one by one, and the rest as a number."""
    findings: list[Finding] = []
    seen: dict[str, int] = {}
    for problem in problems:
        kind = problem["kind"]
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] <= TOLD:
            fix = "human" if kind == "obstacle" else "auto"
            findings.append(Finding(component, problem["subject"], expected, f"{kind}: {problem['detail']}", fix=fix))
    findings += [
        Finding(component, f"{count - TOLD} more", expected, kind) for kind, count in seen.items() if count > TOLD
    ]
    return findings
