"""The stand-in conda answers as conda 26.7.1 was seen to: the expectations here are what the real one printed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lab.channel import write_repodata

from .conftest import Conda, tiny

NOTHING_TO_DO = {"success": True, "message": "All requested packages already installed."}


def linked(channel: str, name: str, version: str, build: str, subdir: str) -> dict[str, Any]:
    """A package as conda lists it."""
    return {
        "base_url": channel,
        "build_number": 0,
        "build_string": build,
        "channel": "channel",
        "dist_name": f"{name}-{version}-{build}",
        "name": name,
        "platform": subdir,
        "version": version,
    }


def python(channel: Path) -> dict[str, Any]:
    return linked(channel.as_uri(), "python", "3.10.13", "0_cpython", "linux-64")


def noarch(channel: Path, name: str, version: str) -> dict[str, Any]:
    return linked(channel.as_uri(), name, version, "pyh_0", "noarch")


def explicit(url: str, *names: str, channel: Path, kind: str = "sha256") -> str:
    """An @EXPLICIT list with the packages' hashes."""
    lines = ["# platform: linux-64", "@EXPLICIT"]
    for name in names:
        (path,) = channel.glob(f"*/{name}-*.conda")
        lines.append(f"{url}/{path.parent.name}/{path.name}#{hashlib.new(kind, path.read_bytes()).hexdigest()}")
    return "\n".join(lines) + "\n"


def test_version_says_which_conda_and_that_it_is_none(conda: Conda) -> None:
    assert re.fullmatch(r"conda 26\.7\.1\+lab\.\d+\n", conda.ok("--version"))
    assert "stand-in" in conda.ok("--help")


def test_create_reports_fetch_prefix_and_link(conda: Conda, channel: Path) -> None:
    answer = conda.json("create", "-y", "-n", "x", "python=3.10", "six")
    assert list(answer) == ["success", "actions", "prefix"]
    actions = answer["actions"]
    assert list(actions) == ["FETCH", "PREFIX", "LINK"]
    assert actions["PREFIX"] == answer["prefix"] == str(conda.env("x"))
    assert actions["LINK"] == [python(channel), noarch(channel, "pip", "26.3"), noarch(channel, "six", "1.17.0")]
    fetched = actions["FETCH"][2]
    package = channel / "noarch" / "six-1.17.0-pyh_0.conda"
    assert fetched == {
        "name": "six",
        "version": "1.17.0",
        "build": "pyh_0",
        "build_number": 0,
        "channel": f"{channel.as_uri()}/noarch",
        "subdir": "noarch",
        "fn": "six-1.17.0-pyh_0.conda",
        "md5": hashlib.md5(package.read_bytes()).hexdigest(),
        "legacy_bz2_size": None,
        "url": f"{channel.as_uri()}/noarch/six-1.17.0-pyh_0.conda",
        "sha256": hashlib.sha256(package.read_bytes()).hexdigest(),
        "arch": None,
        "platform": None,
        "depends": ["python >=2.7"],
        "constrains": [],
        "track_features": "",
        "features": "",
        "noarch": "python",
        "license": "MIT",
        "package_type": "noarch_python",
        "timestamp": 1700000000000,
        "size": package.stat().st_size,
    }


def test_dry_run_plans_and_makes_nothing(conda: Conda) -> None:
    answer = conda.json("create", "-n", "x", "--dry-run", "python=3.10", "six")
    assert answer["dry_run"] is True
    assert [one["name"] for one in answer["actions"]["LINK"]] == ["python", "pip", "six"]
    assert not conda.env("x").exists()


def test_installed_files_hold_their_prefix_and_match_their_record(conda: Conda) -> None:
    conda.ok("create", "-y", "-n", "x", "six")
    assert (conda.env("x") / "etc" / "six.conf").read_text() == f"prefix = {conda.env('x')}\n"
    record = json.loads((conda.env("x") / "conda-meta" / "six-1.17.0-pyh_0.json").read_text())
    for entry in record["paths_data"]["paths"]:
        digest = hashlib.sha256((conda.env("x") / entry["_path"]).read_bytes()).hexdigest()
        assert digest == entry.get("sha256_in_prefix", entry["sha256"])


