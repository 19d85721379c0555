"""Real solves over a channel, and over wheels in a directory."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.locks import Lock, Package, Wheel
from ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils._solving import Options, Solution, solve
from ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils._specs import parse_spec

if TYPE_CHECKING:
    from unit.plugins.conftest import Channel
    from unit.plugins.plugin_utils.conftest import Market

MANYLINUX = "cp310-cp310-manylinux_2_{}_x86_64"


def solved(
    dependencies: list[Any], options: Options, previous: Lock | None = None, platform: str = "linux-64", **spec: Any
) -> Solution:
    wanted = parse_spec({"dependencies": dependencies, **spec}, "env.yml").for_platform(platform)
    return solve(wanted, platform, options, previous, "env.yml")


def labels(solution: Solution) -> set[str]:
    return {entry.package.label for entry in solution.entries}


def lock_of(solution: Solution) -> Lock:
    packages = [entry.package for entry in solution.entries]
    return Lock(
        "linux-64",
        tuple(package for package in packages if isinstance(package, Package)),
        tuple(package for package in packages if isinstance(package, Wheel)),
    )


def test_a_solution_has_all_that_a_lock_needs(market: Market) -> None:
    solution = solved(["numpy=1.26.0"], market.options())
    assert labels(solution) == {"numpy 1.26.0 0", "python 3.10.13 0", "blas 2.0 0"}
    numpy = next(entry for entry in solution.entries if entry.package.name == "numpy")
    assert numpy.dependencies == {"python": ">=3.10,<3.11.0a0", "blas": ">=1.0"}
    assert isinstance(numpy.package, Package)
    assert numpy.package.channel == market.channel
    assert (len(numpy.package.sha256), len(numpy.package.md5)) == (64, 32)
    assert solution.channels == (market.channel,)


def test_virtual_packages_are_declared_and_never_looked_up(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDA_OVERRIDE_CUDA", "12.0")
    with pytest.raises(CondaError, match=r"(?s)^env\.yml: linux-64: .*__cuda >=11\.8.*declare .* in virtual_packages"):
        solved(["pytorch"], market.options())
    assert "pytorch 2.0.1 0" in labels(solved(["pytorch"], market.options(virtual_packages={"__cuda": "11.8"})))
    market.offer("new", "1", ["__glibc >=2.34"])
    with pytest.raises(CondaError, match="__glibc"):
        solved(["new"], market.options())
    assert "new 1 0" in labels(solved(["new"], market.options(virtual_packages={"__glibc": "2.34"})))
    market.offer("fast", "1", ["__archspec * x86_64_v3"])
    with pytest.raises(CondaError, match="__archspec"):
        solved(["fast"], market.options())
    assert "fast 1 0" in labels(solved(["fast"], market.options(virtual_packages={"__archspec": "1=x86_64_v3"})))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"virtual_packages": {"cuda": "12"}}, "virtual_packages: 'cuda' is no virtual package"),
        ({"virtual_packages": {"__glibc": 2.30}}, "virtual_packages: __glibc: put 2.3 in quotes"),
        ({"virtual_packages": {"__glibc": "new"}}, "virtual_packages: __glibc: 'new' is no version"),
        ({"exclude_newer": "yesterday"}, "exclude_newer: 'yesterday' is neither a time such as 2026-01-31"),
    ],
)  # fmt: skip
def test_options_that_are_not_well_written(changes: dict[str, Any], message: str, market: Market) -> None:
    with pytest.raises(CondaError, match=f"^{re.escape(message)}"):
        solved(["numpy"], market.options(**changes))


def test_no_solution_is_told_in_the_words_of_the_solver(market: Market) -> None:
    with pytest.raises(CondaError, match=r"(?s)^env\.yml: linux-64: .*No candidates were found for nonsense >=3"):
        solved(["nonsense>=3"], market.options())
    market.offer("broken", "1", ["numpy", "blas <1"])
    with pytest.raises(CondaError, match=r"(?s)^env\.yml: linux-64: .*broken 1 would require.*blas <1"):
        solved(["broken"], market.options())
    with pytest.raises(CondaError, match=r"^env\.yml: linux-64: 'numpy 1\.\*\.4' is not understood"):
        solved(["numpy 1.*.4"], market.options())


def test_channels_off_the_list_are_refused_before_anything_is_fetched(market: Market) -> None:
    refusal = rf"which conda_envs_channels does not allow \(it allows {market.channel}\)"
    url = "https://conda.anaconda.org/evil"
    with pytest.raises(CondaError, match=rf"^env\.yml: the channel evil is {url}, {refusal}"):
        solved(["numpy"], market.options(), channels=["evil"])
    with pytest.raises(CondaError, match=rf"^env\.yml: the channel evil is {url}, {refusal}"):
        solved(["evil::numpy"], market.options())
    with pytest.raises(CondaError, match=r"^env\.yml: channels: 'defaults' stands for channels under Anaconda's"):
        solved(["numpy"], market.options(), channels=["defaults"])
    assert not (market.root / "cache").exists()


def test_a_package_by_its_url_comes_from_a_channel_of_the_list_too(market: Market) -> None:
    market.offer("evil", "1", to="elsewhere")
    url = f"{(market.root / 'elsewhere').as_uri()}/linux-64/evil-1-0.conda"
    with pytest.raises(CondaError, match=r"evil comes from .*, which conda_envs_channels does not allow|No candidates"):
        solved([url], market.options())


@pytest.mark.parametrize("place", ["file:///nowhere/at/all", "http://127.0.0.1:9/none"])
def test_a_channel_that_is_not_there_is_named(place: str, market: Market) -> None:
    with pytest.raises(CondaError, match=rf"(?s)^env\.yml: linux-64: .*{place}"):
        solved(["numpy"], market.options(channels=(place,)))


def test_the_password_of_a_channel_is_used_and_not_told(market: Market, mirror: Channel) -> None:
    mirror.add("a", "1", [])
    (mirror.directory / "noarch").mkdir()
    with pytest.raises(CondaError) as caught:
        solved(["a"], market.options(channels=(mirror.url.replace("://", "://me:secret@"),)))
    assert "secret" not in str(caught.value)


def test_what_a_name_of_a_channel_stands_for(market: Market) -> None:
    options = market.options(channels=("channel",), channel_alias=market.root.as_uri())
    for dependency in ("numpy", "channel::numpy", "channel/linux-64::numpy", f"{market.channel}::numpy"):
        assert "numpy 1.26.4 0" in labels(solved([dependency], options, channels=["channel"]))


def test_channels_of_the_spec_come_first_and_the_rest_of_the_list_unless_nodefaults(market: Market) -> None:
    market.offer("blas", "0.5", to="other")
    other = (market.root / "other").as_uri()
    options = market.options(channels=(market.channel, other))
    assert solved(["blas"], options).channels == (market.channel, other)
    assert solved(["blas"], options, channels=[other]).channels == (other, market.channel)
    assert solved(["blas"], options, channels=[other, "nodefaults"]).channels == (other,)
    assert solved(["blas"], options, channels=["nodefaults"]).channels == (market.channel, other)


@pytest.mark.parametrize(
    ("priority", "expected", "old"),
    [
        ("strict", "blas 0.5 0", None),
        ("disabled", "blas 2.0 0", "blas 1.0 0"),
        ("flexible", "blas 0.5 0", "blas 1.0 0"),
    ],
)
def test_channel_priority(priority: str, expected: str, old: str | None, market: Market) -> None:
    market.offer("blas", "0.5", to="other")
    options = market.options(channels=((market.root / "other").as_uri(), market.channel), channel_priority=priority)
    assert labels(solved(["blas"], options)) == {expected}
    if old:
        assert labels(solved(["blas=1.0"], options)) == {old}
    else:
        with pytest.raises(CondaError, match="strict channel priority"):
            solved(["blas=1.0"], options)


def test_what_was_published_later_can_be_left_out(market: Market) -> None:
    # The packages claim to be of 2023-11-14, or ten days later.
    early = market.options(exclude_newer="2023-11-20")
    assert labels(solved(["numpy", "blas"], early)) >= {"numpy 1.26.0 0", "blas 1.0 0"}
    assert "numpy 1.26.4 0" in labels(solved(["numpy"], market.options(exclude_newer="2023-11-30T00:00:00Z")))
    assert "numpy 1.26.4 0" in labels(solved(["numpy"], market.options(exclude_newer="7")))
    # What a lock has by then is left out as well.
    before = lock_of(solved(["numpy"], market.options()))
    assert "numpy 1.26.0 0" in labels(solved(["numpy"], early, before))


def test_what_can_stay_stays(market: Market) -> None:
    before = lock_of(solved(["numpy=1.26.0", "blas=1.0"], market.options()))
    market.offer("scipy", "1.11", ["numpy"])
    assert labels(solved(["numpy", "scipy"], market.options(), before)) == {
        "python 3.10.13 0", "blas 1.0 0", "numpy 1.26.0 0", "scipy 1.11 0"
    }  # fmt: skip
    moved = labels(solved(["numpy"], market.options(update=("numpy",)), before))
    assert moved == {"python 3.10.13 0", "blas 1.0 0", "numpy 1.26.4 0"}
    everything = labels(solved(["numpy"], market.options(update_all=True), before))
    assert everything == {"python 3.10.13 0", "blas 2.0 0", "numpy 1.26.4 0"}


def test_what_has_to_move_with_an_update_moves(market: Market) -> None:
    before = lock_of(solved(["numpy=1.26.0", "blas=1.0"], market.options()))
    market.offer("numpy", "2.0", ["python", "blas >=2.0"])
    # Held as they are, the others leave room for 1.26.4 alone: that is what only this package may move means.
    held = labels(solved(["numpy", "blas"], market.options(update=("numpy",)), before))
    assert held >= {"numpy 1.26.4 0", "blas 1.0 0"}
    wanted = labels(solved(["numpy>=2", "blas"], market.options(update=("numpy",)), before))
    assert wanted >= {"numpy 2.0 0", "blas 2.0 0"}


def test_a_package_that_is_gone_from_the_channel_is_replaced(market: Market) -> None:
    before = lock_of(solved(["blas=1.0"], market.options()))
    (market.root / "channel/linux-64/blas-1.0-0.conda").unlink()
    market.offer("blas", "3.0")
    assert labels(solved(["blas"], market.options(), before)) == {"blas 3.0 0"}


def test_the_pip_part_takes_what_conda_has(market: Market) -> None:
    """Above all pytorch, which PyPI calls torch, and whose wheel would bring a second CUDA along."""
    market.wheel("torch", "2.0.1", ["nvidia_cublas_cu11"])
    market.wheel("numpy", "1.26.5")
    market.wheel("lightning", "2.0", ["torch>=2.0", "numpy", "six"])
    market.wheel("six", "1.17.0")
    options = market.options(virtual_packages={"__cuda": "11.8"})
    solution = solved(["pytorch", {"pip": ["lightning", "--no-index"]}], options)
    assert {label for label in labels(solution) if label.endswith("pypi")} == {"lightning 2.0 pypi", "six 1.17.0 pypi"}
    assert "pip 24.0 0" in labels(solution)


@pytest.mark.parametrize(
    ("requirements", "message"),
    [
        (["numpy==2.0"], r"(?s)no version of numpy==2\.0 .*\(conda has numpy 1\.26\.4, which the pip part must take"),
        (["needy"], r"(?s)numpy>=2.*\(conda has numpy 1\.26\.4, which"),
        (["numpy[fast]"], r"the extra numpy\[fast\] is wanted, and conda's numpy has none: list what the extra stands"),
        (["nonsense"], "nonsense was not found"),
        (["sources"], "(?s)sources==1.0 has no .*wheels"),
        (["later"], "(?s)later==1.0 has no .*wheels"),
        (["six==1.17.0 --hash=sha256:" + "0" * 64], r"six 1\.17\.0 has no wheel with one of the hashes"),
        (["six", "--find-links=${NO_SUCH_VARIABLE}"], r"\$\{NO_SUCH_VARIABLE\} in the pip part: there is no such"),
    ],
)  # fmt: skip
def test_pip_parts_that_cannot_be_had(requirements: list[str], message: str, market: Market) -> None:
    market.wheel("six", "1.17.0")
    market.wheel("needy", "1.0", ["numpy>=2"])
    market.wheel("later", "1.0", tag=MANYLINUX.format(39))
    (market.wheels / "sources-1.0.tar.gz").write_bytes(b"")
    with pytest.raises(CondaError, match=message):
        solved(["numpy", {"pip": [*requirements, "--no-index"]}], market.options())


def test_without_python_there_is_nothing_to_install_into(market: Market) -> None:
    market.offer("pip", "25.0")
    with pytest.raises(CondaError, match=r"^env\.yml: dependencies: pip: there is no python to install into"):
        solved([{"pip": ["six", "--no-index"]}], market.options())


@pytest.mark.parametrize(
    ("platform", "glibc", "expected"),
    [
        ("linux-64", "2.28", MANYLINUX.format(28)),
        ("linux-64", "2.17", "py3-none-any"),
        ("linux-64", "2.34", MANYLINUX.format(34)),
        ("linux-aarch64", "2.28", "cp310-cp310-manylinux_2_17_aarch64.manylinux2014_aarch64"),
    ],
)
def test_the_best_wheel_for_a_platform_is_taken(platform: str, glibc: str, expected: str, market: Market) -> None:
    for tag in (MANYLINUX.format(28), MANYLINUX.format(34), "cp310-cp310-manylinux_2_17_aarch64.manylinux2014_aarch64"):
        market.wheel("fast", "1.0", tag=tag)
    for tag in ("cp311-cp311-manylinux_2_17_x86_64", "cp310-cp310-win_amd64", "py3-none-any"):
        market.wheel("fast", "1.0", tag=tag)
    options = market.options(virtual_packages={"__glibc": glibc})
    dependencies = ["python", {"pip": ["fast", "--no-index"]}]
    if platform != "linux-64":
        for name in ("python-3.10.13-0", "pip-24.0-0"):
            package = market.root / f"channel/linux-64/{name}.conda"
            (market.root / "channel/noarch" / package.name).write_bytes(package.read_bytes())
        market.offer("another", "1", to="channel")
    (wheel,) = lock_of(solved(dependencies, options, platform=platform)).wheels
    assert wheel.file_name == f"fast-1.0-{expected}.whl"


def test_wheels_that_can_stay_stay(market: Market) -> None:
    for name in ("six", "idna"):
        market.wheel(name, "1.0")
    dependencies = ["python", {"pip": ["six", "idna", "--no-index"]}]
    before = lock_of(solved(dependencies, market.options()))
    for name in ("six", "idna"):
        market.wheel(name, "2.0")

    def wheels(**changes: Any) -> set[str]:
        options = dataclasses.replace(market.options(), **changes)
        return {wheel.label for wheel in lock_of(solved(dependencies, options, before)).wheels}

    assert wheels() == {"six 1.0 pypi", "idna 1.0 pypi"}
    assert wheels(update=("six",)) == {"six 2.0 pypi", "idna 1.0 pypi"}
    assert wheels(update_all=True) == {"six 2.0 pypi", "idna 2.0 pypi"}
