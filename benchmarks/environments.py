"""What looking at environments, installing them and switching them costs, beside what conda takes for the same.

Every figure is a ratio of CPU times (user and system, of all processes) that were taken in the same run: packages are
made here, a real engine installs them, and each way is tried several times, of which the best one counts.
Run it with `make bench`, and with CONDA_EXE=/path/to/conda for the comparisons with that conda.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.convergence import Settings, Wanted, converge
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.files import replace_link
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.generations import Layout, SmokeTest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.locks import Lock, Package

from lab.packages import Entry, index_of, write_package

FILES = 20
"""Files of a package. Those of a scientific Python environment have some 150, and most packages far fewer."""

_LOOK = """
import json, sys
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda import environments, generations
layout = generations.Layout(*sys.argv[1:3])
found = [environments.look(layout, name) for name in environments.names(layout)]
assert found and not any(environment.problems for environment in found)
"""


def make_packages(channel: Path, count: int) -> list[Package]:
    """*count* packages with FILES files each, in *channel*."""
    made = []
    for number in range(count):
        name = f"package{number}"
        entries = [
            Entry(f"lib/python3.10/site-packages/{name}/module{part}.py", f"value = {number * part}\n".encode() * 40)
            for part in range(FILES)
        ]
        path = write_package(channel, index_of(name, "1.0", "0", []), entries)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        made.append(Package.from_url(f"{channel.as_uri()}/{path.parent.name}/{path.name}", sha256))
    return made


class Node:
    """The directories of a node."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.layout = Layout(str(root / "envs"), str(root / "generations"))

    def install(self, packages: Sequence[Package], names: Sequence[str] = ("ml",)) -> None:
        """Bring the environments *names* to *packages*."""
        settings = Settings(
            layout=self.layout,
            pkgs_dir=str(self.root / "pkgs"),
            base_prefix=sys.prefix,
            engine="rattler",
            verify="fast",
            min_free_mb=1,
            lock_timeout_seconds=60,
        )
        lock = Lock("linux-64", tuple(packages))
        converge([Wanted(name, lock, SmokeTest((), "nobody", 60)) for name in names], settings, check_mode=False)

    @property
    def look(self) -> list[str]:
        """A process that looks at all environments, and does nothing else."""
        return [sys.executable, "-c", _LOOK, self.layout.envs_dir, self.layout.generations_dir]

    def look_here(self) -> None:
        """The same in this process: what one more environment costs a process that runs anyway."""
        from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda import environments

        for name in environments.names(self.layout):
            assert not environments.look(self.layout, name).problems


def cpu(work: Callable[[], object], rounds: int = 5) -> float:
    """CPU seconds that *work* takes, its child processes included: the best of *rounds*."""

    def spent() -> float:
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    found = []
    for _round in range(rounds):
        before = spent()
        work()
        found.append(spent() - before)
    return min(found)


def running(command: Sequence[str]) -> Callable[[], object]:
    """Something that runs *command* once."""
    environment = {**os.environ, "CONDA_NUMBER_CHANNEL_NOTICES": "0", "CONDA_REGISTER_ENVS": "false"}
    return lambda: subprocess.run(
        command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment, timeout=600
    )


def row(text: str, ratio: float | None) -> None:
    """One line of the result."""
    print(f"  {text:<86} {'no conda' if ratio is None else f'{ratio:8.3f}'}", flush=True)


def compare_looks(scratch: Path, conda: str | None) -> None:
    """A run that has nothing to do, against asking conda."""
    for count in (10, 100, 400):
        with node(scratch) as here:
            here.install(make_packages(here.root / "channel", count))
            prefix = os.path.realpath(here.layout.link("ml"))
            inside = cpu(here.look_here)
            process = cpu(running(here.look))
            python = cpu(running([sys.executable, "-c", "pass"]))
            print(f"\nAn environment of {count} packages with {FILES} files each, and nothing to do")
            listing = cpu(running([conda, "list", "--json", "-p", prefix]), 3) if conda else None
            # What the roles and modules for conda do that exist: list environments, list packages, solve.
            peers = (
                listing + cpu(running([conda, "env", "list", "--json"]), 3) if conda and listing is not None else None
            )
            row("look, in a process that runs anyway / start of Python", inside / python)
            row("process that looks / start of Python", process / python)
            row("look, in a process that runs anyway / conda list --json", listing and inside / listing)
            row("process that looks / conda list --json", listing and process / listing)
            row("process that looks / conda env list --json and conda list --json", peers and process / peers)


def compare_installs(scratch: Path, conda: str | None) -> None:
    """A new environment from a lock, with all packages in the cache, against conda create --file."""
    count = 100
    with node(scratch) as here:
        packages = make_packages(here.root / "channel", count)
        here.install(packages, ["warm"])
        numbers = iter(range(1000))
        ours = cpu(lambda: here.install(packages, [f"env{next(numbers)}"]), 3)
        print(f"\nA new environment of {count} packages, from a lock, with a warm cache")
        theirs = None
        if conda:
            listing = here.root / "explicit.txt"
            listing.write_text("@EXPLICIT\n" + "".join(f"{package.url}#{package.sha256}\n" for package in packages))
            os.environ["CONDA_PKGS_DIRS"] = str(here.root / "conda-pkgs")

            def create() -> None:
                prefix = here.root / f"conda{next(numbers)}"
                running([conda, "create", "--yes", "--quiet", "--prefix", str(prefix), "--file", str(listing)])()

            create()
            theirs = cpu(create, 3)
        row("build, verify and seal a generation / conda create --file", theirs and ours / theirs)


def compare_numbers(scratch: Path) -> None:
    """The cost of many environments."""
    for count in (5, 50):
        found = {}
        for environments in (1, 10, 100):
            with node(scratch) as here:
                packages = make_packages(here.root / "channel", count)
                here.install(packages, [f"env{number}" for number in range(environments)])
                found[environments] = cpu(running(here.look))
        print(f"\nMany environments of {count} packages with {FILES} files each: a process that looks at all")
        for environments in (10, 100):
            row(f"{environments} environments / 1 environment", found[environments] / found[1])


def compare_switches(scratch: Path) -> None:
    """The moment in which a name changes hands."""
    link = str(scratch / "name")
    rounds = 200
    begin = time.perf_counter()
    for number in range(rounds):
        replace_link(link, f"generation{number}")
    switch = (time.perf_counter() - begin) / rounds
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    start = time.perf_counter() - begin
    print("\nThe switch of a name, made to survive a power loss (elapsed time)")
    row("switch / start of Python", switch / start)


@contextlib.contextmanager
def node(scratch: Path) -> Iterator[Node]:
    """A node that is gone afterwards."""
    with tempfile.TemporaryDirectory(dir=scratch) as directory:
        yield Node(Path(directory))


def main() -> None:
    """Print all comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conda", default=os.environ.get("CONDA_EXE"), help="the conda to compare with")
    options = parser.parse_args()
    conda = None
    if options.conda:
        conda = str(Path(options.conda).resolve())
        answer = subprocess.run([conda, "info", "--json"], check=True, capture_output=True, text=True).stdout
        print(f"conda {json.loads(answer)['conda_version']}")
    with tempfile.TemporaryDirectory(prefix="envfleet-bench-", dir="/var/tmp") as directory:
        scratch = Path(directory)
        compare_looks(scratch, conda)
        compare_numbers(scratch)
        compare_installs(scratch, conda)
        compare_switches(scratch)


if __name__ == "__main__":
    main()
