"""The set of packages for each GPU, distribution and branch, against the table in plan_cases.yml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._gpu import packages, plan

HERE = Path(__file__).parent
TABLE = yaml.safe_load((HERE / "plan_cases.yml").read_text())
TODAY = TABLE["today"]
DEBIAN = {"id": "debian", "version": "12", "arch": "x86_64"}


def gpu_facts(device: str = "", **given: Any) -> dict[str, Any]:
    """What the plan needs of gpu_facts."""
    facts = {
        "present": True,
        "nvswitch": False,
        "secure_boot": False,
        "devices": [{"device": device}],
        "kernel": {"next": "6.8.0-90-generic"},
    }
    return facts | given


def offered(name: str, machine: str = "x86_64") -> list[packages.Package]:
    """What a repository of `offered` has."""
    text = (HERE / "offered" / f"{name}.txt").read_text()
    return packages.parse_rpm(text, machine) if "rhel" in name else packages.parse_apt(text, machine)


def test_the_table_is_long_enough_and_uses_all_it_names() -> None:
    assert len(TABLE["cases"]) >= 40
    assert {case[0] for case in TABLE["cases"]} == set(TABLE["gpus"])
    assert {case[1] for case in TABLE["cases"]} == set(TABLE["systems"])
    assert {case[4] for case in TABLE["cases"]} == set(TABLE["sources"])
    assert len({str(case[:3]) for case in TABLE["cases"]}) == len(TABLE["cases"])


@pytest.mark.parametrize(
    ("gpu", "system", "wanted", "expected", "source"),
    TABLE["cases"],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_plan(gpu: str, system: str, wanted: dict[str, Any], expected: dict[str, Any], source: str) -> None:
    distribution = TABLE["systems"][system]
    allow = {"allow_end_of_life": wanted.get("allow", False), "repository": distribution["repository"]}
    wish = plan.Wish(**{name: value for name, value in wanted.items() if name != "allow"}, **allow)
    facts = gpu_facts(**TABLE["gpus"][gpu])
    repository = offered(system, distribution["arch"])

    if "refusal" in expected:
        with pytest.raises(plan.Refused) as refused:
            plan.plan(facts, distribution, wish, repository, TODAY)
        assert refused.value.kind == expected["refusal"]
        assert refused.value.reason
        assert refused.value.remedy
        return

    found = plan.plan(facts, distribution, wish, repository, TODAY)
    assert found["version"] == expected["version"]
    assert found["flavour"] == expected.get("flavour", found["flavour"])
    assert found["stream"] == expected.get("stream", found["stream"])
    assert set(expected.get("has", ())) <= set(found["packages"])
    assert not set(expected.get("lacks", ())) & set(found["pins"])
    assert expected.get("pins", {}).items() <= found["pins"].items()
    assert [one["version"] for one in found["passed_over"]] == expected.get("passed_over", [])
    assert found["packages"].items() <= found["pins"].items()
    whole(found["pins"], repository)


def whole(pins: dict[str, str], repository: list[packages.Package]) -> None:
    """Every pinned package is offered at its version, and what it needs of the driver is pinned too."""
    pinned = [package for package in repository if pins.get(package.name) == package.version]
    assert {package.name for package in pinned} == set(pins)
    for package in pinned:
        for group in package.depends:
            met = any(one.satisfies(relation) for one in pinned for relation in group)
            assert met or not all(packages.is_driver(relation.name) for relation in group), (package, group)


def test_a_dependency_that_only_another_version_meets_is_told() -> None:
    """Debian 12 as it was for a while: the driver moved on, and the open module stayed."""
    driver = [one for one in offered("debian-12") if one.driver != "535.261.03" or "open" in one.name]
    with pytest.raises(plan.Refused) as refused:
        plan.plan(gpu_facts(architectures=["ampere"]), DEBIAN, wish(flavour="open"), driver, TODAY)
    assert "nvidia-open-kernel-dkms is not offered at this version, but at 535.261.03-1" in refused.value.reason
    assert "repository nvidia" in refused.value.remedy


def test_an_exact_dependency_that_nothing_meets_is_unsatisfiable() -> None:
    without = [one for one in offered("debian-12") if one.name != "libnvidia-ptxjitcompiler1"]
    with pytest.raises(plan.Refused, match=r"needs libnvidia-ptxjitcompiler1 \(= 535\.309\.01") as refused:
        plan.plan(gpu_facts(architectures=["ampere"]), DEBIAN, wish(), without, TODAY)
    assert refused.value.kind == "unsatisfiable"


def wish(**given: Any) -> plan.Wish:
    return plan.Wish(**{"branch": "535", "allow_end_of_life": True, **given})


def test_what_would_do_names_branches_that_live_and_run_the_gpus() -> None:
    facts = gpu_facts(architectures=["volta"])
    with pytest.raises(plan.Refused, match="take one of the branches 580,"):
        plan.plan(facts, DEBIAN, wish(allow_end_of_life=False), offered("debian-12"), TODAY)


def test_branch_and_version_must_agree() -> None:
    with pytest.raises(ValueError, match=r"version 580\.95\.05 is not of branch 535"):
        plan.plan(gpu_facts(architectures=["ampere"]), DEBIAN, wish(version="580.95.05"), [], TODAY)


def test_preferences_name_each_package_once() -> None:
    found = plan.plan(gpu_facts(architectures=["ampere"]), DEBIAN, wish(), offered("debian-12"), TODAY)
    stanzas = [
        dict(line.split(": ", 1) for line in one.splitlines() if not line.startswith("#"))
        for one in found["preferences"].split("\n\n")
    ]
    pinned = {name: stanza["Pin"].removeprefix("version ") for stanza in stanzas for name in stanza["Package"].split()}
    assert pinned == found["pins"]
    assert {stanza["Pin-Priority"] for stanza in stanzas} == {"1001"}
