"""What becomes of an environment: installed, kept, changed, rolled back, mended."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pwd
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda import environments, generations, prefixes
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.convergence import Wanted
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.engines import RattlerEngine
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.generations import Retention, SmokeTest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.locks import Lock, Package, Wheel

from lab.packages import PLACEHOLDER, Entry
from unit.plugins.pip_part import add_python, listed, write_wheel

if TYPE_CHECKING:
    from unit.plugins.conftest import Channel, Node

pytestmark = pytest.mark.usefixtures("restore_umask")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can do this")
SITE = f"lib/python3.{sys.version_info.minor}/site-packages"


def problems(node: Node, name: str = "ml") -> list[tuple[str, str]]:
    return [(problem.kind, problem.subject) for problem in environments.look(node.layout, name).problems]


def output(node: Node, command: str = "bin/tool") -> str:
    """What a user sees who calls something through the name."""
    return subprocess.run([node.link() / command], capture_output=True, text=True, check=True).stdout.strip()


def python_package(channel: Channel, *more: Entry) -> Package:
    """A `python` that is the one of the tests, with a library of its own."""
    script = f'#!/bin/sh\nexec {sys.executable} "$@"\n'.encode()
    library = f"lib/python3.{sys.version_info.minor}"
    # The source changes when the prefix is put into it, and so the byte code in the archive is outdated.
    entries = [
        Entry("bin/python", script, 0o755),
        Entry(f"{library}/where.py", f'prefix = "{PLACEHOLDER}"\n'.encode()),
        Entry(f"{library}/__pycache__/where.cpython-3{sys.version_info.minor}.pyc", b"outdated"),
        Entry(f"{library}/broken.py", b"print 'for another Python'\n"),
        Entry("lib/python3.1", link=f"python3.{sys.version_info.minor}"),
        *more,
    ]
    return channel.add("python", "3.0", entries)


def test_an_environment_is_installed_and_used_through_its_name(node: Node, channel: Channel) -> None:
    tool = channel.add_tool()
    generation = node.install(tool)
    identity = Lock("linux-64", (tool,)).identity
    assert generation == node.root / "generations" / "ml" / identity[:12]
    assert output(node) == "tool 1.0"
    assert problems(node) == []
    environment = environments.look(node.layout, "ml")
    assert environment.manifest
    assert (environment.manifest.identity, environment.manifest.engine) == (identity, "rattler")
    assert environment.as_dict() == {
        "name": "ml",
        "link": str(node.link()),
        "generation": str(generation),
        "identity": identity,
        "created": environment.manifest.created,
        "engine": "rattler",
        "problems": [],
        "leftovers": [],
        "unused": [],
    }
    assert environments.names(node.layout) == ["ml"]
    assert node.generations() == [generation.name]
    assert os.listdir(node.root / "envs") == ["ml"]


def test_a_generation_is_for_all_to_use_and_for_nobody_to_change(node: Node, channel: Channel) -> None:
    os.umask(0o077)
    entries = [Entry("open", b"x", 0o666), Entry("closed", b"x", 0o600), Entry("program", b"x", 0o700)]
    generation = node.install(python_package(channel, *entries))
    for path in ("", *prefixes.scan(str(generation))):
        info = (generation / path).lstat()
        if not stat.S_ISLNK(info.st_mode):
            mode = stat.S_IMODE(info.st_mode)
            runs = stat.S_ISDIR(info.st_mode) or path in ("program", "bin/python")
            assert (path, oct(mode)) == (path, oct(0o755 if runs else 0o644))
        assert (info.st_uid, info.st_gid) == (os.geteuid(), os.getegid())
    for folder in (node.root, node.root / "envs", node.root / "generations", generation.parent, node.pkgs):
        assert (folder, oct(stat.S_IMODE(folder.stat().st_mode))) == (folder, oct(0o755))
    assert json.loads((generation / "conda-meta" / "frozen").read_text())["message"].startswith("Managed by envfleet")
    marker = (generation / SITE).parent / "EXTERNALLY-MANAGED"
    assert marker.read_text().startswith("[externally-managed]\nError=Managed by envfleet")
    assert (generation / "conda-meta" / "python-3.0-0.json").is_file()


class SetUid(RattlerEngine):
    """Like engines that keep the modes and the owners of archives, which py-rattler does not."""

    def install(self, packages: Sequence[Package], prefix: str, cache: str) -> None:
        """See Engine."""
        super().install(packages, prefix, cache)
        Path(prefix, "bin/tool").chmod(0o6777)
        if os.geteuid() == 0:
            os.chown(Path(prefix, "bin/tool"), 65534, 65534)


def test_no_set_uid_file_of_an_archive_reaches_users(node: Node, channel: Channel) -> None:
    layout, tool = node.layout, channel.add_tool()
    for folder in (layout.envs_dir, layout.generations_dir):
        os.makedirs(folder)
    lock = Lock("linux-64", (tool,))
    todo = generations.plan(layout, environments.look(layout, "ml"), lock, [], "fast", Retention())
    generations.apply(todo, SetUid(sys.executable), str(node.pkgs), SmokeTest((), "nobody", 9))
    info = (node.generation() / "bin/tool").stat()
    assert (oct(stat.S_IMODE(info.st_mode)), info.st_uid, info.st_gid) == ("0o755", os.geteuid(), os.getegid())
    assert problems(node) == []


def test_byte_code_is_made_once_and_full_checks_accept_it(node: Node, channel: Channel) -> None:
    package = python_package(channel)
    generation = node.install(package)
    library = generation / SITE
    (cached,) = (library.parent / "__pycache__").glob("where.*.pyc")
    assert cached.read_bytes() != b"outdated"
    for level in ("fast", "records", "full"):
        (outcome,) = node.converge(node.want(package), verify=level)
        assert (level, outcome.problems, bool(outcome.todo)) == (level, (), False)


def test_an_upgrade_builds_beside_and_keeps_the_old_generation(node: Node, channel: Channel) -> None:
    old = node.install(channel.add_tool(version="1.0"))
    before = prefixes.scan(str(old))
    new = node.install(channel.add_tool(version="2.0"))
    assert output(node) == "tool 2.0"
    assert old != new
    assert prefixes.scan(str(old)) == before
    assert node.generations() == sorted([old.name, new.name])
    assert subprocess.run([old / "bin/tool"], capture_output=True, text=True, check=True).stdout == "tool 1.0\n"


def test_a_rollback_is_a_switch_without_engine_network_or_room(node: Node, channel: Channel) -> None:
    first = channel.add_tool(version="1.0")
    old = node.install(first)
    node.install(channel.add_tool(version="2.0"))
    shutil.rmtree(channel.directory)
    shutil.rmtree(node.pkgs)
    (outcome,) = node.converge(node.want(first), base_prefix="/nowhere", min_free_mb=10**9)
    assert outcome.todo.actions() == [f"point {node.link()} to {old}"]
    assert node.generation() == old
    assert output(node) == "tool 1.0"
    assert outcome.as_dict()["changed"] == [{"name": "tool", "before": "tool 2.0 0", "after": "tool 1.0 0"}]


def test_a_rollback_does_not_take_a_damaged_generation(node: Node, channel: Channel) -> None:
    first = channel.add_tool(version="1.0")
    old = node.install(first)
    node.install(channel.add_tool(version="2.0"))
    (old / "bin/tool").unlink()
    assert node.install(first) == old.with_name(f"{old.name}-2")
    assert output(node) == "tool 1.0"


def replace_with_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/bin/true")


def install_by_hand(generation: Path) -> None:
    info = generation / SITE / "foo-2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Name: foo\nVersion: 2\n")
    (info / "INSTALLER").write_text("pip\n")


def write_foreign_record(generation: Path) -> None:
    record = {"name": "foreign", "version": "1", "build": "0", "files": []}
    (generation / "conda-meta" / "foreign-1-0.json").write_text(json.dumps(record))


DAMAGES: dict[str, tuple[Callable[[Path], object], tuple[str, str]]] = {
    "deleted": (lambda g: (g / "bin/tool").unlink(), ("missing", "bin/tool")),
    "edited": (lambda g: (g / "bin/tool").write_text("#!/bin/sh\necho evil\n"), ("changed", "bin/tool")),
    "made writable": (lambda g: (g / "bin/tool").chmod(0o777), ("changed", "bin/tool")),
    "made a link": (lambda g: replace_with_link(g / "bin/tool"), ("changed", "bin/tool")),
    "file added": (lambda g: (g / "bin/extra").touch(), ("unexpected", "bin/extra")),
    "pip package": (install_by_hand, ("foreign", "foo")),
    "conda package": (write_foreign_record, ("foreign", "foreign")),
    "record deleted": (
        lambda g: (g / "conda-meta/tool-1.0-0.json").unlink(),
        ("missing", "conda-meta/tool-1.0-0.json"),
    ),
    "freeze lifted": (lambda g: (g / "conda-meta/frozen").unlink(), ("missing", "conda-meta/frozen")),
    "manifest deleted": (lambda g: (g / prefixes.MANIFEST).unlink(), ("manifest", "")),
}
if os.geteuid() == 0:
    DAMAGES["given away"] = (lambda g: os.chown(g / "bin/tool", 65534, 65534), ("changed", "bin/tool"))


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_generation_is_built_anew_beside(name: str, node: Node, channel: Channel) -> None:
    tool = channel.add_tool()
    old = node.install(tool)
    damage, (kind, subject) = DAMAGES[name]
    damage(old)
    assert (kind, subject or str(old)) in problems(node)
    damaged = prefixes.scan(str(old))
    (outcome,) = node.converge(node.want(tool))
    assert outcome.todo.build
    assert (kind, subject or str(old)) in [(problem.kind, problem.subject) for problem in outcome.problems]
    assert node.generation() == old.with_name(f"{old.name}-2")
    assert output(node) == "tool 1.0"
    assert problems(node) == []
    assert prefixes.scan(str(old)) == damaged  # a job may still use it


def test_a_file_that_was_touched_or_copied_is_no_damage(node: Node, channel: Channel) -> None:
    tool = channel.add_tool()
    generation = node.install(tool)
    os.utime(generation / "bin/tool", ns=(1, 1))
    assert node.install(tool) == generation


def edit_unseen(path: Path) -> None:
    """Change content, and put size and time back."""
    info = path.stat()
    with path.open("r+b") as stream:
        stream.write(b"D")
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def test_a_full_check_finds_what_a_fast_one_cannot(node: Node, channel: Channel) -> None:
    tool = channel.add_tool()
    old = node.install(tool)
    edit_unseen(old / "share/tool/data")
    assert (old / "share/tool/data").read_text() == "Data of 1.0\n"
    for level, subjects in (("fast", []), ("records", []), ("full", ["share/tool/data"])):
        (outcome,) = node.converge(node.want(tool), check_mode=True, verify=level)
        assert (level, [problem.subject for problem in outcome.problems]) == (level, subjects)
    node.converge(node.want(tool), verify="full")
    assert node.generation() == old.with_name(f"{old.name}-2")
    # The file is a hard link, so the edit had reached the package cache: it must not come back from there.
    assert (node.link() / "share/tool/data").read_text() == "data of 1.0\n"
    assert node.converge(node.want(tool), verify="full")[0].problems == ()


def test_a_full_check_does_not_switch_back_to_what_it_rejected(node: Node, channel: Channel) -> None:
    tool = channel.add_tool()
    names = []
    for _attempt in range(3):
        node.converge(node.want(tool), verify="full")
        names.append(node.generation().name)
        edit_unseen(node.generation() / "share/tool/data")
    assert names[1:] == [f"{names[0]}-2", f"{names[0]}-3"]


def test_an_edited_cache_does_not_reach_a_new_environment(node: Node, channel: Channel) -> None:
    tool = channel.add_tool()
    first = node.install(tool, name="first")
    (first / "share/tool/data").write_text("edited in place\n")
    assert (node.pkgs / "tool-1.0-0" / "share/tool/data").read_text() == "edited in place\n"
    second = node.install(tool, name="second")
    assert (second / "share/tool/data").read_text() == "data of 1.0\n"


def test_records_are_checked_against_the_lock_at_that_level(node: Node, channel: Channel) -> None:
    tool = channel.add_tool()
    old = node.install(tool)
    record = old / "conda-meta" / "tool-1.0-0.json"
    content = record.read_text()
    record.write_text(content.replace(tool.sha256, "0" * 64))
    prefixes.finish(str(old), Lock("linux-64", (tool,)).identity, "rattler")  # as if it had been built like this
    assert node.converge(node.want(tool))[0].problems == ()
    (outcome,) = node.converge(node.want(tool), verify="records")
    assert [problem.detail for problem in outcome.problems] == ["tool 1.0 0 was made from another archive"]
    assert node.generation() == old.with_name(f"{old.name}-2")


def test_an_upgrade_is_no_damage_of_the_old_generation(node: Node, channel: Channel) -> None:
    node.install(channel.add_tool(version="1.0"))
    (outcome,) = node.converge(node.want(channel.add_tool(version="2.0")), verify="full")
    assert outcome.problems == ()


@pytest.mark.parametrize("through", ["file", "http"])
def test_a_corrupt_archive_changes_nothing(through: str, node: Node, channel: Channel, mirror: Channel) -> None:
    source = channel if through == "file" else mirror
    old = node.install(source.add_tool(version="1.0"))
    new = source.add_tool(version="2.0")
    archive = channel.directory / "linux-64" / new.file_name
    archive.write_bytes(archive.read_bytes().replace(b"zip", b"ZIP")[:-1])
    with pytest.raises(CondaError, match=r"^conda_envs_shared: ml: .*hash mismatch .*tool-2.0-0|hash mismatch: file:"):
        node.install(new)
    assert node.generation() == old
    assert node.generations() == [old.name]
    assert output(node) == "tool 1.0"
    archive.unlink()
    with pytest.raises(CondaError, match=r"404|No such file"):
        node.install(new)
    assert node.install(source.add_tool(version="2.0")) != old


def test_a_mirror_that_is_down_changes_nothing(node: Node, channel: Channel) -> None:
    old = node.install(channel.add_tool(version="1.0"))
    gone = Package.from_url("http://127.0.0.1:9/x/linux-64/tool-2.0-0.conda", "0" * 64)
    with pytest.raises(CondaError, match=r"conda_envs_shared: ml: .*tool-2.0-0.conda: .*Connection refused"):
        node.install(gone)
    assert (node.generation(), node.generations()) == (old, [old.name])


def test_a_package_that_contradicts_itself_is_refused(node: Node, channel: Channel) -> None:
    """Its archive is the one of the lock, but its files are not those of its own list."""
    node.install(channel.add_tool())
    with pytest.raises(CondaError, match=r"liar 1.0 0 is damaged in its own archive"):
        node.install(lying_package(channel))
    assert output(node) == "tool 1.0"
    assert len(node.generations()) == 1


def lying_package(channel: Channel) -> Package:
    """The files of one package under the list of another."""
    parts: list[dict[str, bytes]] = []
    for content in (b"told", b"true"):
        package = channel.add("liar", "1.0", [Entry("data", content)])
        path = channel.directory / "linux-64" / package.file_name
        with zipfile.ZipFile(path) as archive:
            parts.append({name: archive.read(name) for name in archive.namelist()})
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts[0].items():
            archive.writestr(name, parts[1][name] if name.startswith("pkg-") else content)
    return channel.listed(path)


def smoke(*argv: str, user: str = "nobody", timeout: float = 60) -> SmokeTest:
    return SmokeTest(argv, user, timeout)


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (smoke("tool", "--x"), None),
        (smoke("sh", "-c", 'test "$(tool)" = "tool 2.0" && test -d "$CONDA_PREFIX/conda-meta"'), None),
        (smoke("sh", "-c", "touch ~/cache && test ! -w $CONDA_PREFIX/bin/tool || test $(id -u) != 65534"), None),
        (smoke("sh", "-c", "echo broken import >&2; exit 7"), "the smoke test failed with 7: sh -c .*\nbroken import"),
        (smoke("no-such-program"), "no-such-program cannot be run: .*No such file"),
        (smoke("sh", "-c", "sleep 60", timeout=0.3), "sh did not end within 0.3 s"),
        (smoke("sh", "-c", "kill -9 $$"), "the smoke test failed with -9"),
    ],
)
def test_people_get_a_generation_only_after_its_smoke_test(
    test: SmokeTest, message: str | None, node: Node, channel: Channel
) -> None:
    old = node.install(channel.add_tool(version="1.0"))
    new = channel.add_tool(version="2.0")
    if message is None:
        assert node.install(new, smoke_test=test) != old
        assert problems(node) == []
        return
    with pytest.raises(CondaError, match=rf"^conda_envs_shared: ml: .*{message}"):
        node.install(new, smoke_test=test)
    assert (node.generation(), node.generations()) == (old, [old.name])
    assert output(node) == "tool 1.0"


def test_a_generation_that_is_there_has_to_pass_again(node: Node, channel: Channel) -> None:
    """A node may have changed since it was built, and so may the test."""
    one, two = channel.add_tool(version="1.0"), channel.add_tool(version="2.0")
    node.install(one)
    live = node.install(two)
    with pytest.raises(CondaError, match="the smoke test failed with 1: false"):
        node.install(one, smoke_test=smoke("false"))
    assert node.generation() == live
    assert node.install(one, smoke_test=smoke("tool")) != live


@as_root
def test_the_smoke_test_runs_as_its_user(node: Node, channel: Channel) -> None:
    node.install(channel.add_tool(), smoke_test=smoke("sh", "-c", 'test "$(id -un)" = nobody'))
    with pytest.raises(CondaError, match=r"there is no user no-such-user to run"):
        node.install(channel.add_tool(version="2.0"), smoke_test=smoke("tool", user="no-such-user"))
    assert output(node) == "tool 1.0"


@pytest.mark.parametrize("target", ["dangling", "foreign", "other environment"])
def test_a_link_that_leads_elsewhere_is_put_right(target: str, node: Node, channel: Channel) -> None:
    tool = channel.add_tool()
    generation = node.install(tool)
    other = node.install(channel.add_tool("other"), name="other")
    foreign = node.root / "foreign"
    foreign.mkdir()
    (foreign / "precious").touch()
    place = {"dangling": node.root / "nowhere", "foreign": foreign, "other environment": other}[target]
    node.link().unlink()
    node.link().symlink_to(place)
    ((kind, subject),) = problems(node)
    assert (kind, subject) == ("link", str(node.link()))
    (outcome,) = node.converge(node.want(tool))
    assert outcome.todo.actions() == [f"point {node.link()} to {generation}"]
    assert node.generation() == generation
    assert (foreign / "precious").exists()
    assert problems(node, "other") == []


@pytest.mark.parametrize("check_mode", [True, False])
@pytest.mark.parametrize("kind", ["directory", "file"])
def test_what_stands_in_the_place_of_a_name_stops_the_run_before_any_change(
    kind: str, check_mode: bool, node: Node, channel: Channel
) -> None:
    node.install(channel.add_tool())
    obstacle = node.link("old")
    obstacle.mkdir() if kind == "directory" else obstacle.touch()
    assert problems(node, "old") == [("obstacle", str(obstacle))]
    before = node.snapshot()
    wanted = [node.want(channel.add_tool(version="2.0")), node.want(channel.add_tool("x"), name="old")]
    message = (
        f"^conda_envs_shared: old: {obstacle} exists and is no link of this collection: move it away, then run again"
    )
    with pytest.raises(CondaError, match=message):
        node.converge(*wanted, check_mode=check_mode)
    assert node.snapshot() == before


def test_a_node_whose_directories_are_links_is_treated_alike(node: Node, channel: Channel) -> None:
    big_disk = node.root / "disk"
    big_disk.mkdir(parents=True)
    (node.root / "generations").symlink_to(big_disk)
    tool = channel.add_tool()
    node.install(tool)
    assert problems(node) == []
    assert not node.converge(node.want(tool), verify="full")[0].todo
    edit_unseen(node.generation() / "share/tool/data")
    node.converge(node.want(tool), verify="full")
    assert node.generation().name.endswith("-2")


def test_a_generation_that_was_finished_but_not_linked_is_taken(node: Node, channel: Channel) -> None:
    tool = channel.add_tool()
    generation = node.install(tool)
    node.link().unlink()
    assert environments.names(node.layout) == ["ml"]
    (outcome,) = node.converge(node.want(tool), base_prefix="/nowhere")
    assert (outcome.todo.build, node.generation()) == (False, generation)


def test_a_generation_that_still_has_its_mark_is_not_taken(node: Node, channel: Channel) -> None:
    """The run was killed between the manifest and the removal of the mark."""
    tool = channel.add_tool()
    generation = node.install(tool)
    node.link().unlink()
    (generation.parent / f".{generation.name}.building").touch()
    assert environments.look(node.layout, "ml").leftovers == (str(generation),)
    (outcome,) = node.converge(node.want(tool))
    assert outcome.todo.actions() == [
        f"remove unfinished generation {generation} of ml",
        f"build generation {generation} of ml with 1 packages",
        f"point {node.link()} to {generation}",
    ]
    assert output(node) == "tool 1.0"
    assert node.generations() == [generation.name]


def test_leftovers_go_even_where_the_environment_is_right(node: Node, channel: Channel) -> None:
    tool = channel.add_tool()
    generation = node.install(tool)
    leftover = generation.with_name("0123456789ab")
    (leftover / "conda-meta").mkdir(parents=True)
    (leftover.parent / ".0123456789ab.building").touch()
    (leftover.parent / ".ffffffffffff.building").touch()  # killed before it made anything else
    before = prefixes.scan(str(generation))
    (outcome,) = node.converge(node.want(tool), base_prefix="/nowhere")
    assert [action.split()[:2] for action in outcome.todo.actions()] == [["remove", "unfinished"]] * 2
    assert node.generations() == [generation.name]
    assert prefixes.scan(str(generation)) == before


def test_what_is_no_generation_in_the_home_of_an_environment_is_left_alone(node: Node, channel: Channel) -> None:
    tool = channel.add_tool()
    generation = node.install(tool)
    stranger = generation.with_name("notes")
    stranger.mkdir()
    node.link().unlink()
    node.install(tool)
    assert node.generation() == generation
    assert stranger.is_dir()


def test_names_with_special_characters_stay_apart(node: Node, channel: Channel) -> None:
    tool = channel.add_tool()
    for name in ("a", "a.b", "a-2"):
        node.install(tool, name=name)
    assert environments.names(node.layout) == ["a", "a-2", "a.b"]
    assert all(problems(node, name) == [] for name in environments.names(node.layout))


def test_there_is_nothing_of_an_environment_that_never_was(node: Node) -> None:
    environment = environments.look(node.layout, "ml")
    assert (environment.target, environment.manifest, environment.problems) == (None, None, ())
    assert environments.names(node.layout) == []


def versions(node: Node, channel: Channel, *numbers: int, **retention: float) -> list[Path]:
    """Install one version after the other, and say which generations they had."""
    made = []
    for number in numbers:
        wanted = node.want(channel.add_tool(version=f"{number}.0"))
        policy = Retention(**{"keep": 2, "min_age_seconds": 0, **retention})  # type: ignore[arg-type]
        node.converge(dataclasses.replace(wanted, retention=policy))
        made.append(node.generation())
    return made


def test_old_generations_go_when_the_name_moves_on(node: Node, channel: Channel) -> None:
    made = versions(node, channel, 1, 2, 3)
    assert [path.exists() for path in made] == [False, True, True]
    assert output(node) == "tool 3.0"
    assert node.generations() == sorted(path.name for path in made[1:])


def test_young_generations_stay(node: Node, channel: Channel) -> None:
    made = versions(node, channel, 1, 2, 3, min_age_seconds=3600)
    assert [path.exists() for path in made] == [True, True, True]


def test_a_generation_in_use_stays(node: Node, channel: Channel) -> None:
    (first,) = versions(node, channel, 1)
    with subprocess.Popen(["sleep", "60"], cwd=first) as job:
        _, second, third = versions(node, channel, 2, 3, 4)[0:3]
        assert first.exists()
        job.kill()
    assert second.exists()
    (last,) = versions(node, channel, 5)
    assert [path.exists() for path in (first, second, third, last)] == [False, False, True, True]


def test_a_damaged_generation_goes_before_sound_ones(node: Node, channel: Channel) -> None:
    first, damaged = versions(node, channel, 1, 2)
    (damaged / "bin/tool").unlink()
    (mended,) = versions(node, channel, 2)
    assert mended.name == f"{damaged.name}-2"
    assert [path.exists() for path in (first, damaged, mended)] == [True, False, True]


def test_the_generation_that_was_live_is_the_first_way_back(node: Node, channel: Channel) -> None:
    first, _second, third = versions(node, channel, 1, 2, 3, keep=3)
    versions(node, channel, 1, keep=3)
    (fourth,) = versions(node, channel, 4)
    assert [path.exists() for path in (first, third, fourth)] == [True, False, True]


def test_check_mode_tells_what_would_go_and_lets_it_be(node: Node, channel: Channel) -> None:
    first, _second = versions(node, channel, 1, 2)
    wanted = node.want(channel.add_tool(version="3.0"))
    (planned,) = node.converge(dataclasses.replace(wanted, retention=Retention(2, 0)), check_mode=True)
    assert planned.todo.actions()[-1] == f"remove old generation {first} of ml"
    assert first.exists()


def test_a_rebuild_keeps_no_more_than_the_live_one_where_that_is_wanted(node: Node, channel: Channel) -> None:
    first, second = versions(node, channel, 1, 2, keep=1)
    assert [path.exists() for path in (first, second)] == [False, True]


def test_a_generation_tells_the_lock_that_it_was_made_from(node: Node, channel: Channel) -> None:
    old, new = channel.add_tool(version="1.0"), channel.add_tool(version="2.0")
    first, second = node.install(old), node.install(new)
    locks = {"previous": old, first.name: old, second.name: new}
    for generation, package in locks.items():
        lock = generations.lock_of(node.layout, "ml", generation, "linux-64")
        assert lock == Lock("linux-64", (package,))
    node.install(old)
    assert generations.lock_of(node.layout, "ml", "previous", "linux-64").identity == Lock("linux-64", (new,)).identity


def test_a_lock_with_md5_sums_alone_is_known_too(node: Node, channel: Channel) -> None:
    package = channel.add_tool(version="1.0")
    archive = channel.directory / package.subdir / package.file_name
    package = dataclasses.replace(package, sha256="", md5=hashlib.md5(archive.read_bytes()).hexdigest())
    first = node.install(package)
    assert generations.lock_of(node.layout, "ml", first.name, "linux-64") == Lock("linux-64", (package,))


@pytest.mark.parametrize("generation", ["previous", "ffffffffffff"])
def test_a_generation_that_is_not_there_is_told_with_those_that_are(
    generation: str, node: Node, channel: Channel
) -> None:
    first = node.install(channel.add_tool(version="1.0"))
    with pytest.raises(CondaError, match=rf"ml has no generation {generation} on this node: there is {first.name}$"):
        generations.lock_of(node.layout, "ml", generation, "linux-64")


UNTOLD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: path.unlink(), "the lock that it was made from cannot be read: .*No such file"),
    "no JSON": (lambda path: path.write_text("{"), "the lock that it was made from cannot be read"),
    "a list": (lambda path: path.write_text("[]"), "the lock that it was made from cannot be read"),
    "no lock": (lambda path: path.write_text('{"platform": 1}'), "the lock that it was made from cannot be read"),
    "another": (lambda path: path.write_text(path.read_text().replace("1.0", "1.1")), ".* is not the lock that it was"),
}


@pytest.mark.parametrize("name", UNTOLD)
def test_a_generation_that_does_not_tell_its_lock_is_no_way_back(name: str, node: Node, channel: Channel) -> None:
    first = node.install(channel.add_tool(version="1.0"))
    node.install(channel.add_tool(version="2.0"))
    damage, message = UNTOLD[name]
    damage(first / "conda-meta" / "envfleet.lock")
    with pytest.raises(CondaError, match=f"^{first} is damaged: {message}"):
        generations.lock_of(node.layout, "ml", "previous", "linux-64")


def test_the_lock_in_a_generation_is_guarded_like_the_rest(node: Node, channel: Channel) -> None:
    generation = node.install(channel.add_tool())
    (generation / "conda-meta" / "envfleet.lock").unlink()
    assert problems(node) == [("missing", "conda-meta/envfleet.lock")]


@dataclasses.dataclass
class Mixed:
    """An environment with a pip part on a node, and what its wheels come from."""

    node: Node
    mirror: Channel
    python: Package

    def wheel(self, name: str = "tiny", version: str = "1.0") -> Wheel:
        """A wheel on the server."""
        path = write_wheel(self.mirror.directory / "wheels", name, version, {f"{name}_data/x": b"data\n"})
        return listed(path, f"{self.mirror.url}/wheels")

    def want(self, *wheels: Wheel) -> Wanted:
        """The environment with these wheels."""
        # Nobody else may reach the Python of the tests, where it is in a home.
        smoke_test = SmokeTest(("python", "-c", "import tiny"), pwd.getpwuid(os.geteuid()).pw_name, 60)
        return dataclasses.replace(self.node.want(smoke_test=smoke_test), lock=self.lock(*wheels))

    def lock(self, *wheels: Wheel) -> Lock:
        """The lock of it."""
        return Lock("linux-64", (self.python,), wheels)

    def install(self, *wheels: Wheel) -> Path:
        """Bring the node to it, and say which generation that is."""
        self.node.converge(self.want(*wheels))
        return self.node.generation()

    def stop(self) -> None:
        """Take everything off the server, but not out of the node's cache."""
        shutil.rmtree(self.mirror.directory)
        self.mirror.directory.mkdir()