def test_records_are_readable_by_all_and_name_what_was_asked_for(conda: Conda, channel: Path) -> None:
    conda.ok("create", "-y", "-n", "x", "python=3.10", "six")
    meta = conda.env("x") / "conda-meta"
    assert {stat.S_IMODE(path.stat().st_mode) for path in meta.iterdir()} == {0o644}
    six = json.loads((meta / "six-1.17.0-pyh_0.json").read_text())
    assert (six["channel"], six["requested_specs"]) == (f"{channel.as_uri()}/noarch", ["six"])
    python = json.loads((meta / "python-3.10.13-0_cpython.json").read_text())
    assert (python["depends"], python["requested_spec"]) == ([], "python=3.10")
    assert not (conda.env("x") / "CACHEDIR.TAG").exists(), "backups would skip the environment"


def test_nobody_else_can_write_to_what_is_installed(conda: Conda) -> None:
    conda.ok("create", "-y", "-n", "x", "tool")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in conda.env("x").glob("bin/*")}
    assert modes["tool"] == 0o755
    found = [path for path in conda.env("x").rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o022]
    assert found == []


def test_history_has_condas_format(conda: Conda, channel: Path) -> None:
    conda.ok("create", "-y", "-n", "x", "six=1.16.0")
    conda.ok("install", "-y", "-n", "x", "six=1.17.0")
    conda.ok("install", "-y", "-n", "x", "six")
    lines = (conda.env("x") / "conda-meta" / "history").read_text().splitlines()
    assert [line for line in lines if line.startswith("==>")] == [
        line for line in lines if re.match(r"==> [-\d]+ [:\d]+ <==", line)
    ]
    assert lines.count(f"-{channel.as_uri()}/noarch::six-1.16.0-pyh_0") == 1
    assert lines.count(f"+{channel.as_uri()}/noarch::six-1.17.0-pyh_0") == 1
    assert lines[-1] == '# update specs: ["six=1.17.0"]', "an installation of nothing adds nothing"


def test_nothing_to_install(conda: Conda) -> None:
    conda.ok("create", "-y", "-n", "x", "python=3.10", "six")
    assert conda.json("install", "-y", "-n", "x", "six") == NOTHING_TO_DO
    assert conda.json("update", "-y", "-n", "x", "--all") == NOTHING_TO_DO


def test_install_adds_and_keeps_what_is_there(conda: Conda, channel: Path) -> None:
    conda.ok("create", "-y", "-n", "x", "six=1.16.0")
    answer = conda.json("install", "-y", "-n", "x", "attrs")
    assert answer["actions"]["LINK"] == [noarch(channel, "attrs", "23.1.0")]
    assert "UNLINK" not in answer["actions"]
    assert conda.json("update", "-y", "-n", "x", "six", "-d")["actions"]["UNLINK"] == [noarch(channel, "six", "1.16.0")]


def test_remove_takes_what_needs_the_package_along(conda: Conda, channel: Path) -> None:
    conda.ok("create", "-y", "-n", "x", "app", "attrs")
    answer = conda.json("remove", "-y", "-n", "x", "six")
    assert answer["success"] is True
    assert answer["actions"]["FETCH"] == []
    assert {one["name"] for one in answer["actions"]["UNLINK"]} == {"six", "app"}
    assert [one["name"] for one in conda.json("list", "-n", "x")] == ["attrs", "pip", "python"]
    assert not (conda.env("x") / "etc" / "six.conf").exists()


def test_remove_of_what_is_not_there(conda: Conda) -> None:
    conda.ok("create", "-y", "-n", "x", "six")
    assert conda.error("remove", "-y", "-n", "x", "attrs")["exception_name"] == "PackagesNotFoundInPrefixError"


def test_create_over_an_environment_replaces_it(conda: Conda) -> None:
    conda.ok("create", "-y", "-n", "x", "attrs")
    (conda.env("x") / "mine").touch()
    assert conda.json("create", "-n", "x", "six")["success"] is True
    assert not (conda.env("x") / "mine").exists()
    assert conda.error("create", "-n", "x", "six", "--dry-run")["exception_name"] == "CondaValueError"


def test_create_refuses_a_directory_of_something_else(conda: Conda) -> None:
    (conda.base / "mine").mkdir()
    (conda.base / "mine" / "file").touch()
    assert (
        conda.error("create", "-y", "-p", str(conda.base / "mine"))["exception_name"]
        == "DirectoryNotACondaEnvironmentError"
    )
    assert (conda.base / "mine" / "file").exists()


