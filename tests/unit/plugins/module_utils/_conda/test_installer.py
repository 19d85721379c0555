"""The base, from real installers: small shell scripts that keep the contract of Miniconda's, or break it."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import http.server
import json
import os
import platform
import signal
import stat
import subprocess
import sys
import threading
import time
import typing as t
import urllib.request
from pathlib import Path

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda import installer, prefixes
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError

# Takes -b -p PREFIX and makes what Miniconda's installer makes, as far as anything here can tell.
SCRIPT = """#!/bin/sh
set -eu
[ "$1 $2" = "-b -p" ]
prefix=$3
case $0 in *.sh) ;; *) exit 3;; esac
[ ! -e "$prefix" ] || { echo "ERROR: File or directory already exists: '$prefix'"; exit 1; }
mkdir -p "$prefix/conda-meta" "$prefix/bin" "$prefix/lib/python3.10/site-packages"
{slow}
echo '==> 2026-11-01 00:00:00 <==' > "$prefix/conda-meta/history"
printf '#!/bin/sh\\nexec {python} "$@"\\n' > "$prefix/bin/python"
printf '#!%s/bin/python\\n# conda {version}\\n' "$prefix" > "$prefix/bin/conda"
chmod 755 "$prefix/bin/python" "$prefix/bin/conda"
echo 'VALUE = 1' > "$prefix/lib/python3.10/module.py"
env > "$prefix/environment"
{extra}
"""


class Site(t.NamedTuple):
    """A node's directories, and the installers it can get."""

    path: Path

    @property
    def layout(self) -> installer.Layout:
        return installer.Layout(str(self.path / "opt" / "conda"), str(self.path / "opt" / "base"))

    @property
    def link(self) -> Path:
        return Path(self.layout.prefix)

    def version(self, name: str) -> Path:
        return Path(self.layout.versions_dir) / name

    def wanted(
        self, version: str = "py310_1.0-1", *, slow: str = "", extra: str = "", **changes: t.Any
    ) -> installer.Wanted:
        """An installer that does *slow* in the middle and *extra* at the end, wanted with *changes*."""
        script = self.path / f"Base-{version}-Linux-{platform.machine()}.sh"
        content = SCRIPT.replace("{python}", sys.executable).replace("{version}", version)
        script.write_text(content.replace("{slow}", slow).replace("{extra}", extra))
        values: dict[str, t.Any] = {
            "version": version,
            "url": script.as_uri(),
            "sha256": hashlib.sha256(script.read_bytes()).hexdigest(),
            "layout": self.layout,
            "min_free_mb": 1,
            "min_glibc": "2.17",
            "lock_timeout_seconds": 20,
        }
        return installer.Wanted(**{**values, **changes})

    def everything(self) -> dict[str, tuple[int, int]]:
        """Inode and modification time of all there is, to see that nothing was touched."""
        return {str(path): (path.lstat().st_ino, path.lstat().st_mtime_ns) for path in sorted(self.path.rglob("*"))}

    def bases(self) -> dict[str, tuple[int, int]]:
        """Of everything, the link and what is in the prefixes: what users have."""
        mine = (self.layout.prefix, str(self.version("py310")))
        return {path: told for path, told in self.everything().items() if path.startswith(mine)}

    def visible(self) -> list[str]:
        """What is in the directory of versions, but the lock."""
        return sorted(name for name in os.listdir(self.layout.versions_dir) if name != ".lock")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def no_fetch(url: str, _stream: t.BinaryIO) -> None:
    raise AssertionError(f"{url} was asked for")


def web_fetch(url: str, stream: t.BinaryIO) -> None:
    with urllib.request.urlopen(url, timeout=10) as response:
        stream.write(response.read())


def install(wanted: installer.Wanted, check_mode: bool = False) -> installer.Plan:
    return installer.install(wanted, no_fetch, check_mode)


def test_first_installation(site: Site) -> None:
    done = install(site.wanted())
    prefix = site.version("py310_1.0-1")
    assert done.actions() == [f"install base py310_1.0-1 in {prefix}", f"point {site.link} to {prefix}"]
    assert (done.target, done.previous) == (str(prefix), None)
    assert os.readlink(site.link) == str(prefix)
    manifest = prefixes.read_manifest(str(prefix))
    assert manifest is not None
    assert manifest.identity == site.wanted().identity
    assert prefixes.check(str(prefix), manifest) == []
    assert site.visible() == ["py310_1.0-1"]