@pytest.fixture
def mixed(node: Node, mirror: Channel) -> Mixed:
    """A node and a server."""
    return Mixed(node, mirror, add_python(mirror))


def test_wheels_are_part_of_a_generation(mixed: Mixed) -> None:
    tiny = mixed.wheel()
    generation = mixed.install(tiny)
    assert output(mixed.node, "bin/tiny") == "tiny 1.0"
    assert list((generation / SITE / "__pycache__").glob("tiny.*.pyc"))
    assert generations.lock_of(mixed.node.layout, "ml", generation.name, "linux-64") == mixed.lock(tiny)
    info = generation / SITE / "tiny-1.0.dist-info"
    assert oct(stat.S_IMODE(info.stat().st_mode)) == "0o755"
    for level in ("fast", "records", "full"):
        (outcome,) = mixed.node.converge(mixed.want(tiny), verify=level, base_prefix="/nowhere")
        assert (level, outcome.problems, bool(outcome.todo)) == (level, (), False)


def test_a_change_of_a_wheel_is_a_change_of_the_environment_and_the_way_back_needs_no_download(mixed: Mixed) -> None:
    one, two = mixed.wheel(), mixed.wheel(version="2.0")
    old, new = mixed.install(one), mixed.install(two)
    assert old != new
    assert output(mixed.node, "bin/tiny") == "tiny 2.0"
    mixed.stop()
    lock = generations.lock_of(mixed.node.layout, "ml", "previous", "linux-64")
    mixed.node.converge(dataclasses.replace(mixed.want(), lock=lock), base_prefix="/nowhere")
    assert mixed.node.generation() == old
    assert output(mixed.node, "bin/tiny") == "tiny 1.0"


