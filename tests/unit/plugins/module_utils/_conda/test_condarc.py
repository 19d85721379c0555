"""The system condarc: what a YAML reader gets from it, and which keys nothing may override."""

from __future__ import annotations

import re
import typing as t

import pytest
import yaml
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.condarc import auto_activate_key, render
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError

POLICY: dict[str, t.Any] = {
    "channels": ["conda-forge"],
    "allowed_channels": ["conda-forge"],
    "channel_alias": "https://conda.anaconda.org",
    "solver": "libmamba",
    "envs_dirs": ["/opt/envfleet/envs", "~/.conda/envs"],
    "pkgs_dirs": ["~/.conda/pkgs", "/opt/envfleet/pkgs"],
    "version": "py310_26.5.3-1",
}


def final_keys(text: str) -> set[str]:
    """The keys that conda takes for final: the mark is a comment in the key's own line."""
    return set(re.findall(r"^(\w+):.*  #!final$", text, re.MULTILINE))


def test_default_policy() -> None:
    assert yaml.safe_load(render(POLICY)) == {
        "channels": ["conda-forge"],
        "allowlist_channels": ["conda-forge"],
        "channel_alias": "https://conda.anaconda.org",
        "custom_channels": {},
        "custom_multichannels": {},
        "migrated_custom_channels": {},
        "default_channels": [],
        "channel_priority": "strict",
        "solver": "libmamba",
        "envs_dirs": ["/opt/envfleet/envs", "~/.conda/envs"],
        "pkgs_dirs": ["~/.conda/pkgs", "/opt/envfleet/pkgs"],
        "auto_activate": False,
        "notify_outdated_conda": False,
        "plugins": {"auto_accept_tos": False},
    }


def test_where_packages_come_from_is_final_and_taste_is_not() -> None:
    assert final_keys(render(POLICY)) == {
        "channels",
        "allowlist_channels",
        "channel_alias",
        "custom_channels",
        "custom_multichannels",
        "migrated_custom_channels",
        "default_channels",
    }


@pytest.mark.parametrize(
    ("channels", "allowed", "final"),
    [
        (["conda-forge"], ["conda-forge"], True),
        (["conda-forge"], ["https://conda.anaconda.org/conda-forge/"], True),
        (["b", "a"], ["a", "b"], True),
        (["conda-forge"], ["conda-forge", "bioconda"], False),
        (["conda-forge"], [], False),
    ],
)
def test_people_choose_among_the_allowed_channels(channels: list[str], allowed: list[str], final: bool) -> None:
    text = render({**POLICY, "channels": channels, "allowed_channels": allowed})
    assert ("channels" in final_keys(text)) == final
    assert "allowlist_channels" in final_keys(text)
    assert yaml.safe_load(text)["allowlist_channels"] == allowed


@pytest.mark.parametrize(
    "value",
    [
        "plain",
        "/opt/with space",
        "~",
        "~/.conda/envs",
        "no",
        "true",
        "NULL",
        "1.0",
        "0x1f",
        "a: b",
        "a:",
        "a #b",
        "#!final",
        "- a",
        "*a",
        "&a",
        "{a}",
        "[a]",
        "quote\"and'quote",
        "back\\slash",
        "${HOME}/envs",
        "new\nline",
        "umlaut-ä",
        "http://host:8080/a%20b?x=1",
        "2026-11-01",
        "<<",
        "=",
    ],
)
def test_every_text_survives(value: str) -> None:
    content = yaml.safe_load(render({**POLICY, "envs_dirs": [value], "solver": value}))
    assert content["envs_dirs"] == [value]
    assert content["solver"] == value


@pytest.mark.parametrize(
    ("version", "key"),
    [
        ("py310_26.5.3-1", "auto_activate"),
        ("py310_25.5.1-1", "auto_activate"),
        ("py310_25.3.1-1", "auto_activate_base"),
        ("py310_22.11.1-1", "auto_activate_base"),
        ("25.3.1-0", "auto_activate_base"),
        ("26.3.2-3", "auto_activate"),
        ("latest", "auto_activate"),
        ("py310_1.0-1", "auto_activate"),
    ],
)
def test_key_is_spelt_as_the_version_knows_it(version: str, key: str) -> None:
    assert auto_activate_key(version) == key
    assert yaml.safe_load(render({**POLICY, "version": version}))[key] is False


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": []}, "^miniconda_channels: it is empty"),
        ({"channels": "conda-forge"}, "^miniconda_channels: a list of texts is wanted, not 'conda-forge'$"),
        ({"channels": [1]}, r"^miniconda_channels: a list of texts is wanted, not \[1\]$"),
        ({"channels": [""]}, "^miniconda_channels: a list of texts"),
        ({"channels": ["defaults"]}, "^miniconda_channels: 'defaults' is switched off here"),
        ({"allowed_channels": ["conda-forge", "defaults"]}, "^miniconda_allowed_channels: 'defaults' is switched off"),
        (
            {"channels": ["a", "b"], "allowed_channels": ["b"]},
            "^miniconda_allowed_channels: it lacks a of miniconda_channels",
        ),
        ({"channel_alias": "conda.anaconda.org"}, "^miniconda_channel_alias: 'conda.anaconda.org' is no URL"),
        ({"channel_alias": None}, "^miniconda_channel_alias: a text is wanted, not None$"),
        ({"solver": ""}, "^miniconda_solver: a text is wanted"),
        ({"envs_dirs": None}, "^miniconda_envs_dirs: a list of texts"),
        ({"pkgs_dirs": {}}, "^miniconda_pkgs_dirs: a list of texts"),
    ],
)
def test_bad_policy_names_the_variable(changes: dict[str, t.Any], message: str) -> None:
    with pytest.raises(CondaError, match=message):
        render({**POLICY, **changes})
