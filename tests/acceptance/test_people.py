"""What people do on two nodes, over ssh, without root: environments of their own, in every shell, and nobody else's."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from acceptance import cluster
from acceptance.test_export import LISTING, WHEEL

HOSTS = "people.yml"
NODES = ("people-1", "people-2")
SCRATCH = "/scratch/conda"
MINE = f"{SCRATCH}/alice/envs/mine"
GUIDE = "/usr/local/share/doc/envfleet/environments.md"
CROWD = [f"user{number}" for number in range(10)]
# Whose login shell is which. All of them are in the group that gets directories; mallory and root are not.
SHELLS = {"bash": "bashir", "zsh": "zoe", "fish": "finn", "tcsh": "tess"}
PEOPLE = f"""
set -eu
groupadd --gid 3000 people
add() {{
    useradd --create-home --shell "$2" "$1"
    install -d -m 0700 -o "$1" -g "$1" "/home/$1/.ssh"
    install -m 0600 -o "$1" -g "$1" /root/.ssh/authorized_keys "/home/$1/.ssh/"
}}
for name in {" ".join(CROWD)}; do add $name /bin/bash; usermod -aG people $name; done
{"; ".join(f"add {name} /bin/{shell}; usermod -aG people {name}" for shell, name in SHELLS.items())}
add mallory /bin/bash
mkdir -m 1777 /scratch
"""


def site(*arguments: str) -> str:
    """A run that must succeed, and what it printed."""
    code, output = cluster.playbook("site", *arguments, hosts=HOSTS)
    assert code == 0, output
    return output


def told(output: str, word: str) -> dict[str, int]:
    """A number of the play's recap, or of remote module executions, by node."""
    return {
        node: int(number) for node, number in re.findall(rf"^({'|'.join(NODES)})\b.*{word}[=: ]+(\d+)", output, re.M)
    }


def run(command: str, user: str = "alice", node: str = NODES[0], check: bool = True) -> str:
    """What a person sees of a command in bash over ssh."""
    return cluster.on_node(command, node=node, user=user, check=check).stdout


@pytest.fixture(scope="module", autouse=True)
def nodes() -> Iterator[None]:
    """Two nodes with people on them, as the inventory wants them."""
    cluster.lab("up", "--fresh", "--inventory", str(cluster.INVENTORY / HOSTS))
    for node in NODES:
        cluster.on_node(PEOPLE, node=node)
    foretold = site("--check", "--diff", "--limit", NODES[0])
    assert told(foretold, "failed") == {NODES[0]: 0}, foretold
    assert f"{SCRATCH}/zoe: absent" in foretold
    site()
    yield
    cluster.lab("down", "--inventory", str(cluster.INVENTORY / HOSTS))


def test_a_second_run_is_one_look() -> None:
    output = site()
    assert told(output, "changed") == dict.fromkeys(NODES, 0), output
    assert told(output, "remote module executions") == dict.fromkeys(NODES, 1), output
    assert cluster.drift(hosts=HOSTS) == {node: [] for node in NODES}


# Shells. Everything they print is printed by this program, which knows none of them.
SHOW = """
import os, subprocess, sys
import six
mask = os.umask(0)
names = "CONDA_PREFIX", "PYTHONNOUSERSITE", "LD_LIBRARY_PATH"
first = os.environ["PATH"].partition(":")[0]
print("shown", sys.prefix, first, oct(mask), *(os.environ.get(name, "-") for name in names))
"""
SET = {"fish": "set -gx LD_LIBRARY_PATH /site/lib", "tcsh": "setenv LD_LIBRARY_PATH /site/lib"}
CLEAN = "env -i HOME=$HOME USER=$USER PATH=/usr/bin:/bin"
WAYS = {
    "login": "{program} -l <script",
    "interactive": f"{CLEAN} {{program}} -i <script",
    "ssh command": "",
    "batch": f"{CLEAN} ./batch",
}


def script(shell: str) -> list[str]:
    """What somebody types who works in the shared environment, where the site has set LD_LIBRARY_PATH."""
    lines = [SET.get(shell, "export LD_LIBRARY_PATH=/site/lib"), "conda activate tools", "python ~/show.py"]
    return [*lines, "conda deactivate", "printenv CONDA_PREFIX || echo left"]


