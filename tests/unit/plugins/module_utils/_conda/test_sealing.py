"""Whose a generation is, who may use it, and what activating it sets."""

from __future__ import annotations

import dataclasses
import grp
import json
import os
import pwd
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda import environments, generations, prefixes
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.access import Access, lock_identity
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.generations import SmokeTest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.locks import Package

from lab.channel import STANDIN
from lab.packages import PLACEHOLDER, Entry

if TYPE_CHECKING:
    from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.convergence import Wanted

    from unit.plugins.conftest import Channel, Node

pytestmark = pytest.mark.usefixtures("restore_umask")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
IDENTITY = "5f" * 32
# Accounts that Debian and its kin have, and Red Hat's too.
OWNER, GROUP = "daemon", "mail"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"umask": "0002"}, "umask: 0002 must take the right to write from group and others"),
        ({"umask": "0722"}, "umask: 0722 must"),
        ({"umask": "18"}, "umask: '18' is no mode: write four octal digits in quotes"),
        ({"mode": "488"}, "mode: '488' is no mode: write four octal digits in quotes"),
        ({"mode": "0770"}, "mode: 0770 must let the owner do everything and others change nothing"),
        ({"mode": "0550"}, "mode: 0550 must"),
        ({"mode": "2750"}, "mode: '2750' is no mode"),
        ({"mode": "u=rwx"}, "mode: 'u=rwx' is no mode"),
        ({"owner": "a b"}, "owner: 'a b' is no name of an account"),
        ({"group": "x:y"}, "group: 'x:y' is no name of an account"),
    ],
)
def test_nobody_but_the_owner_can_ever_write(options: dict[str, str], message: str) -> None:
    with pytest.raises(CondaError, match=rf"^{message}"):
        Access(**options)


@pytest.mark.parametrize(
    ("access", "suffix"),
    [
        (Access(), ""),
        (Access(mode="0755", umask="0022"), ""),
        (Access(mode="0750"), "@: 0750 0022"),
        (Access(umask="0027"), "@: 0750 0027"),
        (Access(umask="0027", mode="0755"), "@: 0755 0027"),
        (Access("alice", "chem", "0750", "0077"), "@alice:chem 0750 0077"),
    ],
)
def test_an_identity_says_who_may_use_a_generation_where_that_is_not_everybody(access: Access, suffix: str) -> None:
    identity = IDENTITY + access.suffix
    assert identity == IDENTITY + suffix
    assert lock_identity(identity) == IDENTITY
    found = Access.of(identity)
    assert (found.suffix, found.top, found.umask) == (access.suffix, access.top, access.umask)


@pytest.mark.parametrize("identity", [f"{IDENTITY}@", f"{IDENTITY}@a:b 0777 0022", f"{IDENTITY}@a:b"])
def test_an_identity_that_was_edited_is_none(identity: str) -> None:
    with pytest.raises(CondaError):
        Access.of(identity)


def install(node: Node, *packages: Package, smoke_test: SmokeTest | None = None, **access: str) -> Wanted:
    """Bring the node to *packages* for those whom *access* says, and say what was wanted."""
    wanted = dataclasses.replace(node.want(*packages), access=Access(**access))
    if smoke_test:
        wanted = dataclasses.replace(wanted, smoke_test=smoke_test)
    node.converge(wanted)
    return wanted


def modes(generation: Path) -> set[tuple[str, int, int]]:
    """Kind, mode and owner of all below a generation, but not of its links."""
    found = set()
    for path in prefixes.scan(str(generation)):
        info = (generation / path).lstat()
        if not stat.S_ISLNK(info.st_mode):
            found.add((f"{stat.S_IFMT(info.st_mode):o} {stat.S_IMODE(info.st_mode):04o}", info.st_uid, info.st_gid))
    return found


@as_root
def test_a_generation_is_its_owners_and_open_to_a_group_alone(node: Node, channel: Channel) -> None:
    uid, gid = pwd.getpwnam(OWNER).pw_uid, grp.getgrnam(GROUP).gr_gid
    tool = channel.add_tool()
    # The smoke test's user gets in, with the group, and without it would not.
    test = SmokeTest(
        ("sh", "-c", f'test "$(id -un)" = nobody && test "$(id -G | wc -w)" = 2 && tool && id -G | grep -w {gid}'),
        "nobody",
        60,
    )
    wanted = install(node, tool, smoke_test=test, owner=OWNER, group=GROUP, mode="0750", umask="0027")
    generation = node.generation()
    assert modes(generation) == {("40000 0750", uid, gid), ("100000 0750", uid, gid), ("100000 0640", uid, gid)}
    top = generation.stat()
    assert (oct(stat.S_IMODE(top.st_mode)), top.st_uid, top.st_gid) == ("0o750", uid, gid)
    (link,) = (path for path in generation.rglob("*") if path.is_symlink())
    assert (link.lstat().st_uid, link.lstat().st_gid) == (uid, gid)
    for level in generations.LEVELS:
        (outcome,) = node.converge(wanted, verify=level)
        assert (level, bool(outcome.todo), outcome.problems) == (level, False, ())


