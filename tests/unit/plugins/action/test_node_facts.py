"""The look from the control node, with Ansible itself on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PLAY = [
    {
        "hosts": "all",
        "gather_facts": False,
        "vars": {
            "fine": [],
            "drifted": [{"subject": "{{ my_look.node.base.link }}"}],
            "broken": "{{ my_look.node.nothing }}",
        },
        "tasks": [
            {
                "envfleet.gpu_cluster.node_facts": {
                    "base_prefix": "{{ place }}/conda",
                    "envs_dir": "{{ place }}/envs",
                    "generations_dir": "{{ place }}/generations",
                    "findings": ["fine", "{{ second | default('drifted') }}"],
                },
                "register": "my_look",
            },
            {"ansible.builtin.meta": "end_host", "when": "my_look.findings | length == 0"},
            {
                "ansible.builtin.copy": {
                    "dest": "{{ playbook_dir }}/{{ inventory_hostname }}.json",
                    "content": "{{ my_look | to_json }}",
                    "mode": "0600",
                }
            },
        ],
    }
]
PIPED = "-I -S -"
HOSTS: dict[str, dict[str, Any]] = {
    "piped": {},
    "unpiped": {"ansible_pipelining": False},
    "strange": {},
    "home": {"place": "~/of/nobody"},
    "fails": {"second": "broken"},
    "clean": {"second": "fine"},
}


def test_a_node_is_asked_directly_or_else_through_the_module(tmp_path: Path) -> None:
    (tmp_path / "play.yml").write_text(json.dumps(PLAY))
    for host in HOSTS:
        # It writes down how it is called. One does not know the options that it is asked with first.
        refusal = f'[ "$*" != "{PIPED}" ] || exit 1' if host == "strange" else ":"
        python = tmp_path / f"python-{host}"
        python.write_text(f'#!/bin/sh\necho "$*" >>{python}.log\n{refusal}\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
    variables = {"ansible_connection": "local", "place": str(tmp_path)}
    variables["ansible_python_interpreter"] = "{{ playbook_dir }}/python-{{ inventory_hostname }}"
    inventory = {"all": {"vars": variables, "hosts": HOSTS}}
    (tmp_path / "hosts.json").write_text(json.dumps(inventory))
    done = subprocess.run(
        [
            Path(sys.executable).with_name("ansible-playbook"),
            "-vv",
            "-i",
            tmp_path / "hosts.json",
            tmp_path / "play.yml",
        ],
        env={**os.environ, "ANSIBLE_PIPELINING": "true", "ANSIBLE_HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    looks = {host: tmp_path / f"{host}.json" for host in HOSTS}
    told = {host: json.loads(path.read_text()) for host, path in looks.items() if path.exists()}
    # What cannot be evaluated fails on its node alone, and what is clean has ended.
    assert sorted(told) == ["home", "piped", "strange", "unpiped"], done.stdout
    assert "object of type 'dict' has no attribute 'nothing'" in done.stdout
    for host in ("piped", "unpiped", "strange"):
        assert told[host]["findings"] == [{"subject": f"{tmp_path}/conda"}]
        assert set(told[host]["node"]["disk"]) == {f"{tmp_path}/conda", f"{tmp_path}/generations"}
    assert told["home"]["node"]["base"]["link"] == os.path.expanduser("~/of/nobody/conda")
    asked = {host: (tmp_path / f"python-{host}.log").read_text().splitlines()[0] == PIPED for host in HOSTS}
    assert [host for host in HOSTS if not asked[host]] == ["unpiped", "home"]
    assert "looking with a module instead" in done.stdout
