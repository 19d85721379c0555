"""environment.yml: read it and write it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import CondaError


@dataclass(frozen=True)
class EnvFile:
    """What an environment.yml asks for."""

    name: str | None = None
    prefix: str | None = None
    channels: list[str] = field(default_factory=list)
    conda: list[str] = field(default_factory=list)
    pip: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)


def read(path: Path) -> EnvFile:
    """Parse the file. CondaError for one that makes no sense; but conda takes broken YAML for an empty file."""
    import yaml

    try:
        data = yaml.safe_load(path.read_text())
    except OSError as error:
        raise CondaError("EnvironmentFileNotFound", f"'{path}' file not found", filename=str(path)) from error
    except yaml.YAMLError:
        data = {}
    if not isinstance(data, dict):
        raise CondaError("EnvironmentFileInvalid", f"'{path}' is not a mapping")
    conda: list[str] = []
    pip: list[str] = []
    for item in data.get("dependencies") or []:
        if isinstance(item, str):
            conda.append(item)
        elif isinstance(item, dict) and list(item) == ["pip"]:
            pip += item["pip"]
        else:
            raise CondaError(
                "EnvironmentFileInvalid", f"'{path}' has a dependency that is neither a package nor pip: {item}"
            )
    channels = [str(channel) for channel in data.get("channels") or [] if channel != "nodefaults"]
    variables = {str(key): str(value) for key, value in (data.get("variables") or {}).items()}
    return EnvFile(data.get("name"), data.get("prefix"), channels, conda, pip, variables)


def dump(data: dict[str, Any]) -> str:
    """YAML as conda writes it, with indented lists."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
            super().increase_indent(flow, False)

    return yaml.dump(data, Dumper=Dumper, sort_keys=False, default_flow_style=False, width=1000)
