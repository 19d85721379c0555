# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""All of conda_lock: it works on the control node and reaches no host."""

from __future__ import annotations

import dataclasses
import os
import stat
import typing as t
from concurrent.futures import ThreadPoolExecutor

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ..module_utils._conda.errors import CondaError
from ..module_utils._conda.files import write_file
from ..module_utils._conda.lock_writing import explicit_text
from ..modules import conda_env
from ..modules.conda_lock import ARGUMENT_SPEC
from ..plugin_utils._locking import Locking, make_lock
from ..plugin_utils._solving import VIRTUAL_PACKAGES, Options
from ..plugin_utils._specs import read_spec


@dataclasses.dataclass(frozen=True)
class _Task:
    """One environment to lock, with absolute paths."""

    name: str
    spec: str
    lock: str
    explicit: str  #: empty for none
    options: Options

    def run(self) -> tuple[Locking, dict[str, str]]:
        """The outcome, and the text of each file that is not as it must be.

        :raises CondaError: it cannot be locked.
        """
        spec = read_spec(self.spec)
        if (
            len(set(self.options.platforms or spec.platforms)) > 1
            and self.explicit
            and "{platform}" not in self.explicit
        ):
            raise CondaError("explicit: there are several platforms: put {platform} into the path")
        previous = _read(self.lock)
        sources = [os.path.relpath(self.spec, os.path.dirname(self.lock))]
        outcome = make_lock(spec, self.options, previous, sources=sources)
        texts = {self.lock: outcome.text}
        if self.explicit:
            texts.update({self._explicit(platform): explicit_text(lock) for platform, lock in outcome.locks.items()})
        return outcome, {path: text for path, text in texts.items() if _read(path) != text}

    def explicit_files(self) -> set[str]:
        """The @EXPLICIT lists that may be written."""
        return {self._explicit(platform) for platform in VIRTUAL_PACKAGES} if self.explicit else set()

    def _explicit(self, platform: str) -> str:
        return self.explicit.replace("{platform}", platform)


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core has no types
    """Lock the environments."""

    _requires_connection = False
    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Solve side by side, then write what differs."""
        task_vars = task_vars or {}
        super().run(tmp, task_vars)
        self._task.args = _without_foreign_options(self._task.args)
        _valid, arguments = self.validate_argument_spec(ARGUMENT_SPEC)
        directory = arguments["locks_dir"] or task_vars.get("inventory_dir") or task_vars["playbook_dir"]
        try:
            tasks = _tasks(arguments, directory)
        except CondaError as error:
            raise AnsibleActionFail(str(error)) from error
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            outcomes = list(zip(tasks, pool.map(_attempt, tasks), strict=True))
        failures = [f"{task.name}: {outcome}" for task, outcome in outcomes if isinstance(outcome, CondaError)]
        done = [(task, *outcome) for task, outcome in outcomes if not isinstance(outcome, CondaError)]
        wanted = {name for task in tasks for name in task.options.update}
        unknown = wanted.difference(*(outcome.updated for _task, outcome, _texts in done))
        if unknown and not failures:
            raise AnsibleActionFail(f"update: no lock has {', '.join(sorted(unknown))}: name packages that are there")
        result: dict[str, t.Any] = {"changed": False, "environments": [], "diff": [], "warnings": []}
        for task, outcome, texts in done:
            if not self._task.check_mode:
                try:
                    _write(texts)
                except OSError as error:
                    failures.append(f"{task.name}: {error.filename} cannot be written: {error.strerror}")
                    continue
            result["changed"] |= bool(texts)
            result["environments"].append(_report(task, outcome, texts))
            result["diff"] += [{"prepared": _diff(task, outcome, texts)}] if texts else []
            if outcome.moved_too:
                moved = ", ".join(outcome.moved_too)
                result["warnings"].append(f"{task.name}: {moved} had to move with {', '.join(sorted(outcome.updated))}")
        if failures:
            result.update(failed=True, msg="\n".join(failures))
        return result


def _without_foreign_options(arguments: dict[str, t.Any]) -> dict[str, t.Any]:
    """*arguments* without what the environments have for the module conda_env alone."""
    spec: t.Any = conda_env.ARGUMENT_SPEC["environments"]
    own: t.Any = ARGUMENT_SPEC["environments"]
    foreign = spec["options"].keys() - own["options"].keys()
    listed = arguments.get("environments")
    if isinstance(listed, list) and all(isinstance(entry, dict) for entry in listed):
        listed = [{key: value for key, value in entry.items() if key not in foreign} for entry in listed]
        return {**arguments, "environments": listed}
    return arguments


def _tasks(arguments: dict[str, t.Any], directory: str) -> list[_Task]:
    """What there is to do.

    :raises CondaError: an environment lacks something, or a file would be written that something else needs.
    """

    def path(value: str | None) -> str:
        return os.path.realpath(os.path.join(directory, value)) if value else ""

    tasks: list[_Task] = []
    for entry in arguments["environments"]:
        name = entry["name"]
        if not entry["spec"]:
            continue
        if not (entry["lock"] or "").endswith((".yml", ".yaml")):
            raise CondaError(f"environments: {name}: lock: name the file to write, which must end in .yml or .yaml")
        options = Options(
            channels=tuple(arguments["channels"]),
            channel_alias=arguments["channel_alias"],
            platforms=tuple(entry["platforms"] or arguments["platforms"]),
            virtual_packages={**arguments["virtual_packages"], **(entry["virtual_packages"] or {})},
            channel_priority=arguments["channel_priority"],
            exclude_newer=arguments["exclude_newer"],
            index_url=arguments["index_url"],
            extra_index_urls=tuple(arguments["extra_index_urls"]),
            find_links=tuple(place if "://" in place else path(place) for place in arguments["find_links"]),
            update=tuple(sorted({*arguments["update"], *entry["update"]})),
            update_all=arguments["update_all"],
        )
        task = _Task(name, path(entry["spec"]), path(entry["lock"]), path(entry["explicit"]), options)
        if task not in tasks:
            tasks.append(task)
    taken = {task.spec: f"the spec of {task.name}" for task in tasks}
    for task in tasks:
        for option, file in (("lock", task.lock), *(("explicit", file) for file in task.explicit_files())):
            if file in taken:
                raise CondaError(f"environments: {task.name}: {option}: {file} is {taken[file]}: choose another file")
            if not os.path.isdir(os.path.dirname(file)):
                raise CondaError(f"environments: {task.name}: {option}: the directory of {file} is not there: make it")
            taken[file] = f"the {option} of {task.name}"
    return tasks


def _attempt(task: _Task) -> tuple[Locking, dict[str, str]] | CondaError:
    try:
        return task.run()
    except CondaError as error:
        return error


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise CondaError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _write(texts: t.Mapping[str, str]) -> None:
    for path, text in texts.items():
        mode = stat.S_IMODE(os.stat(path).st_mode) if os.path.exists(path) else 0o644
        write_file(path, text, mode)


def _report(task: _Task, outcome: Locking, texts: t.Mapping[str, str]) -> dict[str, t.Any]:
    return {
        "name": task.name,
        "lock": task.lock,
        "files": list(texts),
        "solved": list(outcome.solved),
        "changes": {platform: changes.as_dict() for platform, changes in outcome.changes.items()},
        "moved_too": list(outcome.moved_too),
    }


def _diff(task: _Task, outcome: Locking, texts: t.Mapping[str, str]) -> str:
    """What a person reviews: packages, not lines of a file."""
    lines = []
    for platform, changes in outcome.changes.items():
        if changes:
            lines += [f"{task.name} ({platform}):", *(f"  {line}" for line in changes.lines())]
    return "\n".join(lines or [f"{task.name}: no package differs, but {', '.join(texts)}"]) + "\n"
