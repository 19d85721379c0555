"""A home whose owner has environments, on a node whose clock the tests turn."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.environments import Places
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.inventory import Account
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._housekeeping import cleaning
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._housekeeping.cleaning import Result, Settings
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._housekeeping.journal import Clock
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._housekeeping.policy import DAY, Policy, Rule

POLICY = Policy((Rule(30),), notice_days=10, grace_days=20, exempt_users=frozenset({"root"}))
NOBODY = 65534


def tree(top: Path) -> dict[str, tuple[object, ...]]:
    """All there is of a directory but what reading changes, and the time of the change that a rename is."""
    found: dict[str, tuple[object, ...]] = {}
    for folder, folders, files in os.walk(top):
        for path in (Path(folder), *(Path(folder, name) for name in folders + files)):
            info = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(info.st_mode) else b""
            target = os.readlink(path) if path.is_symlink() else ""
            owner = (info.st_mode, info.st_uid, info.st_gid)
            key = os.fsdecode(os.path.relpath(path, top))
            digest = hashlib.sha256(content).hexdigest()
            found[key] = (*owner, info.st_ino, info.st_nlink, info.st_mtime_ns, info.st_size, target, digest)
    return found


@dataclasses.dataclass
class Home:
    """A user's home, on a node whose clock the tests turn."""

    root: Path
    uid: int = NOBODY
    now: float = dataclasses.field(default_factory=time.time)
    uptime: float = 1e6
    boot: str = "boot"

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def envs(self) -> Path:
        return self.home / ".conda/envs"

    @property
    def account(self) -> Account:
        return Account("nobody", self.uid, str(self.home))

    def settings(self, **changes: Any) -> Settings:
        places = Places(str(self.root / "shared/envs"), str(self.root / "shared/generations"))
        state_dir = str(self.root / "state")
        values = {"layout": places, "accounts": (self.account,), "policy": POLICY, "state_dir": state_dir}
        return Settings(**{**values, **changes})

    def make(self, name: str, *, used_days_ago: float = 100, noted: bool = True) -> Path:
        """An environment, that its owner has made long ago, with a Python of sorts."""
        prefix = self.envs / name
        (prefix / "conda-meta").mkdir(parents=True)
        (prefix / "conda-meta/history").write_text("==> 2026-01-01 08:15:00 <==\n")
        (prefix / "lib/python3.10/site-packages").mkdir(parents=True)
        (prefix / "bin").mkdir()
        shutil.copy2(shutil.which("sleep") or "/bin/sleep", prefix / "bin/python")
        (prefix / "bin/python3").symlink_to("python")
        os.link(prefix / "bin/python", prefix / "bin/python3.10")
        (prefix / "odd\nname").write_text("odd")
        (prefix / "bin/closed").write_text("x")
        (prefix / "bin/closed").chmod(0o400)
        self.own(self.home)
        if noted:
            self.clean(days=0)
        self.age(prefix, used_days_ago)
        return prefix

    def own(self, top: Path) -> None:
        for folder, folders, files in os.walk(top):
            for path in (folder, *(os.path.join(folder, name) for name in folders + files)):
                os.chown(path, self.uid, self.uid, follow_symlinks=False)

    def age(self, prefix: Path, days: float) -> None:
        """Have all that tells of use be so old."""
        at = self.now - days * DAY
        for path in (prefix / "conda-meta/history", *prefix.glob("conda-meta/envfleet.use/since")):
            os.utime(path, (at, at))

    def as_owner(self, command: str) -> None:
        """What the owner types."""
        subprocess.run(["sh", "-euc", command], user=self.uid, group=self.uid, cwd="/", check=True, timeout=60)

    def clean(self, *, days: float = 1, act: bool = True, **changes: Any) -> Result:
        """A run, so many days after the last one."""
        self.now += days * DAY
        self.uptime += days * DAY
        return cleaning.clean(self.settings(**changes), act, self.clock)

    @property
    def clock(self) -> Clock:
        return Clock(self.now, self.boot, self.uptime)

    @property
    def aside(self) -> list[Path]:
        return [Path(entry.path) for entry in os.scandir(self.envs) if ".unused-" in entry.name]
