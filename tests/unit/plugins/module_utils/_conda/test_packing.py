"""Generations in squashfs images: real images, really mounted, by one node and by several."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda import (
    archive,
    export,
    inventory,
    prefixes,
)
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.convergence import Outcome, Wanted
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.environments import look
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.generations import (
    Layout,
    Retention,
    SmokeTest,
)
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.packing import Images

if TYPE_CHECKING:
    from unit.plugins.conftest import Channel, Node

pytestmark = pytest.mark.usefixtures("restore_umask")
FOREIGN = "# by hand\nUUID=0 / ext4 defaults 0 1\nserver:/x /x nfs defaults 0 0"


def mounted_below(place: Path) -> list[str]:
    """The mount points below *place*, the innermost first."""
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        points = [line.split()[4] for line in table]
    return sorted((point for point in points if point.startswith(f"{place}/")), reverse=True)


@pytest.fixture(scope="session")
def can_mount(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Why this machine cannot mount images, if so."""
    if os.geteuid() != 0:
        return "only root can mount"
    if not shutil.which("mksquashfs", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin"):
        return "mksquashfs is missing: install the package squashfs-tools"
    place = tmp_path_factory.mktemp("image")
    (place / "content").mkdir()
    (place / "there").mkdir()
    subprocess.run(["mksquashfs", "content", "image", "-quiet"], cwd=place, check=True, capture_output=True)
    command = ["mount", "-t", "squashfs", "-o", "loop,ro", str(place / "image"), str(place / "there")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        return f"squashfs images cannot be mounted here: {done.stderr.strip()}"
    subprocess.run(["umount", str(place / "there")], check=True)
    return ""


@dataclasses.dataclass(frozen=True)
class Packed:
    """A node whose generations are in images."""

    node: Node
    images: Path
    fstab: Path

    @property
    def layout(self) -> Layout:
        """Where its environments are."""
        layout = self.node.layout
        return dataclasses.replace(layout, images=Images(str(self.images), str(self.fstab)))

    def converge(self, *wanted: Wanted, **changes: Any) -> list[Outcome]:
        """Bring the node to *wanted*."""
        return self.node.converge(*wanted, **{"layout": self.layout, **changes})

    def files(self) -> list[str]:
        """All images, and what else there is beside them."""
        return sorted(path.name for path in self.images.glob("ml/*") if path.name != ".lock")

    def lines(self) -> list[str]:
        """The lines of ours in the table of mounts."""
        return [line for line in self.fstab.read_text().splitlines() if "x-envfleet" in line]

    def mounts(self) -> list[str]:
        """What is mounted on the node."""
        return mounted_below(self.node.root)

    def restart(self) -> None:
        """Without what the table of mounts brings back."""
        for point in self.mounts():
            subprocess.run(["umount", point], check=True)

    def wipe(self) -> None:
        """Make it another node, with the same paths."""
        self.restart()
        shutil.rmtree(self.node.root)
        self.fstab.write_text(FOREIGN)

    def problems(self) -> list[str]:
        """What is wrong."""
        return [problem.detail for problem in look(self.layout, "ml").problems]


@pytest.fixture
def packed(can_mount: str, node: Node, sandbox: Path) -> Iterator[Packed]:
    """A node that packs, and has a table of mounts that somebody has written by hand."""
    if can_mount:
        pytest.skip(can_mount)
    made = Packed(node, sandbox / "images", sandbox / "fstab")
    made.images.mkdir()
    made.fstab.write_text(FOREIGN)
    yield made
    for point in mounted_below(sandbox):
        subprocess.run(["umount", "-l", point], check=True)


def test_a_generation_is_an_image_and_all_else_is_as_ever(packed: Packed, channel: Channel, tmp_path: Path) -> None:
    node, wanted = packed.node, packed.node.want(channel.add_tool())
    (planned,) = packed.converge(wanted, check_mode=True)
    assert not node.root.exists()
    (done,) = packed.converge(wanted)
    assert planned.todo.actions() == done.todo.actions()
    generation = node.generation()
    assert packed.mounts() == [str(generation)]
    (image,) = packed.files()
    assert image.startswith(f"{generation.name}.")
    assert done.todo.actions()[1] == f"pack it into {packed.images}/ml/{image} and mount that"
    assert oct((packed.images / "ml" / image).stat().st_mode & 0o777) == "0o644"
    assert subprocess.run([node.link() / "bin/tool"], capture_output=True, check=True).stdout == b"tool 1.0\n"
    with pytest.raises(OSError, match="Read-only file system"):
        (generation / "new").touch()
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        options = next(line for line in table if f" {generation} " in line).split()[5].split(",")
    assert {"ro", "nosuid", "nodev"} <= set(options)

    for level in ("fast", "records", "full"):
        (outcome,) = packed.converge(wanted, verify=level)
        assert (level, outcome.changed, outcome.problems) == (level, False, ())
    (found,) = inventory.look(packed.layout, [], [], list_packages=True)["environments"]
    assert (found["prefix"], found["problems"], found["in_use"]) == (str(generation), [], False)
    assert [one["live"] for one in found["generations"]] == [True]
    with subprocess.Popen(["sleep", "60"], cwd=generation) as job:
        (found,) = inventory.look(packed.layout, [], [], list_packages=False)["environments"]
        assert found["in_use"]
        job.kill()
    content = export.read(str(generation), "linux-64")
    assert [record.label for record in content.records] == ["tool 1.0 0"]
    archive.write(str(generation), "x", str(tmp_path / "ml.tar.gz"))
    assert archive.identity_of(str(tmp_path / "ml.tar.gz")) == "x"


def test_it_is_mounted_again_after_a_restart(packed: Packed, channel: Channel) -> None:
    node, wanted = packed.node, packed.node.want(channel.add_tool())
    packed.converge(wanted)
    assert packed.fstab.read_text().startswith(f"{FOREIGN}\n")
    (line,) = packed.lines()
    assert line.split()[1:3] == [str(node.generation()), "squashfs"]
    packed.restart()
    mount = ["mount", "--all", "--fstab", str(packed.fstab), "--test-opts", "x-envfleet"]
    subprocess.run(mount, check=True)
    assert packed.problems() == []
    assert not packed.converge(wanted)[0].changed

    # Where that has failed, it is drift, and no build.
    packed.restart()
    assert packed.problems() == ["the generation has no whole manifest"]
    shutil.rmtree(channel.directory)
    shutil.rmtree(node.pkgs)
    before = node.generation()
    (outcome,) = packed.converge(wanted)
    image = packed.images / "ml" / packed.files()[0]
    assert outcome.todo.actions() == [f"mount {image} as {before}", f"point {node.link()} to {before}"]
    assert (packed.problems(), node.generation(), packed.lines()) == ([], before, [line])


def test_another_node_mounts_what_it_finds(packed: Packed, channel: Channel) -> None:
    node, wanted = packed.node, packed.node.want(channel.add_tool(), smoke_test=SmokeTest(("tool",), "nobody", 60))
    packed.converge(wanted)
    image = packed.images / "ml" / packed.files()[0]
    inode = image.stat().st_ino
    packed.wipe()
    shutil.rmtree(channel.directory)
    (outcome,) = packed.converge(wanted, base_prefix="/nowhere")
    assert [step.split()[0] for step in outcome.todo.actions()] == ["mount", "point"]
    assert (packed.mounts(), packed.problems()) == ([str(node.generation())], [])
    assert image.stat().st_ino == inode
    packed.wipe()
    unsuited = dataclasses.replace(wanted, smoke_test=SmokeTest(("false",), "nobody", 60))
    with pytest.raises(CondaError, match="the smoke test failed"):
        packed.converge(unsuited)
    assert not os.path.lexists(node.link())


def test_images_of_other_paths_and_other_people_are_other_images(packed: Packed, channel: Channel) -> None:
    wanted = packed.node.want(channel.add_tool())
    packed.converge(wanted)
    elsewhere = dataclasses.replace(packed.layout, generations_dir=str(packed.node.root / "elsewhere"))
    (outcome,) = packed.converge(wanted, layout=dataclasses.replace(elsewhere, envs_dir=str(packed.node.root / "e")))
    assert outcome.todo.build
    assert len(packed.files()) == 2


@pytest.mark.parametrize("damage", ["truncated", "no image", "another", "unreadable"])
def test_a_wrong_image_is_refused_and_named(damage: str, packed: Packed, channel: Channel) -> None:
    node = packed.node
    first, second = node.want(channel.add_tool()), node.want(channel.add_tool(version="2.0"))
    packed.converge(first)
    (image,) = packed.images.glob("ml/*.squashfs")
    packed.converge(second)
    live = node.generation()
    (other,) = set(packed.images.glob("ml/*.squashfs")) - {image}
    packed.wipe()
    packed.converge(second)
    content = image.read_bytes()
    if damage == "truncated":
        image.write_bytes(content[: len(content) // 2])
    elif damage == "no image":
        image.write_bytes(b"")
    elif damage == "another":
        image.write_bytes(other.read_bytes())
    else:
        image.write_bytes(content[:96] + bytes(len(content) - 96))  # what it says of itself is whole
    message = rf"^conda_envs_shared: ml: conda_envs_images_dir: {image} (cannot be mounted|is not what was packed)"
    with pytest.raises(CondaError, match=message):
        packed.converge(first)
    assert (node.generation(), packed.mounts(), packed.problems()) == (live, [str(live)], [])
    assert node.generations() == [live.name]
    assert len(packed.lines()) == 1
    image.rename(image.with_suffix(".away"))
    assert packed.converge(first)[0].todo.build
    assert packed.problems() == []


def test_an_old_generation_is_unmounted_unless_somebody_uses_it(packed: Packed, channel: Channel) -> None:
    node = packed.node
    made = [node.want(channel.add_tool(version=f"{number}.0")) for number in range(4)]
    steps = [dataclasses.replace(wanted, retention=Retention(1, 0)) for wanted in made]
    packed.converge(steps[0])
    first = node.generation()
    with subprocess.Popen(["sleep", "60"], cwd=first) as job:
        packed.converge(steps[1])
        assert packed.mounts() == sorted([str(first), str(node.generation())], reverse=True)
        job.kill()
    # An open file shows nowhere that is looked at, but the kernel knows it.
    with (first / "share/tool/data").open(encoding="utf-8"):
        packed.converge(steps[2])
        assert (first / "bin/tool").is_file()
        assert not list(first.parent.glob(".*"))
    packed.converge(steps[3])
    assert packed.mounts() == [str(node.generation())]
    assert node.generations() == [node.generation().name]
    (line,) = packed.lines()
    assert str(node.generation()) in line
    assert packed.fstab.read_text().startswith(FOREIGN)
    assert len(packed.files()) == 4  # other nodes may have them mounted

    packed.converge(dataclasses.replace(steps[3], state="absent"))
    assert (packed.mounts(), node.generations(), packed.lines()) == ([], [], [])


def test_what_cannot_work_is_refused_before_any_change(
    packed: Packed, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, wanted = packed.node, packed.node.want(channel.add_tool())
    packed.images.rmdir()
    with pytest.raises(CondaError, match=rf"^conda_envs_images_dir: there is no directory {packed.images}: mount"):
        packed.converge(wanted)
    packed.images.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "which", lambda *_arguments, **_options: None)
        with pytest.raises(CondaError, match=r"^conda_envs_images_dir: .* install the package squashfs-tools$"):
            packed.converge(wanted)
    packed.images.chmod(0o755)
    os.seteuid(65534)
    try:
        with pytest.raises(CondaError, match=r"^conda_envs_images_dir: only root can mount images"):
            packed.converge(wanted)
    finally:
        os.seteuid(0)
    assert not node.root.exists()


def test_times_in_whole_seconds_are_those_of_the_listing() -> None:
    listing = "\0\0a 1 2 3 4\x00100644 0 0 5 1700000000123456789\0b\x00120777 0 0 5 999999999\0c\x0040755 0 0\0"
    rounded = "\0\0a 1 2 3 4\x00100644 0 0 5 1700000000000000000\0b\x00120777 0 0 5 0\0c\x0040755 0 0\0"
    assert prefixes.in_whole_seconds(listing) == rounded


NODE = """
import json, os, signal, sys
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda import convergence as c, generations as g
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.locks import Lock
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.packing import Images
order = json.loads(sys.argv[1])
count = packing = 0
def hook(event, arguments):
    global count, packing
    if event in ("os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "subprocess.Popen"):
        count += 1
        if event == "subprocess.Popen" and "mksquashfs" in str(arguments[0]):
            packing = count
        if count == order["kill"]:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
root = order["root"]
layout = g.Layout(root + "/envs", root + "/generations", Images(order["images"], order["fstab"]))
settings = c.Settings(layout, root + "/pkgs", sys.prefix, "auto", "fast", 1, 120)
wanted = c.Wanted("ml", Lock.from_dict(order["lock"]), g.SmokeTest((), "nobody", 60))
(outcome,) = c.converge([wanted], settings, False)
with open(root + "/envs/ml/share/tool/data") as stream:
    print(json.dumps([outcome.todo.build, outcome.todo.mount, stream.read(), packing, count]))
"""


def order(packed: Packed, wanted: Wanted, kill: int = 0) -> str:
    places = {"root": str(packed.node.root), "images": str(packed.images), "fstab": str(packed.fstab)}
    return json.dumps({**places, "lock": wanted.lock.as_dict(), "kill": kill})


def test_of_two_nodes_at_once_one_packs_and_the_other_mounts(packed: Packed, channel: Channel) -> None:
    """Each has a file system of its own in the same place, and they share the images."""
    wanted, root = packed.node.want(channel.add_tool()), packed.node.root
    root.mkdir()
    own = f'mount -t tmpfs tmpfs {root} && touch {root}/fstab && exec {sys.executable} -c "$0" "$1"'
    told = json.dumps({**json.loads(order(packed, wanted)), "fstab": f"{root}/fstab"})
    command = ["unshare", "--mount", "sh", "-c", own, NODE, told]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _number in range(2)]
    answers = [json.loads(run.communicate(timeout=120)[0]) for run in runs]
    assert sorted(answer[:3] for answer in answers) == [[False, True, "data of 1.0\n"], [True, False, "data of 1.0\n"]]
    assert len(packed.files()) == 1


def test_a_run_that_is_killed_at_any_step_heals(packed: Packed, channel: Channel) -> None:
    wanted, node = packed.node.want(channel.add_tool()), packed.node

    def run(kill: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", NODE, order(packed, wanted, kill)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    done = run(0)
    assert done.returncode == 0, done.stderr
    *_told, packing, steps = json.loads(done.stdout)
    for step in range(packing, steps + 1):
        packed.wipe()
        shutil.rmtree(packed.images / "ml")
        assert run(step).returncode == -signal.SIGKILL, step
        if os.path.lexists(node.link()):
            assert packed.problems() == [], step
        packed.converge(wanted)
        generation = node.generation()
        assert (packed.problems(), packed.mounts()) == ([], [str(generation)]), step
        assert node.generations() == [generation.name], step
        assert [line.split()[1] for line in packed.lines()] == [str(generation)], step
        (image,) = packed.files()
        assert image.endswith(".squashfs"), step
        assert not list(packed.fstab.parent.glob(".*")), step
        assert not packed.converge(wanted)[0].changed
