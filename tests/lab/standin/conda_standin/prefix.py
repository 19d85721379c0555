"""Environments on disk: what is installed in them, and the marks that conda leaves and heeds."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

from . import errors
from .channels import Channel
from .config import Config
from .errors import CondaError

Record = dict[str, Any]


def dist(record: Record) -> str:
    """Such as "six-1.17.0-pyh_0"."""
    return f"{record['name']}-{record['version']}-{record['build']}"


def name_of(spec: str) -> str:
    """The package that a match specification is about."""
    bare = spec.rpartition("::")[2]
    return bare[: next((at for at, letter in enumerate(bare) if letter in " =<>!~["), len(bare))].lower()


def in_order(records: Iterable[Record]) -> list[Record]:
    """The records, each behind those it needs, else by name."""
    todo = {
        record["name"]: record
        for record in sorted(records, key=lambda record: (record["name"] != "python", record["name"]))
    }
    done: list[Record] = []

    def visit(name: str) -> None:
        if record := todo.pop(name, None):
            for needed in record.get("depends", []):
                visit(needed.split()[0])
            done.append(record)

    while todo:
        visit(next(iter(todo)))
    return done


@dataclass(frozen=True)
class Prefix:
    """A directory that is an environment, or may become one."""

    path: Path

    @property
    def meta(self) -> Path:
        return self.path / "conda-meta"

    @property
    def history(self) -> Path:
        return self.meta / "history"

    @property
    def exists(self) -> bool:
        return self.history.is_file()

    @property
    def writable(self) -> bool:
        return os.access(self.history, os.W_OK)

    @property
    def frozen(self) -> bool:
        return (self.meta / "frozen").exists()

    def records(self) -> list[Record]:
        """The installed conda packages, by name."""
        found = (json.loads(path.read_text()) for path in self.meta.glob("*.json") if not path.name.startswith("._"))
        return sorted(found, key=lambda record: str(record["name"]))

    def pip_packages(self) -> list[tuple[str, str]]:
        """Name and version of what pip installed, by name."""
        from importlib.metadata import Distribution, distributions

        places = [str(path) for path in self.path.glob("lib/python3*/site-packages")]

        def by_conda(found: Distribution) -> bool:
            return (found.read_text("INSTALLER") or "").strip() == "conda"

        return sorted((found.name, found.version) for found in distributions(path=places) if not by_conda(found))

    def must_exist(self) -> None:
        if not self.exists:
            raise errors.no_environment(self.path)

    def must_be_changeable(self, config: Config, override_frozen: bool) -> None:
        """CondaError when conda would not change this environment."""
        self.must_exist()
        if self.frozen and config.flag("protect_frozen_envs") and not override_frozen:
            raise errors.frozen(self.path, _reason((self.meta / "frozen").read_text()))
        if not self.writable:
            raise errors.not_writable(self.path)

    @cached_property
    def variables(self) -> dict[str, str]:
        """The environment variables that the environment sets when it is activated."""
        try:
            state = json.loads((self.meta / "state").read_text())
        except FileNotFoundError:
            return {}
        return {key: str(value) for key, value in state.get("env_vars", {}).items() if value != "***unset***"}

    def requested(self) -> dict[str, str]:
        """The specifications that users asked for, as the history tells, by package name."""
        found: dict[str, str] = {}
        for line in self.history.read_text().splitlines() if self.exists else []:
            head, _, tail = line.partition(" specs: ")
            if head in ("# update", "# install"):
                found |= {name_of(spec): spec for spec in _specs(tail)}
            elif head in ("# remove", "# neutered"):
                for spec in _specs(tail):
                    found.pop(name_of(spec), None)
        return found

    def add_history(
        self, command: str, version: str, change: tuple[Sequence[Record], Sequence[Record]], specs: str
    ) -> None:
        """Add a revision: the records that were there and are there, and a line such as 'update specs: ["six"]'."""
        before, after = ({f"{history_channel(record)}::{dist(record)}" for record in records} for records in change)
        lines = [f"==> {time.strftime('%Y-%m-%d %H:%M:%S')} <==", f"# cmd: {command}", f"# conda version: {version}"]
        lines += [f"-{gone}" for gone in sorted(before - after)] + [f"+{new}" for new in sorted(after - before)]
        if specs:
            lines.append(f"# {specs}")
        self.meta.mkdir(parents=True, exist_ok=True)
        with self.history.open("a") as file:
            file.write("".join(f"{line}\n" for line in lines))

    def details(self, config: Config) -> dict[str, Any]:
        """What `conda env list --json` says."""
        created = self.meta / "created_at"
        return {
            "name": self.name(config),
            "created": created.read_text().strip() if created.is_file() else None,
            "last_modified": datetime.fromtimestamp(self.history.stat().st_mtime, timezone.utc).isoformat(),
            "active": str(self.path) == config.environ.get("CONDA_PREFIX"),
            "base": self.path == config.root,
            "frozen": self.frozen,
            "writable": self.writable,
        }

    def name(self, config: Config) -> str:
        """Its name; "" for an environment outside the directories of environments."""
        if self.path == config.root:
            return "base"
        return self.path.name if self.path.parent in config.envs_dirs else ""


def locate(config: Config, name: str | None, path: str | None) -> Prefix:
    """The environment that -n or -p means; without them the active one, else base. It need not exist."""
    if path:
        return Prefix(Path(os.path.abspath(os.path.expanduser(path))))
    if not name:
        return Prefix(Path(config.environ.get("CONDA_PREFIX") or config.root))
    if name in ("base", "root"):
        return Prefix(config.root)
    if "/" in name or " " in name or ":" in name or "#" in name:
        raise CondaError(
            "CondaValueError", f"Invalid environment name: {name!r}. Characters not allowed: '/', ' ', ':', '#'."
        )
    for folder in config.envs_dirs:
        if (folder / name).is_dir():
            return Prefix(folder / name)
    return Prefix((first_writable(config.envs_dirs) or config.envs_dirs[0]) / name)


def first_writable(folders: Iterable[Path]) -> Path | None:
    """The first directory in which files can be made, once it is made itself."""
    for folder in folders:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        if os.access(there, os.W_OK | os.X_OK):
            return folder
    return None


def known(config: Config) -> list[Prefix]:
    """All environments: base, those in the directories of environments, and registered ones (for root, everyone's)."""
    import pwd

    found = {config.root}
    for folder in config.envs_dirs:
        if os.access(folder, os.R_OK | os.X_OK):
            found |= set(folder.iterdir())
    homes = [Path(user.pw_dir) for user in pwd.getpwall()] if os.geteuid() == 0 else []
    for home in [*homes, Path(os.path.expanduser("~"))]:
        try:
            found |= {Path(line) for line in (home / ".conda/environments.txt").read_text().splitlines() if line}
        except OSError:
            continue
    return [Prefix(path) for path in sorted(found) if Prefix(path).exists]


def register(config: Config, prefix: Prefix) -> None:
    """Add the environment to the user's list of them."""
    if not config.flag("register_envs"):
        return
    listing = Path(os.path.expanduser("~")) / ".conda" / "environments.txt"
    try:
        listing.parent.mkdir(parents=True, exist_ok=True)
        lines = listing.read_text().splitlines() if listing.exists() else []
        if str(prefix.path) not in lines:
            listing.write_text("".join(f"{line}\n" for line in [*lines, str(prefix.path)]))
    except OSError:
        return  # conda, too, does without


def unregister(prefix: Prefix) -> None:
    listing = Path(os.path.expanduser("~")) / ".conda" / "environments.txt"
    if os.access(listing, os.W_OK):
        lines = [line for line in listing.read_text().splitlines() if line != str(prefix.path)]
        listing.write_text("".join(f"{line}\n" for line in lines))


def history_channel(record: Record) -> str:
    return Channel.of_package(record).url(record["subdir"])


def _reason(text: str) -> str:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return ""
    return str(value.get("message", "")) if isinstance(value, dict) else ""


def _specs(text: str) -> list[str]:
    import ast

    value = ast.literal_eval(text)  # JSON of ours, the repr of a list of conda's
    return [str(spec) for spec in value]
