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
    Wheel,
    comparable,
    for_platform,
    from_conda_lock,
    from_explicit,
    from_pixi_lock,
    require_channels,
)
from hypothesis import given
from hypothesis import strategies as st
from packaging.tags import compatible_tags, cpython_tags, parse_tag
from packaging.version import Version
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
        (document(entry(manager="npm")), "numpy is a npm package, and only those of conda and pip are known"),
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
                version=7,
                environments={"default": {"packages": {"linux-64": [{"conda_source": "mine[1a2b] @ ."}]}}},
                packages=[{"conda_source": "mine[1a2b] @ ."}],
            ),
            r"mine\[1a2b\] @ \. is a source package, which would be built anew on every node: put a",
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


PYTHON = f"{CHANNEL}/linux-64/python-3.10.13-h955ad1f_0.conda"
INDEX = "https://wheels.example.org/packages"
REQUESTS = f"{INDEX}/requests-2.0-py3-none-any.whl"


def pip_entry(url: str = REQUESTS, **changes: Any) -> dict[str, Any]:
    """A pip package as conda-lock writes it."""
    name, version = url.rsplit("/", 1)[1].split("-")[:2]
    return entry(url, **({"name": name, "version": version, "manager": "pip", "hash": {"sha256": SHA_B}} | changes))


def pixi_wheels(*packages: dict[str, Any], version: int = 6) -> dict[str, Any]:
    """A pixi.lock with a Python and the pip packages that *packages* describe, as pixi describes them."""
    lock = pixi_lock(PYTHON, version=version)
    lock["environments"]["default"]["packages"]["linux-64"] += [
        {"pypi": package["pypi"], "extras": ["socks"]} for package in packages
    ]
    lock["packages"] += packages
    return lock


def wheels_of(locks: dict[str, Lock]) -> list[tuple[str, ...]]:
    return [(w.name, w.version, w.url, w.sha256) for w in locks["linux-64"].wheels]


@pytest.mark.parametrize("manager", ["pip", "pypi"])
def test_conda_lock_has_wheels(manager: str) -> None:
    arm = entry(PYTHON.replace("linux-64", "linux-aarch64"), platform="linux-aarch64")
    wheel = pip_entry(f"{INDEX}/Scikit_Learn-1.5.0rc1-cp310-cp310-manylinux_2_17_x86_64.whl", manager=manager)
    locks = from_conda_lock(document(entry(PYTHON), wheel, arm), "conda-lock.yml")
    assert wheels_of(locks) == [("scikit-learn", "1.5.0rc1", wheel["url"], SHA_B)]
    assert locks["linux-aarch64"].wheels == ()
    assert locks["linux-64"].identity != from_conda_lock(document(entry(PYTHON)), "x")["linux-64"].identity
    assert Lock.from_dict(locks["linux-64"].as_dict()) == locks["linux-64"]


@pytest.mark.parametrize("version", [6, 7])
def test_a_pixi_lock_has_wheels(version: int) -> None:
    """Some indexes put the hash into their URLs, and pixi tells which URLs a person gave."""
    torch = f"{INDEX}/torch-2.0.0%2Bcu118-cp310-cp310-linux_x86_64.whl"
    packages = [
        {"pypi": REQUESTS, "name": "Requests", "version": "2.0", "sha256": SHA_A, "requires_python": ">=3.9"},
        {"pypi": f"{torch}#sha256={SHA_B}", "name": "torch", "version": "2.0.0+cu118", "sha256": SHA_B},
        {"pypi": f"direct+{INDEX}/six-1.0-py2.py3-none-any.whl", "name": "six", "version": "1.0", "sha256": SHA_B},
        {"pypi": "file:///srv/mine-1-py3-none-any.whl", "name": "mine", "sha256": SHA_B, "index_url": "file:///srv"},
    ]
    assert wheels_of(from_pixi_lock(pixi_wheels(*packages, version=version), "pixi.lock")) == [
        ("requests", "2.0", REQUESTS, SHA_A),
        ("torch", "2.0.0+cu118", torch, SHA_B),
        ("six", "1.0", f"{INDEX}/six-1.0-py2.py3-none-any.whl", SHA_B),
        ("mine", "1", "file:///srv/mine-1-py3-none-any.whl", SHA_B),
    ]