def test_wheels_come_from_where_the_settings_say(mixed: Mixed) -> None:
    tiny = mixed.wheel()
    folder = shutil.copytree(mixed.mirror.directory / "wheels", mixed.node.root.with_name("wheels"))
    shutil.rmtree(mixed.mirror.directory / "wheels")
    with pytest.raises(CondaError, match=r"^conda_envs_shared: ml: tiny 1.0 pypi"):
        mixed.install(tiny)
    nowhere = f"{mixed.mirror.url}/no-index"
    with pytest.raises(CondaError, match=r"^conda_envs_shared: ml: tiny 1.0 pypi"):
        mixed.node.converge(mixed.want(tiny), index_url=nowhere)
    mixed.node.converge(mixed.want(tiny), wheels_dir=str(folder))
    assert output(mixed.node, "bin/tiny") == "tiny 1.0"


def test_a_wheel_that_fails_changes_nothing(mixed: Mixed) -> None:
    old = mixed.install(mixed.wheel())
    lost = dataclasses.replace(mixed.wheel("lost"), sha256="0" * 64)
    with pytest.raises(CondaError, match=r"^conda_envs_shared: ml: lost 1.0 pypi cannot be fetched: pip: ") as refused:
        mixed.install(mixed.wheel(), lost)
    assert "0" * 64 in str(refused.value)
    assert (mixed.node.generation(), mixed.node.generations()) == (old, [old.name])


