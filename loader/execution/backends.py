"""The backends: which device, dtype and number of workers each one wants. Pure functions of a probe of the machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

from ..errors import DoesNotFitError, MissingDependencyError, UsageError
from ..machine import free_bytes
from ..settings import Backend, LoadingStrategy

if TYPE_CHECKING:
    import torch

_APPLE_SHARE = 0.9  # of the memory that Apple's GPU should take at most; the rest is for what a model computes
_CUDA_WORKER_BYTES = 8 << 30  # of device memory for each worker: what it converts lies there beside the model


@dataclass(frozen=True)
class Device:
    """One accelerator as torch reports it: name, bytes in all and free, and whether it computes in bfloat16."""

    name: str
    total_bytes: int
    free_bytes: int
    bfloat16: bool = True


@dataclass(frozen=True)
class Hardware:
    """What this machine has. `cores`: that this process may use. `free_bytes`: memory that can be had without swapping.

    `mlx` is the device that MLX computes on by default, looked for only when it is asked for.
    """

    cores: int
    free_bytes: int
    cuda: tuple[Device, ...] = ()
    mps: Device | None = None
    mlx: Device | None = None
    extra: Mapping[str, object] = field(default_factory=dict)


def probe(*, mlx: bool = False) -> Hardware:
    """Ask torch and the kernel what is there, and with `mlx` that library, too."""
    import torch

    return Hardware(
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        free_bytes=free_bytes(),
        cuda=tuple(_cuda_device(index) for index in range(torch.cuda.device_count())) if torch.cuda.is_available() else (),
        mps=_mps_device() if torch.backends.mps.is_available() else None,
        mlx=_mlx_device() if mlx and find_spec("mlx_lm") is not None else None,
    )


def _cuda_device(index: int) -> Device:
    import torch

    free, total = torch.cuda.mem_get_info(index)
    return Device(torch.cuda.get_device_name(index), total, free, torch.cuda.is_bf16_supported(including_emulation=False))


def _mps_device() -> Device:
    import torch

    total = torch.mps.recommended_max_memory()
    return Device("mps", total, total - torch.mps.driver_allocated_memory(), torch.backends.mps.is_macos_or_newer(14, 0))


def _mlx_device() -> Device | None:
    """None where MLX can't be imported: on Linux it comes in two packages, of which one may be missing."""
    try:
        import mlx.core as mx
    except ImportError:
        return None
    if mx.default_device().type == mx.DeviceType.cpu:
        return Device("cpu", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), free_bytes())
    best = mx.device_info().get("max_recommended_working_set_size")
    total = int(best * _APPLE_SHARE) if isinstance(best, int) else free_bytes()
    return Device("mps" if mx.metal.is_available() else "cuda", total, total - mx.get_active_memory())


def free_on(device: torch.device, hardware: Hardware) -> int:
    """Bytes that weights on `device` can take."""
    if device.type == "cuda":
        return hardware.cuda[device.index or 0].free_bytes
    return hardware.mps.free_bytes if device.type == "mps" and hardware.mps else hardware.free_bytes


class BackendRules(Protocol):
    """What differs between backends."""

    @property
    def backend(self) -> Backend:
        """Which one."""
        ...

    def is_there(self, hardware: Hardware) -> bool:
        """Whether this machine has it."""
        ...

    def dtype(self, hardware: Hardware, asked: torch.dtype) -> torch.dtype:
        """The dtype that `asked` becomes where the device can't compute in it."""
        ...

    def workers(self, hardware: Hardware, *, quantized: bool) -> int:
        """How many tensors are read and converted at once."""
        ...

    def strategy(self) -> LoadingStrategy:
        """What is done when nothing else is asked and everything fits."""
        ...


class Cpu:
    """Weights are the files' own pages, or copies of them in host memory."""

    backend = Backend.CPU

    def is_there(self, hardware: Hardware) -> bool:
        """Always."""
        return True

    def dtype(self, hardware: Hardware, asked: torch.dtype) -> torch.dtype:
        """Every dtype is computed in."""
        return asked

    def workers(self, hardware: Hardware, *, quantized: bool) -> int:
        """One a core: each keeps to itself."""
        return hardware.cores

    def strategy(self) -> LoadingStrategy:
        """All at once: mapping costs nothing."""
        return LoadingStrategy.FULL