def test_list(conda: Conda, channel: Path) -> None:
    conda.ok("create", "-y", "-n", "x", "python=3.10", "six")
    rows = [noarch(channel, "pip", "26.3"), python(channel), noarch(channel, "six", "1.17.0")]
    assert conda.json("list", "-n", "x") == rows
    lines = conda.ok("list", "-n", "x", "--explicit", "--md5").splitlines()
    assert lines[:3] == [
        "# This file may be used to create an environment using:",
        "# $ conda create --name <env> --file <this file>",
        "# platform: linux-64",
    ]
    assert lines[4] == "@EXPLICIT"
    md5 = hashlib.md5((channel / "noarch" / "six-1.17.0-pyh_0.conda").read_bytes()).hexdigest()
    assert [line.split("/")[-1].split("-")[0] for line in lines[5:]] == ["python", "pip", "six"]
    assert lines[7] == f"{channel.as_uri()}/noarch/six-1.17.0-pyh_0.conda#{md5}"


def test_list_shows_what_pip_installed(conda: Conda) -> None:
    conda.ok("create", "-y", "-n", "x", "six")
    info = conda.env("x") / "lib" / "python3.10" / "site-packages" / "thing-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thing\nVersion: 2.0\n")
    (info / "INSTALLER").write_text("pip\n")
    (row,) = (row for row in conda.json("list", "-n", "x") if row["name"] == "thing")
    assert (row["channel"], row["build_string"], row["platform"]) == ("pypi", "pypi_0", "pypi")
    assert conda.json("env", "export", "-n", "x")["dependencies"][-1] == {"pip": ["thing==2.0"]}


def test_export(conda: Conda, channel: Path) -> None:
    conda.ok("create", "-y", "-n", "t", "python=3.10", "six")
    assert conda.ok("env", "export", "-n", "t") == (
        f"name: t\nchannels:\n  - {channel.as_uri()}\ndependencies:\n"
        f"  - pip=26.3=pyh_0\n  - python=3.10.13=0_cpython\n  - six=1.17.0=pyh_0\nprefix: {conda.env('t')}\n\n"
    )
    assert conda.json("env", "export", "-n", "t") == {
        "name": "t",
        "channels": [channel.as_uri()],
        "dependencies": ["pip=26.3=pyh_0", "python=3.10.13=0_cpython", "six=1.17.0=pyh_0"],
        "prefix": str(conda.env("t")),
    }
    assert conda.json("env", "export", "-n", "t", "--from-history")["dependencies"] == ["python=3.10", "six"]
    assert conda.json("env", "export", "-n", "t", "--no-builds")["dependencies"][1] == "python=3.10.13"


def test_env_list(conda: Conda) -> None:
    elsewhere = conda.base / "elsewhere"
    conda.ok("create", "-y", "-n", "x", "six")
    conda.ok("create", "-y", "-p", str(elsewhere), "six")
    (conda.env("x") / "conda-meta" / "frozen").touch()
    answer = conda.json("env", "list")
    ours = [path for path in answer["envs"] if path.startswith(str(conda.base))]
    assert ours == [str(elsewhere), str(conda.root), str(conda.env("x"))]
    details = answer["envs_details"]
    assert {key: details[str(conda.env("x"))][key] for key in ("name", "active", "base", "frozen", "writable")} == {
        "name": "x",
        "active": False,
        "base": False,
        "frozen": True,
        "writable": True,
    }
    assert details[str(conda.env("x"))]["created"].startswith("20")
    assert (details[str(conda.root)]["name"], details[str(conda.root)]["created"]) == ("base", None)
    text = conda.ok("env", "list")
    assert text.startswith("\n# conda environments:\n#\n# * -> active\n# + -> frozen\n")
    assert f"\nbase                     {conda.root}\n" in text
    assert f"\n                         {elsewhere}\n" in text


def test_env_remove(conda: Conda) -> None:
    conda.ok("create", "-y", "-n", "x", "python=3.10")
    answer = conda.json("env", "remove", "-y", "-n", "x")
    assert [one["name"] for one in answer["actions"]["UNLINK"]] == ["pip", "python"]
    assert not conda.env("x").exists()
    assert str(conda.env("x")) not in (conda.home / ".conda" / "environments.txt").read_text()


def test_run_hands_the_exit_code_on(conda: Conda) -> None:
    conda.ok("create", "-y", "-n", "x", "six")
    done = conda.run("run", "-n", "x", "sh", "-c", 'echo "$CONDA_PREFIX $CONDA_DEFAULT_ENV"; exit 7')
    assert done.returncode == 7
    assert done.stdout == f"{conda.env('x')} x\n"
    assert done.stderr.startswith("ERROR conda.cli.main_run:execute(148): `conda run sh -c ")


