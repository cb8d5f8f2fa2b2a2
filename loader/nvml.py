"""NVIDIA's devices and their free memory, as the driver's own library tells them: without torch, and without making a context."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from ctypes import byref, c_int, c_uint, c_ulonglong, c_void_p, create_string_buffer

from .execution.backends import Device

_LIBRARY = "libnvidia-ml.so.1"
_NAME_BYTES = 96
_FIRST_WITH_BFLOAT16 = 8  # major compute capability


class _Memory(ctypes.Structure):
    _fields_ = (("total", c_ulonglong), ("free", c_ulonglong), ("used", c_ulonglong))


def cuda_devices() -> tuple[Device, ...]:
    """The devices that CUDA would see, in its order where CUDA_VISIBLE_DEVICES gives one; none where there is no driver."""
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError:
        return ()
    if library.nvmlInit_v2():
        return ()
    try:
        found = dict(_devices(library))
    finally:
        library.nvmlShutdown()
    return tuple(_visible(found, os.environ.get("CUDA_VISIBLE_DEVICES")))


def _devices(library: ctypes.CDLL) -> Iterator[tuple[str, Device]]:
    """Each device by its UUID, in the bus's order."""
    count = c_uint()
    if library.nvmlDeviceGetCount_v2(byref(count)):
        return
    for index in range(count.value):
        handle, memory, name, uuid = c_void_p(), _Memory(), create_string_buffer(_NAME_BYTES), create_string_buffer(_NAME_BYTES)
        major, minor = c_int(), c_int()
        failed = (
            library.nvmlDeviceGetHandleByIndex_v2(index, byref(handle))
            or library.nvmlDeviceGetMemoryInfo(handle, byref(memory))
            or library.nvmlDeviceGetName(handle, name, _NAME_BYTES)
            or library.nvmlDeviceGetUUID(handle, uuid, _NAME_BYTES)
            or library.nvmlDeviceGetCudaComputeCapability(handle, byref(major), byref(minor))
        )
        if not failed:
            device = Device(_text(name.value), memory.total, memory.free, major.value >= _FIRST_WITH_BFLOAT16)
            yield _text(uuid.value), device


def _visible(found: dict[str, Device], chosen: str | None) -> Iterator[Device]:
    """Those that are chosen, by number or by (the beginning of) their UUID; what follows an unknown one is not seen."""
    if chosen is None:
        yield from found.values()
        return
    numbered = list(found.values())
    for word in filter(None, (part.strip() for part in chosen.split(","))):
        if word.isdecimal() and int(word) < len(numbered):
            yield numbered[int(word)]
            continue
        named = next((device for uuid, device in found.items() if uuid.startswith(word)), None)
        if named is None:
            return
        yield named


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")
