# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this file is PRIVATE to the collection: it can change at any time.
"""What people get on a node: files for their shells, a message of the day and a guide, all from the site's settings."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import re
import typing as t

import jinja2

from ..module_utils._conda.condarc import url_of
from ..module_utils._node.findings import TOLD, Finding, of_files

HEADER = "# Managed by envfleet.gpu_cluster (role user_environments): changes made here are undone.\n"
PROFILE = "/etc/profile.d/envfleet-users.sh"
FISH = "/etc/fish/conf.d/envfleet-users.fish"
#: Debian's tcsh reads the first directory, that of the RHEL family the second, each in every shell.
CSH = ("/etc/csh/cshrc.d/envfleet-users.csh", "/etc/profile.d/envfleet-users.csh")
CSH_CONDA = "/etc/envfleet/conda.csh"
#: Around a block in a file of somebody else's, as ansible.builtin.blockinfile writes it.
MARKER = "# {mark} envfleet.gpu_cluster (role user_environments)"
#: What a umask takes away, for the shells that know it by symbols: so one that is stricter stays.
_SYMBOLIC = {"0022": "g-w,o-w", "0027": "g-w,o-rwx", "0077": "g-rwx,o-rwx"}
_PATH = re.compile(r"(/[A-Za-z0-9._+-]+)+")
# Compiled once, for all the processes that Ansible starts.
_GUIDE = jinja2.Environment(
    undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False
).from_string(pathlib.Path(__file__).with_name("_user_guide.md.j2").read_text(encoding="utf-8"))


class SettingsError(ValueError):
    """An option of the role that cannot work, with its name and what to write instead."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """The options of the role, by their names without its prefix."""

    state: str
    root: str
    envs_dirs: tuple[str, ...]
    pkgs_dirs: tuple[str, ...]
    channels: tuple[str, ...]
    channel_alias: str
    shared: tuple[str, ...]
    conda_prefix: str
    conda_enabled: bool
    umask: str
    user_site_enabled: bool
    library_path_enabled: bool
    startup_files: tuple[str, ...]
    motd_path: str
    guide_path: str
    contact: str

    @classmethod
    def of(cls, values: t.Mapping[str, t.Any]) -> Settings:
        """From *values* of the role; SettingsError for one that cannot work."""
        texts = {name: str(values[name] or "") for name in ("state", "root", "conda_prefix", "umask", "contact")}
        texts |= {name: str(values[name] or "") for name in ("channel_alias", "motd_path", "guide_path")}
        lists = {
            name: tuple(map(str, values[name])) for name in ("envs_dirs", "pkgs_dirs", "channels", "startup_files")
        }
        flags = {
            name: _flag(name, values[name]) for name in ("conda_enabled", "user_site_enabled", "library_path_enabled")
        }
        named = [{"name": one} if isinstance(one, str) else one for one in values["shared"]]
        shared = sorted(str(one["name"]) for one in named if one.get("state") != "absent")
        settings = cls(shared=tuple(shared), **texts, **lists, **flags)  # type: ignore[arg-type]  # by their kinds
        settings._check()
        return settings

    def _check(self) -> None:
        if self.umask and self.umask not in _SYMBOLIC:
            raise SettingsError(
                f"user_environments_umask: {self.umask!r} is none of {', '.join(_SYMBOLIC)}: write one of them in "
                "quotes, or nothing to leave it to people"
            )
        places = {"root": self.root, "motd_path": self.motd_path, "guide_path": self.guide_path}
        places |= {"conda_prefix": self.conda_prefix or "-"}
        for name, path in [*places.items(), *(("startup_files", path) for path in self.startup_files)]:
            if path and not _PATH.fullmatch(path):
                raise SettingsError(
                    f"user_environments_{name}: {path!r} is no absolute path of letters, digits and ._+-: it stands in "
                    "shell code"
                )
        if not self.root:
            return
        for name, paths in (("envs_dirs", self.envs_dirs), ("pkgs_dirs", self.pkgs_dirs)):
            kind = name.partition("_")[0]
            if not any(path.startswith(f"{self.root}/$USER/") for path in paths):
                raise SettingsError(
                    f"user_environments_root: conda is not told of {self.root}: have {self.root}/$USER/{kind} in "
                    f"miniconda_{name}, which is {', '.join(paths) or 'empty'}"
                )

    @property
    def wanted(self) -> bool:
        """Is there to be anything at all?"""
        return self.state == "present"


def _flag(name: str, value: t.Any) -> bool:
    text = str(value).lower()
    if text not in ("true", "false", "yes", "no", "1", "0"):
        raise SettingsError(f"user_environments_{name}: {value!r} is neither true nor false")
    return text in ("true", "yes", "1")


def files(values: t.Mapping[str, t.Any]) -> list[dict[str, str]]:
    """The managed files, as the filter file_findings takes them."""
    return [dict(file) for file in _files(json.dumps(values, sort_keys=True))]


@functools.lru_cache(maxsize=64)
def _files(text: str) -> tuple[dict[str, str], ...]:
    """Hundreds of hosts may have the same settings."""
    settings = Settings.of(json.loads(text))
    contents = {
        PROFILE: _posix(settings),
        FISH: _fish(settings),
        **dict.fromkeys(CSH, _csh(settings)),
        CSH_CONDA: _csh_conda(settings) if settings.conda_enabled else "",
        settings.motd_path: _motd(settings),
        settings.guide_path: guide(settings),
    }
    return tuple(
        {"path": path, **({"content": content} if settings.wanted and content else {"state": "absent"})}
        for path, content in contents.items()
        if path
    )


def hooks(node: t.Mapping[str, t.Any], values: t.Mapping[str, t.Any]) -> list[dict[str, str]]:
    """The start-up files of shells that *node* has, with the block that each must begin with, or none."""
    return _hooks(node, Settings.of(values))


def _hooks(node: t.Mapping[str, t.Any], settings: Settings) -> list[dict[str, str]]:
    block = f"[ ! -r {PROFILE} ] || . {PROFILE}" if settings.wanted else ""
    there = (path for path in settings.startup_files if node["files"][path]["state"] == "file")
    return [{"path": path, "block": block} for path in there]


def findings(node: t.Mapping[str, t.Any], values: t.Mapping[str, t.Any]) -> list[Finding]:
    """All that differs on *node*, as its look saw it."""
    settings = Settings.of(values)
    found = of_files(node, files(values))
    begin, end = (MARKER.replace("{mark}", mark) for mark in ("BEGIN", "END"))
    for hook in _hooks(node, settings):
        text = node["files"][hook["path"]].get("content", "")
        wanted = f"{begin}\n{hook['block']}\n{end}\n" if hook["block"] else ""
        if (wanted not in text) if wanted else (begin in text):
            actual = "another block" if begin in text else "no such block"
            found.append(Finding("policy", hook["path"], f"reads {PROFILE}" if wanted else "no block of ours", actual))
    if settings.wanted and settings.root:
        found += _of_directories(node["user_directories"])
    return found


def _of_directories(found: t.Mapping[str, t.Any]) -> list[Finding]:
    component, root, problem = "private environments", found["root"], found["problem"]
    told = [Finding(component, name, "known to the node", "unknown", "warning", "human") for name in found["unknown"]]
    if problem:
        told.append(Finding(component, root, "directory of root with mode 0755", problem["actual"], fix=problem["fix"]))
    wrong = sorted(found["wrong"].items())
    for name, one in wrong[:TOLD]:
        expected = f"directory of {name} with mode 0700"
        told.append(Finding(component, f"{root}/{name}", expected, one["actual"], fix=one["fix"]))
    if (more := len(wrong) - TOLD) > 0:
        told.append(Finding(component, f"{more} more in {root}", "directories of their users", "not so"))
    return told


def _posix(settings: Settings) -> str:
    """Must run in bash, dash and zsh, and under set -eu."""
    text = HEADER + f"# Login shells read it, and zsh and bash over ssh. A batch script in bash says: . {PROFILE}\n"
    text += _session(settings, 'if [ -z "${ENVFLEET_SESSION-}" ]; then', "    export {}={}", "    umask {}", end="fi")
    if not settings.conda_enabled:
        return text
    hook = f"{settings.conda_prefix}/etc/profile.d/conda.sh"
    text += f"""\
