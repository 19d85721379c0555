"""Environments saved to storage that two nodes share, and brought back to new nodes, by restic and systemd."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from acceptance import cluster

HOSTS = "backup.yml"
NODES = OLD, NEW = ("backup-1", "backup-2")
PASSWORD = "secret-1f0e-of-the-repository"
REPOSITORY = "/srv/backup/envs"
STATE = "/var/lib/envfleet-backup"
METRICS = "/var/lib/node_exporter/textfile"
TOOLS, MINE = "/opt/envfleet/envs/tools", "/home/alice/.conda/envs/mine"
KEYS = {"shared:tools", f"private:{MINE}"}
# What alice does: an environment that nobody else can read, with a file that has two names and one with an odd one.
MAKE = f"""
conda create -y -q -n mine python=3.10 pip six
cd {MINE}; mkdir share
echo data >'share/a, b '; ln 'share/a, b ' share/again; ln -s nowhere share/dangling; printf x >share/$(printf '\\377')
chmod 0700 . share
"""
# Everything of a prefix that a restore must bring back: names, kinds, modes, owners, sizes, times, targets and content.
SUMS = """
cd $(readlink -e {prefix}) && pwd
{{
    find . ! -type d -printf '%p %y %m %u:%g %s %T@ %l\\n'
    find . -type d -printf '%p %y %m %u:%g\\n'
}} | LC_ALL=C sort | cat -v
find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | cat -v
"""
FLIP = f"""
import pathlib
for path in pathlib.Path("{REPOSITORY}/data").glob("*/*"):
    path.chmod(0o600)
    with open(path, "r+b") as stream:
        stream.seek(path.stat().st_size // 2)
        byte = stream.read(1)[0]
        stream.seek(-1, 1)
        stream.write(bytes([byte ^ 255]))
"""
# Changes the environment just while restic reads it.
WRITER = f"while :; do pgrep -f '[r]estic.* backup .*{MINE}' && date +%N >>{MINE}/share/log; sleep 0.05; done"
# Halts the program and restic just when the environment of alice is read, and what ends both then. systemd, in a
# container, would not see when both are gone.
HALT = f"""
timeout 60 sh -c "until pgrep -f '[r]estic.* backup .*{MINE}'; do sleep 0.05; done"
pkill -STOP -x restic; kill -STOP $(systemctl show -P MainPID envfleet-backup.service)
"""
CUT = """
pkill -KILL -x restic; sleep 0.5; kill -KILL $(systemctl show -P MainPID envfleet-backup.service)
timeout 60 sh -c 'until systemctl is-failed --quiet envfleet-backup.service; do sleep 0.2; done'
"""
# The repository is on a small file system, which is full.
DROP_IN = "/run/systemd/system/envfleet-backup.service.d"
SMALL = f"""
mkdir -p {DROP_IN} /dev/shm/envs/data /dev/shm/envs/index /dev/shm/envs/snapshots
sed 's|{REPOSITORY}|/dev/shm/envs|' /etc/envfleet-backup/config.json >/dev/shm/config.json
sed -n '/^.Service/p; s/^ExecStart=/ExecStart=\\n&/; s|/etc/envfleet-backup/config|/dev/shm/config|p' \\
    /etc/systemd/system/envfleet-backup.service >{DROP_IN}/small.conf
echo PrivateDevices=no >>{DROP_IN}/small.conf
systemctl daemon-reload
cd {REPOSITORY} && cp -a config keys locks /dev/shm/envs
chown -R envfleet-backup: /dev/shm/envs
dd if=/dev/zero of=/dev/shm/fill bs=1M status=none
truncate --size=-4M /dev/shm/fill
"""


def on(node: str, command: str, check: bool = True) -> str:
    """What a command of root printed on *node*."""
    return cluster.on_node(command, node=node, check=check).stdout.strip()


def play(name: str, *arguments: str, succeed: bool = True, **variables: Any) -> str:
    """Run a playbook with *variables*: what it printed."""
    code, output = cluster.playbook(name, "--extra-vars", json.dumps(variables), *arguments, hosts=HOSTS)
    assert (code == 0) == succeed, output
    return output


def start(unit: str, node: str = OLD) -> dict[str, Any]:
    """Start a unit and wait: what it wrote down, which must be what systemd saw of it and what Prometheus gets."""
    on(node, f"systemctl start {unit}.service", check=False)
    verb = "drill" if unit.endswith("drill") else "save"
    told: dict[str, Any] = json.loads(on(node, f"cat {STATE}/{verb}.json"))
    assert on(node, f"systemctl show -P ExecMainStatus {unit}.service") == str(told["exit_code"]), log(node)
    found = metrics(node, verb)
    assert found["exit_code"] == told["exit_code"]
    assert (found["last_success_timestamp_seconds"] == found["last_run_timestamp_seconds"]) == (told["exit_code"] == 0)
    return told


def metrics(node: str, verb: str) -> dict[str, float]:
    """The metrics without labels, by name."""
    suffix = {"save": "", "drill": "_drill"}[verb]
    text = on(node, f"cat {METRICS}/env_backup{suffix}.prom") + "\n"
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {one.name.removeprefix(f"gpu_cluster_backup{suffix}_"): one.value for one in samples if not one.labels}


def log(node: str) -> str:
    """All that runs and drills have said."""
    return on(
        node, "journalctl --no-pager --output=cat --unit=envfleet-backup.service --unit=envfleet-backup-drill.service"
    )


def restic(*arguments: str, node: str = OLD) -> str:
    """What restic prints, as a person uses it beside the role."""
    command = ["restic", "--no-cache", "--repo", REPOSITORY, "--password-file", "/root/env_backup_password", *arguments]
    return on(
        node,
        f"setpriv --reuid=envfleet-backup --clear-groups --inh-caps=+dac_override --ambient-caps=+dac_override "
        f"{shlex.join(command)}",
    )


def snapshots(node: str = OLD) -> list[dict[str, Any]]:
    """All snapshots there are."""
    found: list[dict[str, Any]] = json.loads(restic("snapshots", "--json", node=node))
    return found


def sums(node: str) -> dict[str, str]:
    """What the environments consist of."""
    return {prefix: on(node, SUMS.format(prefix=prefix)) for prefix in (TOOLS, MINE)}


@pytest.fixture(scope="module", autouse=True)
def saved() -> Iterator[dict[str, str]]:
    """A node whose environments were saved, and one with nothing; what the environments were."""
    cluster.lab("up", "--fresh", "--inventory", str(cluster.INVENTORY / HOSTS))
    on(OLD, "rm -rf /srv/backup/* /srv/backup/.[!.]*")
    try:
        give_password()
        foretold = play("backup", "--check", "--diff", "--limit", OLD)
        assert on(OLD, "ls /srv/backup; getent passwd envfleet-backup", check=False) == ""
        play("site", "--limit", OLD)
        cluster.on_node(f"bash -lc {shlex.quote(MAKE)}", node=OLD, user="alice")
        done = play("backup", "--diff", "--limit", OLD, backup_now=True)
        lines = r"^[-+] ?[^-+ ].*|^    (?:would )?(?:Make|Write) [^:\n]*"
        shown = [re.sub("would ", "", line) for line in re.findall(lines, foretold, re.MULTILINE)]
        assert shown == re.findall(lines, done, re.MULTILINE)
        assert "    Make the repository where there is none" in shown
        yield sums(OLD)
    finally:
        cluster.lab("down", "--inventory", str(cluster.INVENTORY / HOSTS))


def give_password() -> None:
    """What an operator has put on the nodes."""
    for node in NODES:
        on(node, f"umask 077; echo {PASSWORD} >/root/env_backup_password")


def test_the_second_time_nothing_is_to_be_done_and_next_to_nothing_is_sent() -> None:
    assert re.findall(r"changed=(\d+)", play("backup", "--limit", OLD)) == ["0"]
    first = json.loads(on(OLD, f"cat {STATE}/save.json"))["done"]
    second = start("envfleet-backup")["done"]
    assert first.keys() == second.keys() == KEYS
    assert sum(one["added_bytes"] for one in first.values()) > 20e6
    assert sum(one["added_bytes"] for one in second.values()) < 20e3
    assert all(one["left_out"] == {} for one in second.values())


def test_what_is_not_ours_stays_and_what_is_old_goes() -> None:
    for number, tags in enumerate([("envfleet", "shared:old"), ("envfleet", "shared:old"), ("theirs",), ("theirs",)]):
        tagged = [argument for tag in tags for argument in ("--tag", tag)]
        restic("backup", "--quiet", "--host", OLD, "--time", f"2026-01-05 0{number}:00:00", *tagged, "/etc/hostname")
    start("envfleet-backup")
    found = [tuple(one["tags"]) for one in snapshots()]
    assert found.count(("envfleet", "shared:old")) == 1
    assert found.count(("theirs",)) == 2
    # Of each environment that was saved several times today, the last one.
    assert sorted(tags[1] for tags in found if tags[0] == "envfleet") == sorted([*KEYS, "shared:old"])
    restic("forget", "--quiet", "--prune", "--tag", "envfleet,shared:old", "--tag", "theirs", "--keep-tag", "none")


def test_a_drill_proves_what_is_saved_and_catches_what_is_damaged() -> None:
    on(OLD, f"python3 -c {shlex.quote(FLIP)}")
    try:
        told = start("envfleet-backup-drill")
        assert (told["exit_code"], set(told["failed"])) == (13, KEYS)
        assert "env_backup_repository" in told["message"]
    finally:
        on(OLD, f"python3 -c {shlex.quote(FLIP)}")
    told = start("envfleet-backup-drill")
    assert (told["exit_code"], set(told["done"])) == (0, KEYS)
    assert on(OLD, f"ls {STATE}") == "drill.json\ndrill.lock\nrecords\nsave.json\nsave.lock\nunproved.json"


def test_a_run_that_cannot_work_says_why_and_harms_nothing() -> None:
    before = snapshots()
    on(OLD, "echo other >/root/env_backup_password")
    told = start("envfleet-backup")
    give_password()
    assert (told["exit_code"], "env_backup_password_file: " in told["message"]) == (12, True)

    on(OLD, f"mv {REPOSITORY} {REPOSITORY}.away")
    told = start("envfleet-backup")
    on(OLD, f"mv {REPOSITORY}.away {REPOSITORY}")
    assert (told["exit_code"], "env_backup_repository: there is no repository" in told["message"]) == (10, True)

    on(OLD, SMALL)
    told = start("envfleet-backup")
    on(OLD, f"rm -r {DROP_IN} /dev/shm/*; systemctl daemon-reload")
    assert (told["exit_code"], "no space left" in told["message"]) == (14, True), told

    assert snapshots() == before
    assert start("envfleet-backup")["exit_code"] == 0


def test_an_environment_that_changes_is_not_saved_by_halves_and_a_killed_run_is_made_good() -> None:
    def of_mine() -> list[str]:
        return [one["id"] for one in snapshots() if one["tags"][1] == f"private:{MINE}"]

    before = of_mine()
    on(OLD, f"head -c 20M /dev/urandom >{MINE}/share/large; chown alice: {MINE}/share/large")
    on(
        OLD,
        f"systemd-run --quiet --unit=writer --uid=alice sh -c {shlex.quote(WRITER)}",
    )
    told = start("envfleet-backup")
    on(OLD, "systemctl stop writer")
    assert (told["exit_code"], set(told["failed"]), set(told["done"])) == (3, {f"private:{MINE}"}, {"shared:tools"})
    assert "was changed each time while it was saved" in told["message"]
    assert of_mine() == before

    on(OLD, f"head -c 20M /dev/urandom >{MINE}/share/large")
    on(OLD, "systemctl start --no-block envfleet-backup.service")
    on(OLD, HALT)
    # Another one ends at once, while that one is at work.
    second = f"systemd-run --quiet --wait --collect -p User=envfleet-backup {PROGRAM}"
    assert cluster.on_node(second, node=OLD, check=False).returncode == 75
    on(OLD, CUT)
    assert of_mine() == before
    assert start("envfleet-backup")["exit_code"] == 0
    after = of_mine()
    assert len(after) == 1
    assert after != before
    on(OLD, f"rm {MINE}/share/large {MINE}/share/log")
    assert start("envfleet-backup")["exit_code"] == 0


PROGRAM = "/usr/bin/python3 -I -S -B /usr/local/lib/envfleet-backup/backup.py save /etc/envfleet-backup/config.json"


def test_nothing_secret_is_told_and_a_run_can_write_to_nothing_but_its_own() -> None:
    places = f"/etc /var/lib /var/log /run /usr/local {REPOSITORY}"
    assert on(OLD, f"journalctl --no-pager | grep -F {PASSWORD}; grep -rlF {PASSWORD} {places}", check=False) == ""
    probe = (
        "systemd-run --quiet --wait --pipe --collect -p User=envfleet-backup "
        "-p AmbientCapabilities=CAP_DAC_READ_SEARCH "
        f"sh -c 'cat {MINE}/share/again; touch {MINE}/x; touch {TOOLS}/x; id -u'"
    )
    assert on(OLD, probe).split() == ["data", "941"]
    show = on(OLD, "systemctl show -P CapabilityBoundingSet envfleet-backup.service envfleet-backup-drill.service")
    assert show == "cap_dac_read_search"


def test_a_new_node_gets_what_a_lost_one_had(saved: dict[str, str]) -> None:
    before = sums(OLD)
    # alice has used it meanwhile, and what a Python of hers has left is saved too.
    assert before[TOOLS] == saved[TOOLS]
    cluster.lab("up", "--fresh", "--nodes-only", "--inventory", str(cluster.INVENTORY / HOSTS))
    give_password()
    # On the second one, alice has another number.
    on(NEW, "usermod --uid 2099 alice && groupmod --gid 2099 alice && chgrp -R alice /home/alice")
    wanted: dict[str, Any] = {
        "env_backup_restore_shared": ["tools"],
        "env_backup_restore_private": [MINE],
        "env_backup_restore_node": OLD,
    }
    foretold = play("restore", "--check", **wanted)
    assert set(re.findall(r"changed=(\d+)", foretold)) == {"4"}
    assert cluster.on_node(f"ls -d {TOOLS} {MINE} /opt/envfleet", node=NEW, check=False).stdout == ""
    play("restore", **wanted)
    for node in NODES:
        assert sums(node) == before
        cluster.on_node(
            f"{TOOLS}/bin/python -c 'import requests, six' && {MINE}/bin/python -c 'import six'",
            node=node,
            user="alice",
        )
        assert on(node, "find /opt/envfleet /home/alice /var/lib -name '*.restoring*' -o -name unpacked") == ""

    # What is there is never overwritten, whole or damaged.
    on(NEW, f"mv {TOOLS}/bin/python3.10 {TOOLS}/bin/away")
    output = play("restore", succeed=False, **wanted)
    assert f"{MINE} is there, and what is there is never overwritten" in output
    assert "is there and is not as it was made" in output


def test_two_nodes_save_to_one_repository_at_once() -> None:
    on(NEW, f"mv {TOOLS}/bin/away {TOOLS}/bin/python3.10")
    play("backup")
    with ThreadPoolExecutor() as pool:
        told = list(pool.map(lambda node: start("envfleet-backup", node), NODES))
    assert [one["exit_code"] for one in told] == [0, 0], (log(OLD), log(NEW))
    assert {one["hostname"] for one in snapshots()} == set(NODES)
    assert restic("check", "--quiet", node=NEW) == ""


def test_absent_removes_all_but_the_repository() -> None:
    absent: dict[str, Any] = {"env_backup_state": "absent"}
    play("backup", "--limit", NEW, **absent)
    left = "/etc /usr/local /var/lib /var/cache /run -xdev -not -path '/run/log/*' -name '*envfleet*backup*'"
    assert on(NEW, f"find {left}") == ""
    assert cluster.on_node("getent passwd envfleet-backup", node=NEW, check=False).returncode == 2
    assert on(NEW, f"ls {METRICS}") == ""
    assert on(OLD, f"ls {REPOSITORY}/snapshots")
    assert re.findall(r"changed=(\d+)", play("backup", "--limit", NEW, **absent)) == ["0"]