def install_another(generation: Path) -> None:
    """What `pip install --force-reinstall` by root leaves, who has lifted the mark against it."""
    wheel = write_wheel(generation.parent / "by-hand", "tiny", "2.0")
    pip_by_hand(generation, str(wheel))


def install_more(generation: Path) -> None:
    pip_by_hand(generation, str(write_wheel(generation.parent / "by-hand", "extra")))


def pip_by_hand(generation: Path, *wheels: str) -> None:
    pip = [sys.executable, "-m", "pip", "--python", str(generation / "bin/python"), "install", "-q", "--no-compile"]
    command = [*pip, "--break-system-packages", "--no-index", "--no-deps", *wheels]
    subprocess.run(command, env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}, check=True)


def uninstall(generation: Path) -> None:
    shutil.rmtree(generation / SITE / "tiny-1.0.dist-info")
    for name in ("tiny.py", "tiny_data/x"):
        (generation / SITE / name).unlink()


DATA = f"{SITE}/tiny_data/x"
PIP_DAMAGES: dict[str, tuple[Callable[[Path], object], dict[str, set[tuple[str, str]]]]] = {
    "edited": (
        lambda generation: (generation / DATA).write_text("more data\n"),
        {"fast": {("changed", DATA)}, "full": {("changed", DATA)}},
    ),
    "edited unseen": (lambda generation: edit_unseen(generation / DATA), {"full": {("changed", DATA)}}),
    "removed": (
        uninstall,
        {
            "fast": {("missing", f"{SITE}/tiny-1.0.dist-info"), ("missing", DATA), ("missing", f"{SITE}/tiny.py")},
            "records": {("missing", "tiny")},
        },
    ),
    "another version": (
        install_another,
        {"fast": {("missing", f"{SITE}/tiny-1.0.dist-info"), ("foreign", "tiny")}, "records": {("changed", "tiny")}},
    ),
    "one more": (install_more, {"fast": {("foreign", "extra")}, "records": {("foreign", "extra")}}),
}