if [ -r /etc/profile.d/envfleet-conda.sh ] && [ -r {hook} ]; then
    . /etc/profile.d/envfleet-conda.sh
"""
    if not settings.library_path_enabled:
        text += """\
    # What a module or a profile has put there would come before the libraries of an environment.
    if [ -n "${BASH_VERSION-}${ZSH_VERSION-}" ] && typeset -f conda >/dev/null; then
        eval "__envfleet_$(typeset -f conda)"
        conda() {
            __envfleet_conda "$@" || return
            if [ "${1-}" = activate ] && [ -n "${LD_LIBRARY_PATH-}" ]; then
                echo "conda activate: LD_LIBRARY_PATH is not taken along, it was $LD_LIBRARY_PATH" >&2
                unset LD_LIBRARY_PATH
            fi
        }
    fi
"""
    return text + "fi\n"


def _fish(settings: Settings) -> str:
    text = HEADER + _session(settings, "if not set -q ENVFLEET_SESSION", "    set -gx {} {}", "    umask {}", end="end")
    if not settings.conda_enabled:
        return text
    hook = f"{settings.conda_prefix}/etc/fish/conf.d/conda.fish"
    # Read when it is first needed, since every fish reads this.
    text += f"""\
if test -r {hook}
    function conda
        functions -e conda
        source {hook}