def test_run_starts_the_program_of_the_environment(conda: Conda) -> None:
    conda.ok("create", "-y", "-n", "x", "python=3.10")
    assert conda.ok("run", "-n", "x", "which", "python").strip() == str(conda.env("x") / "bin" / "python")


def test_info(conda: Conda, channel: Path) -> None:
    assert conda.ok("info", "--base") == f"{conda.root}\n"
    facts = conda.json("info")
    assert facts["conda_version"].startswith("26.7.1+lab")
    assert facts["root_prefix"] == str(conda.root)
    assert facts["channels"] == [f"{channel.as_uri()}/linux-64", f"{channel.as_uri()}/noarch"]
    assert facts["envs_dirs"] == [str(conda.root / "envs"), str(conda.home / ".conda" / "envs")]
    assert facts["pkgs_dirs"] == [str(conda.root / "pkgs"), str(conda.home / ".conda" / "pkgs")]
    assert facts["config_files"] == [str(conda.etc / "etc/conda/condarc.d/10-policy.yml")]


def test_search(conda: Conda) -> None:
    assert [one["version"] for one in conda.json("search", "six")["six"]] == ["1.16.0", "1.17.0"]


# Errors


@pytest.mark.parametrize("command", [["list"], ["install", "-y", "six"], ["remove", "-y", "six"], ["env", "export"]])
def test_environment_not_found(conda: Conda, command: list[str]) -> None:
    assert conda.error(*command, "-n", "nope") == {
        "caused_by": "None",
        "error": f"EnvironmentLocationNotFound: Not a conda environment: {conda.env('nope')}",
        "exception_name": "EnvironmentLocationNotFound",
        "exception_type": "<class 'conda.exceptions.EnvironmentLocationNotFound'>",
        "location": str(conda.env("nope")),
        "message": f"Not a conda environment: {conda.env('nope')}",
    }


@pytest.mark.parametrize(
    "command", [["install", "-y", "attrs"], ["remove", "-y", "six"], ["env", "remove", "-y"], ["update", "-y", "six"]]
)
def test_frozen_environment_is_left_alone(conda: Conda, command: list[str]) -> None:
    conda.ok("create", "-y", "-n", "x", "six=1.16.0")
    (conda.env("x") / "conda-meta" / "frozen").touch()
    message = (
        f"Cannot modify '{conda.env('x')}'. The environment is marked as frozen. "
        "You can bypass these protections with the `--override-frozen` flag, at your own risk."
    )
    error = conda.error(*command, "-n", "x")
    assert (error["exception_name"], error["message"]) == ("EnvironmentIsFrozenError", message)
    assert conda.json(*command, "-n", "x", "--override-frozen")["success"] is True


def test_frozen_is_heeded_through_a_link_unless_the_setting_says_no(conda: Conda) -> None:
    conda.ok("create", "-y", "-p", str(conda.base / "generation"), "six=1.16.0")
    (conda.base / "generation" / "conda-meta" / "frozen").write_text('{"message": "ask the admins"}')
    conda.env("x").parent.mkdir(parents=True)
    conda.env("x").symlink_to(conda.base / "generation")
    assert "ask the admins" in conda.error("install", "-y", "-n", "x", "attrs")["message"]
    assert conda.json("install", "-y", "-n", "x", "attrs", CONDA_PROTECT_FROZEN_ENVS="0")["success"] is True


def test_package_not_found(conda: Conda, channel: Path) -> None:
    error = conda.error("create", "-y", "-n", "y", "nosuchpkg")
    assert error["exception_name"] == "PackagesNotFoundInChannelsError"
    assert error["packages"] == ["nosuchpkg"]
    assert error["packages_formatted"] == "\n  - nosuchpkg"
    assert error["channels_formatted"] == f"\n  - {channel.as_uri()}"
    assert error["channel_urls"] == [
        {
            "auth": None,
            "location": str(channel.parent),
            "name": "channel",
            "package_filename": None,
            "platform": None,
            "scheme": "file",
            "token": None,
        }
    ]
    assert error["message"].startswith(
        "The following packages are not available from current channels:\n\n  - nosuchpkg\n"
    )
    assert not conda.env("y").exists()


def test_version_not_found(conda: Conda) -> None:
    error = conda.error("create", "-y", "-n", "y", "python=3.9")
    assert (error["exception_name"], error["packages"]) == ("PackagesNotFoundInChannelsError", ["python=3.9"])


