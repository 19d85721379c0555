"""Who changed what is known afterwards, whatever is done to the log, and a node gives nobody more than it should.

The node is its own control node besides, with a real rsyslog and a real journald.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from acceptance import cluster, schedule
from acceptance.schedule import on
from lab import control_node
from lab.packages import PLACEHOLDER, Entry, index_of, write_package
from lab.paths import lab_cache
from lab.podman import Podman

NODE, HOSTS = "audit-1", "audit.yml"
ENV = "/opt/envfleet/envs/tools"
CONDARC = "/etc/conda/.condarc"
EDIT = f"echo 'channels: [defaults]' >>{CONDARC}"
RULES = "/etc/audit/rules.d/50-envfleet.rules"
NODE_LOG = "/var/log/envfleet-drift"
SECRET, PASSWORD = "secret-in-an-address-7d31", "secret-of-the-vault-7d31"
# All that this collection has made on a node, and what of it anybody else than root could change or profit from.
_OURS = (
    "/opt/envfleet /opt/conda/ /etc/conda /etc/profile.d/envfleet* /usr/local/bin/conda "
    f"/etc/envfleet-drift /etc/systemd/system/envfleet-* {RULES}"
)
_OPEN = f"find {_OURS} \\( ! -type l -perm /7022 \\) -o ! -user root"
RECEIVED = "/var/log/received"
_RSYSLOG = f"""
global(maxMessageSize="64k")
module(load="imtcp")
input(type="imtcp" port="514")
template(name="line" type="string" string="%msg:2:$%\\n")
if $inputname == "imtcp" then {{ action(type="omfile" file="{RECEIVED}" template="line") stop }}
"""
SYSLOG = "rsyslog.service syslog.socket"
JOURNAL = (
    "systemd-journald.service systemd-journald.socket systemd-journald-dev-log.socket systemd-journald-audit.socket"
)
# Runs in a container that sees the machine's processes, for only from there the kernel takes rules: loads those of the
# node, and shows what auditd is told of a user, who may not write, and of root, who does. 77: this kernel takes none.
_KERNEL = """
before=$(auditctl -s 2>/dev/null) || exit 77
case $before in *"pid 0"*) ;; *) exit 77 ;; esac
mkdir -p /opt/envfleet/envs /var/log/audit
sed -i 's/^priority_boost.*/priority_boost = 0/' /etc/audit/auditd.conf
auditd -n >/dev/null 2>&1 &
for _ in $(seq 50); do auditctl -s | grep -q "^pid $!$" && break; sleep 0.1; done
printf %s "$RULES" >/tmp/rules
auditctl -R /tmp/rules >/dev/null; echo loaded: $?
auditctl -l -k envfleet
setpriv --reuid=alice touch /opt/envfleet/mine 2>/dev/null
ln -s /opt/envfleet/generations/ml/2 /opt/envfleet/envs/ml
sleep 0.5
auditctl -D -k envfleet >/dev/null
ausearch --input-logs --interpret -k envfleet --message SYSCALL
auditctl -e "$(echo "$before" | sed -n 's/^enabled //p')" >/dev/null
kill $!
"""


@dataclasses.dataclass
class Site:
    """What an operator has: an inventory, a vault, and a log of all changes."""

    directory: Path
    channel: Path  #: a directory that the mirror serves
    variables: dict[str, Any]
    archive: str  #: the collection

    @property
    def log(self) -> Path:
        return self.directory / "log"

    @property
    def entries(self) -> list[dict[str, Any]]:
        """All lines of the log."""
        return [json.loads(line) for line in (self.log / "audit.jsonl").read_text().splitlines()]

    def run(self, name: str = "site", *arguments: str, **variables: Any) -> tuple[int, str]:
        """Run a playbook with the callback, and these variables besides."""
        (self.directory / "variables.json").write_text(json.dumps(self.variables | variables))
        vault = ("--vault-password-file", str(self.directory / "password"))
        extra = (f"@{self.directory / name}" for name in ("vault.yml", "variables.json"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("GPU_CLUSTER_AUDIT_DIRECTORY", str(self.log))
            patch.setenv("GPU_CLUSTER_AUDIT_JOURNAL", "false")
            options = (*vault, *(f"--extra-vars={path}" for path in extra))
            return cluster.playbook(name, *options, *arguments, hosts=HOSTS)

    def prove(self, **variables: str) -> tuple[int, str]:
        """Run the playbook that proves the log: its exit code, and what it said on one line."""
        code, output = self.run("audit_proof", gpu_cluster_audit_directory=str(self.log), **variables)
        return code, " ".join(output.split())

    def package(self, channel: str, name: str, *entries: Entry) -> str:
        """Write a package into a channel of the mirror: a line of a list for conda."""
        path = write_package(self.channel / channel, index_of(name, "1.0", "0", []), entries)
        url = (
            f"{cluster.lab_variables()['lab_mirror_url']}/{self.channel.name}/{channel}/{path.parent.name}/{path.name}"
        )
        return f"{url}#{hashlib.sha256(path.read_bytes()).hexdigest()}"

    def keep_watch(self, mode: str) -> None:
        """Have the node look after itself on a schedule, which here never comes."""
        variables = {
            "drift_schedule_mode": mode,
            "drift_schedule_collection": self.archive,
            "drift_schedule_pip_options": control_node.PIP_OPTIONS,
            "drift_schedule_inventory": str(self.directory / "inventory" / "hosts.yml"),
            "drift_schedule_on_calendar": "yearly",
            "drift_schedule_randomized_delay": "0",
            "drift_schedule_ssh_key": "/root/key",
            "drift_schedule_known_hosts": "/root/known_hosts",
            "drift_schedule_vault_password": "/root/password",
            "drift_schedule_audit_syslog": "127.0.0.1:514",
        }
        code, output = cluster.playbook(
            "../tests/acceptance/plays/audit", "--extra-vars", json.dumps(variables), hosts=HOSTS
        )
        assert code == 0, output


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A node that the site playbook was run on once, and that looks after itself."""
    cluster.lab("up", "--fresh", "--inventory", str(cluster.INVENTORY / HOSTS))
    lab = cluster.lab_variables()
    built = subprocess.check_output([cluster.ROOT / "tools" / "build.sh"], text=True, timeout=300).split()[-1]
    made = Site(tmp_path_factory.mktemp("site"), Path(lab["lab_www"]) / "audit", {}, str(cluster.ROOT / built))
    shutil.rmtree(made.channel, ignore_errors=True)
    try:
        _write(made, lab)
        code, output = made.run()
        assert code == 0, output
        _prepare_node()
        made.keep_watch("push")
        yield made
    finally:
        shutil.rmtree(made.channel, ignore_errors=True)
        cluster.lab("down", "--inventory", str(cluster.INVENTORY / HOSTS))


