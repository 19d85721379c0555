"""A mirror of a channel that a real web server offers, brought up to date, damaged, repaired, carried elsewhere."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import http.server
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils._channel_mirror import __main__ as program
from ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils._channel_mirror.config import (
    Channel,
    Config,
    File,
    MirrorError,
)
from ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils._channel_mirror.selection import selection
from ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils._channel_mirror.transfer import (
    export,
    import_archive,
)
from ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils._channel_mirror.tree import Known, Tree
from ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils._channel_mirror.updating import (
    FAILED,
    INCOMPLETE,
    OK,
    UNREACHABLE,
    Update,
)

from lab.channel import write_repodata
from lab.packages import Entry, index_of, write_package

pytest.importorskip("rattler", reason="py-rattler is what writes indexes")
NOW = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)
MIRROR = "https://mirror.example.org"


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files, but where it is told to answer otherwise."""

    def do_GET(self) -> None:
        assert isinstance(self.server, Upstream)
        self.server.asked.append(self.path)
        answer = self.server.answers.get(self.path.rpartition("/")[2])
        if answer is None:
            super().do_GET()
        else:
            answer(self)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


class Upstream(http.server.ThreadingHTTPServer):
    """A channel `forge` and a directory `wheels` below *root*."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[str] = []
        self.seconds = 1_700_000_000
        self.answers: dict[str, Callable[[Handler], None]] = {}
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(root)))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def package(self, name: str, version: str = "1", depends: tuple[str, ...] = (), entry: Entry | None = None) -> File:
        """Offer a package."""
        noarch = "generic" if name.startswith("n") else None
        content = entry or Entry(f"share/{name}", version.encode() * 50)
        path = write_package(self.root / "forge", index_of(name, version, "0", depends, noarch=noarch), [content])
        write_repodata(self.root / "forge")
        # Readers take an index of the same second for the same index.
        self.seconds += 10
        for index in self.root.glob("forge/*/repodata*"):
            os.utime(index, (self.seconds, self.seconds))
        return self.file(path, str(path.relative_to(self.root)))

    def wheel(self, name: str = "demo_wheel-1.0+cu.1-py3-none-any.whl", content: bytes = b"wheel") -> File:
        """Offer a wheel."""
        path = self.root / "wheels" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return self.file(path, f"pypi/files/{hashlib.sha256(content).hexdigest()}/{name}")

    def file(self, path: Path, place: str) -> File:
        return File(place, hashlib.sha256(path.read_bytes()).hexdigest(), f"{self.url}/{path.relative_to(self.root)}")


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Upstream]:
    """One that runs."""
    (tmp_path / "upstream").mkdir()
    with Upstream(tmp_path / "upstream") as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Mirror:
    """A mirror with *directory* for all it has."""

    def __init__(self, directory: Path, channel: Channel) -> None:
        directory.mkdir()
        self.directory = directory
        self.www = directory / "www"
        self.config = Config(
            str(directory), MIRROR, (channel,), ("linux-64",), str(directory / "selection.json"), 30, min_free_mb=1
        )
        self.tree = Tree(str(directory))
        self.want()

    def want(self, *files: File) -> None:
        Path(self.config.selection).write_text(json.dumps({"files": [file.as_dict() for file in files]}))

    def update(self, days: float = 0, **changes: Any) -> int:
        """A run, this many days after the others."""
        config = dataclasses.replace(self.config, **changes)
        with self.tree.only_run() as alone:
            assert alone
            return Update(config, self.tree, NOW + datetime.timedelta(days=days), pauses=(0.0,)).run()

    @property
    def status(self) -> dict[str, Any]:
        return dict(json.loads((self.www / "status.json").read_text()))

    def served(self) -> dict[str, str]:
        """All that is served but the status: the sha256 of each, by path."""
        return {
            str(path.relative_to(self.www)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in self.www.rglob("*")
            if path.is_file() and path.name != "status.json"
        }

    def packages(self, subdir: str = "linux-64") -> dict[str, dict[str, Any]]:
        """What the index of the channel tells."""
        content = json.loads((self.www / "forge" / subdir / "repodata.json").read_text())
        return dict(content["packages.conda"])

    def holds(self, file: File) -> bool:
        path = self.www / file.path
        return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256


@pytest.fixture
def mirror(tmp_path: Path, upstream: Upstream) -> Mirror:
    return Mirror(tmp_path / "mirror", Channel("forge", f"{upstream.url}/forge"))


def test_what_locks_need_is_there_with_its_index_and_the_next_run_changes_nothing(
    upstream: Upstream, mirror: Mirror
) -> None:
    a, n, wheel = upstream.package("a"), upstream.package("n"), upstream.wheel()
    upstream.package("unwanted")
    mirror.want(a, n, wheel)
    assert mirror.update() == OK
    assert all(map(mirror.holds, (a, n, wheel)))
    # Locks go by the sums, so the index has those of upstream.
    assert {name: record["sha256"] for name, record in mirror.packages().items()} == {a.name: a.sha256}
    assert {name: record["sha256"] for name, record in mirror.packages("noarch").items()} == {n.name: n.sha256}
    assert (mirror.www / "forge/noarch/repodata.json.zst").exists()
    assert {oct(path.stat().st_mode & 0o777) for path in mirror.www.rglob("*") if path.is_file()} == {"0o644"}

    before, asked = mirror.served(), len(upstream.asked)
    times = {path: (mirror.www / path).stat().st_mtime_ns for path in before}
    assert mirror.update() == OK
    assert mirror.served() == before
    assert {path: (mirror.www / path).stat().st_mtime_ns for path in before} == times
    assert len(upstream.asked) == asked
    assert (mirror.status["state"], mirror.status["files"], mirror.status["indexed"]) == ("current", 3, [])


def test_pip_finds_wheels_by_their_hash(upstream: Upstream, mirror: Mirror, tmp_path: Path) -> None:
    with io.BytesIO() as buffer:
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr(
                "demo_wheel-1.0+cu.1.dist-info/METADATA", "Metadata-Version: 2.1\nName: demo-wheel\nVersion: 1.0+cu.1\n"
            )
            archive.writestr(
                "demo_wheel-1.0+cu.1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            archive.writestr("demo_wheel-1.0+cu.1.dist-info/RECORD", "")
        wheel = upstream.wheel(content=buffer.getvalue())
    mirror.want(wheel)
    assert mirror.update() == OK
    (upstream.root / "served").symlink_to(mirror.www)
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"demo-wheel==1.0+cu.1 --hash=sha256:{wheel.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    command += [
        "--index-url",
        f"{upstream.url}/served/pypi/simple",
        "--require-hashes",
        "--dest",
        str(tmp_path / "got"),
    ]
    subprocess.run([*command, "--requirement", str(requirements)], check=True, timeout=60)
    assert [path.name for path in (tmp_path / "got").iterdir()] == [wheel.name]
    # Nothing is left of a page that leads nowhere.
    mirror.want()
    assert mirror.update(days=40) == OK
    assert not (mirror.www / "pypi/simple/demo-wheel").exists()


@pytest.mark.parametrize("silent", [False, True])
def test_damage_is_found_and_repaired(upstream: Upstream, mirror: Mirror, silent: bool) -> None:
    a, b = upstream.package("a"), upstream.package("b")
    mirror.want(a, b)
    mirror.update()
    before = mirror.served()
    path = mirror.www / a.path
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    if silent:  # as a disk does it, with nobody writing
        os.utime(path, ns=times)
    (mirror.www / "forge/linux-64/repodata.json").write_text("{}")
    assert mirror.update() == OK
    assert mirror.served() == before
    assert mirror.status["repaired"] == [a.path]


def test_damage_that_cannot_be_repaired_is_given_to_nobody(upstream: Upstream, mirror: Mirror) -> None:
    a, b = upstream.package("a"), upstream.package("b")
    mirror.want(a, b)
    mirror.update()
    (mirror.www / a.path).write_bytes(b"x")
    upstream.answers[a.name] = lambda handler: handler.send_error(503)
    assert mirror.update() == UNREACHABLE
    assert not (mirror.www / a.path).exists()
    assert list(mirror.packages()) == [b.name]
    del upstream.answers[a.name]
    assert mirror.update() == OK
    assert sorted(mirror.packages()) == [a.name, b.name]


def test_an_upstream_that_is_away_leaves_what_was_there(upstream: Upstream, mirror: Mirror) -> None:
    a = upstream.package("a")
    mirror.want(a)
    mirror.config = dataclasses.replace(
        mirror.config, channels=(Channel("forge", f"{upstream.url}/forge", specs=("b",)),)
    )
    b = upstream.package("b")
    assert mirror.update() == OK
    before = mirror.served()
    away = dataclasses.replace(mirror.config.channels[0], url="http://127.0.0.1:1/forge")
    c = File("forge/linux-64/c-1-0.conda", "0" * 64, "http://127.0.0.1:1/forge/linux-64/c-1-0.conda")
    mirror.want(a, c)
    # What the channel offered stays, for however long it cannot be asked.
    assert mirror.update(days=100, channels=(away,)) == UNREACHABLE
    assert mirror.served() == before
    assert mirror.status["state"] == "unreachable"
    assert len(mirror.status["problems"]) == 2
    assert all("127.0.0.1:1" in text for text in mirror.status["problems"])
    assert mirror.holds(b)


def cut(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"half")


@pytest.mark.parametrize(
    ("answer", "code", "text"),
    [
        (lambda handler: handler.send_error(404), INCOMPLETE, "HTTP 404"),
        (lambda handler: handler.send_error(500), UNREACHABLE, "HTTP 500"),
        (cut, UNREACHABLE, "996 bytes too early"),
        (
            lambda handler: (handler.send_response(200), handler.end_headers(), handler.wfile.write(b"another")),
            INCOMPLETE,
            "is not what is wanted: expected the sha256",
        ),
    ],
)
def test_what_cannot_be_had_keeps_nothing_else_away(
    upstream: Upstream, mirror: Mirror, answer: Callable[[Handler], None], code: int, text: str
) -> None:
    a, b = upstream.package("a"), upstream.package("b")
    mirror.want(a, b)
    upstream.answers[a.name] = answer
    assert mirror.update() == code
    assert list(mirror.packages()) == [b.name]
    assert a.path not in mirror.served()
    assert text in mirror.status["problems"][0]
    assert os.listdir(mirror.directory).count("staging") == 0


def test_a_full_disk_leaves_what_was_there(upstream: Upstream, mirror: Mirror) -> None:
    a, b = upstream.package("a"), upstream.package("b")
    mirror.want(a)
    mirror.update()
    before = mirror.served()
    mirror.want(a, b)
    assert mirror.update(min_free_mb=10**9) == FAILED
    assert mirror.served() == before
    assert "channel_mirror_min_free_mb" in mirror.status["message"]
    assert mirror.update() == OK


def test_what_no_lock_needs_goes_after_a_while_and_the_index_before_it(upstream: Upstream, mirror: Mirror) -> None:
    a, b = upstream.package("a"), upstream.package("b")
    mirror.want(a, b)
    mirror.update()
    mirror.want(b)
    mirror.update(days=29)
    assert sorted(mirror.packages()) == [a.name, b.name]
    (mirror.www / a.path).write_bytes(b"x")  # it is looked after as long
    assert mirror.update(days=29) == OK
    assert mirror.holds(a)
    mirror.update(days=30.5)
    assert list(mirror.packages()) == [b.name]
    assert mirror.holds(a)
    mirror.update(days=31.5)
    assert a.path not in mirror.served()
    assert mirror.status["removed"] == [a.path]
    # Whoever goes back to an old lock gets it again.
    mirror.want(a, b)
    mirror.update(days=32)
    assert sorted(mirror.packages()) == [a.name, b.name]


def test_a_kill_between_file_and_record_loses_nothing(upstream: Upstream, mirror: Mirror) -> None:
    a = upstream.package("a")
    mirror.want(a)
    mirror.update()
    (mirror.directory / "state.json").unlink()
    (mirror.www / "forge/linux-64/.half").write_text("x")
    (mirror.www / "forge/linux-64/stray-1-0.conda").write_text("x")
    (mirror.directory / "indexing/forge/linux-64/repodata.json").write_text("{")
    asked = len(upstream.asked)
    assert mirror.update() == OK
    assert len(upstream.asked) == asked
    assert sorted(mirror.served()) == sorted(
        [a.path, *(f"forge/{subdir}/repodata.json{end}" for subdir in ("linux-64", "noarch") for end in ("", ".zst"))]
    )


def test_specs_take_all_that_matches_and_dependencies_if_asked(upstream: Upstream, mirror: Mirror) -> None:
    for version in ("1", "2", "3"):
        upstream.package("a", version, ("b >=2",))
        upstream.package("b", version, ("n",))
    upstream.package("n")
    upstream.package("c")
    channel = mirror.config.channels[0]
    assert mirror.update(channels=(dataclasses.replace(channel, specs=("a >=2",)),)) == OK
    assert sorted(mirror.packages()) == ["a-2-0.conda", "a-3-0.conda"]
    assert mirror.update(channels=(dataclasses.replace(channel, specs=("a >=2",), dependencies=True),)) == OK
    assert sorted(mirror.packages()) == ["a-2-0.conda", "a-3-0.conda", "b-2-0.conda", "b-3-0.conda"]
    assert sorted(mirror.packages("noarch")) == ["n-1-0.conda"]
    assert mirror.update(channels=(dataclasses.replace(channel, specs=("nowhere",)),)) == INCOMPLETE
    assert "offers nothing for nowhere" in mirror.status["problems"][0]


def test_corrections_of_the_channel_are_in_the_index(upstream: Upstream, mirror: Mirror) -> None:
    a = upstream.package("a", "1", ("b",))

    def correction(version: str, depends: str) -> None:
        told = {"patch_instructions_version": 1, "packages": {}, "packages.conda": {a.name: {"depends": [depends]}}}
        text = json.dumps({**told, "remove": [], "revoke": []}).encode()
        upstream.package("n-patches", version, (), Entry("linux-64/patch_instructions.json", text))

    correction("9", "b >=1")
    correction("10", "b >=2")
    mirror.want(a)
    channel = dataclasses.replace(mirror.config.channels[0], repodata_patches="n-patches")
    assert mirror.update(channels=(channel,)) == OK
    assert mirror.packages()[a.name]["depends"] == ["b >=2"]
    assert mirror.packages()[a.name]["sha256"] == a.sha256
    correction("11", "b >=3")
    assert mirror.update(channels=(channel,)) == OK
    assert mirror.packages()[a.name]["depends"] == ["b >=3"]


def test_a_channel_that_replaces_a_file_does_not_replace_that_of_the_lock(upstream: Upstream, mirror: Mirror) -> None:
    a = upstream.package("a")
    mirror.want(a)
    channel = dataclasses.replace(mirror.config.channels[0], specs=("a",))
    assert mirror.update(channels=(channel,)) == OK
    upstream.package("a", "1", ("changed",))
    assert mirror.update(channels=(channel,)) == INCOMPLETE
    assert mirror.holds(a)
    # A lock that says so has its way, in the index too.
    new = upstream.package("a", "1", ("changed",))
    mirror.want(new)
    assert mirror.update(channels=(channel,)) == OK
    assert mirror.packages()[a.name]["sha256"] == new.sha256
    assert mirror.packages()[a.name]["depends"] == ["changed"]


def test_what_an_older_lock_needs_stays_until_the_newer_file_is_had(upstream: Upstream, mirror: Mirror) -> None:
    old = upstream.package("a")
    mirror.want(old)
    mirror.update()
    before = mirror.served()
    new = upstream.package("a", "1", ("changed",))
    mirror.want(new)
    upstream.answers[new.name] = lambda handler: handler.send_error(503)
    assert mirror.update() == UNREACHABLE
    assert mirror.served() == before
    del upstream.answers[new.name]
    assert mirror.update() == OK
    assert mirror.packages()[new.name]["sha256"] == new.sha256


def test_a_package_that_cannot_be_indexed_is_told_and_the_last_index_stays(upstream: Upstream, mirror: Mirror) -> None:
    a = upstream.package("a")
    mirror.want(a)
    mirror.update()
    before = mirror.served()
    path = upstream.root / "forge/linux-64/broken-1-0.conda"
    path.write_bytes(b"no package")
    broken = upstream.file(path, "forge/linux-64/broken-1-0.conda")
    mirror.want(a, broken)
    assert mirror.update() == INCOMPLETE
    assert "the index of forge cannot be made" in mirror.status["problems"][0]
    assert {path: digest for path, digest in mirror.served().items() if path != broken.path} == before


def test_the_index_is_newer_whenever_it_is_another(upstream: Upstream, mirror: Mirror) -> None:
    """What tells readers that they have the newest one has the resolution of seconds."""
    path = mirror.www / "forge/linux-64/repodata.json"
    seen = []
    files: list[File] = []
    for name in ("a", "b", "c"):
        files.append(upstream.package(name))
        mirror.want(*files)
        mirror.update()
        seen.append(int(path.stat().st_mtime))
    assert len(set(seen)) == 3


# Archives


def archived(mirror: Mirror) -> bytes:
    """An archive of it, as the program writes it."""
    stream = io.BytesIO()
    with mirror.tree.only_run():
        assert export(mirror.tree, stream) == OK
    return stream.getvalue()


def taken_in(mirror: Mirror, archive: bytes, manifest_sha256: str = "") -> int:
    with mirror.tree.only_run():
        return import_archive(mirror.config, mirror.tree, io.BytesIO(archive), manifest_sha256)


def rewritten(archive: bytes, change: Callable[[str, bytes], tuple[str, bytes] | None], also: str = "") -> bytes:
    """The archive with its members changed, each by its name."""
    output = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(archive)) as old, tarfile.open(fileobj=output, mode="w") as new:
        members = [(member.name, old.extractfile(member).read()) for member in old]  # type: ignore[union-attr]
        members += [(also, b"x")] if also else []
        for changed in (change(name, content) for name, content in members):
            if changed:
                member = tarfile.TarInfo(changed[0])
                member.size = len(changed[1])
                new.addfile(member, io.BytesIO(changed[1]))
    return output.getvalue()


@pytest.fixture
def far(tmp_path: Path) -> Mirror:
    """A mirror that reaches nothing."""
    return Mirror(tmp_path / "far", Channel("forge", "http://127.0.0.1:1/forge"))


def test_an_archive_makes_the_same_mirror_elsewhere(upstream: Upstream, mirror: Mirror, far: Mirror) -> None:
    a, n, wheel = upstream.package("a"), upstream.package("n"), upstream.wheel()
    mirror.want(a, n, wheel)
    mirror.update()
    old = archived(mirror)
    assert taken_in(far, old) == OK
    files = {path: digest for path, digest in mirror.served().items() if "repodata" not in path}
    assert {path: digest for path, digest in far.served().items() if "repodata" not in path} == files
    assert far.packages()[a.name]["sha256"] == a.sha256
    # The next one has more, and what it has no longer stays for its time.
    b = upstream.package("b")
    mirror.want(b, n, wheel)
    mirror.update(days=1)
    new = archived(mirror)
    with tarfile.open(fileobj=io.BytesIO(new)) as content:
        assert set(content.getnames()) == {"MANIFEST.json", b.path, n.path, wheel.path}
    assert taken_in(far, new) == OK
    assert sorted(far.packages()) == [a.name, b.name]
    # The timer finds damage there, and tells that it cannot be repaired.
    (far.www / b.path).write_bytes(b"x")
    upstream.answers[b.name] = lambda handler: handler.send_error(503)
    assert far.update() == UNREACHABLE
    assert not (far.www / b.path).exists()
    assert taken_in(far, new) == OK
    assert far.holds(b)


def flip(name: str, content: bytes) -> tuple[str, bytes]:
    return name, content if name == "MANIFEST.json" else content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    ("tampered", "text"),
    [
        (lambda archive: rewritten(archive, flip), "is not what the manifest says"),
        (
            lambda archive: archive[: len(archive.rstrip(bytes(1))) - 600],
            "unexpected end of data|is not what|it ends before",
        ),
        (lambda archive: rewritten(archive, lambda n, c: None if n.endswith("b-1-0.conda") else (n, c)), "ends before"),
        (lambda archive: rewritten(archive, lambda n, c: (n, c), also="../../etc/cron.d/x"), "not in its manifest"),
        (lambda archive: rewritten(archive, lambda n, c: (n.replace("MANIFEST", "M"), c)), "does not begin with"),
        (
            lambda archive: rewritten(
                archive, lambda n, c: (n, c.replace(b"forge/linux-64/a", b"forge/../linux-64/a"))
            ),
            "is no place for a file",
        ),
        (
            lambda archive: rewritten(
                archive, lambda n, c: (n.replace("forge/", "evil/"), c.replace(b'"forge/', b'"evil/'))
            ),
            "channel_mirror_channels has no evil",
        ),
        (lambda archive: b"", "empty file"),
        (lambda archive: b"x" * 4096, "invalid header|could not be opened|truncated"),
    ],
)
def test_an_archive_that_was_tampered_with_is_refused_as_a_whole(
    upstream: Upstream,
    mirror: Mirror,
    far: Mirror,
    tampered: Callable[[bytes], bytes],
    text: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mirror.want(upstream.package("a"), upstream.package("b"))
    mirror.update()
    archive = archived(mirror)
    capsys.readouterr()
    assert taken_in(far, tampered(archive)) == INCOMPLETE
    said = capsys.readouterr().out
    assert "The archive is refused, and nothing of it is used" in said
    assert re.search(text, said)
    assert list(far.www.rglob("*")) == []
    assert not (far.directory / "imported.json").exists()
    assert taken_in(far, archive) == OK


def test_an_archive_whose_manifest_was_replaced_is_refused_by_its_sum(
    upstream: Upstream, mirror: Mirror, far: Mirror, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror.want(upstream.package("a"))
    mirror.update()
    capsys.readouterr()
    archive = archived(mirror)
    told = capsys.readouterr().out.split()[-1]
    forged = rewritten(archive, lambda name, content: (name, content.replace(b"created", b"creates")))
    assert taken_in(far, forged, told) == INCOMPLETE
    assert taken_in(far, archive, told) == OK


def test_a_damaged_mirror_makes_no_archive(upstream: Upstream, mirror: Mirror) -> None:
    a = upstream.package("a")
    mirror.want(a)
    mirror.update()
    (mirror.www / a.path).write_bytes(b"x")
    with mirror.tree.only_run(), pytest.raises(MirrorError, match="is damaged, and so is this archive"):
        export(mirror.tree, io.BytesIO())


# The program


def written(mirror: Mirror) -> str:
    """The configuration as the role writes it."""
    path = mirror.directory / "config.json"
    path.write_text(json.dumps(dataclasses.asdict(mirror.config)))
    return str(path)


def test_runs_never_overlap(upstream: Upstream, mirror: Mirror, capfd: pytest.CaptureFixture[str]) -> None:
    mirror.want(upstream.package("a"))
    path = written(mirror)
    with mirror.tree.only_run():
        assert program.main([path, "update"]) == 75
    assert "Another run is at work" in capfd.readouterr().out
    assert not (mirror.www / "status.json").exists()
    assert program.main([path, "update"]) == 0


def test_the_program_exports_to_one_side_and_imports_on_the_other(
    upstream: Upstream, mirror: Mirror, far: Mirror
) -> None:
    mirror.want(upstream.package("a"))
    command = [sys.executable, "-m", program.__name__.replace(".__main__", "")]
    for arguments in ([written(mirror), "update"], [written(mirror), "export"]):
        done = subprocess.run([*command, *arguments], capture_output=True, check=True, timeout=60)
    assert b"sha256 of the manifest" in done.stderr
    subprocess.run([*command, written(far), "import"], input=done.stdout, check=True, timeout=60)
    assert far.packages() != {}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "cannot be read: No such file or directory: run the role channel_mirror"),
        ("{", "is not as the role channel_mirror writes it"),
        (
            '{"channels": [{"name": "pypi", "url": "https://x.example.org/y"}], "platforms": []}',
            "is no name for a channel",
        ),
        ('{"channels": [{"name": "a", "url": "https://u:p@x.example.org/y"}], "platforms": []}', "without a password"),
    ],
)
def test_a_configuration_that_is_none_is_told(
    tmp_path: Path, content: str | None, text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    assert program.main([str(path), "update"]) == 1
    assert text in capfd.readouterr().out


def test_a_damaged_record_is_told(mirror: Mirror) -> None:
    (mirror.directory / "state.json").write_text("{")
    assert mirror.update() == FAILED
    assert "state.json is damaged" in mirror.status["message"]
    with pytest.raises(MirrorError):
        Known(mirror.tree)


# What locks need

FORGE = Channel("forge", "https://conda.example.org/forge")
SUMS = {name: hashlib.sha256(name.encode()).hexdigest() for name in "abcw"}
LOCK = f"""
version: 1
package:
  - {{name: a, version: "1", manager: conda, platform: linux-64, dependencies: {{}}, hash: {{sha256: {SUMS["a"]}}},
     url: "https://conda.example.org/forge/linux-64/a-1%212-0.conda"}}
  - {{name: python, version: "3.10", manager: conda, platform: linux-64, hash: {{sha256: {SUMS["b"]}}},
     url: "{MIRROR}/forge/noarch/python-3.10-0.conda"}}
  - {{name: w, version: "1", manager: pip, platform: linux-64, dependencies: {{}}, hash: {{sha256: {SUMS["w"]}}},
     url: "https://wheels.example.org/w-1-py3-none-any.whl"}}
  - {{name: a, version: "1", manager: conda, platform: osx-64, dependencies: {{}}, hash: {{sha256: {SUMS["c"]}}},
     url: "https://conda.example.org/forge/osx-64/a-1-0.conda"}}