def test_conflict_between_packages(conda: Conda) -> None:
    assert conda.error("create", "-y", "-n", "y", "app", "six=1.16.0")["exception_name"] == "UnsatisfiableError"


@pytest.mark.parametrize("channels", ["", "channels:  #!final\n  - {channel}\n"])
def test_channel_off_the_allow_list(conda: Conda, channel: Path, channels: str) -> None:
    policy = channels.format(channel=channel.as_uri()) + f"allowlist_channels: [{channel.as_uri()}]\n"
    conda.condarc(policy, "etc/conda/condarc.d/20-allow.yml")
    message = "Channel not included in allowlist:\n  channel name: ev2\n  channel url: file:///srv/ev2\n"
    assert conda.error("create", "-y", "-n", "y", "-c", "file:///srv/ev2", "six") == {
        "caused_by": "None",
        "channel_name": "ev2",
        "channel_url": "file:///srv/ev2",
        "error": f"ChannelNotAllowed: {message}",
        "exception_name": "ChannelNotAllowed",
        "exception_type": "<class 'conda.exceptions.ChannelNotAllowed'>",
        "message": message,
        "warning": "Channel not included in allowlist",
    }
    assert conda.error("create", "-y", "-n", "y", "file:///srv/ev2::six")["exception_name"] == "ChannelNotAllowed"


def test_unreachable_channel(conda: Conda) -> None:
    error = conda.error("create", "-y", "-n", "y", "-O", "-c", "http://127.0.0.1:1/x", "six")
    assert error["exception_name"] == "CondaHTTPError"


def test_no_channels(conda: Conda) -> None:
    conda.condarc("channels: []\n")
    assert conda.error("create", "-y", "-n", "y", "six")["exception_name"] == "NoChannelsConfiguredError"


@pytest.mark.usefixtures("no_root")
def test_environment_of_someone_else(conda: Conda) -> None:
    conda.ok("create", "-y", "-n", "x", "six")
    (conda.env("x") / "conda-meta" / "history").chmod(0o444)
    error = conda.error("install", "-y", "-n", "x", "attrs")
    assert error["exception_name"] == "EnvironmentNotWritableError"
    assert (error["environment_location"], error["uid"], error["gid"]) == (
        str(conda.env("x")),
        os.geteuid(),
        os.getegid(),
    )


def test_options_of_no_command_are_refused_by_the_parser(conda: Conda) -> None:
    done = conda.run("create", "--solver", "nosuch", "-n", "x")
    assert (done.returncode, done.stdout) == (2, "")


# @EXPLICIT lists


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_explicit_list(conda: Conda, channel: Path, http_channel: str, kind: str) -> None:
    (conda.base / "lock.txt").write_text(explicit(http_channel, "python", "attrs", channel=channel, kind=kind))
    assert conda.ok("create", "-y", "-n", "x", "--file", str(conda.base / "lock.txt"), "--json") == ""
    record = json.loads((conda.env("x") / "conda-meta" / "attrs-23.1.0-pyh_0.json").read_text())
    package = (channel / "noarch" / "attrs-23.1.0-pyh_0.conda").read_bytes()
    assert record["depends"] == ["python >=3.7"]
    assert record["url"] == f"{http_channel}/noarch/attrs-23.1.0-pyh_0.conda"
    assert (record["md5"], record["sha256"]) == (hashlib.md5(package).hexdigest(), hashlib.sha256(package).hexdigest())
    assert record["size"] == len(package)


def test_explicit_list_with_a_wrong_hash_changes_nothing(conda: Conda, channel: Path, http_channel: str) -> None:
    text = explicit(http_channel, "python", "attrs", channel=channel)
    (conda.base / "good.txt").write_text(text)
    (conda.base / "bad.txt").write_text(re.sub(r"(attrs.*#)........", r"\g<1>00000000", text))
    for _ in range(2):
        error = conda.error("create", "-y", "-n", "x", "--file", str(conda.base / "bad.txt"))
        assert error["exception_name"] == "CondaMultiError"
        (inner,) = error["errors"]
        assert (inner["exception_name"], inner["checksum_type"]) == ("ChecksumMismatchError", "sha256")
        assert not conda.env("x").exists()
        # The second time, the right package lies in the cache.
        conda.ok("create", "-y", "-n", "other", "--file", str(conda.base / "good.txt"))