@pytest.mark.parametrize("umask", ["0022", "0027"])
def test_a_package_cannot_bring_set_uid_or_let_others_write(umask: str, node: Node, channel: Channel) -> None:
    """Neither in the generation nor in the package cache, from which the next one is made."""
    entries = [
        Entry("bin/plain", b"#!/bin/sh\n", 0o6755),
        Entry("bin/prefixed", f"#!/bin/sh\n# {PLACEHOLDER}\n".encode(), 0o6777),
        Entry("etc/conda/activate.d/open.sh", b":\n", 0o666),
        Entry("share/sticky", b"data\n", 0o1777),
    ]
    install(node, channel.add("careless", "1.0", entries), umask=umask)
    paths = list(node.root.rglob("*"))
    assert {"prefixed", "open.sh"} <= {path.name for path in paths if path.is_relative_to(node.pkgs)}
    modes = {str(path): oct(path.lstat().st_mode) for path in paths if not path.is_symlink()}
    assert {path: mode for path, mode in modes.items() if int(mode, 8) & 0o7022} == {}


@as_root
def test_generations_for_different_people_share_no_file(node: Node, channel: Channel) -> None:
    """Files are hard links into the package cache: what is given to one must not reach others, nor be read there."""
    tool = channel.add_tool()
    node.install(tool, name="public")
    closed = dataclasses.replace(node.want(tool), access=Access(OWNER, GROUP, "0750", "0027"))
    for wanted in (
        closed,
        dataclasses.replace(closed, name="again"),
        dataclasses.replace(closed, access=Access(mode="0750")),
    ):
        node.converge(wanted)
    assert environments.look(node.layout, "public").problems == ()
    assert environments.look(node.layout, "again").problems == ()
    data = "share/tool/data"
    inodes = [(node.generation(name) / data).stat().st_ino for name in ("public", "ml", "again")]
    assert len(set(inodes)) == 3
    found = [path.stat().st_ino for path in node.pkgs.glob(f"tool-*/{data}")]
    assert found == inodes[:1]
    restricted = node.pkgs / ".restricted"
    assert (oct(restricted.stat().st_mode & 0o7777), len(list(restricted.iterdir()))) == ("0o700", 2)


def test_another_access_is_another_generation_and_the_way_back_is_a_switch(node: Node, channel: Channel) -> None:
    tool = channel.add_tool()
    first = node.install(tool)
    closed = install(node, tool, mode="0750")
    second = node.generation()
    assert second == first.with_name(f"{first.name}-2")
    assert oct(stat.S_IMODE(second.stat().st_mode)) == "0o750"
    identity = generations.find(node.layout, "ml", "previous")[1]
    assert (identity, Access.of(identity)) == (node.want(tool).lock.identity, Access())
    (outcome,) = node.converge(node.want(tool), base_prefix="/nowhere")
    assert (outcome.todo.build, node.generation()) == (False, first)
    assert generations.find(node.layout, "ml", "previous") == (str(second), closed.identity)
    assert generations.lock_of(node.layout, "ml", "previous", "linux-64") == closed.lock


@pytest.mark.parametrize("mode", [0o755, 0o777, 0o700])
def test_a_top_directory_that_was_opened_or_closed_is_damage(mode: int, node: Node, channel: Channel) -> None:
    wanted = install(node, channel.add_tool(), mode="0750")
    old = node.generation()
    old.chmod(mode)
    (outcome,) = node.converge(wanted)
    (found,) = outcome.problems
    assert (found.kind, found.subject) == ("changed", str(old))
    assert f"expected 0750 {os.geteuid()}:{os.getegid()}, found {mode:04o}" in found.detail
    assert node.generation() == old.with_name(f"{old.name}-2")
    assert environments.look(node.layout, "ml").problems == ()


@as_root
def test_a_top_directory_that_was_given_away_is_damage(node: Node, channel: Channel) -> None:
    generation = node.install(channel.add_tool())
    os.chown(generation, 65534, 65534)
    assert [problem.kind for problem in environments.look(node.layout, "ml").problems] == ["changed"]


def test_a_manifest_with_an_edited_identity_is_damage(node: Node, channel: Channel) -> None:
    generation = node.install(channel.add_tool())
    manifest = generation / prefixes.MANIFEST
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "identity": content["identity"] + "@x"}))
    assert [problem.kind for problem in environments.look(node.layout, "ml").problems] == ["manifest"]


