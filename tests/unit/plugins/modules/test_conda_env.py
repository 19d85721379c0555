"""The module's interface, and the whole way from a lock file to an environment."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.envfleet.gpu_cluster.plugins.modules import conda_env

from lab.channel import write_repodata
from lab.packages import Entry

if TYPE_CHECKING:
    from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.locks import Package

    from unit.plugins.conftest import Channel, Node

pytestmark = pytest.mark.usefixtures("restore_umask")
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(node: Node, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call the module as its action plugin does, for environments by name: lists of packages, or options."""

    def call(check_mode: bool = False, settings: Any = (), **environments: Any) -> dict[str, Any]:
        listed = []
        for name, packages in environments.items():
            if isinstance(packages, dict):
                listed.append({"name": name, **packages})
                continue
            lock = node.want(*packages).lock.as_dict()
            listed.append({"name": name, "lock": f"{name}.txt", "locks": {"linux-64": lock}})
        arguments = {
            "environments": listed,
            "envs_dir": node.layout.envs_dir,
            "generations_dir": node.layout.generations_dir,
            "pkgs_dir": str(node.pkgs),
            "kernels_dir": str(node.root / "kernels"),
            "base_prefix": sys.prefix,
            "min_free_mb": 1,
            "_ansible_check_mode": check_mode,
            **dict(settings),
        }
        with patch_module_args(arguments), pytest.raises(SystemExit):
            conda_env.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return call


def test_life_of_an_environment(run: Run, node: Node, channel: Channel) -> None:
    first, second = [channel.add_tool(version="1.0")], [channel.add_tool(version="2.0")]
    planned = run(check_mode=True, ml=first)
    assert not node.root.exists()
    done = run(ml=first)
    for answer in (planned, done):
        assert answer["changed"]
        assert answer["environments"][0]["added"] == ["tool 1.0 0"]
        assert answer["diff"][0]["after"] == "tool 1.0 0\n"
    assert run(ml=first)["changed"] is False
    assert run(ml=first)["diff"] == []
    upgraded = run(ml=second)["environments"][0]
    assert upgraded["changed"] == [{"name": "tool", "before": "tool 1.0 0", "after": "tool 2.0 0"}]
    assert upgraded["previous"] == done["environments"][0]["generation"]
    assert run(ml=first)["environments"][0]["generation"] == upgraded["previous"]
    assert node.generation() == Path(upgraded["previous"])


def test_all_environments_are_brought_up_in_one_call(run: Run, node: Node, channel: Channel) -> None:
    first = [channel.add_tool("one")]
    run(one=first)
    answer = run(one=first, two=[channel.add_tool("two")])
    assert [(one["name"], bool(one["actions"])) for one in answer["environments"]] == [("one", False), ("two", True)]
    assert [diff["after"] for diff in answer["diff"]] == ["two 1.0 0\n"]


def options(node: Node, *packages: Package, **more: Any) -> dict[str, Any]:
    """An environment with more than its packages."""
    return {"locks": {"linux-64": node.want(*packages).lock.as_dict()}, **more}


def test_an_environment_goes_and_is_gone(run: Run, node: Node, channel: Channel) -> None:
    run(ml=[channel.add_tool()])
    planned = run(check_mode=True, ml={"state": "absent"})
    done = run(ml={"state": "absent"})
    for answer in (planned, done):
        assert (answer["changed"], answer["environments"][0]["removed"]) == (True, ["tool 1.0 0"])
        assert (answer["environments"][0]["generation"], answer["diff"][0]["after"]) == (None, "")
    assert not os.path.lexists(node.link())
    assert run(ml={"state": "absent"})["changed"] is False


def test_what_is_verified_is_no_change(run: Run, node: Node, channel: Channel) -> None:
    tool = channel.add_tool()
    run(ml=[tool])
    (node.generation() / "bin/tool").unlink()
    answer = run(ml=options(node, tool, state="verified"))
    (found,) = answer["environments"]
    assert (answer["changed"], answer["diff"], "failed" in answer) == (False, [], False)
    assert [problem["subject"] for problem in found["problems"]] == ["bin/tool"]
    assert found["actions"][0].startswith("build generation ")


def test_a_rollback_takes_people_and_jupyter_along(run: Run, node: Node, channel: Channel) -> None:
    first = options(node, channel.add("ipykernel", "1.0", [Entry("x", b"1")]), mode="0750", kernel=True)
    run(ml=first)
    closed = node.generation()
    run(ml=options(node, channel.add("ipykernel", "2.0", [Entry("x", b"2")]), kernel=True))
    assert node.generation() != closed
    answer = run(ml={"generation": "previous"})
    kernel = json.loads((node.root / "kernels/ml/kernel.json").read_text())
    assert (node.generation(), kernel["env"]["CONDA_PREFIX"]) == (closed, str(closed))
    assert answer["environments"][0]["identity"].endswith("@: 0750 0022")
    assert run(ml={"generation": closed.name})["changed"] is False
    assert run(ml=first)["changed"] is False


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_free_mb": 10**9}, "conda_envs_min_free_mb: "),
        ({"base_prefix": "/nowhere"}, "conda_envs_engine: the engine auto is not in /nowhere"),
        ({"engine": "pip"}, "value of engine must be one of: auto, rattler, conda, mamba, micromamba, got: pip"),
        ({"verify": "everything"}, "value of verify must be one of: fast, records, full"),
        (
            {"environments": [{"name": "ml"}]},
            "conda_envs_shared: ml: the lock is for no platform, and the node is linux-64",
        ),
        ({"environments": [{"lock": "x"}]}, "missing required arguments: name"),
        (
            {"environments": [{"name": "ml", "state": "absent", "umask": "0002"}]},
            "conda_envs_shared: ml: umask: 0002 must take the right to write from group and others",
        ),
        ({"environments": [{"name": "ml", "generation": "previous"}]}, "conda_envs_shared: ml: ml has no generation"),
    ],
)
def test_a_refusal_is_one_message_before_any_change(
    settings: dict[str, Any], message: str, run: Run, node: Node, channel: Channel
) -> None:
    answer = run(settings=settings, ml=[channel.add_tool()])
    assert answer["failed"]
    assert message in answer["msg"]
    assert "exception" not in answer
    assert not node.root.exists()


