"""The settings, from condarc files, CONDA_* variables and the command line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import CondaError

_NAMES = (".condarc", "condarc")
_FINAL = re.compile(r"^(\w+)\s*:.*#!\s*final\b", re.MULTILINE)

DEFAULTS: dict[str, Any] = {
    "add_pip_as_python_dependency": True,
    "allowlist_channels": [],
    "always_yes": None,
    "auto_activate": True,
    "changeps1": True,
    "channel_alias": "https://conda.anaconda.org",
    "channel_priority": "flexible",
    "channels": [],
    "custom_channels": {},
    "custom_multichannels": {},
    "default_activation_env": "base",
    "default_channels": [],
    "denylist_channels": [],
    "env_prompt": "({default_env}) ",
    "envs_dirs": [],
    "offline": False,
    "override_channels_enabled": True,
    "pkgs_dirs": [],
    "protect_frozen_envs": True,
    "register_envs": True,
    "solver": "rattler",
}
"""Every setting that the stand-in knows. The type of the default is the setting's type; None may become a bool."""

_ALIASES = {
    "auto_activate_base": "auto_activate",
    "blacklist_channels": "denylist_channels",
    "channel": "channels",
    "envs_path": "envs_dirs",
    "whitelist_channels": "allowlist_channels",
    "yes": "always_yes",
}
_TRUE, _FALSE = {"true", "yes", "on", "y", "1"}, {"false", "no", "off", "n", "0", ""}


@dataclass(frozen=True)
class Source:
    """Settings from one place; those in `final` cannot be changed by later sources."""

    name: str
    values: dict[str, Any]
    final: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Config:
    """All sources, the weakest first."""

    root: Path
    environ: Mapping[str, str]
    sources: list[Source] = field(default_factory=list)

    def text(self, key: str) -> str:
        return str(self._last(key))

    def flag(self, key: str) -> bool:
        return bool(self._last(key))

    def names(self, key: str) -> list[str]:
        """The sources' lists behind one another, the strongest first."""
        found: dict[str, None] = {}
        for source in reversed(self._counting(key)):
            found |= dict.fromkeys(str(item) for item in source.values[key] or [])
        return list(found)

    def table(self, key: str) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for source in self._counting(key):
            merged |= source.values[key] or {}
        return merged

    def value(self, key: str) -> Any:
        """The setting as its type has it."""
        default = DEFAULTS[key]
        if key in ("envs_dirs", "pkgs_dirs"):
            return [str(path) for path in getattr(self, key)]
        return (
            self.names(key)
            if isinstance(default, list)
            else self.table(key)
            if isinstance(default, dict)
            else self._last(key)
        )

    @property
    def root_writable(self) -> bool:
        return os.access(self.root / "conda-meta" / "history", os.W_OK)

    @property
    def envs_dirs(self) -> list[Path]:
        own = [self.root / "envs", self._home / ".conda" / "envs"]
        return list(dict.fromkeys(self._paths("envs_dirs") + (own if self.root_writable else own[::-1])))

    @property
    def pkgs_dirs(self) -> list[Path]:
        return self._paths("pkgs_dirs") or [self.root / "pkgs", self._home / ".conda" / "pkgs"]

    @property
    def _home(self) -> Path:
        return Path(os.path.expanduser("~"))

    def _paths(self, key: str) -> list[Path]:
        return [Path(os.path.expandvars(os.path.expanduser(item))) for item in self.names(key)]

    def _counting(self, key: str) -> list[Source]:
        """The sources of a key that count: nothing after the first final one does."""
        counting = []
        for source in self.sources:
            if key in source.values:
                counting.append(source)
                if key in source.final:
                    break
        return counting

    def _last(self, key: str) -> Any:
        counting = self._counting(key)
        return counting[-1].values[key] if counting else DEFAULTS[key]


def load(root: Path, environ: Mapping[str, str], command_line: dict[str, Any], etc: Path = Path("/")) -> Config:
    """Read the settings of a conda installed in `root`. `etc` is where /etc and /var are looked for."""
    sources = [source for path in _files(root, environ, etc) if (source := _read(path)).values]
    variables = {
        key: _from_text(key, value)
        for name, value in sorted(environ.items())
        if name.startswith("CONDA_") and (key := _ALIASES.get(name[6:].lower(), name[6:].lower())) in DEFAULTS
    }
    if variables:
        sources.append(Source("envvars", variables))
    if command_line:
        sources.append(Source("cmd_line", command_line))
    return Config(root, environ, sources)


def _files(root: Path, environ: Mapping[str, str], etc: Path) -> Iterator[Path]:
    """The condarc files that exist, the weakest first."""
    home = Path(os.path.expanduser("~"))
    xdg = Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "conda"
    folders = [etc / "etc/conda", etc / "var/lib/conda", root, xdg, home / ".conda"]
    for folder in folders:
        yield from _in_folder(folder)
    if (own := home / ".condarc").is_file():
        yield own
    if environ.get("CONDA_PREFIX") and (active := Path(environ["CONDA_PREFIX"])) != root:
        yield from _in_folder(active)
    if environ.get("CONDARC") and (named := Path(environ["CONDARC"])).is_file():
        yield named


def _in_folder(folder: Path) -> Iterator[Path]:
    yield from (folder / name for name in _NAMES if (folder / name).is_file())
    yield from sorted(path for path in (folder / "condarc.d").glob("*.y*ml") if path.is_file())


def _read(path: Path) -> Source:
    import yaml

    try:
        text = path.read_text()
        values = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CondaError(
            "ConfigurationLoadError", f"Unable to load configuration file.\n  path: {path}\n  reason: {error}"
        ) from error
    if not isinstance(values, dict):
        raise CondaError(
            "ConfigurationLoadError", f"Unable to load configuration file.\n  path: {path}\n  reason: not a mapping"
        )
    known = {_ALIASES.get(key, key): value for key, value in values.items()}
    final = {_ALIASES.get(key, key) for key in _FINAL.findall(text)}
    kept = {key: _checked(path, key, value) for key, value in known.items() if key in DEFAULTS}
    return Source(str(path), kept, frozenset(final))


def _checked(path: Path, key: str, value: Any) -> Any:
    default = DEFAULTS[key]
    if isinstance(default, list) and isinstance(value, str):
        value = [value]
    if isinstance(default, (list, dict)) and not isinstance(value, (type(default), type(None))):
        raise CondaError("CustomValidationError", f"Parameter {key} = {value!r} declared in {path} is invalid.")
    return value


def _from_text(key: str, value: str) -> Any:
    """The value of a CONDA_* variable."""
    default = DEFAULTS[key]
    if isinstance(default, list):
        separator = os.pathsep if key.endswith("_dirs") else ","
        return [item.strip() for item in value.split(separator) if item.strip()]
    if isinstance(default, bool) or default is None:
        if value.lower() not in _TRUE | _FALSE:
            raise CondaError(
                "CustomValidationError", f"Parameter {key} = {value!r} declared in CONDA_{key.upper()} is invalid."
            )
        return value.lower() in _TRUE
    return value
