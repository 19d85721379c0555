"""The test of GPUs, through a stand-in for the driver's libraries that is called for real."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._gpu import smoke

NODE = {"count": 2, "nvswitch": True}
LIMITS = smoke.Limits(seconds=30)
QUIET = "/dev/null"


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with both libraries."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    directory = tmp_path_factory.mktemp("libraries")
    source = str(Path(__file__).with_name("standin_driver.c"))
    command = ["gcc", "-shared", "-fPIC", "-Wall", "-Wno-unused-parameter", "-o", str(directory / "libcuda.so.1")]
    subprocess.run([*command, source], check=True, timeout=60)
    (directory / "libnvidia-ml.so.1").symlink_to("libcuda.so.1")
    return directory


@pytest.fixture
def driver(libraries: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The libraries are where the loader of a child finds them."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(libraries))
    return monkeypatch


def failures(limits: smoke.Limits = LIMITS, log: str = QUIET, python: str = "", **node: Any) -> list[str]:
    found: list[str] = smoke.examine({**NODE, **node}, limits, python, log)["failures"]
    return found


def test_gpus_that_work_are_reported(driver: pytest.MonkeyPatch) -> None:
    driver.setenv("CUDA_VISIBLE_DEVICES", "")  # it must not hide any
    report = smoke.examine(NODE, LIMITS, log=QUIET)
    assert report["failures"] == []
    assert report["cuda"]["cuda"] == "13.1"
    assert report["cuda"]["devices"][1] == {
        "name": "Stand-in 1",
        "address": "0000:1b:00.0",
        "memory_mb": 81 * 1024,
        "capability": "9.1",
        "error": "",
    }
    assert report["nvml"]["devices"][1] == {
        "name": "Stand-in 1",
        "address": "0000:1b:00.0",
        "memory_mb": 80 * 1024,
        "mig": False,
        "ecc": True,
        "ecc_corrected": 0,
        "ecc_uncorrected": 0,
        "remapping_failed": False,
        "links": [True] * 12,
    }
    assert smoke.text(report) == [
        "driver 580.95.05, CUDA 13.1",
        "0000:1a:00.0 Stand-in 0: 81920 MiB, compute capability 9.0, memory and kernel right, "
        "ECC errors 0 corrected, 0 uncorrected, NVLinks 12 of 12",
        "0000:1b:00.0 Stand-in 1: 82944 MiB, compute capability 9.1, memory and kernel right, "
        "ECC errors 0 corrected, 0 uncorrected, NVLinks 12 of 12",
        "Xid errors in the kernel's log: none",
    ]


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("STANDIN_FAIL", "cuInit=802", ["CUDA: cuInit: CUDA_ERROR_SYSTEM_NOT_READY."]),
        ("STANDIN_FAIL", "cuDeviceGetCount=77", ["CUDA: cuDeviceGetCount: error 77."]),
        ("STANDIN_CRASH", "cuInit", ["CUDA: ended by signal 11 at cuInit."]),
        (
            "STANDIN_FAIL",
            "cuMemAlloc_v2=802",
            [f"0000:1{d}:00.0 Stand-in {i}: cuMemAlloc_v2: CUDA_ERROR_SYSTEM_NOT_READY." for i, d in enumerate("ab")],
        ),
        (
            "STANDIN_WRONG",
            "memory",
            [f"0000:1{d}:00.0 Stand-in {i}: memory came back other than it was written." for i, d in enumerate("ab")],
        ),
        (
            "STANDIN_WRONG",
            "kernel",
            [f"0000:1{d}:00.0 Stand-in {i}: a kernel computed something wrong." for i, d in enumerate("ab")],
        ),
        ("STANDIN_GPUS", "1", ["CUDA finds 1 GPUs, the PCI bus has 2."]),
        ("STANDIN_FAIL", "nvmlInit_v2=999", ["NVML: nvmlInit_v2: Unknown Error."]),
        ("STANDIN_FAIL", "nvmlDeviceGetNvLinkState=3", []),  # a GPU without NVLink
        ("STANDIN_FAIL", "nvmlDeviceGetEccMode=3", []),
        ("STANDIN_DOWN", "1", ["0000:1a:00.0 Stand-in 0: 1 of 12 NVLinks are down."]),
        (
            "STANDIN_ECC",
            "3",
            [
                f"0000:1{d}:00.0 Stand-in {i}: 3 uncorrected ECC errors since the driver was loaded."
                for i, d in enumerate("ab")
            ],
        ),
        (
            "STANDIN_ROWS",
            "1",
            [
                f"0000:1{d}:00.0 Stand-in {i}: a damaged row of memory could not be replaced."
                for i, d in enumerate("ab")
            ],
        ),
    ],
)
def test_what_is_wrong_is_told(driver: pytest.MonkeyPatch, variable: str, value: str, expected: list[str]) -> None:
    driver.setenv(variable, value)
    assert failures() == expected


def test_a_driver_that_hangs_ends_with_its_last_call(driver: pytest.MonkeyPatch) -> None:
    driver.setenv("STANDIN_HANG", "cuCtxSynchronize")
    begun = time.monotonic()
    assert failures(smoke.Limits(seconds=2)) == ["CUDA: no answer within 2 s, at cuCtxSynchronize."]
    assert time.monotonic() - begun < 20


def test_links_that_are_down_are_no_failure_without_switches(driver: pytest.MonkeyPatch) -> None:
    driver.setenv("STANDIN_DOWN", "1")
    assert failures(nvswitch=False) == []


def test_divided_gpus_need_not_all_be_seen(driver: pytest.MonkeyPatch) -> None:
    driver.setenv("STANDIN_MIG", "1")
    assert failures(count=8) == []


def test_gpus_are_counted_against_what_is_expected(driver: pytest.MonkeyPatch) -> None:
    assert failures(smoke.Limits(30, expected_count=2)) == []
    assert failures(smoke.Limits(30, expected_count=8)) == ["The PCI bus has 2 GPUs, expected are 8."]


def test_a_node_without_the_libraries_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    (tmp_path / "libcuda.so.1").touch()
    (tmp_path / "libnvidia-ml.so.1").touch()
    found = failures()
    assert [part.split(": ")[:2] for part in found] == [
        ["CUDA", "libcuda.so.1 cannot be loaded"],
        ["NVML", "libnvidia-ml.so.1 cannot be loaded"],
    ]


def test_xid_errors_are_counted(driver: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    log.write_text(
        "4,1,1,-;NVRM: Xid (PCI:0000:1a:00): 79, pid=1, GPU has fallen off the bus.\n"
        "4,2,2,-;NVRM: Xid (PCI:0000:1a:00): 79, GPU has fallen off the bus.\n"
        "4,3,3,-;NVRM: Xid (PCI:0000:1b:00): 31, pid=42, name=python, MMU Fault\n"
        "6,4,4,-;NVRM: loading NVIDIA UNIX Open Kernel Module\n"
    )
    assert smoke.xids(str(log)) == [
        {"address": "0000:1a:00", "xid": 79, "count": 2},
        {"address": "0000:1b:00", "xid": 31, "count": 1},
    ]
    report = smoke.examine(NODE, LIMITS, log=str(log))
    assert report["failures"] == ["0000:1a:00: Xid 79 in the kernel's log, 2 times."]
    known = "Xid errors in the kernel's log: 79 at 0000:1a:00 (2 times), 31 at 0000:1b:00 (1 times)"
    assert known in smoke.text(report)


def test_a_log_that_cannot_be_read_is_no_answer(tmp_path: Path) -> None:
    assert smoke.xids(str(tmp_path / "missing")) is None
    assert smoke.xids(QUIET) == []


@pytest.mark.skipif(not os.access("/dev/kmsg", os.R_OK), reason="the kernel's log is not for us")
def test_the_kernels_own_log_can_be_read() -> None:
    assert isinstance(smoke.xids("/dev/kmsg"), list)


TORCH = """
__version__ = "2.9.0"
class Matrix:
    def __matmul__(self, other): return self
    def sum(self): return self
    def item(self): return RESULT
