"""What pinning writes into a generation; that it holds a job there is tried on nodes, in tests/acceptance."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda import _envfleet_pin
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._conda.pinning import pin


@pytest.fixture
def generation(tmp_path: Path) -> Path:
    """A generation with a Python's folder, and another Python's name for it."""
    prefix = tmp_path / "generations" / "ml" / "0123"
    (prefix / "lib/python3.10/site-packages").mkdir(parents=True)
    (prefix / "lib/python3.1").symlink_to("python3.10")
    pin(str(prefix))
    return prefix


def test_every_start_of_the_python_runs_the_hook(generation: Path) -> None:
    packages = generation / "lib/python3.10/site-packages"
    assert sorted(path.name for path in packages.iterdir()) == ["_envfleet_pin.py", "zzz-envfleet-pin.pth"]
    assert (packages / "_envfleet_pin.py").read_text() == Path(_envfleet_pin.__file__).read_text()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("{name}/bin:/usr/bin:/bin", "{generation}/bin:/usr/bin:/bin"),
        ("/bin:{name}/bin", "/bin:{generation}/bin"),
        ("{name}x/bin:{name}/bin:/bin", "{name}x/bin:{generation}/bin:/bin"),
        ("{generation}/bin:/bin", "{generation}/bin:/bin"),
    ],
)
def test_an_activation_leads_path_and_prefix_to_the_generation(generation: Path, path: str, expected: str) -> None:
    places = {"name": str(generation.parents[2] / "envs/ml"), "generation": str(generation)}
    script = f". {generation}/etc/conda/activate.d/envfleet-pin.sh; /usr/bin/env"
    done = subprocess.run(
        ["/bin/sh", "-euc", f"PATH='{path.format(**places)}:/usr/bin'; export PATH; {script}"],
        env={"CONDA_PREFIX": places["name"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"PATH={expected.format(**places)}:/usr/bin" in done.stdout.splitlines()
    assert f"CONDA_PREFIX={generation}" in done.stdout.splitlines()


@pytest.mark.parametrize(("shell", "options"), [("fish", ["--no-config"]), ("tcsh", ["-f"])])
@pytest.mark.parametrize("active", [True, False])
def test_shells_that_are_not_posix_stay_as_well(
    generation: Path, shell: str, options: list[str], active: bool, tmp_path: Path
) -> None:
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here; acceptance tests try it on a node")
    name = str(generation.parents[2] / "envs/ml")
    script = tmp_path / "script"
    extension = {"tcsh": "csh"}.get(shell, shell)
    script.write_text(f"source {generation}/etc/conda/activate.d/envfleet-pin.{extension}\n/usr/bin/env\n")
    environment = {"PATH": f"{name}x/bin:{name}/bin:/usr/bin:/bin", **({"CONDA_PREFIX": name} if active else {})}
    done = subprocess.run([shell, *options, str(script)], env=environment, capture_output=True, text=True, check=True)
    found = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    entered = str(generation) if active else name
    assert found["PATH"] == f"{name}x/bin:{entered}/bin:/usr/bin:/bin"
    assert found.get("CONDA_PREFIX") == (str(generation) if active else None)


def test_a_shell_without_an_activation_is_left_alone(generation: Path) -> None:
    script = f". {generation}/etc/conda/activate.d/envfleet-pin.sh; /usr/bin/env"
    done = subprocess.run(["/bin/sh", "-euc", script], env={"PATH": "/bin"}, capture_output=True, text=True, check=True)
    assert "PATH=/bin" in done.stdout.splitlines()
    assert "CONDA_PREFIX" not in done.stdout
