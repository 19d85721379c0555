"""From a spec and the lock before to the lock after."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.locks import from_conda_lock
from ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils._locking import Locking, content_hash, make_lock
from ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils._specs import Spec, parse_spec, read_spec

if TYPE_CHECKING:
    from unit.plugins.plugin_utils.conftest import Market


def spec(*dependencies: Any, **more: Any) -> Spec:
    return parse_spec({"dependencies": list(dependencies), **more}, "env.yml")


def locked(locking: Locking) -> set[str]:
    return set(locking.locks["linux-64"].labels.values())


def test_the_life_of_a_lock(market: Market) -> None:
    market.wheel("six", "1.17.0")
    first = make_lock(
        spec("numpy=1.26.0", {"pip": ["six", "--no-index"]}, variables={"MODE": "yes: \U0001f600"}),
        market.options(),
        sources=["env.yml"],
    )
    assert locked(first) == {"numpy 1.26.0 0", "blas 2.0 0", "python 3.10.13 0", "pip 24.0 0", "six 1.17.0 pypi"}
    assert first.solved == ("linux-64",)
    document = yaml.safe_load(first.text)
    assert from_conda_lock(document, "lock") == first.locks
    assert first.locks["linux-64"].variables == (("MODE", "yes: \U0001f600"),)
    assert document["metadata"]["channels"] == [{"url": market.channel, "used_env_vars": []}]

    second = make_lock(spec("numpy", {"pip": ["six", "--no-index"]}), market.options(), first.text, sources=["env.yml"])
    assert second.solved == ("linux-64",)
    assert second.text != first.text  # another spec, though no package differs
    assert not second.changes["linux-64"]

    third = make_lock(spec("numpy"), market.options(update=("numpy", "scipy")), second.text)
    assert third.changes["linux-64"].as_dict() == {
        "added": [],
        "removed": ["pip 24.0 0", "six 1.17.0 pypi"],
        "up": [{"before": "numpy 1.26.0 0", "after": "numpy 1.26.4 0"}],
        "down": [],
        "rebuilt": [],
    }
    assert (third.updated, third.moved_too) == (frozenset({"numpy"}), ())


def test_a_lock_that_is_up_to_date_is_not_solved(market: Market) -> None:
    wanted = spec("numpy", variables={"A": "1.0"})
    first = make_lock(wanted, market.options(), sources=["env.yml"])
    # Nothing of this can be solved any more.
    shutil.rmtree(market.root / "channel")
    again = make_lock(wanted, market.options(), first.text, sources=["env.yml"])
    assert (again.text, again.solved, again.locks) == (first.text, (), first.locks)
    assert not again.changes["linux-64"]
    # A person may format the file, and a package that no lock has need not move.
    formatted = "# reviewed\n" + first.text
    assert make_lock(wanted, market.options(update=("scipy",)), formatted, sources=["env.yml"]).text == formatted
    with pytest.raises(CondaError, match="could not find"):
        make_lock(wanted, market.options(update_all=True), first.text)
    with pytest.raises(CondaError, match="could not find"):
        make_lock(wanted, market.options(update=("numpy",)), first.text)


@pytest.mark.parametrize(
    "change",
    [
        {"virtual_packages": {"__cuda": "12.4"}},
        {"channel_priority": "disabled"},
        {"exclude_newer": "2030-01-01"},
        {"index_url": "https://pypi.example.org/simple"},
    ],
)
def test_options_that_count_make_a_lock_out_of_date(change: dict[str, Any], market: Market) -> None:
    wanted = spec("numpy", {"pip": ["six"]})
    before = content_hash(wanted, market.options(), "linux-64")
    assert content_hash(wanted, market.options(**change), "linux-64") != before


def test_what_does_not_count_does_not(market: Market, tmp_path: Path) -> None:
    hashes = set()
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "requirements.txt").write_text("six\n--find-links wheels\n")
        text = "dependencies:\n- numpy\n- pip: [-r requirements.txt]\n" + ("# a remark\n" if place == "there" else "")
        (tmp_path / place / "environment.yml").write_text(text)
        options = market.options(find_links=(f"/{place}",), update=(place,))
        hashes.add(content_hash(read_spec(str(tmp_path / place / "environment.yml")), options, "linux-64"))
    assert len(hashes) == 1
    (tmp_path / "there" / "requirements.txt").write_text("six<2\n--find-links wheels\n")
    hashes.add(content_hash(read_spec(str(tmp_path / "there" / "environment.yml")), market.options(), "linux-64"))
    assert len(hashes) == 2


def test_passwords_do_not_count_and_do_not_get_in(market: Market) -> None:
    wanted = spec("numpy")
    plain, secret = ("https://example.org/c",), ("https://me:secret@example.org/c",)
    assert content_hash(wanted, market.options(channels=plain), "linux-64") == content_hash(
        wanted, market.options(channels=secret), "linux-64"
    )


def test_another_platform_is_added_without_moving_the_first(market: Market) -> None:
    wanted = spec("blas=1.0")
    first = make_lock(wanted, market.options())
    package = market.root / "channel/linux-64/blas-1.0-0.conda"
    index = market.root / "channel/linux-aarch64"
    shutil.copytree(market.root / "channel/linux-64", index)
    both = make_lock(wanted, market.options(platforms=("linux-64", "linux-aarch64")), first.text)
    assert both.solved == ("linux-aarch64",)
    assert both.locks["linux-64"] == first.locks["linux-64"]
    assert both.changes["linux-aarch64"].added == ("blas 1.0 0",)
    back = make_lock(wanted, market.options(), both.text)
    assert (back.solved, back.text) == ((), first.text)
    assert back.changes["linux-aarch64"].removed == ("blas 1.0 0",)
    assert package.exists()


def test_how_packages_moved(market: Market) -> None:
    for name, version in (("a", "1.9"), ("b", "2.0"), ("c", "1.0"), ("odd", "2024a")):
        market.offer(name, version)
    first = make_lock(spec("a", "b", "c", "odd"), market.options())
    for name, version, build in (("a", "1.10", "0"), ("b", "1.0", "0"), ("c", "1.0", "1"), ("odd", "2024b", "0")):
        market.offer(name, version, build=build)
    after = make_lock(spec("a", "b=1.0", "c=1.0=1", "odd"), market.options(update_all=True), first.text)
    assert after.changes["linux-64"].lines() == [
        "up       a 1.9 0 -> a 1.10 0",
        "up       odd 2024a 0 -> odd 2024b 0",
        "down     b 2.0 0 -> b 1.0 0",
        "rebuilt  c 1.0 0 -> c 1.0 1",
    ]


def test_what_had_to_move_with_an_update_is_named(market: Market) -> None:
    first = make_lock(spec("numpy=1.26.0", "blas=1.0"), market.options())
    market.offer("numpy", "2.0", ["python", "blas >=2.0"])
    after = make_lock(spec("numpy>=2"), market.options(update=("numpy",)), first.text)
    assert after.moved_too == ("blas",)


@pytest.mark.parametrize("text", ["@EXPLICIT\n", "version: 8\n", "version: 1\nmetadata: []\npackage: [{}]\n", "a: ["])
def test_a_lock_before_that_cannot_be_read(text: str, market: Market) -> None:
    with pytest.raises(
        CondaError, match=r"^env\.yml: the lock before cannot be read: .*: remove it, or set update_all"
    ):
        make_lock(spec("blas"), market.options(), text)
    assert locked(make_lock(spec("blas"), market.options(update_all=True), text)) == {"blas 2.0 0"}


def test_specs_that_cannot_be_locked(market: Market, tmp_path: Path) -> None:
    with pytest.raises(CondaError, match=r"^env\.yml: dependencies: there is nothing to lock for linux-64"):
        make_lock(spec(), market.options())
    with pytest.raises(CondaError, match=r"^platforms: osx-arm64 cannot be locked, only linux-64 and linux-aarch64"):
        make_lock(spec("blas", platforms=["osx-arm64"]), market.options())
    shutil.copytree(market.root / "channel/linux-64", market.root / "channel/linux-aarch64")
    path = tmp_path / "environment.yml"
    path.write_text("dependencies: [blas]\nvariables:\n  A: x  # [linux64]\n")
    with pytest.raises(CondaError, match=r"environment\.yml: variables: they differ by platform"):
        make_lock(read_spec(str(path)), market.options(platforms=("linux-64", "linux-aarch64")))
