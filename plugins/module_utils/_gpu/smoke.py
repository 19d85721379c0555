# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Do the GPUs of a node work? What their driver, NVML, the kernel's log and a framework say, each asked on its own.

Whatever could hang or crash does so in a child process with a time limit. A driver may hang so that its process cannot
even be killed: such a child is left behind, and named.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import re
import subprocess
import sys
import typing as t

from . import _driver_child, _framework_child

# What would hide GPUs from a child.
_HIDING = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
_XID = re.compile(r"NVRM: Xid \(PCI:(?P<address>[0-9a-f:.]+)\): (?P<xid>\d+)")
#: What a program does wrong, or its end: https://docs.nvidia.com/deploy/xid-errors
_OF_PROGRAMS = (13, 31, 43, 45)
_LOG_BYTES = 8192  # one record of /dev/kmsg has no more
_KILL_SECONDS = 5


class Limits(t.NamedTuple):
    """What a test expects."""

    seconds: float = 120  #: how long each child may take
    expected_count: int | None = None  #: how many GPUs there must be


def ask_nvml(seconds: float) -> dict[str, t.Any]:
    """What NVML says of the driver and the GPUs, with an `error` that is empty or says why it does not."""
    return {"error": "", "driver": "", "devices": [], **_driver_answer("nvml", seconds)}


def examine(gpu: t.Mapping[str, t.Any], limits: Limits, python: str = "", log: str = "/dev/kmsg") -> dict[str, t.Any]:
    """Test the GPUs of a node and return the report that gpu_test documents.

    :param gpu: what facts.gpu() says of the node.
    :param python: the Python of an environment whose framework is to compute too; empty for none.
    """
    cuda = {"error": "", "cuda": "", "devices": [], **_driver_answer("cuda", limits.seconds)}
    nvml = ask_nvml(limits.seconds)
    report: dict[str, t.Any] = {"cuda": cuda, "nvml": nvml, "xids": xids(log), "framework": None}
    if python:
        source = inspect.getsource(_framework_child)
        answer = _answer([python, "-I", "-c", source], limits.seconds)
        report["framework"] = {"error": "", "framework": "", "version": "", "devices": 0, **answer}
    report["failures"] = list(_failures(gpu, report, limits))
    return report


def _failures(gpu: t.Mapping[str, t.Any], report: t.Mapping[str, t.Any], limits: Limits) -> t.Iterator[str]:
    """What is wrong, a sentence each."""
    cuda, nvml, framework = report["cuda"], report["nvml"], report["framework"]
    divided = any(device["mig"] for device in nvml["devices"])
    if limits.expected_count not in (None, gpu["count"]):
        yield f"The PCI bus has {gpu['count']} GPUs, expected are {limits.expected_count}."
    if cuda["error"]:
        yield f"CUDA: {cuda['error']}."
    # Of divided GPUs, CUDA shows a process one part only.
    elif not divided and len(cuda["devices"]) != gpu["count"]:
        yield f"CUDA finds {len(cuda['devices'])} GPUs, the PCI bus has {gpu['count']}."
    for device in cuda["devices"]:
        if device["error"]:
            yield f"{device['address']} {device['name']}: {device['error']}."
    if nvml["error"]:
        yield f"NVML: {nvml['error']}."
    for device in nvml["devices"]:
        name = f"{device['address']} {device['name']}"
        if device["ecc_uncorrected"]:
            yield f"{name}: {device['ecc_uncorrected']} uncorrected ECC errors since the driver was loaded."
        if device["remapping_failed"]:
            yield f"{name}: a damaged row of memory could not be replaced."
        if gpu["nvswitch"] and device["links"].count(False):
            yield f"{name}: {device['links'].count(False)} of {len(device['links'])} NVLinks are down."
    for entry in report["xids"] or []:
        if entry["xid"] not in _OF_PROGRAMS:
            yield f"{entry['address']}: Xid {entry['xid']} in the kernel's log, {entry['count']} times."
    if framework and framework["error"]:
        yield f"Framework: {framework['error']}."
    elif framework and not divided and framework["devices"] != gpu["count"]:
        yield f"{framework['framework']} finds {framework['devices']} GPUs, the PCI bus has {gpu['count']}."


