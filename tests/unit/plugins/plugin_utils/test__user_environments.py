"""What people get on a node, as text, and what is told of a node that differs. That shells run it is tried on nodes."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils import _user_environments as environments
from ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils._user_environments import SettingsError

BEGIN = "# BEGIN envfleet.gpu_cluster (role user_environments)"


@pytest.fixture
def settings() -> dict[str, Any]:
    """The role's defaults, with two shared environments."""
    return {
        "state": "present",
        "root": "",
        "envs_dirs": ["/opt/envfleet/envs", "~/.conda/envs"],
        "pkgs_dirs": ["~/.conda/pkgs", "/opt/envfleet/pkgs"],
        "channels": ["conda-forge", "https://mirror.example/lab"],
        "channel_alias": "https://conda.anaconda.org",
        "shared": ["ml", {"name": "old", "state": "absent"}, {"name": "bio", "state": "present"}],
        "conda_prefix": "/opt/conda",
        "conda_enabled": True,
        "umask": "0022",
        "user_site_enabled": False,
        "library_path_enabled": False,
        "startup_files": ["/etc/bash.bashrc", "/etc/zshenv"],
        "motd_path": "/etc/motd.d/envfleet",
        "guide_path": "/usr/local/share/doc/envfleet/environments.md",
        "contact": "",
    }


def texts(settings: dict[str, Any]) -> dict[str, str]:
    return {file["path"]: file.get("content", "") for file in environments.files(settings)}


def test_the_guide_is_made_of_the_settings(settings: dict[str, Any]) -> None:
    page = texts(settings)[settings["guide_path"]]
    for word in (
        "bio, ml",
        "https://conda.anaconda.org/conda-forge",
        "https://mirror.example/lab",
        "~/.conda/envs/mine",
    ):
        assert word in page
    assert "old" not in page
    assert "nobody else can look" not in page
    assert max(map(len, page.splitlines())) <= 120

    settings |= {"shared": [], "channels": [], "umask": "", "user_site_enabled": True, "library_path_enabled": True}
    settings |= {"root": "/scratch/conda", "contact": "Ask us."}
    settings |= {"envs_dirs": ["/scratch/conda/$USER/envs"], "pkgs_dirs": ["/scratch/conda/$USER/pkgs"]}
    other = texts(settings)[settings["guide_path"]]
    for word in (
        "There are no shared ones yet",
        "any channel",
        "/scratch/conda/$USER/envs/mine",
        "nobody else can look",
        "Ask us.",
    ):
        assert word in other
    for word in ("umask", "PYTHONNOUSERSITE", "LD_LIBRARY_PATH", "What is set for you"):
        assert word not in other


def test_the_message_has_two_lines_and_names_no_more_than_five(settings: dict[str, Any]) -> None:
    settings["shared"] = [{"name": f"env{number}"} for number in range(7)]
    lines = texts(settings)["/etc/motd.d/envfleet"].splitlines()
    assert len(lines) == 2
    assert "env4 and 2 more" in lines[0]
    assert lines[1].endswith(settings["guide_path"])


@pytest.mark.parametrize("path", ["motd_path", "guide_path"])
def test_no_path_means_no_file(settings: dict[str, Any], path: str) -> None:
    unwanted = settings[path]
    settings[path] = ""
    assert unwanted not in texts(settings)


@pytest.mark.parametrize("conda", [True, False])
@pytest.mark.parametrize("library_path", [True, False])
@pytest.mark.parametrize("umask", ["", "0022", "0077"])
def test_what_is_written_is_code_of_its_shell(
    settings: dict[str, Any], umask: str, library_path: bool, conda: bool
) -> None:
    settings |= {"umask": umask, "library_path_enabled": library_path, "conda_enabled": conda}
    found = texts(settings)
    for shell in ("sh", "bash", "zsh"):
        if shutil.which(shell):
            subprocess.run([shell, "-n"], input=found[environments.PROFILE], text=True, check=True)
    if shutil.which("fish"):
        subprocess.run(["fish", "--no-execute"], input=found[environments.FISH], text=True, check=True)
    for path in (environments.PROFILE, environments.FISH, environments.CSH[0]):
        assert ("conda" in found[path].replace("envfleet-conda", "conda").replace("envfleet.gpu", "")) >= conda
        assert ("umask" in found[path]) == bool(umask)
    assert bool(found[environments.CSH_CONDA]) == conda