"""
    if not settings.library_path_enabled:
        text += """\
        functions -c conda __envfleet_conda
        # What a module or a profile has put there would come before the libraries of an environment.
        function conda
            __envfleet_conda $argv
            set -l code $status
            if test $code -eq 0; and test "$argv[1]" = activate; and test -n "$LD_LIBRARY_PATH"
                echo "conda activate: LD_LIBRARY_PATH is not taken along, it was $LD_LIBRARY_PATH" >&2
                set -e LD_LIBRARY_PATH
            end
            return $code
        end
"""
    return text + "        conda $argv\n    end\nend\n"


def _csh(settings: Settings) -> str:
    umask = "    set envfleet_umask = `sh -c 'umask {}; umask'`\n    umask $envfleet_umask\n    unset envfleet_umask"
    text = HEADER + _session(settings, "if (! $?ENVFLEET_SESSION) then", "    setenv {} {}", umask, end="endif")
    if settings.conda_enabled:
        text += f"if (-r {settings.conda_prefix}/etc/profile.d/conda.csh) alias conda 'source {CSH_CONDA}'\n"
    return text


def _csh_conda(settings: Settings) -> str:
    """conda's own file gives scripts a prompt, as only terminals should have, so it is read when it is first needed."""
    hook = f"{settings.conda_prefix}/etc/profile.d/conda.csh"
    text = f"""\
{HEADER}# The command conda in tcsh.
if (! $?envfleet_conda) then
    unalias conda
    source {hook}
    set envfleet_conda
    alias conda 'source {CSH_CONDA}'
endif
source {hook} $argv:q
"""
    if not settings.library_path_enabled:
        text += """\
# What a module or a profile has put there would come before the libraries of an environment.
set envfleet_status = $status
if ($envfleet_status == 0 && $#argv > 0 && $?LD_LIBRARY_PATH) then
    if ("$argv[1]" == activate && "$LD_LIBRARY_PATH" != "") then
        sh -c 'echo "conda activate: LD_LIBRARY_PATH is not taken along, it was $LD_LIBRARY_PATH" >&2'
        unsetenv LD_LIBRARY_PATH
    endif
endif
exit $envfleet_status
"""
    return text


def _session(settings: Settings, begin: str, export: str, umask: str, end: str) -> str:
    """Once in a session: what people change in it later is theirs."""
    lines = [begin, export.format("ENVFLEET_SESSION", 1)]
    if settings.umask:
        lines.append(umask.format(_SYMBOLIC[settings.umask]))
    if not settings.user_site_enabled:
        lines.append(export.format("PYTHONNOUSERSITE", 1))
    return "".join(f"{line}\n" for line in [*lines, end])


def _motd(settings: Settings) -> str:
    shared = f"conda activate NAME ({_few(settings.shared)})" if settings.shared else "none shared yet"
    text = f"Python environments: {shared}; your own: conda create -n NAME python.\n"
    return text + (f"How to make, keep and use them: less {settings.guide_path}\n" if settings.guide_path else "")


def _few(names: t.Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 5 else f"{', '.join(names[:5])} and {len(names) - 5} more"


def guide(settings: Settings) -> str:
    """One page for people."""
    private = [path for path in settings.envs_dirs if _is_private(path)]
    caches = [path for path in settings.pkgs_dirs if _is_private(path)]
    return _GUIDE.render(
        settings=settings,
        profile=PROFILE,
        private=private[0] if private else "~/.conda/envs",
        cache=caches[0] if caches else "~/.conda/pkgs",
        channels=[url_of(channel, settings.channel_alias) for channel in settings.channels],
    )


def _is_private(path: str) -> bool:
    return path.startswith("~") or "$USER" in path