"""


def needed(
    directory: Path, *locks: str, channel: Channel = FORGE, platforms: tuple[str, ...] = ("linux-64",)
) -> dict[str, str]:
    return {file.path: file.url for file in selection(locks, str(directory), [channel], platforms, [], MIRROR)}


def test_locks_tell_what_is_needed(tmp_path: Path) -> None:
    (tmp_path / "conda-lock.yml").write_text(LOCK)
    wanted = {
        "forge/linux-64/a-1!2-0.conda": "https://conda.example.org/forge/linux-64/a-1%212-0.conda",
        # It was locked from the mirror, which cannot fetch it from itself.
        "forge/noarch/python-3.10-0.conda": "https://conda.example.org/forge/noarch/python-3.10-0.conda",
        f"pypi/files/{SUMS['w']}/w-1-py3-none-any.whl": "https://wheels.example.org/w-1-py3-none-any.whl",
    }
    assert needed(tmp_path, "conda-lock.yml") == wanted
    assert needed(tmp_path, "*.yml", "conda-lock.yml") == wanted
    both = needed(tmp_path, "conda-lock.yml", platforms=("linux-64", "osx-64"))
    assert both.keys() - wanted.keys() == {"forge/osx-64/a-1-0.conda"}


def test_files_besides_are_called_what_they_are(tmp_path: Path) -> None:
    files = [{"url": "https://x.example.org/Mini%20conda.sh", "sha256": SUMS["a"].upper(), "name": "Miniconda.sh"}]
    (file,) = selection([], str(tmp_path), [FORGE], ["linux-64"], files, MIRROR)
    assert file == File("files/Miniconda.sh", SUMS["a"], "https://x.example.org/Mini%20conda.sh")


@pytest.mark.parametrize(
    ("lock", "channel", "text"),
    [
        ("nowhere.yml", FORGE, "nowhere.yml cannot be read"),
        ("*.lock", FORGE, "names no file"),
        (
            "conda-lock.yml",
            Channel("forge", "https://other.example.org/forge"),
            "a comes from https://conda.example.org/forge",
        ),
        ("md5.txt", FORGE, "has only an md5 sum"),
        ("osx.txt", FORGE, "is for osx-64, and channel_mirror_platforms has none of these"),
    ],
)
def test_what_cannot_be_mirrored_is_told(tmp_path: Path, lock: str, channel: Channel, text: str) -> None:
    (tmp_path / "conda-lock.yml").write_text(LOCK)
    (tmp_path / "md5.txt").write_text(f"@EXPLICIT\nhttps://conda.example.org/forge/linux-64/a-1-0.conda#{'0' * 32}\n")
    (tmp_path / "osx.txt").write_text(f"@EXPLICIT\nhttps://conda.example.org/forge/osx-64/a-1-0.conda#{'0' * 64}\n")
    with pytest.raises(MirrorError, match=text):
        needed(tmp_path, lock, channel=channel)


def test_locks_that_contradict_each_other_are_told(tmp_path: Path) -> None:
    (tmp_path / "old.yml").write_text(LOCK)
    (tmp_path / "new.yml").write_text(LOCK.replace(SUMS["a"], SUMS["c"]))
    with pytest.raises(MirrorError, match="lock the older one again"):
        needed(tmp_path, "old.yml", "new.yml")


@pytest.mark.parametrize(
    "path",
    [
        "../x.conda",
        "forge/linux-64/.x.conda",
        "forge/linux-64/../x.conda",
        "/forge/linux-64/x.conda",
        "forge/linux-64/repodata.json",
        "forge/x.conda",
        "pypi/files/x.conda",
        "files/linux-64/x.conda",
        f"pypi/files/{'0' * 64}/x-1-py3-none-any.whl",
        "forge/linux-64/<b>.conda",
    ],
)
def test_no_path_leads_elsewhere(path: str) -> None:
    with pytest.raises(MirrorError, match="is no place for a file of a mirror"):
        File(path, "1" * 64, "https://x.example.org/y")