def test_second_run_touches_nothing_and_starts_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = site.wanted()
    install(wanted)
    before = site.everything()

    def refuse(*arguments: object, **_options: object) -> t.NoReturn:
        raise AssertionError(f"a process was started: {arguments}")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    assert not install(wanted)
    assert site.everything() == before


def test_check_mode_tells_what_a_run_then_does(site: Site) -> None:
    wanted = site.wanted()
    before = site.everything()
    planned = install(wanted, check_mode=True)
    assert site.everything() == before
    assert planned.actions() == install(wanted).actions()
    before = site.everything()
    newer = site.wanted("py310_2.0-1")
    planned = install(newer, check_mode=True)
    assert planned.diff()["before"] == f"version: py310_1.0-1\nprefix: {site.version('py310_1.0-1')}\n"
    assert planned.diff()["after"] == f"version: py310_2.0-1\nprefix: {site.version('py310_2.0-1')}\n"
    assert site.link.resolve() == site.version("py310_1.0-1")
    assert planned.actions() == install(newer).actions()


def test_everybody_can_read_and_only_the_owner_write(site: Site) -> None:
    extra = """
umask 0
mkdir "$prefix/open"
echo x > "$prefix/open/file"
chmod 4700 "$prefix/bin/conda"
chmod 600 "$prefix/conda-meta/history"
ln -s /nowhere "$prefix/dangling"
"""
    mask = os.umask(0o077)
    try:
        install(site.wanted(extra=extra))
    finally:
        os.umask(mask)
    for path in [site.link, *site.version("py310_1.0-1").rglob("*"), Path(site.layout.versions_dir), site.link.parent]:
        if not path.is_symlink():
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode in ((0o755, 0o644) if path.is_file() else (0o755,)), f"{path}: {mode:o}"
    assert os.access(site.version("py310_1.0-1") / "bin/conda", os.X_OK)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_owns_what_root_installs(site: Site) -> None:
    install(site.wanted(extra='chown -R 1234:1234 "$prefix"'))
    owners = {(path.lstat().st_uid, path.lstat().st_gid) for path in site.version("py310_1.0-1").rglob("*")}
    assert owners == {(0, os.getegid())}


def test_installer_sees_a_clean_environment(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CI", "CONDA_CHANNELS", "CONDARC", "PYTHONPATH"):
        monkeypatch.setenv(name, "/surprise")
    install(site.wanted())
    seen = dict(line.split("=", 1) for line in (site.version("py310_1.0-1") / "environment").read_text().splitlines())
    assert not {"CI", "CONDARC", "PYTHONPATH"} & seen.keys()
    assert not [name for name in seen if name.startswith("CONDA")]
    assert not Path(seen["HOME"]).exists()


def test_byte_code_is_there_and_independent_of_times(site: Site) -> None:
    install(site.wanted())
    caches = list((site.version("py310_1.0-1") / "lib/python3.10/__pycache__").iterdir())
    assert len(caches) == 1
    assert caches[0].read_bytes()[4] == 1, "the flags of unchecked-hash byte code"


def test_conda_and_pip_are_told_to_keep_off(site: Site) -> None:
    install(site.wanted())
    prefix = site.version("py310_1.0-1")
    assert "miniconda_version" in json.loads((prefix / "conda-meta/frozen").read_text())["message"]
    assert (prefix / "lib/python3.10/EXTERNALLY-MANAGED").read_text().startswith("[externally-managed]\nError=")


def test_upgrade_and_way_back(site: Site) -> None:
    old, new = site.wanted("py310_1.0-1"), site.wanted("py310_2.0-1")
    install(old)
    inode = site.version("py310_1.0-1").stat().st_ino
    done = install(new)
    assert done.previous == str(site.version("py310_1.0-1"))
    assert site.link.resolve() == site.version("py310_2.0-1")
    # The way back needs no installer.
    back = install(site.wanted("py310_1.0-1", url="file:///gone.sh"))
    assert back.actions() == [f"point {site.link} to {site.version('py310_1.0-1')}"]
    assert site.link.resolve().stat().st_ino == inode


def test_same_version_from_another_installer_is_another_base(site: Site) -> None:
    install(site.wanted())
    inode = site.version("py310_1.0-1").stat().st_ino
    install(site.wanted(extra="# rebuilt"))
    assert site.link.resolve() == site.version("py310_1.0-1-2")
    assert site.version("py310_1.0-1").stat().st_ino == inode


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("rm lib/python3.10/module.py", "lib/python3.10/module.py"),
        ("echo x >> bin/conda", "bin/conda"),
        ("chmod o+w bin", "bin"),
        ("touch bin/stranger", "bin/stranger"),
        ("rm conda-meta/envfleet.manifest", "manifest"),
        ("echo rubbish > conda-meta/envfleet.manifest", "manifest"),
        ("rm -r ./*", "manifest"),
    ],
)
def test_damaged_base_is_built_anew_beside(site: Site, damage: str, told: str) -> None:
    wanted = site.wanted()
    install(wanted)
    prefix = site.version("py310_1.0-1")
    subprocess.run(["sh", "-c", damage], cwd=prefix, check=True)
    inode = prefix.stat().st_ino
    damaged = sorted(path.name for path in prefix.rglob("*"))
    done = install(wanted)
    assert told in done.diff()["before"]
    assert os.readlink(site.link) == f"{prefix}-2"
    assert prefix.stat().st_ino == inode
    assert sorted(path.name for path in prefix.rglob("*")) == damaged, "something may be running from there"
    assert not install(wanted)