def test_explicit_list_in_check_mode_says_nothing(conda: Conda, channel: Path, http_channel: str) -> None:
    (conda.base / "lock.txt").write_text(explicit(http_channel, "python", channel=channel))
    assert conda.ok("create", "-n", "x", "--file", str(conda.base / "lock.txt"), "--dry-run", "--json") == ""
    assert not conda.env("x").exists()


def test_explicit_list_replaces_versions_and_prunes_nothing(conda: Conda, channel: Path, http_channel: str) -> None:
    conda.ok("create", "-y", "-n", "x", "six=1.16.0")
    (conda.base / "lock.txt").write_text(explicit(http_channel, "python", "six-1.17.0", channel=channel))
    conda.ok("install", "-y", "-n", "x", "--file", str(conda.base / "lock.txt"))
    assert [(one["name"], one["version"]) for one in conda.json("list", "-n", "x")] == [
        ("pip", "26.3"),
        ("python", "3.10.13"),
        ("six", "1.17.0"),
    ]


def test_explicit_list_goes_past_the_allow_list(conda: Conda, channel: Path, http_channel: str) -> None:
    conda.condarc("allowlist_channels: [file:///srv/other]\n", "etc/conda/condarc.d/20-allow.yml")
    (conda.base / "lock.txt").write_text(explicit(http_channel, "python", channel=channel))
    conda.ok("create", "-y", "-n", "x", "--file", str(conda.base / "lock.txt"))


def test_offline_explicit_list_needs_the_cache(conda: Conda, channel: Path, http_channel: str) -> None:
    (conda.base / "lock.txt").write_text(explicit(http_channel, "python", channel=channel))
    call = ("create", "-y", "-n", "x", "--offline", "--file", str(conda.base / "lock.txt"))
    assert conda.error(*call)["errors"][0]["exception_name"] == "OfflineError"
    conda.ok(*(word for word in call if word != "--offline"))
    conda.ok(*call)


def test_a_package_remade_under_its_name_is_taken_anew(conda: Conda, tmp_path: Path) -> None:
    """rattler keeps unpacked packages by name; the hash must decide."""
    for number in ("1", "2"):
        tiny(tmp_path / number / "channel", "liba", "1.0", noarch="generic", build=f"{0}")
        tiny(tmp_path / number / "channel", f"only{number}", "1.0", noarch="generic")
    second = tmp_path / "2" / "channel"
    path = tiny(second, "liba", "1.0", "only2", noarch="generic", build="0")
    for number in ("1", "2"):
        write_repodata(tmp_path / number / "channel")
        url = (tmp_path / number / "channel").as_uri()
        conda.ok("create", "-y", "-n", "x", "-O", "-c", url, "liba")
    assert [one["name"] for one in conda.json("list", "-n", "x")] == ["liba", "only2"]
    record = json.loads((conda.env("x") / "conda-meta" / "liba-1.0-0.json").read_text())
    assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


# environment.yml


def test_environment_file(conda: Conda, channel: Path) -> None:
    # As with conda, the file's channels are used whatever the allow-list says.
    conda.condarc("allowlist_channels: [file:///srv/other]\nchannels: []\n")
    spec = conda.base / "environment.yml"
    spec.write_text(
        f"name: ml\nchannels: [{channel.as_uri()}]\ndependencies: [python=3.10, six]\nvariables: {{GREETING: hi}}\n"
    )
    assert conda.json("env", "create", "-f", str(spec))["prefix"] == str(conda.env("ml"))
    assert conda.ok("run", "-n", "ml", "sh", "-c", "echo $GREETING") == "hi\n"


def test_environment_file_without_a_name(conda: Conda) -> None:
    (conda.base / "bad.yml").write_text("name: bad\ndependencies: [python=3.10\n")
    message = (
        "The environment file(s) do not specify a name or prefix. Please provide one via -n/--name or -p/--prefix."
    )
    assert conda.error("env", "create", "-f", str(conda.base / "bad.yml"), code=2) == {
        "caused_by": "None",
        "error": f"ArgumentError: {message}",
        "exception_name": "ArgumentError",
        "exception_type": "<class 'conda.exceptions.ArgumentError'>",
        "message": message,
    }


def test_environment_file_missing(conda: Conda) -> None:
    assert conda.error("env", "create", "-f", "/nope.yml")["exception_name"] == "EnvironmentFileNotFound"