@pytest.fixture(scope="module")
def generation() -> str:
    """Where the shared environment is; with files for each shell in its user's home."""
    commands = []
    for shell, user in SHELLS.items():
        text = "".join(f"{line}\n" for line in script(shell))
        first = f"#!/bin/{shell}{' -l' if shell == 'bash' else ''}\n"
        for name, content in (("script", text), ("batch", first + text), ("show.py", SHOW)):
            path = f"/home/{user}/{name}"
            commands.append(f"printf %s {shlex.quote(content)} >{path}; chmod 0755 {path}")
    commands.append("readlink -e /opt/envfleet/envs/tools")
    return cluster.on_node("\n".join(commands), node=NODES[0]).stdout.strip()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shell", SHELLS)
def test_activation_in_each_shell(generation: str, shell: str, way: str) -> None:
    command = WAYS[way].format(program=shell) or "; ".join(script(shell))
    done = cluster.on_node(command, node=NODES[0], user=SHELLS[shell])
    shown = re.search(r"^.*\bshown (.*)$", done.stdout, re.MULTILINE)
    assert shown, done.stdout + done.stderr
    assert shown[1].split() == [generation, f"{generation}/bin", "0o22", generation, "1", "-"], done.stderr
    assert "LD_LIBRARY_PATH is not taken along, it was /site/lib" in done.stderr
    assert "left" in done.stdout


def test_what_people_set_in_a_session_stays() -> None:
    nested = "umask 077; unset PYTHONNOUSERSITE; zsh -c 'umask; echo ${PYTHONNOUSERSITE-unset}'"
    assert run(nested).split() == ["077", "unset"]
    stricter = "umask 0077; env -u ENVFLEET_SESSION zsh -c umask; umask 0002; env -u ENVFLEET_SESSION zsh -c umask"
    assert run(stricter).split() == ["077", "022"]


def test_a_login_shows_two_lines_and_they_lead_to_the_guide() -> None:
    shown = subprocess.run(
        ["ssh", "-T", *ssh_to("alice")], input="exit\n", capture_output=True, text=True, check=True, timeout=60
    ).stdout.splitlines()
    motd = run("cat /etc/motd.d/envfleet").splitlines()
    assert len(motd) == 2
    assert [line for line in shown if line in motd] == motd
    assert run(f"cat {motd[1].split()[-1]}") == run(f"cat {GUIDE}")
    guide = run(f"cat {GUIDE}")
    wanted = [
        *cluster.lab_variables()["gpu_cluster_channels"],
        "tools",
        f"{SCRATCH}/$USER/envs/mine",
        "hpc@example.org",
    ]
    assert [one for one in wanted if one not in guide] == []
    assert len(guide.splitlines()) < 66


def ssh_to(user: str) -> list[str]:
    """What ssh needs to reach the first node."""
    variables = cluster.lab_variables()
    options = [*shlex.split(variables["ansible_ssh_common_args"]), "-i", variables["ansible_ssh_private_key_file"]]
    return [*options, "-p", "2521", f"{user}@127.0.0.1"]


# The life of a private environment


def contents(node: str, prefix: str = MINE) -> dict[str, str]:
    """What packages have put into alice's environment."""
    found: dict[str, dict[str, str]] = json.loads(
        run(f"/usr/bin/python3 -c {shlex.quote(LISTING)} {prefix}", node=node)
    )
    return found[prefix]


def give(text: str, node: str, name: str) -> None:
    """A file in alice's home."""
    run(f"printf %s {shlex.quote(text)} >~/{name}", node=node)


def test_a_private_environment_from_its_making_to_its_end() -> None:
    run("conda create -y -q -n mine python=3.10 && conda activate mine && conda install -y -q six=1.16")
    assert run("conda activate mine; python -c 'import six, sys; print(six.__version__, sys.prefix)'").split() == [
        "1.16.0",
        MINE,
    ]
    # Nobody else can look in, nobody else can write, and what is in the cache is linked.
    assert run(f"stat -c %a {SCRATCH}/alice; find {SCRATCH}/alice ! -type l -perm /022").split() == ["700"]
    links = f"stat -c %h {MINE}/lib/python3.10/os.py; find ~/.conda -name pkgs -o -name envs; ls {SCRATCH}/alice"
    assert run(links).split() == ["2", "envs", "pkgs"]

    listed = run("conda list -n mine --explicit --sha256")
    assert re.search(r"/six-1\.16\.0-.*\.conda#[0-9a-f]{64}\n", listed)
    give(listed, NODES[1], "mine.txt")
    run("conda create -y -q -n mine --file ~/mine.txt", node=NODES[1])
    original = contents(NODES[0])
    assert len(original) > 1000
    assert contents(NODES[1]) == original
    # And in another place of the same node, from what the module says of it.
    assert contents(NODES[0], from_module("explicit", "~/again")) == original

    run(f"cd && python3 -c {shlex.quote(WHEEL)} && conda activate mine && pip install -q --no-index ./byhand-*.whl")
    assert run("conda run -n mine byhand") == "by hand\n"
    assert "byhand==1.0" in run("conda env export -n mine")

    assert "mine" in run("conda env list").split()
    run("conda env remove -y -n mine && rm -r ~/again")
    assert "mine" not in run("conda env list").split()
    assert run(f"ls {SCRATCH}/alice/envs").split() == []