PLAY = """
- hosts: node
  gather_facts: false
  tasks:
    - name: Install
      envfleet.gpu_cluster.conda_env:
        environments: "{{ environments }}"
        channels: "{{ channels }}"
        envs_dir: "{{ root }}/envs"
        generations_dir: "{{ root }}/generations"
        pkgs_dir: "{{ root }}/pkgs"
        kernels_dir: "{{ root }}/kernels"
        base_prefix: "{{ base }}"
        min_free_mb: 1

    - name: Look at the node
      envfleet.gpu_cluster.node_facts:
        envs_dir: "{{ root }}/envs"
        generations_dir: "{{ root }}/generations"
        kernels_dir: "{{ root }}/kernels"
      register: look

    - name: Tell what differs
      ansible.builtin.debug:
        msg: "{{ 'differs: ' ~ findings | map('envfleet.gpu_cluster.finding_text') | join('; ') }}"
      vars:
        findings: >-
          {{ look.node | envfleet.gpu_cluster.environment_findings(
               environments, root ~ '/envs', inventory_dir, channels, 'https://conda.example.org') }}
"""


def play(site: Path, *arguments: str) -> tuple[int, str]:
    """Run the playbook of *site*: its exit code, and what it said."""
    command = [str(Path(sys.prefix, "bin", "ansible-playbook")), "-i", "hosts.yml", "play.yml", *arguments]
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")},
        "ANSIBLE_HOME": str(site / "home"),
        "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
        "ANSIBLE_NOCOLOR": "1",
        "XDG_CACHE_HOME": str(site / "cache"),
    }
    done = subprocess.run(command, cwd=site, env=environment, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout + done.stderr


def test_the_way_from_a_lock_file_to_an_environment(node: Node, channel: Channel) -> None:
    """With Ansible itself: the action plugin reads the lock, and the module comes to the node as an archive."""
    site = node.root.parent / "site"
    (site / "locks").mkdir(parents=True)
    tool = channel.add_tool()
    document = {
        "version": 1,
        "package": [
            {
                "name": tool.name,
                "version": tool.version,
                "manager": "conda",
                "platform": "linux-64",
                "url": tool.url,
                "hash": {"sha256": tool.sha256},
            }
        ],
    }
    (site / "locks" / "ml.yml").write_text(yaml.safe_dump(document))
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "environments": [{"name": "ml", "lock": "locks/ml.yml", "smoke_test": ["tool"]}],
        "channels": [channel.url],
        "root": str(node.root),
        "base": sys.prefix,
    }
    (site / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {"node": variables}}}))
    (site / "play.yml").write_text(PLAY)

    code, said = play(site, "--diff")
    assert code == 0, said
    assert "+tool 1.0 0" in said
    assert "changed=1" in said
    assert os.readlink(node.link()) == str(node.generation())
    assert subprocess.run([node.link() / "bin/tool"], capture_output=True, check=True).stdout == b"tool 1.0\n"
    code, said = play(site, "-e", '{"channels": ["https://conda.example.org/other"]}')
    assert code != 0
    assert f"tool comes from {channel.url}, which conda_envs_channels does not allow" in said


def test_the_way_from_match_specs_to_environments(node: Node, channel: Channel) -> None:
    """Two nodes, one solve: both get what the first was given, whatever the channel has by then."""
    site = node.root.parent / "site"
    site.mkdir()
    channel.add_tool(version="1.0")
    write_repodata(channel.directory)
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "environments": [{"name": "ml", "packages": ["tool >=1"], "kernel": False}],
        "channels": [channel.url],
        "root": f"{node.root}/{{{{ inventory_hostname }}}}",
        "base": sys.prefix,
    }
    (site / "hosts.yml").write_text(yaml.safe_dump({"node": {"hosts": {"one": {}, "two": {}}, "vars": variables}}))
    (site / "play.yml").write_text(PLAY)
    code, said = play(site, "--check", "--diff")
    assert (code, said.count("+tool 1.0 0"), said.count("is not locked yet (expected a lock)")) == (0, 2, 2), said
    assert "DEPRECATION" not in said
    assert not (site / ".envfleet").exists()
    code, said = play(site, "--limit", "one")
    assert code == 0, said
    kept = [path.name for path in (site / ".envfleet").glob("[!.]*")]
    assert len(kept) == 1
    assert re.fullmatch(r"ml-[0-9a-f]{12}\.conda-lock\.yml", kept[0])
    channel.add_tool(version="2.0")
    write_repodata(channel.directory)
    code, said = play(site)
    assert (code, said.count("changed=1"), said.count("changed=0"), said.count('"differs: "')) == (0, 1, 1, 2), said
    generations = {Path(os.readlink(node.root / host / "envs/ml")).name for host in ("one", "two")}
    assert len(generations) == 1
