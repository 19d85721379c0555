"""What `conda activate` and `conda deactivate` do to a shell, as code of that shell."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .config import Config
from .errors import CondaError
from .prefix import Prefix, locate


@dataclass(frozen=True)
class Language:
    """How a kind of shell says it. Like conda, only POSIX shells quote values against expansion."""

    extension: str
    run: str
    unset: str
    export: str
    prompt: str
    """The variable that holds the prompt, if any does."""
    end: str = ";\n"

    def exported(self, name: str, value: str) -> str:
        if self is POSIX:
            value = shlex.quote(value)
        elif self is FISH and name == "PATH":
            value = value.replace(os.pathsep, '" "')
        return self.export.format(name, value)


POSIX = Language(".sh", ". {}", "unset {}", "export {}={}", "PS1", end="\n")
CSH = Language(".csh", 'source "{}"', "unsetenv {}", 'setenv {} "{}"', "prompt")
FISH = Language(".fish", 'source "{}"', "set -e {}; or true", 'set -gx {} "{}"', "")
SHELLS = dict.fromkeys(("posix", "bash", "dash", "zsh", "ash"), POSIX) | {"csh": CSH, "tcsh": CSH, "fish": FISH}


@dataclass
class Change:
    """A change of a shell's environment, in the order in which it happens."""

    language: Language = POSIX

    before: list[str] = field(default_factory=list)
    unset: list[str] = field(default_factory=list)
    export: dict[str, str] = field(default_factory=dict)
    local: dict[str, str] = field(default_factory=dict)
    after: list[str] = field(default_factory=list)

    def code(self) -> str:
        language = self.language
        quote = shlex.quote if language is POSIX else str
        lines = [language.run.format(quote(script)) for script in self.before]
        lines += [language.unset.format(name) for name in self.unset]
        lines += [
            f"{'set ' if language is CSH else ''}{name}={shlex.quote(value)}" for name, value in self.local.items()
        ]
        lines += [language.exported(name, value) for name, value in self.export.items()]
        lines += [language.run.format(quote(script)) for script in self.after]
        return "".join(f"{line}{language.end}" for line in lines)


def find(config: Config, name: str) -> Prefix:
    """The environment that `conda activate NAME` means. CondaError when there is none."""
    if "/" in name:
        prefix = locate(config, None, name)
        prefix.must_exist()
        return prefix
    prefix = locate(config, name, None)
    if not prefix.exists:
        message = f"Could not find conda environment: {name}\nYou can list all environments with `conda info --envs`."
        raise CondaError("EnvironmentNameNotFound", message)
    return prefix


def activate(config: Config, prefix: Prefix, language: Language = POSIX) -> Change:
    """Enter an environment; what is active now is left, and remembered."""
    environ = config.environ
    level = _level(environ)
    current = environ.get("CONDA_PREFIX") if level else None
    if current == str(prefix.path):
        return reactivate(config, language)
    change = Change(language)
    if current:
        left = Prefix(Path(current))
        change.before = _scripts(left, "deactivate.d", language)
        change.unset = sorted(left.variables.keys() - prefix.variables.keys())
        change.export[f"CONDA_PREFIX_{level}"] = current
    _enter(config, change, prefix, level + 1, current)
    saved = {f"__CONDA_SHLVL_{level}_{name}": environ[name] for name in prefix.variables if name in environ}
    change.export |= saved
    return change


def deactivate(config: Config, language: Language = POSIX) -> Change:
    """Leave the active environment, for the one that was active before it."""
    environ = config.environ
    level = _level(environ)
    current = environ.get("CONDA_PREFIX")
    if not level or not current:
        return Change(language)
    left = Prefix(Path(current))
    change = Change(language, before=_scripts(left, "deactivate.d", language))
    if level > 1:
        back = Prefix(Path(environ[f"CONDA_PREFIX_{level - 1}"]))
        change.unset = [f"CONDA_PREFIX_{level - 1}"]
        _enter(config, change, back, level - 1, current)
    else:
        change.unset = ["CONDA_PREFIX", "CONDA_DEFAULT_ENV", "CONDA_PROMPT_MODIFIER"]
        change.export = {"PATH": _path(environ, current, None), "CONDA_SHLVL": "0"}
        change.local = _prompt(config, "", language)
    for name in left.variables.keys() - change.export.keys():
        saved = f"__CONDA_SHLVL_{level - 1}_{name}"
        if saved in environ:
            change.export[name] = environ[saved]
            change.unset.append(saved)
        else:
            change.unset.append(name)
    return change


def reactivate(config: Config, language: Language = POSIX) -> Change:
    """Leave and enter the active environment, whose scripts may have changed."""
    level, current = _level(config.environ), config.environ.get("CONDA_PREFIX")
    if not level or not current:
        return Change(language)
    prefix = Prefix(Path(current))
    change = Change(language, before=_scripts(prefix, "deactivate.d", language))
    _enter(config, change, prefix, level, current)
    return change


def _enter(config: Config, change: Change, prefix: Prefix, level: int, leaving: str | None) -> None:
    name = prefix.name(config) or str(prefix.path)
    modifier = (
        config.text("env_prompt").format(default_env=name, name=name, prefix=prefix.path)
        if config.flag("changeps1")
        else ""
    )
    change.export |= {
        "PATH": _path(config.environ, leaving, prefix),
        "CONDA_PREFIX": str(prefix.path),
        "CONDA_SHLVL": str(level),
        "CONDA_DEFAULT_ENV": name,
        "CONDA_PROMPT_MODIFIER": modifier,
        "CONDA_EXE": str(config.root / "bin" / "conda"),
        "CONDA_PYTHON_EXE": str(config.root / "bin" / "python"),
        **prefix.variables,
    }
    change.local = _prompt(config, modifier, change.language)
    change.after = _scripts(prefix, "activate.d", change.language)


def _level(environ: Mapping[str, str]) -> int:
    value = environ.get("CONDA_SHLVL", "0")
    return int(value) if value.isdigit() else 0


def _scripts(prefix: Prefix, folder: str, language: Language) -> list[str]:
    found = sorted(str(path) for path in (prefix.path / "etc" / "conda" / folder).glob(f"*{language.extension}"))
    return found[::-1] if folder == "deactivate.d" else found


def _path(environ: Mapping[str, str], leaving: str | None, entering: Prefix | None) -> str:
    places = [place for place in environ.get("PATH", "").split(os.pathsep) if place]
    gone = str(Path(leaving) / "bin") if leaving else None
    # Only the entry that was put there: base's bin directory may stand in PATH for other reasons, too.
    if gone in places:
        places.remove(gone)
    return os.pathsep.join([str(entering.path / "bin"), *places] if entering else places)


def _prompt(config: Config, modifier: str, language: Language) -> dict[str, str]:
    """The prompt with the modifier in place of the former one; a shell without prompt gets none."""
    old = config.environ.get(language.prompt) if language.prompt else None
    if not old or not config.flag("changeps1"):
        return {}
    former = config.environ.get("CONDA_PROMPT_MODIFIER", "")
    return {language.prompt: modifier + re.sub(rf"\A{re.escape(former)}", "", old)}
