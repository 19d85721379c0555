"""The callback audit and the module audit_proof, with Ansible itself."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SECRET, VAULTED = "hunter2", "correct-horse"
PLAY = [
    {
        "hosts": "all",
        "gather_facts": False,
        "tasks": [
            {
                "name": "Write | Two files",
                "ansible.builtin.copy": {"dest": "{{ playbook_dir }}/{{ item }}", "content": SECRET, "mode": "0600"},
                "loop": ["one", "two"],
            },
            {
                "name": "Keep silent",
                "ansible.builtin.copy": {"dest": "{{ playbook_dir }}/three", "content": SECRET, "mode": "0600"},
                "no_log": True,
            },
            {"name": "Change nothing", "ansible.builtin.command": {"argv": ["true"]}, "changed_when": False},
        ],
    }
]


class Control:
    """A control node with a log."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.log = place / "log"
        self.log.mkdir()
        (place / "play.yml").write_text(json.dumps(PLAY))

    def run(self, *arguments: str, syslog: str = "", program: str = "ansible-playbook") -> tuple[int, str]:
        """Run Ansible here: its exit code, and what it printed."""
        variables = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        (self.place / "hosts.json").write_text(json.dumps({"all": {"vars": variables, "hosts": {"node-1": {}}}}))
        environment = {
            "ANSIBLE_HOME": str(self.place),
            "ANSIBLE_CALLBACKS_ENABLED": "envfleet.gpu_cluster.audit",
            "GPU_CLUSTER_AUDIT_DIRECTORY": str(self.log),
            "GPU_CLUSTER_AUDIT_JOURNAL": "false",
            "GPU_CLUSTER_AUDIT_SYSLOG": syslog,
        }
        done = subprocess.run(
            [Path(sys.executable).with_name(program), "-i", self.place / "hosts.json", *arguments],
            env={**os.environ, **environment},
            cwd=self.place,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=120,
        )
        return done.returncode, done.stdout

    def play(self, *arguments: str, **options: str) -> tuple[int, str]:
        """Run the playbook."""
        return self.run(str(self.place / "play.yml"), *arguments, **options)

    def prove(self) -> tuple[int, str]:
        """Run the module that proves the log."""
        argument = f"directory={self.log}"
        return self.run("node-1", "-m", "envfleet.gpu_cluster.audit_proof", "-a", argument, program="ansible")

    def entries(self) -> list[dict[str, Any]]:
        """All lines."""
        return [json.loads(line) for line in (self.log / "audit.jsonl").read_text().splitlines()]


@pytest.fixture
def control(tmp_path: Path) -> Control:
    return Control(tmp_path)


def test_each_change_is_a_line_and_a_second_run_none(control: Control) -> None:
    assert control.play("--check")[0] == 0
    assert not (control.log / "audit.jsonl").exists() or control.entries() == []
    code, output = control.play("--limit", "node-1")
    assert code == 0, output
    begin, one, two, silent, end = control.entries()
    assert (begin["event"], begin["playbook"], begin["limit"]) == ("begin", "play.yml", "node-1")
    assert [entry["dest"] for entry in (one, two)] == [str(control.place / "one"), str(control.place / "two")]
    assert (silent["task"], silent["action"], silent.get("dest")) == ("Keep silent", "ansible.builtin.copy", None)
    assert (end["event"], end["hosts"]) == ("end", {"node-1": {"ok": 3, "changed": 2}})
    assert len({entry["run"] for entry in control.entries()}) == 1
    assert SECRET not in (control.log / "audit.jsonl").read_text()
    assert control.play()[0] == 0
    assert len(control.entries()) == 5
    code, output = control.prove()
    assert (code, '"lines": 5' in output or "lines: 5" in output) == (0, True), output


