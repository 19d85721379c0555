"""What pinning writes into a generation; that it holds a job there is tried on nodes, in tests/acceptance."""

from __future__ import annotations

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


def test_a_shell_without_an_activation_is_left_alone(generation: Path) -> None:
    script = f". {generation}/etc/conda/activate.d/envfleet-pin.sh; /usr/bin/env"
    done = subprocess.run(["/bin/sh", "-euc", script], env={"PATH": "/bin"}, capture_output=True, text=True, check=True)
    assert "PATH=/bin" in done.stdout.splitlines()
    assert "CONDA_PREFIX" not in done.stdout