def _write(site: Site, lab: dict[str, Any]) -> None:
    inventory = site.directory / "inventory"
    (inventory / "group_vars").mkdir(parents=True)
    site.log.mkdir()
    careless = [
        Entry("bin/careless", f"#!/bin/sh\n# {PLACEHOLDER}\n".encode(), 0o6777),
        Entry("etc/conda/activate.d/careless.sh", b"export CARELESS=1\n", 0o666),
    ]
    (inventory / "careless.txt").write_text(f"@EXPLICIT\n{site.package('careless', 'careless', *careless)}\n")
    for name in ("conda-lock.yml", "conda-lock-next.yml"):
        shutil.copy(cluster.INVENTORY / "envs" / "tools" / name, inventory)
    address = lab["miniconda_installer_url"].replace("://", "://deploy:{{ site_password }}@")
    site.variables.update(
        conda_envs_locks_dir=str(inventory),
        conda_envs_shared=[
            {"name": "tools", "lock": "conda-lock.yml", "kernel": False},
            {"name": "careless", "lock": "careless.txt"},
        ],
        conda_envs_channels=[*lab["gpu_cluster_channels"], f"{lab['lab_mirror_url']}/{site.channel.name}/careless"],
        miniconda_installer_url=address,
        audit_rules_state="present",
        audit_rules_load=False,
        audit_log_directories=[{"path": "/var/log/envfleet", "owner": "alice", "group": "adm"}],
    )
    (site.directory / "password").write_text(PASSWORD)
    vault = site.directory / "vault.yml"
    vault.write_text(yaml.safe_dump({"site_password": SECRET}))
    program = Path(sys.executable).with_name("ansible-vault")
    command = [str(program), "encrypt", "--vault-password-file", str(site.directory / "password"), str(vault)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    shutil.copy(vault, inventory / "group_vars" / "all.yml")
    # The same for the node itself, where the inventory is copied to.
    served = {key: lab[key] for key in lab if key == "gpu_cluster_channels" or key.startswith("miniconda_")}
    variables = {key: value for key, value in site.variables.items() if key != "conda_envs_locks_dir"}
    node = {"ansible_host": "127.0.0.1", "ansible_user": "root"}
    content = {"gpu_nodes": {"hosts": {NODE: node}, "vars": {**served, **variables}}}
    (inventory / "hosts.yml").write_text(yaml.safe_dump(content, sort_keys=False))


def _prepare_node() -> None:
    python = "import sys; print('%d.%d' % sys.version_info[:2])"
    control_node.publish_packages(lab_cache(), on(NODE, f"python3 -c {shlex.quote(python)}"))
    on(NODE, "ssh-keygen -q -t ed25519 -N '' -f /root/key </dev/null; cat /root/key.pub >>/root/.ssh/authorized_keys")
    on(NODE, "sed 's/^/127.0.0.1 /' /etc/ssh/ssh_host_*_key.pub >/root/known_hosts")
    on(NODE, f"umask 077; printf %s {PASSWORD} >/root/password")
    on(NODE, f"printf %s {shlex.quote(_RSYSLOG)} >/etc/rsyslog.d/10-received.conf; systemctl restart rsyslog")


def test_the_log_says_who_changed_what_on_which_node_and_from_which_generation(site: Site) -> None:
    first = on(NODE, f"readlink -e {ENV}")
    code, output = site.run(conda_envs_shared=[{"name": "tools", "lock": "conda-lock-next.yml"}])
    assert code == 0, output
    second = on(NODE, f"readlink -e {ENV}")
    runs: dict[str, list[dict[str, Any]]] = {}
    for entry in site.entries:
        runs.setdefault(entry["run"], []).append(entry)
    told = []
    for entries in runs.values():
        assert [entry["event"] for entry in (entries[0], entries[-1])] == ["begin", "end"]
        assert {entry["playbook"] for entry in entries if "playbook" in entry} == {"site.yml"}
        changes = [entry for entry in entries if entry["event"] == "change"]
        assert {entry["host"] for entry in changes} == {NODE}
        assert all(entry["by"] and entry["on"] and entry["time"] for entry in entries)
        told += [environment for entry in changes for environment in entry.get("environments", ())]
    generations = [(one["previous"], one["generation"]) for one in told if one["name"] == "tools"]
    assert generations == [(None, first), (first, second)]
    assert {CONDARC, RULES} <= {entry.get("dest") for entry in site.entries}
    assert site.run()[0] == 0
    assert on(NODE, f"readlink -e {ENV}") == first


def test_whatever_is_done_to_it_is_found_and_told_where(site: Site) -> None:
    path = site.log / "audit.jsonl"
    text = path.read_bytes()
    code, said = site.prove(gpu_cluster_audit_sum=site.entries[-1]["sum"])
    assert (code, f"{len(site.entries)} lines are whole" in said) == (0, True), said
    lines = text.splitlines(keepends=True)
    for content, message in (
        (text.replace(b'"host":"audit-1"', b'"host":"audit-2"', 1), "line 2: was changed"),
        (b"".join(lines[:-1]), "1 lines are missing at the end"),
    ):
        path.write_bytes(content)
        code, said = site.prove()
        assert code != 0
        assert message in said
    path.write_bytes(text)
    assert "no line has the sum" in site.prove(gpu_cluster_audit_sum="0" * 64)[1]


def correct() -> dict[str, Any]:
    """Have something to correct, and the node correct it: how that ended."""
    on(NODE, EDIT)
    ended = schedule.run(NODE)
    assert ended["state"] == "corrected", schedule.log(NODE)
    return ended


def node_log() -> list[str]:
    """The lines that the node has written itself."""
    return on(NODE, f"cat {NODE_LOG}/audit*.jsonl").splitlines()


def test_a_syslog_and_a_journal_that_were_stopped_are_told_of_all_later(site: Site) -> None:
    on(NODE, f"systemctl stop {SYSLOG}; systemctl stop {JOURNAL}")
    try:
        correct()
    finally:
        on(NODE, f"systemctl start {JOURNAL} {SYSLOG}")
    stopped = node_log()
    assert [json.loads(line)["event"] for line in stopped][:2] == ["begin", "change"]
    assert on(NODE, f"cat {RECEIVED} 2>/dev/null; journalctl -t envfleet-audit --output=cat", check=False) == ""
    # Nothing is left to correct, and so nothing new to tell.
    assert schedule.run(NODE)["state"] == "clean"
    for command in (f"cat {RECEIVED}", "journalctl -t envfleet-audit --output=cat"):
        on(NODE, schedule.waiting(f"test $({command} | wc -l) = {len(stopped)}"))
        assert on(NODE, command).splitlines() == stopped
    last = json.loads(stopped[-1])
    assert on(NODE, f"journalctl ENVFLEET_SUM={last['sum']} --output=cat").splitlines() == stopped[-1:]


def test_no_secret_is_in_any_log(site: Site) -> None:
    words = shlex.quote(f"{SECRET}\n{PASSWORD}")
    assert on(NODE, f"journalctl --no-pager | grep -F {words}", check=False) == ""
    assert on(NODE, f"grep -rlaF {words} /var/log /etc /opt /tmp /var/lib/envfleet-drift", check=False) == ""
    assert [path for path in site.log.iterdir() if SECRET in path.read_text() or PASSWORD in path.read_text()] == []


@pytest.mark.usefixtures("site")
def test_nothing_of_ours_is_set_uid_or_for_others_to_write() -> None:
    assert on(NODE, "find /opt/envfleet/pkgs -name careless.sh -o -path '*/bin/careless' | wc -l") == "2"
    assert on(NODE, _OPEN) == ""
    # It finds what there is to find.
    on(
        NODE,
        "touch /opt/envfleet/open /opt/envfleet/alices; chmod 666 /opt/envfleet/open; chown alice /opt/envfleet/alices",
    )
    assert on(NODE, f"{_OPEN}; rm /opt/envfleet/open /opt/envfleet/alices").split() == [
        "/opt/envfleet/alices",
        "/opt/envfleet/open",
    ]
    assert on(NODE, "stat -c '%a %U' /var/log/envfleet /var/log/envfleet-drift").splitlines() == [
        "2750 alice",
        "750 envfleet-drift",
    ]


@pytest.mark.usefixtures("site")
def test_the_service_may_do_little() -> None:
    analysed = cluster.on_node("systemd-analyze security --threshold=20 envfleet-drift.service", node=NODE, check=False)
    assert analysed.returncode == 0, analysed.stdout
    assert "Overall exposure level" in analysed.stdout


def conda(arguments: str, user: str) -> subprocess.CompletedProcess[str]:
    """Run conda on the node."""
    return cluster.on_node(f"/usr/local/bin/conda {arguments} --yes --quiet", node=NODE, user=user, check=False)


def test_packages_of_other_channels_are_found_in_all_environments_with_their_owners(site: Site) -> None:
    line = site.package("elsewhere", "stranger", Entry("share/stranger", b"x"))
    place = line.partition("/linux-64/")[0]
    generation = on(NODE, f"readlink -e {ENV}")
    assert conda(f"create --name own --channel {place} stranger", "alice").returncode != 0
    # What the allow-list cannot keep out.
    on(NODE, f"printf '@EXPLICIT\\n%s\\n' {shlex.quote(line)} >/tmp/list")
    assert conda("create --name own --file /tmp/list", "alice").returncode == 0
    assert "frozen" in conda("install --name tools --file /tmp/list", "root").stderr
    assert conda("install --name tools --file /tmp/list --override-frozen", "root").returncode == 0
    try:
        code, output = site.run("channels")
    finally:
        cluster.on_node("rm -rf .conda/envs/own", node=NODE, user="alice")
    assert code != 0
    found = re.findall(r"environment (\w+): (\S+) of (\w+): (.*?) from (\S+) \(expected", " ".join(output.split()))
    assert set(found) == {
        ("own", "/home/alice/.conda/envs/own", "alice", "stranger 1.0", place),
        ("tools", generation, "root", "stranger 1.0", place),
    }
    # What root did there is in conda's history, and the look finds that too.
    code, output = site.run("check")
    assert code != 0
    assert "conda-meta/history" in output
    assert "foreign" in output
    assert site.run()[0] == 0
    assert on(NODE, f"readlink -e {ENV}") != generation


def test_the_rules_for_auditd_are_kept(site: Site) -> None:
    assert "No change" in on(NODE, "augenrules --check")
    # As somebody would who does not want to be seen, and as a killed run leaves them.
    on(NODE, f"sed -i /profile/d {RULES}; rm /etc/audit/audit.rules")
    code, output = site.run("check")
    assert code != 0
    assert all(f"policy: {path}: " in output for path in (RULES, "/etc/audit/audit.rules")), output
    assert site.run()[0] == 0
    assert "No change" in on(NODE, "augenrules --check")
    assert "/etc/profile.d/envfleet-conda.sh" in on(NODE, "cat /etc/audit/audit.rules")
    code, output = site.run(audit_rules_load=True, audit_rules_key="other")
    assert code != 0
    assert "audit_rules_load: the kernel of this node takes no rules now" in " ".join(output.split())
    assert "other" not in on(NODE, f"cat {RULES}")
    code, output = site.run(audit_rules_paths=["relative"])
    assert code != 0
    assert "audit_rules_key, audit_rules_paths: give a key" in " ".join(output.split())


@pytest.mark.usefixtures("site")
def test_the_kernel_takes_the_rules_and_tells_who_wrote() -> None:
    podman = Podman(lab_cache())
    image = podman.run("inspect", "--format={{.ImageName}}", f"envfleet-{NODE}")
    rules = on(NODE, f"cat {RULES}")
    options = ("--rm", "--interactive", "--pid=host", "--cap-add=AUDIT_CONTROL", "--cap-add=AUDIT_READ")
    done = podman.try_run("run", *options, f"--env=RULES={rules}", image, "sh", data=_KERNEL.encode())
    if done.returncode == 77:
        pytest.skip("the kernel of this machine takes no rules, or is told them by somebody else")
    said = done.stdout.decode()
    assert "loaded: 0" in said, said
    assert re.findall(r"^-w .*$", said, re.MULTILINE) == re.findall(r"^-w .*$", rules, re.MULTILINE)
    records = re.findall(r"success=(\w+) .* uid=(\w+) .* comm=(\w+) .* key=envfleet", said)
    assert records == [("no", "alice", "touch"), ("yes", "root", "ln")]


def test_a_node_that_corrects_itself_as_root_goes_on_with_the_same_log(site: Site) -> None:
    before = node_log()
    site.keep_watch("pull")
    correct()
    after = node_log()
    assert after[: len(before)] == before
    assert len(after) > len(before)
    assert {json.loads(line)["on"] for line in after} == {NODE}
    code, output = site.run("audit_proof", gpu_cluster_audit_hosts=NODE, gpu_cluster_audit_directory=NODE_LOG)
    assert code == 0, output
    assert f"{len(after)} lines are whole" in output


def test_absent_takes_the_rules_away_and_leaves_the_logs(site: Site) -> None:
    code, output = site.run(audit_rules_state="absent")
    assert code == 0, output
    assert on(
        NODE, f"ls {RULES} 2>/dev/null; grep envfleet /etc/audit/audit.rules; ls -d /var/log/envfleet", check=False
    ) == ("/var/log/envfleet")
    code, output = site.run(audit_rules_state="absent")
    assert " changed=0 " in output
    # From nothing, too, the second run finds all as it should be.
    on(NODE, "rm -r /etc/audit")
    assert site.run()[0] == 0
    code, output = site.run()
    assert " changed=0 " in output