@pytest.mark.parametrize("name", PIP_DAMAGES)
def test_every_level_sees_what_it_can_of_the_pip_part(name: str, mixed: Mixed) -> None:
    tiny = mixed.wheel()
    old = mixed.install(tiny)
    damage, expected = PIP_DAMAGES[name]
    damage(old)
    environment = environments.look(mixed.node.layout, "ml")
    seen = {"fast": environment.problems}
    seen |= {level: tuple(generations.verify(environment, mixed.lock(tiny), level)) for level in ("records", "full")}
    for level, wanted in expected.items():
        assert (level, wanted - {(one.kind, one.subject) for one in seen[level]}) == (level, set())
    assert bool(seen["records"]) == ("records" in expected)


def test_a_damaged_wheel_is_mended_without_a_download(mixed: Mixed) -> None:
    tiny = mixed.wheel()
    old = mixed.install(tiny)
    edit_unseen(old / DATA)
    mixed.stop()
    mixed.node.converge(mixed.want(tiny), verify="full")
    assert mixed.node.generation() == old.with_name(f"{old.name}-2")
    assert output(mixed.node, "bin/tiny") == "tiny 1.0"
    assert mixed.node.converge(mixed.want(tiny), verify="full")[0].problems == ()


def test_there_is_nothing_to_tell_of_a_foreign_package_but_that(mixed: Mixed) -> None:
    tiny = mixed.wheel()
    generation = mixed.install(tiny)
    install_more(generation)
    (generation / SITE / "extra-1.0.dist-info" / "RECORD").write_text("extra.py,sha256=???,1\ngone.py,,\n")
    lock, environment = mixed.lock(tiny), environments.look(mixed.node.layout, "ml")
    for level in ("records", "full"):
        found = generations.verify(environment, lock, level)
        assert [(one.kind, one.subject, one.detail) for one in found] == [
            ("foreign", "extra", "extra 1.0 pypi is not in the lock")
        ]


