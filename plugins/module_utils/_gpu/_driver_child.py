# Copyright (c) 2026, The envfleet.gpu_cluster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The child process that asks NVML, or uses each GPU through the CUDA driver. It is run as source text.

It prints a JSON document for each step, so that a hang is known by its last step, and then one with the answer.
"""

from __future__ import annotations

import array
import ctypes
import json
import sys
import typing as t

_WORDS = 1 << 20
_PATTERN = 0x5A5AA5A5
_THREADS = 256
_ATTRIBUTES = {"major": 75, "minor": 76}  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_NVML_ABSENT = (2, 3)  # NVML_ERROR_INVALID_ARGUMENT, _NOT_SUPPORTED: a GPU of that kind has no such thing
_NVLINKS = 18

# Writes 3 * i + 1 to each word i. The driver compiles it for every GPU from Maxwell on.
_PTX = b"""
.version 6.0
.target sm_50
.address_size 64
.visible .entry triple(.param .u64 words, .param .u32 count)
{
    .reg .pred %p;
    .reg .b32 %i, %n, %block, %size, %thread, %value;
    .reg .b64 %base, %offset;
    ld.param.u64 %base, [words];
    ld.param.u32 %n, [count];
    mov.u32 %block, %ctaid.x;
    mov.u32 %size, %ntid.x;
    mov.u32 %thread, %tid.x;
    mad.lo.u32 %i, %block, %size, %thread;
    setp.ge.u32 %p, %i, %n;
    @%p bra DONE;
    cvta.to.global.u64 %base, %base;
    mul.wide.u32 %offset, %i, 4;
    add.u64 %base, %base, %offset;
    mad.lo.u32 %value, %i, 3, 1;
    st.global.u32 [%base], %value;
DONE:
    ret;
}
\0"""


class Refused(Exception):
    """A library cannot be loaded, or a call of it failed."""


def tell(what: t.Mapping[str, t.Any]) -> None:
    """One line of JSON for who waits for this process, at once: the next call may never end."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


class Library:
    """A library of the driver, whose calls return zero or an error code."""

    def __init__(self, name: str) -> None:
        try:
            self._library = ctypes.CDLL(name)
        except OSError as error:
            raise Refused(f"{name} cannot be loaded: {error}") from error

    def code(self, function: str, *arguments: t.Any) -> int:
        """Call *function* and return its code."""
        try:
            call = getattr(self._library, function)
        except AttributeError as error:
            raise Refused(f"the driver has no {function}") from error
        tell({"at": function})
        return int(call(*arguments))

    def call(self, function: str, *arguments: t.Any) -> None:
        """Call *function*, which must return zero."""
        code = self.code(function, *arguments)
        if code:
            raise Refused(f"{function}: {self.error_name(code)}")

    def error_name(self, code: int) -> str:
        """The name of an error code."""
        raise NotImplementedError


class Cuda(Library):
    def error_name(self, code: int) -> str:
        name = ctypes.c_char_p()
        known = self.code("cuGetErrorName", code, ctypes.byref(name)) == 0 and name.value
        return name.value.decode() if known and name.value else f"error {code}"


class Nvml(Library):
    def error_name(self, code: int) -> str:
        self._library.nvmlErrorString.restype = ctypes.c_char_p
        return (self._library.nvmlErrorString(code) or b"error %d" % code).decode()

    def asked(self, function: str, *arguments: t.Any) -> bool:
        """Call *function*, and say whether the GPU has what it asks for."""
        code = self.code(function, *arguments)
        if code and code not in _NVML_ABSENT:
            raise Refused(f"{function}: {self.error_name(code)}")
        return not code


def use_cuda() -> dict[str, t.Any]:
    """Find all GPUs, and have each remember and compute."""
    cuda = Cuda("libcuda.so.1")
    number = ctypes.c_int()
    cuda.call("cuInit", 0)
    cuda.call("cuDriverGetVersion", ctypes.byref(number))
    version = f"{number.value // 1000}.{number.value % 1000 // 10}"
    cuda.call("cuDeviceGetCount", ctypes.byref(number))
    return {"cuda": version, "devices": [_use_device(cuda, index) for index in range(number.value)]}


