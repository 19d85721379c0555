"""Environments that have a spec and no lock: solved once, and the same for all nodes and later runs."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError
from ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils._lock_files import read_environments, read_wanted

if TYPE_CHECKING:
    from unit.plugins.plugin_utils.conftest import Market


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of an inventory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    directory = tmp_path / "site"
    directory.mkdir()
    return directory


def read(market: Market, site: Path, solve: str, *environments: dict[str, Any], **locking: Any) -> dict[str, Any]:
    return read_environments(
        environments,
        str(site),
        [market.channel],
        "https://conda.example.org",
        {"channel_priority": "strict", **locking},
        solve,
    )


def labels(locks: dict[str, Any], name: str = "ml") -> list[str]:
    return sorted(locks[name]["linux-64"].labels.values())


def kept(site: Path) -> list[str]:
    return sorted(path.name for path in (site / ".envfleet").glob("[!.]*"))


NUMPY = {"name": "ml", "packages": ["numpy =1.26.0"]}


def test_nothing_is_solved_where_that_is_not_wanted(market: Market, site: Path, audited: Any) -> None:
    with audited() as audit:
        assert read(market, site, "never", NUMPY) == {"ml": {}}
    assert audit.events == []
    policy = (str(site), [market.channel], "https://conda.example.org")
    assert read_wanted([NUMPY], "linux-64", *policy) == ([], ["ml"])


def test_what_a_lock_would_be_is_seen_without_writing_it(market: Market, site: Path) -> None:
    locks = read(market, site, "see", NUMPY)
    assert "numpy 1.26.0 0" in labels(locks)
    assert os.listdir(site) == []
    # One that is only verified gets no lock either.
    assert read(market, site, "keep", {**NUMPY, "state": "verified"}) == locks
    assert os.listdir(site) == []


def test_a_spec_is_solved_once_for_all(market: Market, site: Path, audited: Any) -> None:
    (site / "envs").mkdir()
    (site / "envs/ml.yml").write_text("dependencies: [numpy=1.26.0]\nvariables: {MODE: fast}\n")
    by_spec = {"name": "ml", "spec": "envs/ml.yml", "variables": {"THREADS": 8}}
    first = read(market, site, "keep", by_spec)
    assert first["ml"]["linux-64"].variables == (("MODE", "fast"), ("THREADS", "8"))
    (name,) = kept(site)
    document = yaml.safe_load((site / ".envfleet" / name).read_text())
    assert document["metadata"]["sources"] == ["../envs/ml.yml"]
    # Nothing of this can be solved any more, and no later run has to.
    shutil.rmtree(market.root / "channel")
    with audited() as audit:
        for solve in ("never", "see", "keep"):
            assert read(market, site, solve, by_spec) == first
    assert audit.events == []


def test_a_changed_spec_moves_no_more_than_it_must_and_the_way_back_is_kept(market: Market, site: Path) -> None:
    old = read(market, site, "keep", NUMPY)
    # A name that begins like it has nothing to do with it.
    read(market, site, "keep", {"name": "ml-0123456789ab", "packages": ["numpy"]})
    wider = read(market, site, "keep", {"name": "ml", "packages": ["numpy"]})
    assert "numpy 1.26.0 0" in labels(wider)
    assert "numpy 1.26.4 0" in labels(read(market, site, "see", {"name": "new", "packages": ["numpy"]}), "new")
    shutil.rmtree(market.root / "channel")
    assert read(market, site, "never", NUMPY) == old


@pytest.mark.parametrize(
    "changes",
    [{"virtual_packages": {"__cuda": "12.4"}}, {"exclude_newer": "2030-01-01"}, {"channel_priority": "disabled"}],
)
def test_another_option_is_another_lock(changes: dict[str, Any], market: Market, site: Path) -> None:
    read(market, site, "keep", NUMPY)
    assert read(market, site, "never", NUMPY, **changes) == {"ml": {}}


def test_processes_that_want_the_same_lock_wait_for_the_first(market: Market, site: Path, audited: Any) -> None:
    with audited() as alone:
        read(market, site, "keep", {**NUMPY, "name": "alone"})
    with audited() as together, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _number: read(market, site, "keep", NUMPY), range(4)))
    assert all(locks == found[0] for locks in found)
    started = [sum(event.startswith("subprocess") for event in audit.events) for audit in (alone, together)]
    assert started[0] == started[1] > 0


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"packages": ["a"], "spec": "x.yml"}, "packages: there is a lock or a spec too: keep one of them"),
        ({"packages": ["a"], "lock": "x.yml"}, "packages: there is a lock or a spec too"),
        ({"packages": ["nonsense"]}, "nonsense"),
        ({"packages": ["numpy >>2"]}, "numpy"),
        ({"spec": "none.yml"}, "the spec .*/none.yml cannot be read: No such file"),
        ({}, "has no lock: name its lock file, or a spec"),
        ({"state": "absent", "generation": "previous"}, "generation: an environment that is to be absent"),
    ],
)
def test_every_fault_names_the_environment(
    environment: dict[str, Any], message: str, market: Market, site: Path
) -> None:
    with pytest.raises(CondaError, match=rf"^conda_envs_shared: ml: .*{message}"):
        read(market, site, "keep", {"name": "ml", **environment})
    assert kept(site) == []


def test_a_place_that_is_no_directory_is_told(market: Market, site: Path) -> None:
    (site / ".envfleet").touch()
    with pytest.raises(CondaError, match=r"the lock cannot be kept in .*: let this user write there, or make a lock"):
        read(market, site, "keep", NUMPY)
    with pytest.raises(CondaError, match=r"the locks kept in .*/.envfleet cannot be read: Not a directory"):
        read(market, site, "see", NUMPY)