class Cuda:
    """One or more NVIDIA or AMD devices."""

    backend = Backend.CUDA

    def is_there(self, hardware: Hardware) -> bool:
        """Whether torch sees one."""
        return bool(hardware.cuda)

    def dtype(self, hardware: Hardware, asked: torch.dtype) -> torch.dtype:
        """Float16 for bfloat16 on devices older than it."""
        import torch

        return torch.float16 if asked is torch.bfloat16 and not all(device.bfloat16 for device in hardware.cuda) else asked

    def workers(self, hardware: Hardware, *, quantized: bool) -> int:
        """One for each 8 GiB that are free on the smallest device, 8 at most; half as many where each one also quantizes."""
        most = min((device.free_bytes for device in hardware.cuda), default=0) // _CUDA_WORKER_BYTES
        return max(1, min(8, most // 2 if quantized else most, hardware.cores))

    def strategy(self) -> LoadingStrategy:
        """All at once, to the device."""
        return LoadingStrategy.FULL


class Mps:
    """Apple's GPU, in the same memory as the host."""

    backend = Backend.MPS

    def is_there(self, hardware: Hardware) -> bool:
        """Whether torch sees it."""
        return hardware.mps is not None

    def dtype(self, hardware: Hardware, asked: torch.dtype) -> torch.dtype:
        """Float16 for bfloat16 where macOS is too old for it."""
        import torch

        return torch.float16 if asked is torch.bfloat16 and hardware.mps and not hardware.mps.bfloat16 else asked

    def workers(self, hardware: Hardware, *, quantized: bool) -> int:
        """Four: reading and copying share one memory."""
        return 4

    def strategy(self) -> LoadingStrategy:
        """Without a second copy in host memory."""
        return LoadingStrategy.UNIFIED_MEMORY


class Mlx:
    """Apple's array library, in the same memory as the host; on Linux it computes on the CPU."""

    backend = Backend.MLX

    def is_there(self, hardware: Hardware) -> bool:
        """Whether it was asked for and found."""
        return hardware.mlx is not None

    def dtype(self, hardware: Hardware, asked: torch.dtype) -> torch.dtype:
        """Every dtype is computed in."""
        return asked

    def workers(self, hardware: Hardware, *, quantized: bool) -> int:
        """Four: it reads with several threads. It quantizes one array after the other, so that more would only be held."""
        return 1 if quantized else 4

    def strategy(self) -> LoadingStrategy:
        """Without a second copy."""
        return LoadingStrategy.UNIFIED_MEMORY


# The best first, of those that are there; MLX only where it is asked for.
BACKENDS: Mapping[Backend, BackendRules] = {rules.backend: rules for rules in (Cuda(), Mps(), Cpu(), Mlx())}


def choose_backend(hardware: Hardware, asked: Backend | None, device: str | torch.device | None) -> tuple[BackendRules, torch.device]:
    """The backend and the device to load to.

    Raises UsageError for an unknown device, DoesNotFitError for one that is not there, MissingDependencyError for MLX that is not.
    """
    import torch

    if device is None and asked is None:
        rules = next(rules for rules in BACKENDS.values() if rules.is_there(hardware))
        return rules, torch.device(rules.backend.value)
    if asked is Backend.MLX:
        if hardware.mlx is None:
            raise MissingDependencyError("backend mlx needs mlx and mlx-lm", hint='pip install "mlload[mlx]"')
        return BACKENDS[asked], torch.device(hardware.mlx.name)  # torch's word for where the arrays lie
    named = _device(device or (asked.value if asked else "cpu"))
    rules = next((rules for rules in BACKENDS.values() if rules.backend.value == named.type), None)
    if rules is None or not rules.is_there(hardware) or (named.type == "cuda" and (named.index or 0) >= len(hardware.cuda)):
        raise DoesNotFitError(f"there is no device '{named}' that this torch can use", hint="leave --device out to load to the CPU")
    return rules, named


def _device(device: str | torch.device) -> torch.device:
    import torch

    try:
        return torch.device(device)
    except RuntimeError:
        raise UsageError(f"unknown device '{device}'", hint="cpu, cuda, cuda:1, mps or mlx") from None