def test_damaged_a_second_time(site: Site) -> None:
    wanted = site.wanted()
    install(wanted)
    for suffix in ("-2", "-3"):
        (site.link / "bin/conda").unlink()
        install(wanted)
        assert site.link.resolve() == site.version(f"py310_1.0-1{suffix}")


def test_damaged_old_version_is_not_gone_back_to(site: Site) -> None:
    install(site.wanted("py310_1.0-1"))
    install(site.wanted("py310_2.0-1"))
    (site.version("py310_1.0-1") / "bin/conda").unlink()
    install(site.wanted("py310_1.0-1"))
    assert site.link.resolve() == site.version("py310_1.0-1-2")


@pytest.mark.parametrize("place", ["/usr", "nowhere", "base"])
def test_link_that_leads_astray_is_put_right_without_installing(site: Site, place: str) -> None:
    wanted = site.wanted()
    install(wanted)
    site.link.unlink()
    site.link.symlink_to(place)
    done = install(wanted)
    assert done.actions() == [f"point {site.link} to {site.version('py310_1.0-1')}"]
    assert os.readlink(site.link) == str(site.version("py310_1.0-1"))


def test_deleted_base_is_installed_again(site: Site) -> None:
    wanted = site.wanted()
    install(wanted)
    subprocess.run(["rm", "-r", str(site.version("py310_1.0-1"))], check=True)
    install(wanted)
    assert site.link.resolve() == site.version("py310_1.0-1")
    assert (site.link / "bin/conda").exists()


def test_something_else_in_the_place_of_the_link_is_left_alone(site: Site) -> None:
    site.link.mkdir(parents=True)
    (site.link / "precious").touch()
    before = site.everything()
    with pytest.raises(CondaError, match=r"^miniconda_prefix: .* is no link of this collection"):
        install(site.wanted())
    assert {key: value for key, value in site.everything().items() if not key.endswith(".sh")} == before


def test_stranger_in_the_place_of_a_version_is_left_alone(site: Site) -> None:
    stranger = site.version("py310_1.0-1")
    stranger.mkdir(parents=True)
    (stranger / "precious").touch()
    install(site.wanted())
    assert site.link.resolve() == site.version("py310_1.0-1-2")
    assert (stranger / "precious").exists()


