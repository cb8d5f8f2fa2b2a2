"""What is begun before torch is imported, which leaves the disk and all cores but one idle for seconds."""

from __future__ import annotations

import gc
import mmap
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from .checkpoint import Checkpoint
from .dtypes import TORCH_NAMES
from .early_copies import EarlyCopies, can_be_early
from .execution.last_key import kept_files
from .fresh_memory import FreshMemory
from .inputs import gguf_file
from .machine import free_bytes
from .memory import PREPARED_FROM
from .read_ahead import begin_reading
from .recommend.sketch import parts_of, sketch
from .settings import CacheMode, LoadingStrategy, ModelLoadingConfig
from .sources.download import local_folder

_GPUS = tuple(map(Path, ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dxg")))


@contextmanager
def without_collector() -> Iterator[None]:
    """While imports run, Python doesn't look for garbage among what they make, as little as there is: a fifth of their time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            if not gc.get_freeze_count():
                gc.freeze()  # both together make all that is there old, so that it isn't looked through right now instead
                gc.unfreeze()
            gc.enable()


def begin(checkpoint: Checkpoint, settings: ModelLoadingConfig, *, is_alone: bool) -> FreshMemory | None:
    """Have the disk read all weights, if they are here, will all be needed, and can all be in memory as the kernel's own pages.

    Returns the memory for those that will be copies on the CPU, which is filled meanwhile; None where none will, or where they are not of
    the only model (`is_alone`), so that nobody knows yet how much is left for them.
    """
    if settings.memory is not None or settings.rank > 0 or checkpoint.source == "hub":
        return None
    weights = [local_folder(checkpoint) / name for name in checkpoint.shards]
    quantized = _quantized_before(weights, settings)
    paths = quantized or weights
    left = free_bytes() - sum(path.stat().st_size for path in paths)
    if left <= 0:
        return None
    is_streamed = settings.loading_strategy is LoadingStrategy.STREAMING or settings.resident is not None
    is_prepared = is_alone and not is_streamed and not quantized and _stays_on_cpu(settings)
    fresh = _memory_for_copies(checkpoint, settings, left) if is_prepared else None
    is_copying = isinstance(fresh, EarlyCopies)  # which looks at every page, too
    begin_reading(paths, is_idle="torch" not in sys.modules and not is_copying)
    return fresh


def _quantized_before(weights: Sequence[Path], settings: ModelLoadingConfig) -> list[Path]:
    """What the cache has of the quantized weights, if it may be taken."""
    asked = settings.quantization_config
    return [] if asked is None or settings.quantized_cache is CacheMode.OFF else kept_files(weights, asked)


def _memory_for_copies(checkpoint: Checkpoint, settings: ModelLoadingConfig, left: int) -> FreshMemory | None:
    """For what will not be the files' own pages: quantized, in another dtype than it is stored in, or stacked with others."""
    config = checkpoint.config or {}
    named = settings.dtype if settings.dtype != "auto" else config.get("dtype") or config.get("torch_dtype")
    dtype = str(named).removeprefix("torch.")
    if dtype not in TORCH_NAMES or gguf_file(checkpoint) is not None:  # transformers dequantizes to memory of its own
        return None
    parts = parts_of(checkpoint)
    copies = [step.target_bytes for step in sketch(parts, dtype, settings.quantization_config).steps if not step.is_view]
    nbytes = sum(copies) + len(copies) * mmap.PAGESIZE  # of which alignment takes some
    if not PREPARED_FROM <= nbytes < left:
        return None
    with suppress(OSError):  # this process may not have that much at once
        if dtype != "float32" or settings.quantization_config is not None:
            return FreshMemory(nbytes)
        stored = [checkpoint.tensors[part.name] for part in parts if not part.is_stack]
        early = [entry for entry in stored if can_be_early(entry)]
        return EarlyCopies(local_folder(checkpoint), early, nbytes)
    return None


def _stays_on_cpu(settings: ModelLoadingConfig) -> bool:
    """Whether the weights stay in the host's memory, all of them, as far as that is known without torch."""
    if sys.platform != "linux" or settings.max_memory is not None:
        return False
    is_unsaid = settings.device is None and settings.backend is None
    return not any(path.exists() for path in _GPUS) if is_unsaid else str(settings.device) == "cpu"