def test_wheels_are_listed_as_rattler_lists_them(tmp_path: Path) -> None:
    platform, written = LockPlatform("linux-64"), LockFile([LockPlatform("linux-64")])
    written.add_conda_package("default", platform, record_at(Package.from_url(PYTHON, SHA_A)))
    written.add_pypi_package("default", platform, "requests", "2.0", REQUESTS)
    path = tmp_path / "pixi.lock"
    written.to_path(path)
    content = yaml.safe_load(path.read_text())
    with pytest.raises(CondaError, match=r"requests has no hash"):  # rattler's Python has no way to write one
        from_pixi_lock(content, "pixi.lock")
    next(one for one in content["packages"] if "pypi" in one)["sha256"] = SHA_B
    assert wheels_of(from_pixi_lock(content, "pixi.lock")) == [("requests", "2.0", REQUESTS, SHA_B)]


INEXACT_WHEELS = {
    f"{INDEX}/requests-2.0.tar.gz": r"requests is no wheel, and https://.*gz would be built anew on every node: build",
    f"{INDEX}/requests-2.0.zip": r"requests is no wheel",
    "git+https://git.example.org/requests@1a2b": r"requests comes from a repository, git\+https://.* build a wheel",
    "direct+git+ssh://git@git.example.org/requests@1a2b": r"requests comes from a repository",
    "./requests": r"requests is at \./requests, a path that nodes do not have: build a wheel of it, put it into an",
    "../wheels/requests-2.0-py3-none-any.whl": r"requests is at \.\./wheels/.*whl, a path that nodes do not have",
    "ftp://wheels.example.org/requests-2.0-py3-none-any.whl": r"is no http, https or file URL of a wheel",
    f"{INDEX}/requests-2.0-any.whl": r"requests: '.*requests-2.0-any.whl' is no http, https or file URL of a wheel",
    f"{INDEX}/a requests-2.0-py3-none-any.whl": r"is no http, https or file URL of a wheel",
    f"{INDEX}/other-2.0-py3-none-any.whl": r"requests 2.0 is said to be at .*other-2.0.*, which is other 2.0 pypi",
    f"{INDEX}/requests-2.1-py3-none-any.whl": r"requests 2.0 is said to be at .*, which is requests 2.1 pypi",
    f"{INDEX}/requests-2.0-cp311-cp311-manylinux_2_17_x86_64.whl": r"does not run on linux-64 with Python 3.10.13",
    f"{INDEX}/requests-2.0-py3-none-win_amd64.whl": r"requests-2.0-py3-none-win_amd64.whl does not run on linux-64",
}