def test_a_python_package_that_no_list_has_is_not_built_into_a_generation(node: Node, channel: Channel) -> None:
    """Else it would be found foreign at every look, and the environment built anew without end."""
    info = f"{SITE}/stowaway-1.dist-info"

    class Stowaway(RattlerEngine):
        """Like a post-link script that runs pip."""

        def install(self, packages: Sequence[Package], prefix: str, cache: str) -> None:
            """See Engine."""
            super().install(packages, prefix, cache)
            Path(prefix, info).mkdir(parents=True)
            Path(prefix, info, "METADATA").write_text("Name: stowaway\nVersion: 1\n")
            Path(prefix, info, "RECORD").write_text("")

    layout, lock = node.layout, Lock("linux-64", (channel.add_tool(),))
    for folder in (layout.envs_dir, layout.generations_dir):
        os.makedirs(folder)
    todo = generations.plan(layout, environments.look(layout, "ml"), lock, [], "fast", Retention())
    with pytest.raises(CondaError, match=r"stowaway: stowaway 1 pypi is not in the lock"):
        generations.apply(todo, Stowaway(sys.executable), str(node.pkgs), SmokeTest((), "nobody", 9))
    assert node.generations() == []


def test_what_changed_is_told_even_where_the_old_generation_is_gone(node: Node, channel: Channel) -> None:
    (old,) = versions(node, channel, 1)
    wanted = dataclasses.replace(node.want(channel.add_tool(version="2.0")), retention=Retention(1, 0))
    (outcome,) = node.converge(wanted)
    assert not old.exists()
    told = outcome.as_dict()
    assert (told["added"], told["removed"]) == ([], [])
    assert told["changed"] == [{"name": "tool", "before": "tool 1.0 0", "after": "tool 2.0 0"}]
    assert outcome.diff()["before"] == "tool 1.0 0\n"