class cuda:
    is_available = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 2)
ones = lambda rows, columns, device: Matrix()
"""


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (TORCH.replace("RESULT", "512.0 ** 3"), []),
        (TORCH.replace("RESULT", "1"), ["Framework: torch computed something wrong: [1.0, 1.0]."]),
        (TORCH.replace("RESULT", "1 / 0"), ["Framework: torch fails on a GPU: division by zero."]),
        (TORCH.replace("True", "False"), ["torch finds 0 GPUs, the PCI bus has 2."]),
        ("import nonsense", ["Framework: torch cannot be imported: No module named 'nonsense'."]),
        ("import os; os.abort()", ["Framework: ended by signal 6 at its start."]),
    ],
)
def test_a_framework_computes(driver: pytest.MonkeyPatch, tmp_path: Path, content: str, expected: list[str]) -> None:
    """What the child makes of a framework. It has no GPU here, and torch no code of its own."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True, timeout=60)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "torch.py").write_text(content)
    assert failures(python=str(environment / "bin/python")) == expected


def test_an_environment_without_a_framework_is_named(driver: pytest.MonkeyPatch) -> None:
    assert failures(python=sys.executable) == ["Framework: there is no torch, tensorflow or jax."]
    assert failures(python="/nonexistent/python") == [
        "Framework: /nonexistent/python cannot be run: [Errno 2] No such file or directory: '/nonexistent/python'."
    ]