@pytest.mark.parametrize("check_mode", [True, False])
@pytest.mark.parametrize(
    ("access", "smoke_test", "message"),
    [
        ({"owner": "no-such-user"}, (), "owner: this node has no user no-such-user"),
        ({"group": "no-such-group"}, (), "group: this node has no group no-such-group"),
        pytest.param(
            {"mode": "0700"},
            ("tool",),
            "smoke_test_user: nobody could not use the environment, which mode and umask leave to its owner",
            marks=as_root,
        ),
        pytest.param({"umask": "0077", "mode": "0755"}, ("tool",), "smoke_test_user: nobody could", marks=as_root),
    ],
)
def test_what_the_node_cannot_do_is_told_before_any_change(
    access: dict[str, str], smoke_test: tuple[str, ...], message: str, check_mode: bool, node: Node, channel: Channel
) -> None:
    wanted = node.want(channel.add_tool(), smoke_test=SmokeTest(smoke_test, "nobody", 60))
    with pytest.raises(CondaError, match=rf"^conda_envs_shared: ml: {message}"):
        node.converge(dataclasses.replace(wanted, access=Access(**access)), check_mode=check_mode)
    assert not node.root.exists()


@pytest.mark.usefixtures("unprivileged")
def test_only_root_can_give_a_generation_away() -> None:
    with pytest.raises(CondaError, match=r"^owner, group: only root can"):
        Access(owner="root").accounts()


@as_root
def test_the_owner_alone_may_test_what_only_the_owner_may_use(node: Node, channel: Channel) -> None:
    test = SmokeTest(("sh", "-c", f'test "$(id -un)" = {OWNER} && tool'), OWNER, 60)
    install(node, channel.add_tool(), smoke_test=test, owner=OWNER, mode="0700", umask="0077")
    assert oct(stat.S_IMODE(node.generation().stat().st_mode)) == "0o700"


def with_variables(wanted: Wanted, **variables: str) -> Wanted:
    lock = dataclasses.replace(wanted.lock, variables=tuple(sorted(variables.items())))
    return dataclasses.replace(wanted, lock=lock)


def activated(prefix: Path, sandbox: Path, code: str) -> str:
    """What a shell prints that activates *prefix* with the stand-in for conda."""
    runner = sandbox / "conda.py"
    runner.write_text(
        f"import sys; from pathlib import Path; sys.path.insert(0, {str(STANDIN)!r})\n"
        "from conda_standin.cli import main\n"
        f"sys.exit(main(sys.argv[1:], root=Path({str(sandbox / 'root')!r}), etc=Path({str(sandbox / 'etc')!r})))\n"
    )
    script = f'eval "$({sys.executable} {runner} shell.posix activate {prefix})"; {code}'
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(sandbox)}
    done = subprocess.run(["sh", "-euc", script], env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def test_variables_reach_activated_shells_and_the_smoke_test(node: Node, channel: Channel, sandbox: Path) -> None:
    tool = channel.add_tool()
    test = SmokeTest(("sh", "-c", 'test "$THREADS:$WORD" = "8:a  b"'), "nobody", 60)
    wanted = with_variables(node.want(tool, smoke_test=test), THREADS="8", WORD="a  b")
    node.converge(wanted)
    generation = node.generation()
    assert json.loads((generation / "conda-meta/state").read_text()) == {"env_vars": {"THREADS": "8", "WORD": "a  b"}}
    (sandbox / "root/conda-meta").mkdir(parents=True)
    assert activated(node.link(), sandbox, 'echo "$THREADS:$WORD:$CONDA_PREFIX"') == f"8:a  b:{generation}\n"
    for level in generations.LEVELS:
        assert not node.converge(wanted, verify=level)[0].todo


def test_another_value_is_another_generation(node: Node, channel: Channel) -> None:
    tool = channel.add_tool()
    plain = node.install(tool)
    assert not (plain / "conda-meta/state").exists()
    made = []
    for value in ("8", "9", "8"):
        node.converge(with_variables(node.want(tool), THREADS=value))
        made.append(node.generation())
    assert made[0] == made[2]
    assert len({plain, *made}) == 3


@pytest.mark.parametrize("content", ['{"env_vars": {"THREADS": "9"}}', "[]", None])
def test_variables_are_checked_against_the_lock_at_that_level(
    content: str | None, node: Node, channel: Channel
) -> None:
    wanted = with_variables(node.want(channel.add_tool()), THREADS="8")
    node.converge(wanted)
    old = node.generation()
    state = old / "conda-meta/state"
    state.write_text(content) if content else state.unlink()
    prefixes.finish(str(old), wanted.identity, "rattler")  # as if it had been built like this
    assert node.converge(wanted)[0].problems == ()
    (outcome,) = node.converge(wanted, verify="records")
    assert [(problem.kind, problem.subject) for problem in outcome.problems] == [("changed", "conda-meta/state")]
    assert node.generation() != old


def test_an_audited_check_of_all_this_touches_nothing(node: Node, channel: Channel, audited: Any) -> None:
    wanted = with_variables(node.want(channel.add_tool()), THREADS="8")
    wanted = dataclasses.replace(wanted, access=Access(mode="0750", umask="0027"))
    with audited() as audit:
        (planned,) = node.converge(wanted, check_mode=True)
    assert (audit.events, node.root.exists()) == ([], False)
    (done,) = node.converge(wanted)
    assert planned.as_dict() == done.as_dict()
    assert done.as_dict()["identity"] == f"{wanted.lock.identity}@: 0750 0027"