def test_a_session_begins_with_the_policy_once(settings: dict[str, Any]) -> None:
    """In the shell of this machine: without conda, the text needs nothing but a shell."""
    settings["conda_enabled"] = False
    text = texts(settings)[environments.PROFILE]
    script = f"set -eu; umask 0002\n{text}\numask; echo $PYTHONNOUSERSITE; umask 0077; unset PYTHONNOUSERSITE\n{text}\n"
    script += "umask; echo ${PYTHONNOUSERSITE-unset}"
    done = subprocess.run(
        ["sh", "-c", script], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["0022", "1", "0077", "unset"]


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_base_that_is_away_or_read_twice_breaks_no_shell(
    settings: dict[str, Any], tmp_path: Path, shell: str
) -> None:
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here; acceptance tests try it on a node")
    hook, profile = tmp_path / "conda/etc/profile.d/conda.sh", tmp_path / "conda.sh"
    hook.parent.mkdir(parents=True)
    profile.write_text(f". {hook}\n")
    settings["conda_prefix"] = str(tmp_path / "conda")
    text = texts(settings)[environments.PROFILE].replace("/etc/profile.d/envfleet-conda.sh", str(profile))

    def run(script: str) -> str:
        command = [shell, *(["-f"] if shell == "zsh" else []), "-euc", script]
        environment = {"PATH": "/usr/bin:/bin", "LD_LIBRARY_PATH": "/x"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout + done.stderr

    assert run(text) == ""
    hook.write_text("conda() { echo real $1; }\n")
    shown = run(f"{text}\n{text}\nrm {hook}\n{text}\nconda list; conda activate x; echo ${{LD_LIBRARY_PATH-unset}}")
    told = "conda activate: LD_LIBRARY_PATH is not taken along, it was /x"
    assert sorted(shown.splitlines()) == sorted(["real list", "real activate", "unset", told])


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("umask", "0002", "user_environments_umask: '0002'"),
        ("conda_prefix", "/opt/my conda", "user_environments_conda_prefix: '/opt/my conda'"),
        ("guide_path", "/tmp/$(id)", "user_environments_guide_path"),
        ("motd_path", "motd", "user_environments_motd_path"),
        ("startup_files", ["/etc/x;y"], "user_environments_startup_files"),
        ("root", "/scratch", "user_environments_root: conda is not told of /scratch: have /scratch/$USER/envs"),
        ("user_site_enabled", "maybe", "user_environments_user_site_enabled: 'maybe'"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(settings: dict[str, Any], option: str, value: Any, told: str) -> None:
    with pytest.raises(SettingsError, match="user_environments_") as error:
        environments.files({**settings, option: value})
    assert str(error.value).startswith(told)


def node_of(settings: dict[str, Any], **startup_files: str) -> dict[str, Any]:
    """A node that is as *settings* say, with these start-up files."""
    files: dict[str, Any] = {}
    for file in environments.files(settings):
        content = file.get("content", "").encode()
        digest = hashlib.sha256(content).hexdigest()
        found = {"state": "file", "mode": "0644", "owner": "root", "group": "root", "sha256": digest}
        files[file["path"]] = found if content else {"state": "absent"}
    files |= {path: {"state": "absent"} for path in settings["startup_files"]}
    files |= {
        f"/etc/{name.replace('_', '.')}": {"state": "file", "content": text} for name, text in startup_files.items()
    }
    return {"files": files, "user_directories": {}}


def subjects(node: dict[str, Any], settings: dict[str, Any]) -> dict[str, str]:
    return {finding.subject: finding.actual for finding in environments.findings(node, settings)}


def test_start_up_files_begin_with_a_block_where_they_are(settings: dict[str, Any]) -> None:
    block = f"{BEGIN}\n[ ! -r {environments.PROFILE} ] || . {environments.PROFILE}\n{BEGIN.replace('BEGIN', 'END')}\n"
    assert subjects(node_of(settings, bash_bashrc=f"{block}more\n"), settings) == {}
    assert subjects(node_of(settings, bash_bashrc="more\n"), settings) == {"/etc/bash.bashrc": "no such block"}
    other = node_of(settings, bash_bashrc=block.replace("users", "other"))
    assert subjects(other, settings) == {"/etc/bash.bashrc": "another block"}
    assert [hook["path"] for hook in environments.hooks(other, settings)] == ["/etc/bash.bashrc"]

    gone = {**settings, "state": "absent"}
    assert subjects(node_of(gone, bash_bashrc="more\n"), gone) == {}
    assert subjects(node_of(gone, bash_bashrc=f"{block}more\n"), gone) == {"/etc/bash.bashrc": "another block"}


def test_absent_wants_every_file_gone(settings: dict[str, Any]) -> None:
    gone = {**settings, "state": "absent"}
    assert {file["path"] for file in environments.files(gone)} == {
        file["path"] for file in environments.files(settings)
    }
    assert set(subjects(node_of(settings), gone)) == set(texts(settings))


def test_the_role_looks_at_all_that_it_writes_and_knows_its_own_blocks(settings: dict[str, Any]) -> None:
    role = Path(__file__).resolve().parents[4] / "roles/user_environments"
    looked_at = yaml.safe_load((role / "vars/main.yml").read_text())["__user_environments_paths"]
    fixed = texts(settings).keys() - {settings["motd_path"], settings["guide_path"]}
    assert [path for path in fixed if f"'{path}'" not in looked_at] == []
    assert f'marker: "{environments.MARKER}"' in (role / "tasks/files.yml").read_text()


def test_directories_are_told_one_by_one_up_to_twenty(settings: dict[str, Any]) -> None:
    settings |= {"root": "/scratch/conda", "envs_dirs": ["/scratch/conda/$USER/envs"]}
    settings |= {"pkgs_dirs": ["/scratch/conda/$USER/pkgs"]}
    absent = {"actual": "absent", "fix": "auto"}
    wrong = {f"user{number:02}": absent for number in range(25)}
    seen = {"root": "/scratch/conda", "problem": absent, "unknown": ["user eve"], "wrong": wrong}
    found = environments.findings({**node_of(settings), "user_directories": seen}, settings)
    assert [found[0].fix, found[0].severity] == ["human", "warning"]
    assert [finding.subject for finding in found[1:3]] == ["/scratch/conda", "/scratch/conda/user00"]
    assert found[-1].subject == "5 more in /scratch/conda"
    assert len(found) == 23