def test_failing_pip_leaves_the_environment(conda: Conda) -> None:
    spec = conda.base / "pf.yml"
    spec.write_text("name: pipfail\ndependencies: [python=3.10, pip, {pip: [./no-such-directory]}]\n")
    done = conda.run("env", "create", "-f", str(spec), "--json")
    assert done.returncode == 1
    assert "Pip subprocess error:" in done.stderr
    # conda prints two documents here: the plan, then the error.
    assert '"exception_name": "CondaEnvException"' in done.stdout
    assert conda.env("pipfail").exists()


# Settings


def shown(conda: Conda, key: str, **variables: str) -> Any:
    return conda.json("config", "--show", key, **variables)[key]


def test_stronger_files_come_first(conda: Conda) -> None:
    conda.condarc("channels: [site]\noffline: true\n")
    (conda.root / ".condarc").write_text("channels: [base]\n")
    (conda.home / ".condarc").write_text("channels: [mine, site]\noffline: false\n")
    assert shown(conda, "channels") == ["mine", "site", "base"]
    assert shown(conda, "channels", CONDA_CHANNELS="a,b") == ["a", "b", "mine", "site", "base"]
    assert shown(conda, "offline") is False


def test_final_settings_cannot_be_overruled(conda: Conda, channel: Path) -> None:
    conda.condarc(
        f"channels:  #!final\n  - {channel.as_uri()}\noffline: true  #!final\nallowlist_channels: [x] #!final\n"
    )
    (conda.home / ".condarc").write_text("channels: [mine]\noffline: false\n")
    assert shown(conda, "channels", CONDA_CHANNELS="a") == [channel.as_uri()]
    assert shown(conda, "offline", CONDA_OFFLINE="false") is True
    assert shown(conda, "allowlist_channels", CONDA_ALLOWLIST_CHANNELS="a") == ["x"]


def test_without_final_the_environment_adds_to_the_allow_list(conda: Conda) -> None:
    conda.condarc("allowlist_channels: [x]\n")
    assert shown(conda, "allowlist_channels", CONDA_ALLOWLIST_CHANNELS="a") == ["a", "x"]


def test_final_channels_stop_dash_c_and_overriding_can_be_forbidden(conda: Conda, channel: Path) -> None:
    conda.condarc(f"channels:  #!final\n  - {channel.as_uri()}\noverride_channels_enabled: false\n")
    assert conda.json("create", "-n", "x", "-d", "-c", "file:///srv/ev2", "six")["success"] is True
    error = conda.error("create", "-n", "x", "-d", "-O", "-c", "file:///srv/ev2", "six")
    assert error["exception_name"] == "OperationNotAllowed"


def test_sources_are_shown(conda: Conda, channel: Path) -> None:
    assert conda.json("config", "--show-sources") == {
        str(conda.etc / "etc/conda/condarc.d/10-policy.yml"): {"channels": [channel.as_uri()]},
        "cmd_line": {"json": True},
    }


def test_names_of_channels(conda: Conda) -> None:
    conda.condarc(
        "channel_alias: http://mirror/conda\nchannels: [one, defaults]\ndefault_channels: [http://mirror/main]\n"
    )
    channels = conda.json("info")["channels"]
    assert channels[::2] == ["http://mirror/conda/one/linux-64", "http://mirror/main/linux-64"]


def test_broken_condarc(conda: Conda) -> None:
    (conda.home / ".condarc").write_text("channels: [\n")
    assert conda.error("config", "--show")["exception_name"] == "ConfigurationLoadError"


def test_private_directories(conda: Conda) -> None:
    conda.ok(
        "create", "-y", "-n", "x", "six", CONDA_ENVS_DIRS=str(conda.base / "a"), CONDA_PKGS_DIRS=str(conda.base / "b")
    )
    assert (conda.base / "a" / "x" / "conda-meta" / "history").is_file()
    assert (conda.base / "b" / "six-1.17.0-pyh_0").is_dir()
    assert not (conda.root / "pkgs").exists()


