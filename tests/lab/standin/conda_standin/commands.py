"""The commands. Each takes a context and returns its exit code, or None for 0."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from . import VERSION, channels, engine, envfile, shell
from .channels import SUBDIRS, Channel
from .config import DEFAULTS, Config
from .engine import Caches
from .errors import CondaError
from .prefix import (
    Prefix,
    Record,
    dist,
    first_writable,
    in_order,
    known,
    locate,
    name_of,
    register,
    unregister,
)
from .report import from_pip, indexed, linked, plan, print_json, print_plan

NOTHING_TO_DO = "All requested packages already installed."


@dataclass(frozen=True)
class Context:
    """One run of conda."""

    config: Config
    options: argparse.Namespace
    argv: list[str]

    @property
    def json(self) -> bool:
        return bool(self.options.json)

    @property
    def prefix(self) -> Prefix:
        """The environment that the options name."""
        return locate(self.config, self.options.name, self.options.prefix)

    @property
    def channels(self) -> list[Channel]:
        return channels.in_use(self.config, self.options.override_channels, self.options.channel)

    @property
    def caches(self) -> Caches:
        folders = self.config.pkgs_dirs
        if not (writable := first_writable(folders)):
            shown = "".join(f"\n  - {folder}" for folder in folders)
            raise CondaError("NoWritablePkgsDirError", f"No writeable pkgs directories configured.{shown}")
        return Caches((writable, *(folder for folder in folders if folder != writable)))

    def confirm(self, question: str = "Proceed") -> None:
        """Ask, unless told not to. CondaSystemExit when the answer is no."""
        if self.config.flag("always_yes") or self.json:
            return
        try:
            answer = input(f"{question} ([y]/n)? ").strip().lower()
        except EOFError:
            answer = "n"
        if answer not in ("", "y", "yes"):
            raise CondaError("CondaSystemExit", "Exiting.")

    def add_history(self, prefix: Prefix, before: Sequence[Record], after: Sequence[Record], specs: str) -> None:
        prefix.add_history(
            shlex.join([str(self.config.root / "bin" / "conda"), *self.argv[1:]]), VERSION, (before, after), specs
        )


def info(context: Context) -> None:
    config = context.config
    if context.options.base:
        print_json({"root_prefix": str(config.root)}) if context.json else print(config.root)
        return
    if context.options.envs:
        env_list(context)
        return
    active = config.environ.get("CONDA_PREFIX")
    home = Path(os.path.expanduser("~"))
    configured = channels.resolve(config, config.names("channels"))
    facts: dict[str, Any] = {
        "platform": SUBDIRS[0],
        "conda_version": VERSION,
        "conda_env_version": VERSION,
        "conda_build_version": "not installed",
        "root_prefix": str(config.root),
        "conda_prefix": str(config.root),
        "root_writable": config.root_writable,
        "pkgs_dirs": [str(path) for path in config.pkgs_dirs],
        "envs_dirs": [str(path) for path in config.envs_dirs],
        "default_prefix": active or str(config.root),
        "active_prefix": active,
        "active_prefix_name": config.environ.get("CONDA_DEFAULT_ENV"),
        "conda_shlvl": int(config.environ.get("CONDA_SHLVL", -1)),
        "channels": [channel.url(subdir) for channel in configured for subdir in SUBDIRS],
        "user_rc_path": str(home / ".condarc"),
        "rc_path": str(home / ".condarc"),
        "sys_rc_path": str(config.root / ".condarc"),
        "offline": config.flag("offline"),
        "envs": [str(prefix.path) for prefix in known(config)],
        "python_version": f"{'.'.join(map(str, sys.version_info[:3]))}.final.0",
        "conda_location": str(Path(__file__).parent),
        "config_files": [source.name for source in config.sources if source.name.startswith("/")],
        "solver": {"name": "rattler", "default": True},
        "UID": os.geteuid(),
        "GID": os.getegid(),
        "sys.version": sys.version,
        "sys.prefix": sys.prefix,
        "sys.executable": sys.executable,
        "envs_details": {str(prefix.path): prefix.details(config) for prefix in known(config)},
    }
    if context.json:
        print_json(facts)
        return
    rows = {
        "active environment": facts["active_prefix_name"],
        "user config file": facts["user_rc_path"],
        "populated config files": facts["config_files"],
        "conda version": f"{VERSION} (a stand-in)",
        "python version": facts["python_version"],
        "solver": "rattler",
        "base environment": f"{config.root}  ({'writable' if config.root_writable else 'read only'})",
        "channel URLs": facts["channels"],
        "package cache": facts["pkgs_dirs"],
        "envs directories": facts["envs_dirs"],
        "platform": facts["platform"],
        "UID:GID": f"{facts['UID']}:{facts['GID']}",
        "offline mode": facts["offline"],
    }
    print()
    for title, value in rows.items():
        print(f"{title:>23} : {_lines(value)}")
    print()


def _lines(value: Any) -> str:
    return ("\n" + " " * 26).join(value) if isinstance(value, list) else str(value)


def config(context: Context) -> None:
    if context.options.show_sources:
        shown = {source.name: source.values for source in context.config.sources}
        if context.json:
            shown["cmd_line"] = shown.get("cmd_line", {}) | {"json": True}
            print_json(shown)
            return
        for name, values in shown.items():
            print(f"==> {name} <==\n{envfile.dump(values)}")
        return
    keys = context.options.show or sorted(DEFAULTS)
    if unknown := [key for key in keys if key not in DEFAULTS]:
        raise CondaError("ArgumentError", f"Invalid configuration parameters: {', '.join(unknown)}")
    values = {key: context.config.value(key) for key in keys}
    print_json(values) if context.json else print(envfile.dump(values), end="")


def create(context: Context) -> None:
    options, prefix = context.options, _new_prefix(context, context.options.name, context.options.prefix)
    explicit, specs = _asked_for(context)
    if explicit:
        _create_explicit(context, prefix, explicit)
        return
    _create(context, prefix, specs, context.channels)
    if not context.json and not options.dry_run:
        print(f"#\n# To activate this environment, use\n#\n#     $ conda activate {options.name or prefix.path}\n#")


def install(context: Context) -> None:
    options, prefix = context.options, context.prefix
    prefix.must_be_changeable(context.config, options.override_frozen)
    explicit, specs = _asked_for(context)
    if explicit:
        _link_explicit(context, prefix, explicit)
        return
    if not specs:
        raise CondaError("CondaValueError", "too few arguments, must supply command line package specs or --file")
    requested = {name_of(spec): spec for spec in specs}
    before = prefix.records()
    wanted = {record["name"]: record["name"] for record in before} | prefix.requested() | requested
    after = _solve(context, context.channels, list(wanted.values()), specs, before)
    _apply(context, prefix, before, after, requested)


def update(context: Context) -> None:
    options, prefix = context.options, context.prefix
    prefix.must_be_changeable(context.config, options.override_frozen)
    before = prefix.records()
    names = [record["name"] for record in before] if options.all else [name_of(spec) for spec in options.packages]
    if not names:
        raise CondaError("CondaValueError", "no package names supplied\n# Example: conda update -n myenv scipy")
    _must_hold(prefix, names, before)
    requested = {name_of(spec): spec for spec in options.packages}
    wanted = {record["name"]: record["name"] for record in before} | prefix.requested() | requested
    locked = [record for record in before if record["name"] not in names]
    after = _solve(context, context.channels, list(wanted.values()), options.packages, locked)
    _apply(context, prefix, before, after, requested)


def remove(context: Context) -> None:
    options, prefix = context.options, context.prefix
    if options.all:
        env_remove(context)
        return
    if not options.packages:
        raise CondaError("CondaValueError", "no package names supplied; see conda remove -h")
    prefix.must_be_changeable(context.config, options.override_frozen)
    before = in_order(prefix.records())
    gone = {name_of(spec) for spec in options.packages}
    _must_hold(prefix, sorted(gone), before)
    for record in before:  # in order, so that what needs a removed package comes after it
        if any(needed.split()[0] in gone for needed in record.get("depends", [])):
            gone.add(record["name"])
    after = [record for record in before if record["name"] not in gone]
    _apply(context, prefix, before, after, {}, f"remove specs: {json.dumps(options.packages)}")


def list_packages(context: Context) -> None:
    options, prefix = context.options, context.prefix
    prefix.must_exist()
    records = prefix.records()
    if options.explicit:
        print(
            "# This file may be used to create an environment using:\n# $ conda create --name <env> --file <this file>"
        )
        print(f"# platform: {SUBDIRS[0]}\n# created-by: conda {VERSION}\n@EXPLICIT")
        for record in in_order(records):
            digest = record.get("sha256") if options.sha256 else record.get("md5") if options.md5 else None
            print(record["url"] + (f"#{digest}" if digest else ""))
        return
    rows = [linked(record) for record in records]
    if not options.no_pip:
        rows = sorted(
            [*rows, *(from_pip(*found) for found in prefix.pip_packages())], key=lambda row: str(row["name"]).lower()
        )
    if options.pattern:
        rows = [row for row in rows if options.pattern.lower() in row["name"].lower()]
    if context.json:
        print_json(rows)
    elif options.export:
        print(f"# platform: {SUBDIRS[0]}")
        print("".join(f"{row['name']}={row['version']}={row['build_string']}\n" for row in rows), end="")
    else:
        print(f"# packages in environment at {prefix.path}:\n#\n# {'Name':<24} {'Version':<16} {'Build':<20} Channel")
        for row in rows:
            print(f"{row['name']:<26} {row['version']:<16} {row['build_string']:<20} {row['channel']}")


def search(context: Context) -> None:
    spec = context.options.packages[0]
    offline = context.config.flag("offline")
    found = engine.search(context.channels, spec, context.caches, offline=offline)
    if not found:
        raise engine.not_found([spec], context.channels)
    if context.json:
        by_name: dict[str, list[dict[str, Any]]] = {}
        for record in found:
            by_name.setdefault(record["name"], []).append(indexed(record))
        print_json(by_name)
        return
    print(f"# {'Name':<24} {'Version':>16} {'Build':>20}  Channel")
    for record in found:
        print(f"{record['name']:<26} {record['version']:>16} {record['build']:>20}  {Channel.of_package(record).name}")


def run(context: Context) -> int:
    """Run a command in the activated environment; its exit code. Its output comes at its end, unless told otherwise."""
    options, prefix = context.options, context.prefix
    argv = options.argv[1:] if options.argv[:1] == ["--"] else options.argv
    if not argv:
        raise CondaError("ArgumentError", "no command to run was given")
    prefix.must_exist()
    script = shell.activate(context.config, prefix).code() + 'exec "$@"\n'
    done = subprocess.run(
        ["/bin/sh", "-c", script, "sh", *argv],
        cwd=options.cwd,
        check=False,
        capture_output=not options.live,
        env=context.config.environ,
    )
    if not options.live:
        sys.stdout.buffer.write(done.stdout)
        sys.stdout.flush()
        sys.stderr.buffer.write(done.stderr)
        sys.stderr.flush()
    code = done.returncode if done.returncode >= 0 else 128 - done.returncode
    if code:
        print(
            f"ERROR conda.cli.main_run:execute(148): `conda run {' '.join(argv)}` failed. (See above for error)",
            file=sys.stderr,
        )
    return code


def env_list(context: Context) -> None:
    found = known(context.config)
    details = {str(prefix.path): prefix.details(context.config) for prefix in found}
    if context.json:
        print_json({"envs": list(details), "envs_details": details})
        return
    print("\n# conda environments:\n#\n# * -> active\n# + -> frozen")
    for path, one in details.items():
        print(f"{one['name']:<22}{'*' if one['active'] else ' '}{'+' if one['frozen'] else ' '} {path}")
    print()


def env_export(context: Context) -> None:
    options, prefix = context.options, context.prefix
    prefix.must_exist()
    records = prefix.records()
    used = [*channels.resolve(context.config, context.config.names("channels")), *map(Channel.of_package, records)]
    dependencies: list[Any]
    if options.from_history:
        dependencies = sorted(prefix.requested().values())
    else:
        build = "" if options.no_builds else "={build}"
        dependencies = [f"{{name}}={{version}}{build}".format(**record) for record in records]
        if pip := [f"{name}=={version}" for name, version in prefix.pip_packages()]:
            dependencies.append({"pip": pip})
    data: dict[str, Any] = {
        "name": prefix.name(context.config) or str(prefix.path),
        "channels": list(dict.fromkeys(channel.base_url for channel in used)),
        "dependencies": dependencies,
    }
    if prefix.variables and not options.from_history:
        data["variables"] = prefix.variables
    data["prefix"] = str(prefix.path)
    text = json.dumps(data, indent=2) + "\n" if context.json else envfile.dump(data)
    if options.file:
        options.file.write_text(text)
    else:
        print(text, end="" if context.json else "\n")


def env_create(context: Context) -> None:
    """Make an environment from environment.yml. Its channels are used whatever the allow-list says, as conda does."""
    options = context.options
    wanted = envfile.read(options.file)
    name, path = options.name, options.prefix
    if not name and not path:
        name, path = wanted.name, wanted.prefix
    if not name and not path:
        message = (
            "The environment file(s) do not specify a name or prefix. Please provide one via -n/--name or -p/--prefix."
        )
        raise CondaError("ArgumentError", message)
    prefix = _new_prefix(context, name, None if name else path)
    named = channels.resolve(context.config, wanted.channels)
    used = list(dict.fromkeys([*named, *(context.channels if not named or context.config.names("channels") else [])]))
    _create(context, prefix, wanted.conda, used)
    if options.dry_run:
        return
    if wanted.variables:
        (prefix.meta / "state").write_text(json.dumps({"env_vars": wanted.variables}))
    if wanted.pip:
        _pip_install(prefix, wanted.pip, quiet=context.json)


def env_remove(context: Context) -> None:
    options, prefix = context.options, context.prefix
    if prefix.path == context.config.root:
        raise CondaError("CondaEnvironmentError", "cannot remove root environment, add -n NAME or -p PREFIX option")
    prefix.must_be_changeable(context.config, options.override_frozen)
    before = in_order(prefix.records())[::-1]
    actions = plan(prefix, before, [], Caches(()))
    if not context.json:
        print_plan(actions)
    if not options.dry_run:
        context.confirm(
            "Everything found within the environment, including any conda environment files, will be removed. Proceed"
        )
        if prefix.path.is_symlink():
            prefix.path.unlink()
        else:
            shutil.rmtree(prefix.path)
        unregister(prefix)
    if context.json:
        _print_success(actions, prefix, options.dry_run)


def in_shell(context: Context) -> None:
    """`conda shell.posix activate NAME` and its like: print code for the shell to run."""
    if (language := shell.SHELLS.get(context.options.shell)) is None:
        raise CondaError(
            "CondaError", f"the stand-in knows these shells, not {context.options.shell}: {[*shell.SHELLS]}"
        )
    config = context.config
    match context.options.words:
        case ["hook"]:
            places = {shell.POSIX: "profile.d/conda.sh", shell.CSH: "profile.d/conda.csh"}
            place = config.root / "etc" / places.get(language, "fish/conf.d/conda.fish")
            print(language.run.format(place))
        case ["activate", *names] if len(names) < 2:
            name = names[0] if names else config.text("default_activation_env")
            print(shell.activate(config, shell.find(config, name), language).code(), end="")
        case ["deactivate"]:
            print(shell.deactivate(config, language).code(), end="")
        case ["reactivate"]:
            print(shell.reactivate(config, language).code(), end="")
        case words:
            raise CondaError("ArgumentError", f"cannot do this in a shell: {' '.join(words)}")


def need_shell(context: Context) -> None:
    root = context.config.root
    raise CondaError("CondaError", f"Run 'conda init' before 'conda activate'; here: . {root}/etc/profile.d/conda.sh")


def _asked_for(context: Context) -> tuple[list[tuple[str, str | None]], list[str]]:
    """The entries of explicit lists, and the specifications from the command line and from files."""
    explicit: list[tuple[str, str | None]] = []
    specs = list(context.options.packages)
    for path in context.options.file:
        try:
            text = path.read_text()
        except OSError as error:
            raise CondaError("CondaFileIOError", f"'{path}'. {error.strerror}", filepath=str(path)) from error
        if any(line.strip() == "@EXPLICIT" for line in text.splitlines()):
            explicit += engine.parse_explicit(text)
        else:
            specs += [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    urls = [spec for spec in specs if spec.split("#")[0].endswith((".conda", ".tar.bz2"))]
    explicit += engine.parse_explicit("\n".join(urls))
    return explicit, [spec for spec in specs if spec not in urls]


def _new_prefix(context: Context, name: str | None, path: str | None) -> Prefix:
    """Where a new environment goes. What is there is removed, after a question: conda does so before it solves."""
    if not name and not path:
        raise CondaError("ArgumentError", "one of the arguments -n/--name -p/--prefix is required")
    prefix = locate(context.config, name, path)
    if prefix.path == context.config.root:
        raise CondaError("CondaValueError", "The target prefix is the base prefix. Aborting.")
    if name and not first_writable([prefix.path.parent]):
        folders = [str(folder) for folder in context.config.envs_dirs]
        message = "No writeable envs directories configured.\n" + "".join(f"  - {folder}\n" for folder in folders)
        raise CondaError("NoWritableEnvsDirError", message, envs_dirs=folders)
    if not name and not first_writable([prefix.path.parent]):
        raise CondaError(
            "NotWritableError",
            f"The current user does not have write permissions to a required path.\n  path: {prefix.path}",
        )
    if not prefix.exists:
        if prefix.path.is_dir() and any(prefix.path.iterdir()):
            message = (
                f"The target directory exists, but it is not a conda environment.\nTarget directory: {prefix.path}"
            )
            raise CondaError("DirectoryNotACondaEnvironmentError", message, target_directory=str(prefix.path))
        return prefix
    if context.options.dry_run:
        raise CondaError(
            "CondaValueError", f"Cannot `create --dry-run` with an existing conda environment at {prefix.path}."
        )
    context.confirm(f"WARNING: A conda environment already exists at '{prefix.path}'\n\nRemove existing environment?")
    if prefix.path.is_symlink():
        prefix.path.unlink()
    else:
        shutil.rmtree(prefix.path)
    return prefix


def _create(context: Context, prefix: Prefix, specs: Sequence[str], used: Sequence[Channel]) -> None:
    after = _solve(context, used, specs, specs, []) if specs else []
    _apply(context, prefix, [], after, {name_of(spec): spec for spec in specs}, new=True)


def _solve(
    context: Context, used: Sequence[Channel], specs: Sequence[str], new: Sequence[str], locked: Sequence[Record]
) -> list[Record]:
    """Let `CHANNEL::PACKAGE` name a channel as conda does, then solve."""
    named = [
        channel
        for spec in new
        if "::" in spec
        for channel in channels.resolve(context.config, [spec.partition("::")[0]])
    ]
    channels.check_policy(context.config, named)
    return engine.solve(
        [*used, *(channel for channel in named if channel not in used)],
        [_with_url(context.config, spec) for spec in specs],
        [_with_url(context.config, spec) for spec in new],
        locked,
        context.caches,
        offline=context.config.flag("offline"),
        pip_with_python=context.config.flag("add_pip_as_python_dependency"),
    )


def _with_url(config: Config, spec: str) -> str:
    channel, separator, rest = spec.rpartition("::")
    return f"{channels.resolve(config, [channel])[0].base_url}::{rest}" if separator else spec


def _apply(
    context: Context,
    prefix: Prefix,
    before: Sequence[Record],
    after: Sequence[Record],
    requested: dict[str, str],
    specs: str | None = None,
    new: bool = False,
) -> None:
    """Show the change, ask, make it, and note it in the history."""
    options = context.options
    caches = context.caches
    actions = plan(prefix, before, after, caches)
    if not new and not actions.keys() & {"LINK", "UNLINK"}:
        print_json({"success": True, "message": NOTHING_TO_DO}) if context.json else print(f"\n# {NOTHING_TO_DO}\n")
        return
    if not context.json:
        print_plan(actions)
    if not options.dry_run:
        context.confirm()
        _refuse_offline(context, actions)
        _link(
            context,
            prefix,
            before,
            after,
            requested,
            specs or f"update specs: {json.dumps(list(requested.values()))}",
            caches,
        )
    if context.json:
        _print_success(actions, prefix, options.dry_run)
    elif options.dry_run:
        print("\nDryRunExit: Dry run. Exiting.\n", file=sys.stderr)


def _refuse_offline(context: Context, actions: dict[str, Any]) -> None:
    remote = [one["url"] for one in actions["FETCH"] if not one["url"].startswith("file:")]
    if context.config.flag("offline") and remote:
        raise CondaError(
            "OfflineError", f"Offline mode is on, and these packages are not in the cache: {', '.join(remote)}"
        )


def _link(
    context: Context,
    prefix: Prefix,
    before: Sequence[Record],
    after: Sequence[Record],
    requested: dict[str, str],
    specs: str,
    caches: Caches,
) -> None:
    fresh = not prefix.exists
    prefix.path.mkdir(parents=True, exist_ok=True)
    try:
        engine.link(prefix, after, requested, caches)
    except CondaError:
        if fresh:
            shutil.rmtree(prefix.path)
        raise
    if fresh:
        (prefix.meta / "created_at").write_text(datetime.now(timezone.utc).isoformat() + "\n")
        register(context.config, prefix)
    context.add_history(prefix, before, after, specs)


def _create_explicit(context: Context, prefix: Prefix, entries: Sequence[tuple[str, str | None]]) -> None:
    if not context.options.dry_run:
        _link_explicit(context, prefix, entries)


def _link_explicit(context: Context, prefix: Prefix, entries: Sequence[tuple[str, str | None]]) -> None:
    """Install just these packages beside what is there. conda prints nothing of it with --json, and plans nothing."""
    if context.options.dry_run:
        return
    caches = context.caches
    records = engine.fetch_explicit(entries, caches, offline=context.config.flag("offline"))
    before = prefix.records()
    names = {record["name"] for record in records}
    if {dist(record) for record in records} <= {dist(record) for record in before} and prefix.exists:
        return
    after = in_order([*(record for record in before if record["name"] not in names), *records])
    specs = [f"{record['name']}=={record['version']}={record['build']}" for record in in_order(records)]
    if not context.json:
        print("\nDownloading and Extracting Packages: ...working... done")
    _link(context, prefix, before, after, {}, f"update specs: {json.dumps(specs)}", caches)


def _must_hold(prefix: Prefix, names: Sequence[str], records: Sequence[Record]) -> None:
    """CondaError unless all packages are installed."""
    installed = {record["name"] for record in records}
    if missing := [name for name in names if name not in installed]:
        shown = "".join(f"\n  - {name}" for name in missing)
        message = f"The following packages are missing from the target environment:{shown}\n"
        raise CondaError(
            "PackagesNotFoundInPrefixError",
            message,
            packages=missing,
            packages_formatted=shown,
            prefix=str(prefix.path),
        )


def _pip_install(prefix: Prefix, requirements: Sequence[str], quiet: bool) -> None:
    """The pip section of environment.yml. The environment stays when it fails, as it does with conda."""
    with tempfile.NamedTemporaryFile("w", prefix="condaenv.", suffix=".requirements.txt") as file:
        file.write("".join(f"{one}\n" for one in requirements))
        file.flush()
        command = [
            str(prefix.path / "bin" / "python"),
            "-m",
            "pip",
            "install",
            "-U",
            "-r",
            file.name,
            "--exists-action=b",
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise CondaError("CondaEnvException", "Pip failed: the environment has no python") from error
    if done.returncode:
        print(f"Pip subprocess error:\n{done.stderr}", file=sys.stderr)
        raise CondaError("CondaEnvException", "Pip failed")
    if not quiet:
        print(done.stdout, end="")


def _print_success(actions: dict[str, Any], prefix: Prefix, dry_run: bool) -> None:
    print_json(
        {"success": True, "actions": actions, "prefix": str(prefix.path)} | ({"dry_run": True} if dry_run else {})
    )