def text(report: t.Mapping[str, t.Any]) -> list[str]:
    """The report for people, a line each: the GPUs, what else is known, and what is wrong."""
    told = {device["address"]: device for device in report["nvml"]["devices"]}
    lines = [f"driver {report['nvml']['driver'] or 'unknown'}, CUDA {report['cuda']['cuda'] or 'unknown'}"]
    for device in report["cuda"]["devices"]:
        parts = [f"{device['memory_mb']} MiB", f"compute capability {device['capability']}"]
        parts.append("memory and kernel right" if not device["error"] else device["error"])
        more = told.get(device["address"])
        if more and more["ecc"]:
            parts.append(f"ECC errors {more['ecc_corrected']} corrected, {more['ecc_uncorrected']} uncorrected")
        if more and more["links"]:
            parts.append(f"NVLinks {more['links'].count(True)} of {len(more['links'])}")
        lines.append(f"{device['address']} {device['name']}: {', '.join(parts)}")
    found = report["xids"]
    known = ", ".join(f"{one['xid']} at {one['address']} ({one['count']} times)" for one in found or [])
    lines.append(f"Xid errors in the kernel's log: {'it cannot be read' if found is None else known or 'none'}")
    framework = report["framework"]
    if framework and not framework["error"]:
        lines.append(f"{framework['framework']} {framework['version']} computes on {framework['devices']} GPUs")
    return lines + [f"WRONG: {failure}" for failure in report["failures"]]


def xids(log: str) -> list[dict[str, t.Any]] | None:
    """The Xid errors in the kernel's log since it booted, with how often each came; None where it cannot be read."""
    records = b""
    try:
        descriptor = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    with open(descriptor, "rb", buffering=0) as stream:
        while True:
            try:
                record = stream.read(_LOG_BYTES)
            except BrokenPipeError:
                continue  # the kernel has overwritten the record meanwhile
            except OSError:
                return None
            if not record:  # nothing more yet, or the end
                break
            records += record
    counts: dict[tuple[str, int], int] = {}
    for match in _XID.finditer(records.decode("utf-8", "replace")):
        key = match["address"], int(match["xid"])
        counts[key] = counts.get(key, 0) + 1
    return [{"address": address, "xid": xid, "count": count} for (address, xid), count in sorted(counts.items())]


def _driver_answer(what: str, seconds: float) -> dict[str, t.Any]:
    return _answer([sys.executable, "-I", "-c", inspect.getsource(_driver_child), what], seconds)


def _answer(argv: t.Sequence[str], seconds: float) -> dict[str, t.Any]:
    """The last JSON document that a child prints; an `error` where it does not end well."""
    variables = {name: value for name, value in os.environ.items() if name not in _HIDING}
    try:
        # run_command cannot limit the time, and waits for what cannot be killed.
        process = subprocess.Popen(  # pylint: disable=ansible-bad-function,consider-using-with
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=variables,
            start_new_session=True,
        )
    except OSError as error:
        return {"error": f"{argv[0]} cannot be run: {error}"}
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {seconds:g} s, at {_ended(process)}"}
    documents = _documents(output)
    if process.returncode < 0:
        return {"error": f"ended by signal {-process.returncode} at {_last_step(documents)}"}
    if process.returncode or not documents:
        return {"error": (errors.strip().splitlines() or ["ended without an answer"])[-1]}
    return documents[-1]


def _ended(process: subprocess.Popen[str]) -> str:
    """Kill a child that hangs, and say where it was; it is left behind if it cannot be killed."""
    process.kill()
    try:
        output, _errors = process.communicate(timeout=_KILL_SECONDS)
    except subprocess.TimeoutExpired:
        return f"a call that cannot be interrupted (process {process.pid} is left behind)"
    return _last_step(_documents(output))


def _last_step(documents: t.Sequence[t.Mapping[str, t.Any]]) -> str:
    return str(documents[-1].get("at", "its end")) if documents else "its start"


def _documents(output: str) -> list[dict[str, t.Any]]:
    """The JSON objects among the lines of a child."""
    found = []
    for line in output.splitlines():
        with contextlib.suppress(ValueError):
            document = json.loads(line)
            if isinstance(document, dict):
                found.append(document)
    return found
