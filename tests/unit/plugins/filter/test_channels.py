"""Packages from channels that are not allowed."""

from __future__ import annotations

from typing import Any

from ansible_collections.envfleet.gpu_cluster.plugins.filter.channels import channel_findings

ALIAS = "https://conda.example.org"


def environment(name: str, *packages: tuple[str, str]) -> dict[str, Any]:
    listed = [{"name": package, "version": "1.0", "build": "0", "channel": channel} for package, channel in packages]
    return {"name": name, "prefix": f"/home/alice/{name}", "owner": "alice", "packages": listed}


def test_an_allowed_channel_may_be_told_as_a_name_or_a_url() -> None:
    found = [environment("ml", ("a", f"{ALIAS}/forge"), ("b", "https://mirror.example.org/bio/"))]
    assert channel_findings(found, ["forge", "https://mirror.example.org/bio"], f"{ALIAS}/") == []


def test_each_other_channel_is_told_with_its_packages_and_whose_they_are() -> None:
    many = [(f"p{number:02}", "https://elsewhere.example.org/main") for number in range(12)]
    found = [
        environment("ml", ("a", f"{ALIAS}/forge"), ("local", ""), *many),
        environment("clean", ("a", f"{ALIAS}/forge")),
    ]
    told = channel_findings(found, ["forge"], ALIAS)
    assert [(finding["component"], finding["subject"], finding["fix"]) for finding in told] == [
        ("environment ml", "/home/alice/ml of alice", "human")
    ] * 2
    assert told[0]["actual"] == "local 1.0 from no channel"
    assert told[1]["actual"].startswith("p00 1.0, p01 1.0")
    assert told[1]["actual"].endswith("p09 1.0 and 2 more from https://elsewhere.example.org/main")


def test_a_channel_whose_name_begins_like_an_allowed_one_is_another() -> None:
    found = [environment("ml", ("a", f"{ALIAS}/forge-evil"), ("b", f"{ALIAS}/forge/label/dev"))]
    assert len(channel_findings(found, ["forge"], ALIAS)) == 2