# Activation


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_activation(conda: Conda, shell: str) -> None:
    conda.ok("create", "-y", "-n", "x", "six")
    conda.ok("create", "-y", "-n", "y", "six")
    for folder, text in (("activate.d", "HOOK=$CONDA_DEFAULT_ENV; export HOOK"), ("deactivate.d", "unset HOOK")):
        path = conda.env("x") / "etc" / "conda" / folder / "hook.sh"
        path.parent.mkdir(parents=True)
        path.write_text(f"{text}\n")
    (conda.env("x") / "conda-meta" / "state").write_text(json.dumps({"version": 1, "env_vars": {"WORD": "it's"}}))
    tell = 'echo "$PATH $CONDA_SHLVL ${CONDA_PREFIX-none} ${CONDA_DEFAULT_ENV-none} $PS1 ${WORD-none} ${HOOK-none}"'
    script = f"""
    set -eu
    PS1='> ' WORD=before; export WORD
    . {conda.root}/etc/profile.d/conda.sh
    conda activate x; {tell}
    conda activate y; {tell}
    conda deactivate; {tell}
    conda deactivate; {tell}
    """
    done = subprocess.run(
        [shell, "-c", script], capture_output=True, text=True, timeout=60, env=conda.environ, check=False
    )
    assert done.stderr == ""
    rest = f"{conda.root}/condabin:{conda.environ['PATH']}"
    x, y = conda.env("x"), conda.env("y")
    assert done.stdout.splitlines() == [
        f"{x}/bin:{rest} 1 {x} x (x) >  it's x",
        f"{y}/bin:{rest} 2 {y} y (y) >  none none",
        f"{x}/bin:{rest} 1 {x} x (x) >  it's x",
        f"{rest} 0 none none >  before none",
    ]


@pytest.mark.parametrize(
    ("shell", "extension", "expected"),
    [
        (
            "fish",
            "fish",
            [
                'set -gx PATH "{x}/bin" "/usr/bin" "/bin";',
                'set -gx CONDA_PREFIX "{x}";',
                'set -gx CONDA_SHLVL "1";',
                'set -gx CONDA_DEFAULT_ENV "x";',
                'set -gx CONDA_PROMPT_MODIFIER "(x) ";',
                'set -gx CONDA_EXE "{root}/bin/conda";',
                'set -gx CONDA_PYTHON_EXE "{root}/bin/python";',
                'set -gx WORD "it\'s";',
                'source "{x}/etc/conda/activate.d/hook.fish";',
            ],
        ),
        (
            "tcsh",
            "csh",
            [
                "set prompt='(x) > ';",
                'setenv PATH "{x}/bin:/usr/bin:/bin";',
                'setenv CONDA_PREFIX "{x}";',
                'setenv CONDA_SHLVL "1";',
                'setenv CONDA_DEFAULT_ENV "x";',
                'setenv CONDA_PROMPT_MODIFIER "(x) ";',
                'setenv CONDA_EXE "{root}/bin/conda";',
                'setenv CONDA_PYTHON_EXE "{root}/bin/python";',
                'setenv WORD "it\'s";',
                'source "{x}/etc/conda/activate.d/hook.csh";',
            ],
        ),
    ],
)
def test_activation_of_shells_that_are_not_posix(conda: Conda, shell: str, extension: str, expected: list[str]) -> None:
    conda.ok("create", "-y", "-n", "x", "six")
    for name in (f"hook.{extension}", "hook.sh"):
        path = conda.env("x") / "etc/conda/activate.d" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (conda.env("x") / "conda-meta" / "state").write_text(json.dumps({"version": 1, "env_vars": {"WORD": "it's"}}))
    code = conda.ok(f"shell.{shell}", "activate", "x", prompt="> ")
    assert code.splitlines() == [line.format(x=conda.env("x"), root=conda.root) for line in expected]
    active = {"CONDA_PREFIX": str(conda.env("x")), "CONDA_SHLVL": "1", "PATH": f"{conda.env('x')}/bin:/usr/bin:/bin"}
    left = conda.ok(f"shell.{shell}", "deactivate", **active)
    unset = {"fish": "set -e CONDA_PREFIX; or true;", "tcsh": "unsetenv CONDA_PREFIX;"}
    assert unset[shell] in left.splitlines()
    assert f"{conda.env('x')}/bin" not in left


def test_activation_keeps_the_name_of_a_link(conda: Conda) -> None:
    conda.ok("create", "-y", "-p", str(conda.base / "generation"), "six")
    conda.env("x").parent.mkdir(parents=True)
    conda.env("x").symlink_to(conda.base / "generation")
    code = conda.ok("shell.posix", "activate", "x")
    assert f"export CONDA_PREFIX={conda.env('x')}\n" in code


def test_activation_of_nothing(conda: Conda) -> None:
    done = conda.run("shell.posix", "activate", "nope")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("\nEnvironmentNameNotFound: Could not find conda environment: nope\n")