@pytest.mark.parametrize("url", INEXACT_WHEELS)
def test_what_is_no_exact_wheel_for_the_platform_is_refused(url: str) -> None:
    conda_lock = document(entry(PYTHON), pip_entry() | {"url": url})
    pixi = {"pypi": url, "name": "requests", "version": "2.0", "sha256": SHA_B}
    with pytest.raises(CondaError, match=f"^conda-lock.yml: .*{INEXACT_WHEELS[url]}"):
        from_conda_lock(conda_lock, "conda-lock.yml")
    for version in (6, 7):
        with pytest.raises(CondaError, match=f"^pixi.lock: .*{INEXACT_WHEELS[url]}"):
            from_pixi_lock(pixi_wheels(pixi, version=version), "pixi.lock")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([pip_entry()], "requests is a pip package, and linux-64 has no python to install it into: add python"),
        ([entry(NUMPY), pip_entry()], "requests is a pip package, and linux-64 has no python"),
        ([entry(PYTHON), pip_entry(hash={"md5": MD5_A})], "requests has only an md5 sum, which pip does not take"),
        ([entry(PYTHON), pip_entry(hash={})], "requests has no hash"),
        ([entry(PYTHON), pip_entry(hash={"sha256": "beef"})], "the sha256 of requests is none: 'beef'"),
        ([entry(PYTHON), pip_entry(), pip_entry()], "has requests twice: requests 2.0 pypi, requests 2.0 pypi"),
        (
            [entry(PYTHON), pip_entry(f"{INDEX}/a_b-1-py3-none-any.whl"), pip_entry(f"{INDEX}/A.B-2-py3-none-any.whl")],
            "has a-b twice: a-b 1 pypi, a-b 2 pypi",
        ),
        (
            [
                entry(PYTHON),
                entry(f"{CHANNEL}/noarch/a_b-1-0.conda", dependencies={"python": ">=3.9"}),
                pip_entry(f"{INDEX}/a.b-2-py3-none-any.whl"),
            ],
            "has a-b from conda and from pip, which would overwrite conda's files: keep one of them",
        ),
    ],
)
def test_wheels_that_cannot_be_installed_are_refused(entries: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(CondaError, match=f"^conda-lock.yml:? {message}"):
        from_conda_lock(document(*entries), "conda-lock.yml")


def test_a_wheel_that_pixi_would_overwrite_conda_with_is_refused() -> None:
    lock = pixi_wheels({"pypi": f"{INDEX}/numpy-2.0-py3-none-any.whl", "name": "numpy", "sha256": SHA_B})
    lock["environments"]["default"]["packages"]["linux-64"].append({"conda": NUMPY})
    lock["packages"].append({"conda": NUMPY, "sha256": SHA_A, "depends": ["python >=3.10,<3.11.0a0"]})
    with pytest.raises(CondaError, match=r"pixi.lock has numpy from conda and from pip"):
        from_pixi_lock(lock, "pixi.lock")


@pytest.mark.parametrize("depends", [{}, {"python_abi": "3.10.*"}, {"python-dateutil": ""}])
def test_another_thing_of_the_same_name_is_no_hindrance(depends: dict[str, str]) -> None:
    """conda's tzdata are the time zones for all programs, and the wheel is a Python package."""
    conda = entry(f"{CHANNEL}/noarch/tzdata-2024b-hc8b5060_0.conda", dependencies=depends)
    wheel = pip_entry(f"{INDEX}/tzdata-2024.2-py2.py3-none-any.whl")
    (found,) = from_conda_lock(document(entry(PYTHON), conda, wheel), "x")["linux-64"].wheels
    assert found.label == "tzdata 2024.2 pypi"


def test_an_editable_package_is_refused() -> None:
    """pixi gives the hash of a directory's pyproject.toml, which is not that of any wheel."""
    editable = {"pypi": "./", "name": "mine", "version": "0.1.0", "sha256": SHA_A, "editable": True}
    with pytest.raises(CondaError, match=r"pixi.lock: mine is editable, so it is only a way to a directory .* build"):
        from_pixi_lock(pixi_wheels(editable), "pixi.lock")


PYTHONS = [f"3.{minor}" for minor in range(8, 15)]
PLATFORM_TAGS = {
    platform: [f"manylinux_2_{minor}_{machine}" for minor in range(5, 40)]
    + [f"{old}_{machine}" for old in ("manylinux1", "manylinux2010", "manylinux2014", "linux")]
    for platform, machine in (("linux-64", "x86_64"), ("linux-aarch64", "aarch64"))
}


@pytest.mark.parametrize("platform", PLATFORM_TAGS)
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize(
    "tag",
    [
        "py3-none-any",
        "py2.py3-none-any",
        "py2-none-any",
        "py310-none-any",
        "cp310-cp310-manylinux2014_x86_64",
        "cp310-cp310-manylinux_2_17_x86_64.manylinux2014_x86_64",
        "cp310-cp310-manylinux_2_17_aarch64.manylinux2014_aarch64",
        "cp38-abi3-manylinux1_x86_64",
        "cp37.cp38.cp39-abi3-linux_x86_64",
        "cp312-none-any",
        "py3-none-manylinux2014_x86_64",
        "pp310-pypy310_pp73-manylinux_2_17_x86_64",
        "cp310-cp310-musllinux_1_2_x86_64",
        "cp310-cp310-macosx_11_0_arm64",
        "cp310-cp310-win_amd64",
        "py3-none-win_amd64",
        "cp311-abi3-manylinux_2_34_x86_64",
    ],
)
def test_a_wheel_fits_where_packaging_says_so(tag: str, python: str, platform: str) -> None:
    version = tuple(int(part) for part in python.split("."))
    places = PLATFORM_TAGS[platform]
    tags = {*cpython_tags(version, platforms=places), *compatible_tags(version, f"cp{version[0]}{version[1]}", places)}
    expected = not tags.isdisjoint(parse_tag(tag))
    wheel = Wheel.from_url(f"{INDEX}/requests-2.0-1-{tag}.whl", SHA_A)
    assert wheel.fits(platform, f"{python}.5") == expected


VERSIONS = ["1", "1.0", "1.0.0", "01.0", "v1.0", "1.0a1", "1.0-ALPHA.1", "1.0rc1", "1.0c1", "1.0.preview1", "1.0.post1"]
VERSIONS += ["1.0-1", "1.0r1", "1!1.0", "1.0.dev0", "1.0dev", "1.0+cu118", "1.0+CU.118", "1.0+cu-118", "1.0a", "1.0a0"]
VERSIONS += [
    "2024.07.04",
    "2024.7.4",
    "1.0.post1.dev2",
    "1.0a1.post2.dev3+x.1",
    "1.0+0118",
    "1.0+118",
    "0",
    "0.0",
    "1.10",
]


def test_versions_are_equal_where_packaging_says_so() -> None:
    for one in VERSIONS:
        for other in VERSIONS:
            assert (comparable(one) == comparable(other), one, other) == (Version(one) == Version(other), one, other)
    assert comparable("Anything Else ") == "anything else"


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