def test_no_secret_gets_into_it_by_whatever_way(control: Control) -> None:
    vault, password = control.place / "vault.yml", control.place / "password"
    vault.write_text(json.dumps({"vaulted": VAULTED}))
    password.write_text("battery-staple")
    program = Path(sys.executable).with_name("ansible-vault")
    subprocess.run([program, "encrypt", "--vault-password-file", password, vault], check=True, capture_output=True)
    play = json.loads((control.place / "play.yml").read_text())
    play[0]["vars_files"] = [str(vault)]
    play[0]["tasks"] += [
        {
            "name": "In a file",
            "ansible.builtin.copy": {"dest": str(control.place / "four"), "content": "{{ vaulted }}"},
        },
        {
            "name": "In an address",
            "ansible.builtin.command": {"argv": ["echo", "https://me:{{ vaulted }}@example.org"]},
        },
        {"name": "In a shell", "ansible.builtin.shell": "echo {{ vaulted }}; exit 1", "ignore_errors": True},
        {"name": "In a loop", "ansible.builtin.command": "echo {{ item }}", "loop": ["{{ vaulted }}"], "no_log": True},
        {"name": "In a fact", "ansible.builtin.set_fact": {"told": "{{ vaulted }}"}, "changed_when": True},
    ]
    (control.place / "play.yml").write_text(json.dumps(play))
    with syslog() as (address, told):
        code, output = control.play("--vault-password-file", str(password), syslog=address)
    assert code == 0, output
    assert {"In a file", "In an address", "In a loop", "In a fact"} <= {
        entry.get("task") for entry in control.entries()
    }
    for text in (*(path.read_text() for path in control.log.iterdir()), "".join(told)):
        assert SECRET not in text
        assert VAULTED not in text


def test_a_log_that_was_tampered_with_is_found_and_taken_no_further(control: Control) -> None:
    assert control.play()[0] == 0
    path = control.log / "audit.jsonl"
    path.write_text(path.read_text().replace("/one", "/won"))
    code, output = control.prove()
    assert code != 0
    assert "audit.jsonl, line 2: was changed" in " ".join(output.split())
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    (control.place / "one").unlink()
    code, output = control.play()
    assert code == 1
    assert "nothing is changed without an audit log" in output
    assert not (control.place / "one").exists()


def test_what_cannot_be_written_is_told_and_fails_the_run(control: Control) -> None:
    (control.log / "audit.head").mkdir()
    code, output = control.play()
    assert code == 1
    assert "nothing is changed without an audit log" in output
    assert not (control.place / "one").exists()


def test_a_log_that_fails_in_the_middle_of_a_run_loses_nothing_silently(control: Control) -> None:
    play = json.loads((control.place / "play.yml").read_text())
    shell = "rm -rf log/audit.jsonl && mkdir log/audit.jsonl"
    play[0]["tasks"].insert(1, {"name": "Break", "ansible.builtin.shell": f"cd '{control.place}' && {shell}"})
    (control.place / "play.yml").write_text(json.dumps(play))
    code, output = control.play()
    assert code == 1
    assert output.count("not in the audit log") == 3
    assert "Keep silent" in output


@contextlib.contextmanager
def syslog() -> Iterator[tuple[str, list[str]]]:
    """A syslog server: its address, and what it was told."""
    told: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    channel, _address = server.accept()
                    with channel, channel.makefile(encoding="utf-8") as stream:
                        told.extend(stream.read().splitlines())

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}", told
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_a_syslog_that_was_stopped_is_told_all_later(control: Control) -> None:
    code, output = control.play(syslog="127.0.0.1:1")
    assert code == 0
    assert "syslog does not take the audit log" in " ".join(output.split())
    (control.place / "one").unlink()
    with syslog() as (address, told):
        assert control.play(syslog=address)[0] == 0
        assert control.play(syslog=address)[0] == 0
    lines = (control.log / "audit.jsonl").read_text().splitlines()
    assert [line.partition(": ")[2] for line in told] == lines
    assert all(line.startswith("<85>envfleet-audit: ") for line in told)


def test_a_log_that_was_begun_anew_is_told_from_its_first_line(control: Control) -> None:
    with syslog() as (address, told):
        assert control.play(syslog=address)[0] == 0
        for path in control.log.glob("audit.*"):
            path.unlink()
        (control.place / "one").unlink()
        assert control.play(syslog=address)[0] == 0
    assert len(control.entries()) < 5
    lines = (control.log / "audit.jsonl").read_text().splitlines()
    assert [line.partition(": ")[2] for line in told][5:] == lines


def test_a_log_that_cannot_be_written_keeps_nobody_from_looking(control: Control, root: Path) -> None:
    assert control.play()[0] == 0
    path = control.log / "audit.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    proof = ("--extra-vars", f"gpu_cluster_audit_directory={control.log}")
    code, output = control.run(str(root / "playbooks" / "audit_proof.yml"), *proof)
    assert code == 2, output
    assert "after line number 4: 1 lines are missing at the end" in " ".join(output.split())
