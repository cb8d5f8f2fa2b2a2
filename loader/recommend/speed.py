"""About how long a token takes: good enough to tell ways apart, and no promise.

A token is bound by the bytes that must be moved for it: weights that are in memory, quantized ones that are unpacked, and whatever is
read anew because it was not kept.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..settings import Backend
from .sketch import PlanSketch
from .way import Way

# Bytes a second. The host's: one row times a matrix on two cores (docs/benchmarks.md). The devices': of ordinary ones, to tell ways apart.
_MEMORY = {Backend.CPU: 20e9, Backend.CUDA: 1e12, Backend.MPS: 2e11, Backend.MLX: 2e11}
_UNPACKED = {Backend.CPU: 1e9, Backend.CUDA: 2e11, Backend.MPS: 5e10, Backend.MLX: 5e10}  # weights a second; bitsandbytes' on two cores
_DISK = 1.5e9  # of sequential reading
_LINK = 12e9  # from the host to a device over sixteen lanes


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds a token, and how they come about."""

    seconds: float
    arithmetic: str


def seconds_a_token(way: Way, plan: PlanSketch, *, active_share: float, disk_rate: float | None, host_bytes: int | None) -> Estimate:
    """`active_share` of the weights a token meets; `host_bytes` that the host can keep of what a device reads anew, None for all."""
    backend = way.backend
    moved = plan.target_bytes * active_share
    parts = [(moved, _MEMORY[backend], "read")]
    if plan.quantized_weights:
        parts.append((plan.quantized_weights * active_share, _UNPACKED[backend], "unpacked"))
    kept = plan.target_bytes if way.resident is None else way.resident
    again = max(0, plan.source_bytes * (1 - kept / max(plan.target_bytes, 1))) * active_share if way.is_streamed or way.offload else 0.0
    if again:
        from_host = way.on_device and (host_bytes is None or host_bytes >= plan.source_bytes)
        parts.append((again, _LINK if from_host else disk_rate or _DISK, "brought in"))
    seconds = sum(amount / rate for amount, rate, _ in parts)
    return Estimate(seconds, " + ".join(f"{amount / 1e9:.3g} G {what} / {rate / 1e9:.3g} G/s" for amount, rate, what in parts))