def _use_device(cuda: Cuda, index: int) -> dict[str, t.Any]:
    device, value, size = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    name, address = ctypes.create_string_buffer(128), ctypes.create_string_buffer(32)
    cuda.call("cuDeviceGet", ctypes.byref(device), index)
    cuda.call("cuDeviceGetName", name, len(name), device)
    cuda.call("cuDeviceGetPCIBusId", address, len(address), device)
    cuda.call("cuDeviceTotalMem_v2", ctypes.byref(size), device)
    capability = {}
    for part, attribute in _ATTRIBUTES.items():
        cuda.call("cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
        capability[part] = value.value
    found: dict[str, t.Any] = {
        "name": name.value.decode(errors="replace"),
        "address": address.value.decode().lower(),
        "memory_mb": size.value >> 20,
        "capability": "{major}.{minor}".format(**capability),
        "error": "",
    }
    try:
        _compute(cuda, device)
    except Refused as error:
        found["error"] = str(error)
    return found


def _compute(cuda: Cuda, device: ctypes.c_int) -> None:
    """Fill memory, read it back, and have a kernel compute there. Raises Refused if anything comes back wrong."""
    context, memory, module, function = ctypes.c_void_p(), ctypes.c_uint64(), ctypes.c_void_p(), ctypes.c_void_p()
    words = (ctypes.c_uint32 * _WORDS)()
    cuda.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    try:
        cuda.call("cuCtxSetCurrent", context)
        cuda.call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(ctypes.sizeof(words)))
        cuda.call("cuMemsetD32_v2", memory, ctypes.c_uint(_PATTERN), ctypes.c_size_t(_WORDS))
        cuda.call("cuMemcpyDtoH_v2", words, memory, ctypes.c_size_t(ctypes.sizeof(words)))
        if bytes(words) != bytes(array.array("I", [_PATTERN]) * _WORDS):
            raise Refused("memory came back other than it was written")
        cuda.call("cuModuleLoadData", ctypes.byref(module), _PTX)
        cuda.call("cuModuleGetFunction", ctypes.byref(function), module, b"triple")
        count = ctypes.c_uint32(_WORDS)
        parameters = (ctypes.c_void_p * 2)(*(ctypes.addressof(one) for one in (memory, count)))
        shape = [ctypes.c_uint(part) for part in (-(-_WORDS // _THREADS), 1, 1, _THREADS, 1, 1, 0)]
        cuda.call("cuLaunchKernel", function, *shape, None, parameters, None)
        cuda.call("cuCtxSynchronize")
        cuda.call("cuMemcpyDtoH_v2", words, memory, ctypes.c_size_t(ctypes.sizeof(words)))
        if bytes(words) != bytes(array.array("I", range(1, 3 * _WORDS + 1, 3))):
            raise Refused("a kernel computed something wrong")
    finally:
        # Frees the memory and the module too.
        cuda.code("cuDevicePrimaryCtxRelease_v2", device)


class _PciInfo(ctypes.Structure):
    """nvmlPciInfo_t"""

    _fields_ = [("legacy", ctypes.c_char * 16), ("numbers", ctypes.c_uint * 5), ("address", ctypes.c_char * 32)]


class _Memory(ctypes.Structure):
    """nvmlMemory_t"""

    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


def ask_nvml() -> dict[str, t.Any]:
    """What NVML says of the driver and of each GPU."""
    nvml = Nvml("libnvidia-ml.so.1")
    count, version = ctypes.c_uint(), ctypes.create_string_buffer(80)
    nvml.call("nvmlInit_v2")
    nvml.call("nvmlSystemGetDriverVersion", version, ctypes.c_uint(len(version)))
    nvml.call("nvmlDeviceGetCount_v2", ctypes.byref(count))
    return {"driver": version.value.decode(), "devices": [_ask_device(nvml, index) for index in range(count.value)]}


def _ask_device(nvml: Nvml, index: int) -> dict[str, t.Any]:
    device, name = ctypes.c_void_p(), ctypes.create_string_buffer(96)
    pci, memory = _PciInfo(), _Memory()
    nvml.call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(device))
    nvml.call("nvmlDeviceGetName", device, name, ctypes.c_uint(len(name)))
    nvml.call("nvmlDeviceGetPciInfo_v3", device, ctypes.byref(pci))
    has_memory = nvml.asked("nvmlDeviceGetMemoryInfo", device, ctypes.byref(memory))
    corrected, uncorrected, pending, failed = (ctypes.c_uint() for _part in range(4))
    parts = (corrected, uncorrected, pending, failed)
    has_remapping = nvml.asked("nvmlDeviceGetRemappedRows", device, *map(ctypes.byref, parts))
    return {
        "name": name.value.decode(errors="replace"),
        "address": pci.address.decode().lower()[-12:],  # with a domain of four digits, as the kernel has it
        "memory_mb": memory.total >> 20 if has_memory else None,
        "mig": _mode(nvml, "nvmlDeviceGetMigMode", device),
        "ecc": _mode(nvml, "nvmlDeviceGetEccMode", device),
        # Since the driver was loaded: the first number is the kind of error, the second the counter.
        "ecc_corrected": _counted(nvml, device, 0),
        "ecc_uncorrected": _counted(nvml, device, 1),
        "remapping_failed": bool(failed.value) if has_remapping else None,
        "links": _links(nvml, device),
    }


def _mode(nvml: Nvml, function: str, device: ctypes.c_void_p) -> bool | None:
    current, pending = ctypes.c_uint(), ctypes.c_uint()
    return bool(current.value) if nvml.asked(function, device, ctypes.byref(current), ctypes.byref(pending)) else None


def _counted(nvml: Nvml, device: ctypes.c_void_p, kind: int) -> int | None:
    number = ctypes.c_ulonglong()
    asked = nvml.asked(
        "nvmlDeviceGetTotalEccErrors", device, ctypes.c_uint(kind), ctypes.c_uint(0), ctypes.byref(number)
    )
    return number.value if asked else None


def _links(nvml: Nvml, device: ctypes.c_void_p) -> list[bool]:
    """Of each NVLink that the GPU has, whether it is up."""
    links, state = [], ctypes.c_uint()
    for number in range(_NVLINKS):
        if nvml.asked("nvmlDeviceGetNvLinkState", device, ctypes.c_uint(number), ctypes.byref(state)):
            links.append(bool(state.value))
    return links


if __name__ == "__main__":
    try:
        answer = {"cuda": use_cuda, "nvml": ask_nvml}[sys.argv[1]]()
    except Refused as refused:
        answer = {"error": str(refused)}
    tell(answer)
