"""Every role keeps the contract that CONTRIBUTING.md describes: its documentation and its behaviour cannot part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROLES = sorted(path for path in (Path(__file__).resolve().parent.parent.parent / "roles").glob("*") if path.is_dir())


def load(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping."""
    content = yaml.safe_load(path.read_text())
    assert content is None or isinstance(content, dict), f"{path} holds no mapping"
    return content or {}


def entry_points(role: Path) -> dict[str, Any]:
    specs: dict[str, Any] = load(role / "meta" / "argument_specs.yml")["argument_specs"]
    return specs


def options(role: Path) -> dict[str, dict[str, Any]]:
    """The options of all entry points together. One that several have has the same default and type in all of them."""
    found: dict[str, dict[str, Any]] = {}
    for spec in entry_points(role).values():
        for name, option in spec.get("options", {}).items():
            known = found.setdefault(name, option)
            assert [option.get(key) for key in ("default", "type")] == [
                known.get(key) for key in ("default", "type")
            ], name
    return found


def test_there_are_roles() -> None:
    assert ROLES, "roles/ is empty, so the tests below would check nothing"


@pytest.fixture(params=ROLES, ids=lambda path: path.name)
def role(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.mark.parametrize("name", ["README.md", "meta/main.yml", "meta/argument_specs.yml", "tasks/main.yml"])
def test_role_has_the_file(role: Path, name: str) -> None:
    assert (role / name).is_file()


def test_defaults_are_the_documented_ones(role: Path) -> None:
    documented = {name: option["default"] for name, option in options(role).items() if "default" in option}
    defaults = role / "defaults" / "main.yml"
    assert documented == (load(defaults) if defaults.exists() else {})


def test_option_without_default_is_required(role: Path) -> None:
    """An option that is neither would be undefined in the tasks: argument_specs supply no defaults."""
    optional = {name: option for name, option in options(role).items() if not option.get("required")}
    assert [name for name, option in optional.items() if "default" not in option] == []


def test_option_names_start_with_the_role(role: Path) -> None:
    assert [name for name in options(role) if not name.startswith(f"{role.name}_")] == []


def test_private_variables_start_with_underscores_and_the_role(role: Path) -> None:
    names = [name for path in role.glob("vars/*.yml") for name in load(path)]
    assert [name for name in names if not name.startswith(f"__{role.name}_")] == []


def test_every_entry_point_is_documented(role: Path) -> None:
    specs = entry_points(role)
    assert "main" in specs
    for name, spec in specs.items():
        assert spec.get("short_description"), name
        assert spec.get("version_added"), name
        assert (role / "tasks" / f"{name}.yml").is_file(), name


def test_every_option_is_described(role: Path) -> None:
    for name, option in options(role).items():
        assert option.get("description"), name
        assert option.get("type"), name


def test_role_needs_no_other(role: Path) -> None:
    assert load(role / "meta" / "main.yml").get("dependencies") == []


def test_no_role_name_starts_another(role: Path) -> None:
    """The search for misspelt options of role `a` would take the options of a role `a_b` for its own."""
    assert [other.name for other in ROLES if other.name.startswith(f"{role.name}_")] == []
