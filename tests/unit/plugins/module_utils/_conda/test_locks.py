"""What a lock file says, and what it must not say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.errors import CondaError
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.locks import (
    Lock,
    Package,
    for_platform,
    from_conda_lock,
    from_explicit,
    from_pixi_lock,
    require_channels,
)
from hypothesis import given
from hypothesis import strategies as st
from rattler import BuildString, LockChannel, LockFile, LockPlatform, PackageRecord, RepoDataRecord, Subdir

CHANNEL = "https://conda.example.org/forge"
NUMPY = f"{CHANNEL}/linux-64/numpy-2.2.6-py310hefbff90_0.conda"
SIX = f"{CHANNEL}/noarch/six-1.17.0-pyhd8ed1ab_0.conda"
SHA_A, SHA_B, MD5_A, MD5_B = "a" * 64, "b" * 64, "a" * 32, "b" * 32
EXPLICIT = f"# platform: linux-64\n@EXPLICIT\n{NUMPY}#{SHA_A}\n\n{SIX}#sha256:{SHA_B}\n"


def entry(url: str = NUMPY, **changes: Any) -> dict[str, Any]:
    """A package as conda-lock writes it; None takes a field away."""
    name = url.rsplit("/", 1)[1].split("-", maxsplit=1)[0]
    content = {
        "name": name,
        "version": "1",
        "manager": "conda",
        "platform": "linux-64",
        "dependencies": {},
        "url": url,
        "hash": {"md5": MD5_A, "sha256": SHA_A},
        "category": "main",
        "optional": False,
    }
    return {key: value for key, value in (content | changes).items() if value is not None}


def document(*entries: Any, **changes: Any) -> dict[str, Any]:
    return {"version": 1, "metadata": {"platforms": ["linux-64"]}, "package": list(entries), **changes}


BOTH = document(entry(), entry(SIX, hash={"md5": MD5_B, "sha256": SHA_B}))


def pixi_lock(*urls: str, version: int = 6, **changes: Any) -> dict[str, Any]:
    """A pixi.lock with the packages at *urls*, as pixi lays it out."""
    environment = {
        "channels": [{"url": f"{CHANNEL}/"}],
        "packages": {"linux-64": [{"conda": url} for url in urls]},
    }
    packages = [
        {"conda": url, "sha256": SHA_B if url == SIX else SHA_A, "md5": MD5_A, "depends": ["python"]} for url in urls
    ]
    return {"version": version, "environments": {"default": environment}, "packages": packages, **changes}


def pixi_environments(*names: str) -> dict[str, Any]:
    """A pixi.lock with one environment for each of *names*, none of which has a package."""
    return pixi_lock(NUMPY, environments={name: {"packages": {"linux-64": []}} for name in names})


def record_at(package: Package) -> RepoDataRecord:
    """What rattler knows of a package when it writes a lock."""
    record = PackageRecord(
        package.name,
        package.version,
        BuildString(package.build),
        0,
        package.subdir,
        noarch="python" if package.subdir == "noarch" else None,
        sha256=bytes.fromhex(package.sha256) or None,
        md5=bytes.fromhex(package.md5) or None,
    )
    return RepoDataRecord(record, package.file_name, package.url, package.channel)


def read_by_rattler(path: Path, environment: str) -> dict[str, set[tuple[str, ...]]]:
    """The packages of *environment* by platform, as rattler reads the file at *path*."""
    content = LockFile.from_path(path).environment(environment)
    assert content is not None
    return {
        str(platform.subdir): {
            (
                record.url,
                record.name.normalized,
                str(record.version),
                str(record.build),
                record.subdir,
                (record.sha256 or b"").hex(),
                (record.md5 or b"").hex(),
            )
            for record in content.conda_repodata_records_for_platform(platform) or []
        }
        for platform in content.platforms()
    }


def read_by_us(path: Path, environment: str) -> dict[str, set[tuple[str, ...]]]:
    """The same, as this collection reads it."""
    return {
        platform: {(p.url, p.name, p.version, p.build, p.subdir, p.sha256, p.md5) for p in lock.packages}
        for platform, lock in from_pixi_lock(yaml.safe_load(path.read_text()), str(path), environment).items()
    }


def test_the_url_tells_all_of_a_package() -> None:
    package = Package.from_url(f"{CHANNEL}/linux-64/ca-certificates-2026.1.4-hbd8a1cb_0.tar.bz2", SHA_A)
    assert (package.name, package.version, package.build) == ("ca-certificates", "2026.1.4", "hbd8a1cb_0")
    assert (package.subdir, package.channel) == ("linux-64", CHANNEL)
    assert package.file_name == "ca-certificates-2026.1.4-hbd8a1cb_0.tar.bz2"
    assert package.record_name == "ca-certificates-2026.1.4-hbd8a1cb_0.json"


@pytest.mark.parametrize(
    "url",
    [
        "numpy-2-0.conda",
        "/linux-64/numpy-2-0.conda",
        f"{CHANNEL}/linux-64/numpy-2-0.whl",
        f"{CHANNEL}/noarch/six.conda",
    ],
)
def test_no_other_url_is_a_package(url: str) -> None:
    with pytest.raises(CondaError, match=r"is no URL of a conda package"):
        Package.from_url(url, SHA_A)


@pytest.mark.parametrize(
    ("anchor", "sha256", "md5"),
    [(SHA_A, SHA_A, ""), (f"sha256:{SHA_A}", SHA_A, ""), (MD5_A, "", MD5_A), (f"md5:{MD5_A}", "", MD5_A)],
)
def test_explicit_lists_may_carry_either_hash(anchor: str, sha256: str, md5: str) -> None:
    (package,) = from_explicit(f"@EXPLICIT\n{NUMPY}#{anchor}\n", "env.txt")["linux-64"].packages
    assert (package.label, package.sha256, package.md5) == ("numpy 2.2.6 py310hefbff90_0", sha256, md5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"@EXPLICIT\n{NUMPY}\n", f"env.txt, line 2: {NUMPY} has no hash: write the list with hashes"),
        (f"@EXPLICIT\n\n{NUMPY}#{SHA_A[1:]}\n", "env.txt, line 3: .* has no hash"),
        (f"@EXPLICIT\n{NUMPY}#sha256:{MD5_A}\n", "line 2: .* has no hash"),
        (f"@EXPLICIT\nnumpy=2.2.6#{SHA_A}\n", "env.txt, line 2: 'numpy=2.2.6' is no URL of a conda package"),
        (f"@EXPLICIT\n{CHANNEL}/noarch/six.conda#{SHA_A}\n", "line 2: .* not called NAME-VERSION-BUILD.conda"),
        ("@EXPLICIT\n# nothing\n", "env.txt has no package"),
        (f"@EXPLICIT\n{NUMPY}#{SHA_A}\n{NUMPY}#{SHA_A}\n", "env.txt has numpy twice: numpy 2.2.6 .*, numpy 2.2.6"),
        (
            f"@EXPLICIT\n{NUMPY}#{SHA_A}\n{NUMPY.replace('linux-64/numpy', 'linux-aarch64/scipy')}#{SHA_A}\n",
            "env.txt must be for one platform, and names linux-64, linux-aarch64",
        ),
        (
            f"# platform: linux-aarch64\n@EXPLICIT\n{NUMPY}#{SHA_A}\n",
            "env.txt must be for one platform, and names linux-64, linux-aarch64",
        ),
        (f"@EXPLICIT\n{SIX}#{SHA_A}\n", "names none, since all packages are noarch and no '# platform:' line says"),
    ],
)
def test_an_explicit_list_that_is_not_exact_is_refused(text: str, message: str) -> None:
    with pytest.raises(CondaError, match=message):
        from_explicit(text, "env.txt")


def test_a_platform_line_decides_for_a_list_of_noarch_packages() -> None:
    assert set(from_explicit(f"# platform: linux-aarch64\n@EXPLICIT\n{SIX}#{SHA_A}\n", "env.txt")) == {"linux-aarch64"}


def test_conda_lock_has_a_lock_for_each_platform() -> None:
    arm = {"platform": "linux-aarch64"}
    both = [entry(), entry(SIX), entry(NUMPY.replace("linux-64", "linux-aarch64"), **arm), entry(SIX, **arm)]
    locks = from_conda_lock(document(*both), "conda-lock.yml")
    assert {platform: [p.name for p in lock.packages] for platform, lock in locks.items()} == {
        "linux-64": ["numpy", "six"],
        "linux-aarch64": ["numpy", "six"],
    }
    assert locks["linux-64"].identity != locks["linux-aarch64"].identity


@pytest.mark.parametrize(
    "extra",
    [
        entry(SIX, category="dev"),
        entry(SIX, optional=True),
        entry(SIX, manager="pip", category="dev", hash={}),
    ],
)
def test_what_is_only_for_development_is_left_out(extra: dict[str, Any]) -> None:
    lock = from_conda_lock(document(entry(), extra), "conda-lock.yml")["linux-64"]
    assert [package.name for package in lock.packages] == ["numpy"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "neither an @EXPLICIT list nor a conda-lock file of version 1"),
        ("text", "neither an @EXPLICIT list nor"),
        ([1], "neither an @EXPLICIT list nor"),
        ({"version": 6, "packages": []}, "neither an @EXPLICIT list nor"),
        (document() | {"package": {"numpy": 1}}, "neither an @EXPLICIT list nor"),
        (document(), "conda-lock.yml has no package"),
        (document(entry(category="dev")), "conda-lock.yml has no package"),
        (document(entry(url=NUMPY) | {"url": "numpy"}), "conda-lock.yml: 'numpy' is no URL of a conda package"),
        (document(entry(manager="pip")), "numpy is a pip package, which cannot be installed from a lock yet"),
        (document(entry(hash={})), "numpy has no hash: lock it again"),
        (document(entry(hash=None)), "numpy has no hash"),
        (document(entry(hash={"sha256": None, "md5": None})), "numpy has no hash"),
        (document(entry(hash={"sha512": "c" * 128})), "numpy has no hash"),
        (document(entry(hash={"sha256": "deadbeef"})), "the sha256 of numpy is none: 'deadbeef'"),
        (document(entry(hash={"sha256": SHA_A, "md5": 12})), "the md5 of numpy is none: '12'"),
        (document(entry(hash=[SHA_A])), "an entry is not written as conda-lock writes it"),
        (document("numpy"), "an entry is not written as conda-lock writes it: 'numpy'"),
        (document(entry(platform=None)), "an entry has no 'platform'"),
        (document(entry(manager=None)), "an entry has no 'manager'"),
        (document(entry(), entry()), "conda-lock.yml has numpy twice"),
        (document(entry(platform="linux-aarch64")), "must be for one platform, and names linux-64, linux-aarch64"),
    ],
)
def test_a_conda_lock_that_is_not_exact_is_refused(content: Any, message: str) -> None:
    with pytest.raises(CondaError, match=message):
        from_conda_lock(content, "conda-lock.yml")


def test_what_rattler_writes_is_read_as_rattler_reads_it(tmp_path: Path) -> None:
    platforms = {
        "linux-64": LockPlatform("linux-64"),
        "linux-aarch64": LockPlatform("dgx", Subdir("linux-aarch64"), ["__cuda=12.8"]),
    }
    written = LockFile(list(platforms.values()))
    for environment, version in (("default", "2.2.6"), ("cuda", "1!2.3.0+cu128")):
        written.set_channels(environment, [LockChannel(f"{CHANNEL}/")])
        for subdir, platform in platforms.items():
            for package in (
                Package.from_url(f"{CHANNEL}/{subdir}/numpy-{version}-py310_0.conda", SHA_A, MD5_A),
                Package.from_url(f"{CHANNEL}/{subdir}/_x86-64-level-{version}-3.tar.bz2", "", MD5_B),
                Package.from_url(SIX, SHA_B),
            ):
                written.add_conda_package(environment, platform, record_at(package))
    path = tmp_path / "pixi.lock"
    written.to_path(path)
    assert path.read_text().startswith("version: 7\n")
    for environment in ("default", "cuda"):
        read = read_by_us(path, environment)
        assert {platform: len(packages) for platform, packages in read.items()} == dict.fromkeys(platforms, 3)
        assert read == read_by_rattler(path, environment)
    assert read_by_us(path, "") == read_by_us(path, "default") != read_by_us(path, "cuda")


def test_version_6_is_read_as_rattler_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "pixi.lock"
    path.write_text(yaml.safe_dump(pixi_lock(NUMPY, SIX)))
    assert read_by_us(path, "") == read_by_rattler(path, "default")


@pytest.mark.parametrize(
    ("names", "environment"),
    [(("cuda",), ""), (("cuda",), "cuda"), (("default", "cuda"), "cuda"), (("default", "cuda"), "")],
)
def test_one_environment_of_a_pixi_lock_is_taken(names: tuple[str, ...], environment: str) -> None:
    taken = environment or ("default" if "default" in names else names[0])
    content = pixi_environments(*names)
    content["environments"][taken]["packages"]["linux-64"] = [{"conda": NUMPY}]
    (package,) = from_pixi_lock(content, "pixi.lock", environment)["linux-64"].packages
    assert package.name == "numpy"


@pytest.mark.parametrize(
    ("names", "environment", "message"),
    [
        (("cuda", "test"), "", "pixi.lock has no environment called default, only cuda, test: name the one .* #NAME"),
        (("default",), "cuda", "pixi.lock has no environment called cuda, only default"),
        ((), "", "no environment called default, only none"),
        (("default",), "", "pixi.lock has no package for default"),
    ],
)
def test_a_pixi_lock_without_the_environment_is_refused(names: tuple[str, ...], environment: str, message: str) -> None:
    with pytest.raises(CondaError, match=message):
        from_pixi_lock(pixi_environments(*names), "pixi.lock", environment)


WHEEL = "https://wheels.example.org/requests-2.0-py3-none-any.whl"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pixi_lock(NUMPY, version=5), "pixi.lock is a pixi.lock of version 5, and only 6 and 7 can be read"),
        (pixi_lock(NUMPY, version=8), "of version 8, and only 6 and 7 can be read: lock it again"),
        (pixi_lock(NUMPY, packages=[]), f"pixi.lock: default lists {NUMPY}, which is not among its packages"),
        (pixi_lock(NUMPY, packages=[{"conda": NUMPY}]), f"pixi.lock: {NUMPY} has no hash: lock it again"),
        (pixi_lock(NUMPY, packages=[{"conda": NUMPY, "sha256": "beef"}]), f"the sha256 of {NUMPY} is none: 'beef'"),
        (pixi_lock("./here-1-0.conda"), "'./here-1-0.conda' is no URL of a conda package"),
        (pixi_lock(NUMPY, NUMPY), "pixi.lock has numpy twice"),
        (pixi_lock(NUMPY.replace("-64", "-aarch64")), "must be for one platform, and names linux-64, linux-aarch64"),
        (pixi_lock(NUMPY, packages=["numpy"]), "pixi.lock is not written as pixi writes it"),
        (pixi_lock(NUMPY, packages=[{"wheel": NUMPY}]), "is not written as pixi writes it"),
        (pixi_lock(NUMPY, packages=None), "is not written as pixi writes it"),
        (pixi_lock(NUMPY, environments=["default"]), "is not written as pixi writes it"),
        (pixi_lock(NUMPY, environments={"default": {}}), "is not written as pixi writes it: KeyError.'packages'"),
        (pixi_lock(NUMPY, platforms=[{"subdir": "linux-64"}]), "is not written as pixi writes it"),
        (
            pixi_lock(
                environments={"default": {"packages": {"linux-64": [{"pypi": WHEEL, "extras": ["socks"]}]}}},
                packages=[{"pypi": WHEEL, "name": "requests", "version": "2.0", "sha256": SHA_A}],
            ),
            "pixi.lock: requests is a pypi package, which cannot be installed from a lock yet",
        ),
        (
            pixi_lock(
                version=7,
                environments={"default": {"packages": {"linux-64": [{"conda_source": "mine[1a2b] @ ."}]}}},
                packages=[{"conda_source": "mine[1a2b] @ ."}],
            ),
            r"mine\[1a2b\] @ \. is a conda_source package, which cannot be installed from a lock yet",
        ),
        (
            pixi_lock(
                NUMPY,
                version=7,
                platforms=[{"name": "linux-64"}, {"name": "dgx", "subdir": "linux-64"}],
                environments={"default": {"packages": {"linux-64": [{"conda": NUMPY}], "dgx": [{"conda": NUMPY}]}}},
            ),
            "pixi.lock: default has several platforms for linux-64",
        ),
    ],
)
def test_a_pixi_lock_that_is_not_exact_is_refused(content: dict[str, Any], message: str) -> None:
    with pytest.raises(CondaError, match=message):
        from_pixi_lock(content, "pixi.lock")


def test_the_identity_is_of_the_packages_not_of_the_file() -> None:
    explicit = from_explicit(EXPLICIT, "env.txt")["linux-64"]
    conda_lock = from_conda_lock(BOTH, "conda-lock.yml")["linux-64"]
    mirrored = from_explicit(EXPLICIT.replace(CHANNEL, "http://mirror/x"), "env.txt")["linux-64"]
    pixi = [from_pixi_lock(pixi_lock(SIX, NUMPY, version=version), "pixi.lock")["linux-64"] for version in (6, 7)]
    assert {lock.identity for lock in (conda_lock, mirrored, *pixi)} == {explicit.identity}


@pytest.mark.parametrize(
    "changed",
    [
        EXPLICIT.replace(SHA_A, SHA_B),
        EXPLICIT.replace("2.2.6", "2.2.7"),
        EXPLICIT.replace("py310hefbff90_0", "py310hefbff90_1"),
        EXPLICIT.replace("six", "seven"),
        EXPLICIT.replace("noarch", "linux-64"),
        EXPLICIT.replace("linux-64", "linux-aarch64"),
        EXPLICIT.replace(f"{SIX}#sha256:{SHA_B}", ""),
    ],
)
def test_every_difference_that_is_installed_changes_the_identity(changed: str) -> None:
    (lock,) = from_explicit(changed, "env.txt").values()
    assert lock.identity != from_explicit(EXPLICIT, "env.txt")["linux-64"].identity


WORD = st.text("abcdefghijklmnopqrstuvwxyz0123456789_.", min_size=1, max_size=6)
PACKAGES = st.lists(
    st.builds(
        lambda name, version, build, subdir, sha: Package.from_url(
            f"{CHANNEL}/{subdir}/{name}-{version}-{build}.conda", sha
        ),
        WORD,
        WORD,
        WORD,
        st.sampled_from(["linux-64", "noarch"]),
        st.text("0123456789abcdef", min_size=64, max_size=64),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda package: package.name,
)


@given(PACKAGES, st.randoms())
def test_the_identity_does_not_depend_on_the_order(packages: list[Package], random: Any) -> None:
    shuffled = list(packages)
    random.shuffle(shuffled)
    text = "# platform: linux-64\n@EXPLICIT\n" + "".join(f"{p.url}#{p.sha256}\n" for p in shuffled)
    read = from_explicit(text, "env.txt")["linux-64"]
    assert read.identity == Lock("linux-64", tuple(packages)).identity
    assert Lock.from_dict(read.as_dict()) == read


def test_only_listed_channels_may_be_used() -> None:
    lock = from_explicit(EXPLICIT, "env.txt")["linux-64"]
    require_channels(lock, ["https://other.example.org/x", f"{CHANNEL}/"], "env.txt", "conda_envs_channels")
    for channels, allowed in (([], "none"), (["https://conda.example.org"], "https://conda.example.org")):
        message = f"env.txt: numpy comes from {CHANNEL}, which conda_envs_channels does not allow (it allows {allowed})"
        with pytest.raises(CondaError, match=re.escape(message)):
            require_channels(lock, channels, "env.txt", "conda_envs_channels")


def test_a_node_of_another_platform_is_told_what_there_is() -> None:
    locks = from_explicit(EXPLICIT, "env.txt")
    assert for_platform(locks, "linux-64", "ml") is locks["linux-64"]
    with pytest.raises(
        CondaError, match=r"conda_envs_shared: ml: the lock is for linux-64, and the node is linux-s390x"
    ):
        for_platform(locks, "linux-s390x", "ml")
