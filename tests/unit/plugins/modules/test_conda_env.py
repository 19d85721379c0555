"""The module's interface, and the whole way from a lock file to an environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.envfleet.gpu_cluster.plugins.modules import conda_env

if TYPE_CHECKING:
    from unit.plugins.conftest import Channel, Node

pytestmark = pytest.mark.usefixtures("restore_umask")
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(node: Node, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call the module as its action plugin does, for environments by name, each a list of packages."""

    def call(check_mode: bool = False, settings: Any = (), **environments: Any) -> dict[str, Any]:
        listed = []
        for name, packages in environments.items():
            lock = node.want(*packages).lock.as_dict()
            listed.append({"name": name, "lock": f"{name}.txt", "locks": {"linux-64": lock}})
        arguments = {
            "environments": listed,
            "envs_dir": node.layout.envs_dir,
            "generations_dir": node.layout.generations_dir,
            "pkgs_dir": str(node.pkgs),
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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_free_mb": 10**9}, "conda_envs_min_free_mb: "),
        ({"base_prefix": "/nowhere"}, "conda_envs_engine: the engine auto is not in /nowhere"),
        ({"engine": "mamba"}, "value of engine must be one of: auto, rattler, conda, got: mamba"),
        ({"verify": "everything"}, "value of verify must be one of: fast, records, full"),
        (
            {"environments": [{"name": "ml"}]},
            "conda_envs_shared: ml: the lock is for no platform, and the node is linux-64",
        ),
        ({"environments": [{"lock": "x"}]}, "missing required arguments: name"),
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
        base_prefix: "{{ base }}"
        min_free_mb: 1
"""


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

    def play(*arguments: str) -> tuple[int, str]:
        command = [str(Path(sys.prefix, "bin", "ansible-playbook")), "-i", "hosts.yml", "play.yml", *arguments]
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")},
            "ANSIBLE_HOME": str(site / "home"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
            "ANSIBLE_NOCOLOR": "1",
        }
        done = subprocess.run(
            command, cwd=site, env=environment, capture_output=True, text=True, check=False, timeout=60
        )
        return done.returncode, done.stdout + done.stderr

    code, said = play("--diff")
    assert code == 0, said
    assert "+tool 1.0 0" in said
    assert "changed=1" in said
    assert os.readlink(node.link()) == str(node.generation())
    assert subprocess.run([node.link() / "bin/tool"], capture_output=True, check=True).stdout == b"tool 1.0\n"
    code, said = play("-e", '{"channels": ["https://conda.example.org/other"]}')
    assert code != 0
    assert f"tool comes from {channel.url}, which conda_envs_channels does not allow" in said