def test_who_has_no_directory_uses_the_home() -> None:
    run("conda create -y -q -n own cuda-version=12.9", "mallory")
    assert run("conda activate own; echo $CONDA_PREFIX", "mallory") == "/home/mallory/.conda/envs/own\n"
    assert run("ls ~/.conda/pkgs", "mallory")


def from_module(form: str, where: str) -> str:
    """Have the module write alice's environment down, and conda build it *where*."""
    ansible = [str(Path(sys.executable).with_name("ansible")), "-i", str(cluster.INVENTORY / HOSTS), NODES[0]]
    options = json.dumps({"path": MINE, "format": form, "dest": "~/again.txt"})
    module = ["-e", "ansible_user=alice", "-m", "envfleet.gpu_cluster.conda_env_export", "-a", options]
    done = subprocess.run([*ansible, *module], cwd=cluster.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    run(f"conda create -y -q -p {where} --file ~/again.txt")
    return run(f"readlink -e {where}").strip()


def test_ten_people_at_once_on_cold_caches() -> None:
    def work(user: str) -> str:
        make = "conda create -y -q -n mine python=3.10 six >/dev/null"
        return run(f"{make} && conda run -n mine python -c 'import six; print(six.__file__)'", user)

    cluster.on_node(f"rm -rf {SCRATCH}/user*/*", node=NODES[0])
    with ThreadPoolExecutor(len(CROWD)) as pool:
        made = dict(zip(CROWD, pool.map(work, CROWD), strict=True))
    place = "lib/python3.10/site-packages/six.py"
    assert made == {user: f"{SCRATCH}/{user}/envs/mine/{place}\n" for user in CROWD}
    see = f"for name in {' '.join(CROWD)}; do ls -d {SCRATCH}/$name/* 2>/dev/null; done; true"
    with ThreadPoolExecutor(2) as pool:
        seen = dict(zip(CROWD, pool.map(lambda user: run(see, user).split(), CROWD), strict=True))
    assert seen == {user: [f"{SCRATCH}/{user}/envs", f"{SCRATCH}/{user}/pkgs"] for user in CROWD}


# What nobody may do


SHARED = "/opt/envfleet/envs/tools"
PIP = "pip install -q --no-index --break-system-packages /tmp/byhand-*.whl"
LIBRARY = f"{SHARED}/lib/python3.10/site-packages"
CACHE = "/opt/envfleet/pkgs"
#: Each would do damage, or see what it should not, if it were allowed: root is, and does, in this order.
ATTEMPTS = {
    # a shared environment
    "change a module": f"echo evil >>{LIBRARY}/six.py",
    "replace its Python": f"cp /bin/true {SHARED}/bin/python-config",
    "have its Python run something": f"echo 'import evil' >{LIBRARY}/evil.pth",
    "have its activation run something": f"echo evil >{SHARED}/etc/conda/activate.d/evil.sh",
    "have it set a variable": f"echo '{{}}' >{SHARED}/conda-meta/state",
    "remove a module": f"rm {LIBRARY}/requests/api.py </dev/null",
    "open a directory of it": f"chmod 0777 {LIBRARY}/idna",
    "take a file of it": f"chown user0 {LIBRARY}/idna/core.py",
    "thaw it": f"mv {SHARED}/conda-meta/frozen {SHARED}/conda-meta/thawed",
    "install a wheel into it": f"{SHARED}/bin/python -m {PIP}",
    "uninstall a package of it with pip": f"{SHARED}/bin/python -m pip uninstall -q -y --break-system-packages urllib3",
    "install a package into it": "conda install -y -q -n tools --override-frozen six=1.17",
    "remove a package of it": "conda remove -y -q -n tools --override-frozen idna",
    "add a shared environment": "mkdir /opt/envfleet/envs/evil",
    "add one with conda": "conda create -y -q -p /opt/envfleet/envs/small cuda-version",
    "install into somebody's environment": f"conda install -y -q -p {MINE} cuda-version=11.8",
    "add a generation": "mkdir /opt/envfleet/generations/tools/0123456789ab",
    # the shared cache
    "change a package in the cache": f"echo evil >>{CACHE}/six-1.16.0-pyh_0/site-packages/six.py",
    "add an archive to the cache": f"echo evil >{CACHE}/evil-1.0-0.conda",
    "make the cache one to write to": f"touch {CACHE}/urls.txt",
    "remove a package from the cache": f"rm -r {CACHE}/idna-*-pyh_0",
    "unpack something into the cache": f"mkdir {CACHE}/evil-1.0-0",
    "open the cache": f"chmod -R o+w {CACHE}",
    # the base and the policy
    "change conda": "echo evil >>/opt/conda/bin/conda",
    "install a package into the base": f"/opt/conda/bin/python -m {PIP}",
    "give the base a condarc": "echo 'channels: [evil]' >/opt/conda/.condarc",
    "change the policy": "echo 'channels: [evil]' >>/etc/conda/.condarc",
    "add to the policy": "echo 'channels: [evil]' >/etc/conda/condarc",
    "replace the policy": "cp /dev/null /etc/conda/new && mv /etc/conda/new /etc/conda/.condarc",
    # what shells read, and what people are told
    "change what bash reads": "echo evil >>/etc/profile.d/envfleet-users.sh",
    "change what all of bash reads": "echo evil >>/etc/bash.bashrc",
    "change what zsh reads": "echo evil >>/etc/zsh/zshenv",
    "change what fish reads": "echo evil >>/etc/fish/conf.d/envfleet-users.fish",
    "change what tcsh reads": "echo evil >>/etc/csh/cshrc.d/envfleet-users.csh",
    "change conda in tcsh": "echo evil >>/etc/envfleet/conda.csh",
    "take conda's place": "ln -sf /bin/true /usr/local/bin/conda",
    "change the guide": f"echo evil >>{GUIDE}",
    "change the message": "echo evil >/etc/motd.d/envfleet",
    # what belongs to somebody else
    "look into somebody's directory": f"ls {SCRATCH}/alice",
    "read somebody's environment": f"cat {MINE}/conda-meta/history",
    "take somebody's packages": f"cp -r {SCRATCH}/alice/pkgs ~/stolen",
    "change somebody's module": f"echo evil >>{MINE}/share/evil",
    "put something into somebody's cache": f"echo evil >{SCRATCH}/alice/pkgs/urls.txt",
    "open somebody's directory": f"chmod 0777 {SCRATCH}/alice",
    "make a directory in somebody's name": f"mkdir {SCRATCH}/eve",
    "lead somebody elsewhere": f"mv {SCRATCH}/bashir {SCRATCH}/away && ln -s /tmp {SCRATCH}/bashir",
    "remove somebody's environment": f"conda env remove -y -q -p {MINE}",
    "remove somebody's directory": f"rm -r {SCRATCH}/alice",
    # and all at once
    "lead a name elsewhere": f"ln -sfn /tmp {SHARED}",
    "remove the generations": "rm -r /opt/envfleet/generations/tools",
    "replace the directories of all": f"mv {SCRATCH} /scratch/away",
    "replace the base": "ln -sfn /tmp /opt/conda",
}
READING = {"look into somebody's directory", "read somebody's environment", "take somebody's packages"}
LISTING_OF = "-printf '%p %y %m %U:%G %s %l %n %T@ %C@\\n'"
# Of the base no more than its top and what is named above, since the state is taken after each attempt of root's.
STATE = f"""{{
find /opt/conda /opt/envfleet/envs /opt/envfleet/generations {CACHE} {SCRATCH} /home/alice {LISTING_OF}
find /opt/conda/ /opt/conda/bin /opt/conda/lib/python3*/site-packages -maxdepth 1 {LISTING_OF}
find /etc /usr/local {LISTING_OF}
}} 2>/dev/null | sort | sha256sum"""
WHOLE = f"find /opt /etc /usr/local {SCRATCH} /home/alice"
CONTENT = f"{WHOLE} {LISTING_OF} | sort | sha256sum; {WHOLE} -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum"


def attempt_all(user: str, node: str) -> dict[str, tuple[int, str]]:
    """Make all attempts in one login, one after another: how each ended, and the state of the node after it."""
    cluster.on_node(f"cd /tmp && python3 -c {shlex.quote(WHEEL)} && chmod 0644 *.whl", node=node)
    state = f"state=$({STATE})" if user == "root" else "state=-"
    lines = [f"({command}) >/dev/null 2>&1; code=$?; {state}; echo $code $state" for command in ATTEMPTS.values()]
    told = cluster.on_node(
        "export PYTHONNOUSERSITE=1; cd; " + "\n".join(lines), node=node, user=user
    ).stdout.splitlines()
    ended = (line.split() for line in told)
    return {name: (int(code), state) for name, (code, state, *_rest) in zip(ATTEMPTS, ended, strict=True)}


def test_nobody_can_alter_what_is_shared_or_somebody_elses() -> None:
    assert cluster.on_node(f"find {CACHE} ! -type l '(' -perm /022 -o ! -perm -044 ')'", node=NODES[0]).stdout == ""
    for node in NODES:
        run("conda create -y -q -n mine cuda-version=12.9", node=node)
    before = cluster.on_node(CONTENT, node=NODES[0]).stdout
    assert {name for name, (code, _state) in attempt_all("user0", NODES[0]).items() if code == 0} == set()
    assert cluster.on_node(CONTENT, node=NODES[0]).stdout == before

    # Nothing but the permissions stood in their way: for root, each attempt succeeds and does what it says.
    states = [cluster.on_node(STATE, node=NODES[1]).stdout.split()[0]]
    harmless = set()
    for name, (code, state) in attempt_all("root", NODES[1]).items():
        if code != 0 or (state == states[-1]) != (name in READING):
            harmless.add(f"{name}: {code}")
        states.append(state)
    assert harmless == set()


# Drift and removal, on the first node


def test_what_has_drifted_is_named_and_corrected() -> None:
    def found(*arguments: str) -> dict[str, tuple[str, str]]:
        findings = cluster.drift("--limit", NODES[0], *arguments, hosts=HOSTS)[NODES[0]]
        return {one["subject"]: (one["actual"], one["fix"]) for one in findings}

    damage = f"chmod 0755 {SCRATCH}/alice; rm -r {SCRATCH}/finn {GUIDE}; sed -i /envfleet/d /etc/zsh/zshenv"
    cluster.on_node(f"{damage}; echo >>/etc/profile.d/envfleet-users.sh", node=NODES[0])
    more = json.dumps({"user_environments_users": ["alice", "nobody-known"]})
    seen = found("-e", more)
    assert seen.pop("/etc/profile.d/envfleet-users.sh")[1] == "auto"
    assert seen == {
        f"{SCRATCH}/alice": ("mode 0755", "auto"),
        f"{SCRATCH}/finn": ("absent", "auto"),
        GUIDE: ("absent", "auto"),
        "/etc/zsh/zshenv": ("no such block", "auto"),
        "user nobody-known": ("unknown", "human"),
    }
    site("--limit", NODES[0])
    assert found() == {}
    assert run(f"stat -c '%a %U' {SCRATCH}/alice {SCRATCH}/finn", "root").split() == ["700", "alice", "700", "finn"]


def test_a_root_that_somebody_else_could_replace_is_refused() -> None:
    cluster.on_node("install -d -m 0777 /open; install -d -o mallory /scratch/hers", node=NODES[0])
    for root, why in (("/open/conda", "lies below /open"), ("/scratch/hers", "belongs to mallory")):
        place = {f"miniconda_{kind}_dirs": [f"{root}/$USER/{kind}"] for kind in ("envs", "pkgs")}
        options = json.dumps({"user_environments_root": root, **place})
        code, output = cluster.playbook(
            "site", "--limit", NODES[0], "--tags", "user_environments", "-e", options, hosts=HOSTS
        )
        assert code != 0
        assert why in output


def test_absent_leaves_nothing_but_what_belongs_to_people() -> None:
    absent = ("--limit", NODES[0], "-e", "user_environments_state=absent")
    before = run(f"find {SCRATCH}/alice | sort")
    assert f"{MINE}/conda-meta/history" in before
    site(*absent)
    assert told(site(*absent), "changed") == {NODES[0]: 0}
    assert cluster.drift(*absent, hosts=HOSTS) == {NODES[0]: []}
    assert cluster.on_node("grep -rl envfleet-users /etc /usr/local/share", node=NODES[0], check=False).stdout == ""
    assert cluster.on_node(
        f"ls /etc/motd.d /etc/envfleet {Path(GUIDE).parent}", node=NODES[0], check=False
    ).stdout.split() == [
        "/etc/envfleet:",
        "/etc/motd.d:",
        f"{Path(GUIDE).parent}:",
    ]
    assert run(f"find {SCRATCH}/alice | sort") == before