REFUSALS = [
    ({"version": "../../etc"}, r"^miniconda_version: '\.\./\.\./etc' is no version"),
    ({"version": ""}, r"^miniconda_version: "),
    ({"sha256": ""}, r"^miniconda_installer_sha256: no sha256 is known for py310_1\.0-1 on "),
    ({"sha256": "abc"}, r"^miniconda_installer_sha256: 'abc' is no sha256"),
    ({"sha256": "0" * 64}, r"^miniconda_installer_sha256: .* expected 0{64}, the file has [0-9a-f]{64}$"),
    ({"url": "ftp://host/x.sh"}, r"^miniconda_installer_url: .* is no http, https or file URL"),
    ({"url": "/srv/x.sh"}, r"^miniconda_installer_url: .* is no http, https or file URL"),
    ({"url": "file:///no/such/x.sh"}, r"^miniconda_installer_url: there is no file /no/such/x\.sh on this node"),
    (
        {"url": "file:///srv/Base-Linux-riscv128.sh"},
        r"^miniconda_installer_url: Base-Linux-riscv128\.sh is for riscv128",
    ),
    ({"min_glibc": "99.1"}, r"^miniconda_min_glibc: 99\.1 is wanted, and this node has 2\."),
    ({"min_free_mb": 10**9}, r"^miniconda_min_free_mb: \d+ MiB are free"),
    ({"layout": installer.Layout("conda", "/x")}, r"^miniconda_prefix: 'conda' must be an absolute path"),
    ({"layout": installer.Layout("/x", "/")}, r"^miniconda_versions_dir: '/' must be an absolute path"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSALS)
def test_bad_input_is_refused_and_the_live_base_stays(site: Site, changes: dict[str, t.Any], message: str) -> None:
    install(site.wanted("py310_0.9-1"))
    wanted = dataclasses.replace(site.wanted(), **changes)
    before = site.bases()
    with pytest.raises(CondaError, match=message):
        install(wanted)
    assert site.bases() == before


def test_architecture_in_the_url_is_the_nodes(site: Site) -> None:
    wanted = site.wanted()
    install(site.wanted(url=wanted.url.replace(platform.machine(), "{architecture}")))
    assert site.link.is_dir()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("echo 'the reason'; exit 7", r"ended with 7 in .*, which was removed:\n(.*\n)*the reason"),
        ('rm "$prefix/bin/conda"', r"left no bin/conda in "),
        ('rm "$prefix/conda-meta/history" "$prefix/bin/python"', r"left no conda-meta/history, no bin/python in "),
        ("cat /dev/zero > /dev/full", r"^miniconda_versions_dir: the disk of .* is full"),
    ],
)
def test_failed_installer_leaves_nothing(site: Site, extra: str, message: str) -> None:
    install(site.wanted("py310_0.9-1"))
    with pytest.raises(CondaError, match=message):
        install(site.wanted(extra=extra))
    assert site.visible() == ["py310_0.9-1"]
    assert site.link.resolve() == site.version("py310_0.9-1")


def test_installer_that_hangs_is_ended_with_its_children(site: Site) -> None:
    pid_file = site.path / "pid"
    wanted = site.wanted(slow=f"sleep 600 & echo $! > {pid_file}; wait", timeout_seconds=1)
    with pytest.raises(CondaError, match=r"^miniconda_install_timeout_seconds: .* did not end within 1 s"):
        install(wanted)
    assert site.visible() == []
    assert not _alive(int(pid_file.read_text()))


def _alive(pid: int) -> bool:
    """Whether *pid* still runs: one that has ended may wait for somebody to collect it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_disk_that_fills_up_during_the_download(site: Site) -> None:
    def fill(_url: str, stream: t.BinaryIO) -> None:
        stream.write(b"#!/bin/sh\n")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "installer.sh")

    with pytest.raises(CondaError, match=r"^miniconda_versions_dir: the disk of .* is full") as raised:
        installer.install(site.wanted(url="https://example.org/x.sh"), fill)
    assert "miniconda_min_free_mb" in str(raised.value)
    assert site.visible() == []


class Server:
    """A web server for one directory."""

    def __init__(self, directory: Path) -> None:
        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *arguments: t.Any) -> None:
                super().__init__(*arguments, directory=str(directory))

            def log_message(self, *_arguments: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def test_installer_from_a_web_server(site: Site) -> None:
    wanted = site.wanted()
    with Server(site.path) as server:
        url = f"{server.url}/Base-py310_1.0-1-Linux-{{architecture}}.sh"
        assert installer.install(site.wanted(url=url), web_fetch)
    assert site.link.resolve() == site.version("py310_1.0-1")
    assert not install(wanted), "where it came from does not matter"


@pytest.mark.parametrize(("missing", "reason"), [("", "refused"), ("/missing.sh", "404")])
def test_web_server_without_the_installer(site: Site, missing: str, reason: str) -> None:
    with Server(site.path) as server:
        wanted = site.wanted(url=f"{server.url}{missing}" if missing else "http://127.0.0.1:1/x.sh")
        with pytest.raises(CondaError, match=rf"^miniconda_installer_url: http://.* cannot be read: .*{reason}"):
            installer.install(wanted, web_fetch)
    assert site.visible() == []


RUN = """
import json, sys
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda import installer
values = json.loads(sys.argv[1])
layout = installer.Layout(**values.pop("layout"))
print(installer.install(installer.Wanted(layout=layout, **values), None).actions())
"""


def start(wanted: installer.Wanted) -> subprocess.Popen[str]:
    """Run the installation in a process of its own, which can be killed."""
    values = {**vars(wanted), "layout": vars(wanted.layout)}
    command = [sys.executable, "-c", RUN, json.dumps(values)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition: t.Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_killed_in_the_middle_heals(site: Site) -> None:
    install(site.wanted("py310_0.9-1"))
    log, go_on = site.path / "log", site.path / "go-on"
    # The orphan goes on when the test says so: the next run must wait for it rather than work on the same files.
    wanted = site.wanted(slow=f"echo begin >> {log}; while [ ! -e {go_on} ]; do sleep 0.05; done; echo end >> {log}")
    process = start(wanted)
    prefix = site.version("py310_1.0-1")
    wait_for(log.exists)
    kill(process)
    assert site.link.resolve() == site.version("py310_0.9-1")
    assert prefixes.read_manifest(str(prefix)) is None
    threading.Timer(1, go_on.touch).start()
    done = install(wanted)
    assert log.read_text().split() == ["begin", "end"] * 2, "the orphan was still at work"
    assert done.actions()[0] == f"remove unfinished base {prefix}"
    assert site.link.resolve() == prefix
    assert site.visible() == ["py310_0.9-1", "py310_1.0-1"]
    assert not install(wanted)


@pytest.mark.parametrize("moment", range(6))
def test_killed_at_any_moment_heals(site: Site, moment: int) -> None:
    install(site.wanted("py310_0.9-1"))
    wanted = site.wanted()
    process = start(wanted)
    wait_for(lambda: len(site.visible()) > 1 or process.poll() is not None)
    time.sleep(moment * 0.06)
    kill(process)
    live = site.link.resolve()
    assert live in (site.version("py310_0.9-1"), site.version("py310_1.0-1"))
    manifest = prefixes.read_manifest(str(live))
    assert manifest is not None
    assert prefixes.check(str(live), manifest) == []
    install(wanted)
    assert site.link.resolve() == site.version("py310_1.0-1")
    assert site.visible() == ["py310_0.9-1", "py310_1.0-1"]


def test_what_a_killed_run_left_beside_is_removed_and_no_more(site: Site) -> None:
    install(site.wanted("py310_0.9-1"))
    debris = [".download-x", ".py310_1.0-1.building", ".py310_0.5-1.building"]
    for name in debris:
        site.version(name).touch()
    site.version(".download-y").mkdir()
    site.version(".snapshot").mkdir()
    install(site.wanted("py310_1.0-1"))
    assert site.visible() == [".snapshot", "py310_0.9-1", "py310_1.0-1"]


def test_two_runs_at_once_install_once(site: Site) -> None:
    log = site.path / "log"
    wanted = site.wanted(slow=f"sleep 0.3; echo run >> {log}")
    processes = [start(wanted) for _ in range(3)]
    results = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], results
    assert log.read_text() == "run\n"
    assert not install(wanted)


def test_lock_that_stays_held_is_told(site: Site) -> None:
    process = start(site.wanted(slow="sleep 5"))
    wait_for((site.version("py310_1.0-1") / "bin").is_dir)
    with pytest.raises(CondaError, match=rf"process {process.pid}, .* raise miniconda_lock_timeout_seconds$"):
        install(site.wanted("py310_2.0-1", lock_timeout_seconds=0.1))
    kill(process)


def test_removal_takes_what_was_made_here_alone(site: Site) -> None:
    install(site.wanted("py310_1.0-1"))
    install(site.wanted("py310_2.0-1"))
    stranger = site.version("stranger")
    stranger.mkdir()
    (stranger / "precious").touch()
    before = site.everything()
    planned = installer.remove(site.layout, 5, check_mode=True)
    assert site.everything() == before
    expected = [f"remove link {site.link}", *(f"remove base {site.version(f'py310_{n}.0-1')}" for n in (1, 2))]
    assert planned.actions() == expected
    assert installer.remove(site.layout, 5).actions() == expected
    assert not os.path.lexists(site.link)
    assert site.visible() == ["stranger"]
    assert (stranger / "precious").exists()
    assert not installer.remove(site.layout, 5)


def test_removal_leaves_a_link_to_elsewhere(site: Site) -> None:
    install(site.wanted())
    site.link.unlink()
    site.link.symlink_to("/usr")
    installer.remove(site.layout, 5)
    assert os.readlink(site.link) == "/usr"
    assert site.visible() == []


def test_removal_takes_leftovers_and_damaged_bases(site: Site) -> None:
    install(site.wanted())
    (site.version("py310_1.0-1") / "conda-meta/envfleet.manifest").unlink()
    process = start(site.wanted("py310_2.0-1", slow="sleep 0.3"))
    wait_for((site.version("py310_2.0-1") / "bin").is_dir)
    kill(process)
    installer.remove(site.layout, 10)
    assert site.visible() == []
    assert not os.path.lexists(site.link)


def test_removal_where_nothing_is(site: Site) -> None:
    assert not installer.remove(site.layout, 5)
    assert not os.path.exists(site.layout.versions_dir)
