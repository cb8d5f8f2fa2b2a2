"""Loading with MLX: the checks, the plan and the reports are those of loading with torch; the model and its arrays are mlx-lm's.

What differs: mlx-lm's own class for a model type says how checkpoint names become the model's, MLX reads into memory of its own instead of
using the files' pages, and nothing is cached (what `save` writes is quantized for good).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checkpoint import Checkpoint
from .errors import DoesNotFitError, InvalidCheckpointError, UsageError
from .phases import phase
from .planned import LoadedModel, PlannedLoad
from .preconditions import check_plan
from .settings import Backend, CacheMode, LoadingStrategy, ModelLoadingConfig
from .text import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import torch
    from mlx import nn
    from mlx_lm.tokenizer_utils import TokenizerWrapper

    from .execution.cache_key import SourceFiles
    from .execution.mlx_skeleton import MlxSkeleton
    from .execution.streaming import Streamer
    from .plan import LoadPlan, Unit

# What is asked of torch, and of which MLX has nothing.
_OF_TORCH = ("resident", "attn_implementation", "max_memory", "offload_to_cpu", "llama_pro_path", "rank", "trust_remote_code", "use_cache")


@dataclass(kw_only=True)
class LoadedMlx(LoadedModel):
    """A model of mlx-lm, and how it came to be. `config` is what its files say once it is saved."""

    model: nn.Module  # pyright: ignore[reportIncompatibleVariableOverride]  # what is done with one is done here
    device: torch.device
    dtype: torch.dtype
    config: dict[str, Any]

    @property
    def parameters(self) -> int:
        """Weights, also where several are packed in a number."""
        from mlx_lm.utils import get_total_parameters

        return get_total_parameters(self.model)

    @cached_property
    def tokenizer(self) -> TokenizerWrapper:  # pyright: ignore[reportIncompatibleVariableOverride]  # it hands on to one of transformers
        """mlx-lm's tokenizer, read at first use. Raises InvalidCheckpointError where there is none that can be read."""
        from .execution.mlx_model import read_tokenizer

        return read_tokenizer(self.folder)

    def generate(self, prompt: str, *, max_new_tokens: int, stream: bool = False) -> tuple[str, int]:
        """What the model says after `prompt`, and in how many tokens. Raises UsageError for a prompt without a token."""
        from .execution.mlx_model import generate

        return generate(self.model, self.tokenizer, prompt, max_new_tokens=max_new_tokens, stream=stream)

    def non_finite(self) -> dict[str, int]:
        """How many NaN and infinite elements each array has, for those that have any."""
        from .execution.mlx_model import non_finite

        return non_finite(self.model)

    def _write(self, folder: Path) -> None:
        from .execution.mlx_model import write

        write(self.model, self.config, source=self.folder, target=folder)


@dataclass(kw_only=True)
class PlannedMlx(PlannedLoad):
    """Everything decided and nothing read: mlx-lm's model with lazy arrays, and the plan by which they are evaluated."""

    skeleton: MlxSkeleton  # pyright: ignore[reportIncompatibleVariableOverride]  # what is asked of one, MLX's answers, too
    sources: SourceFiles

    @property
    def free_bytes(self) -> int:
        """Bytes that MLX can have."""
        return self.hardware.mlx.free_bytes if self.hardware.mlx else 0

    @property
    def is_settled(self) -> bool:
        """Yes: there is one way to load for MLX."""
        return True

    def execute(self, progress: Callable[[Unit], None] | None = None) -> LoadedMlx:
        """Read the weights. `progress` hears of every unit once it is in place. Raises DoesNotFitError where there is no room for them."""
        peak = self.prediction.peak
        if (needed := peak.anonymous + peak.device) > self.free_bytes:
            room = f"{format_bytes(needed)} are needed and {format_bytes(self.free_bytes)} are free"
            raise DoesNotFitError(f"{self.settings.model_name} does not fit: {room}", hint="--quantize mlx_int4 makes it smaller")
        loaded = super().execute(progress)
        known = {each.name: getattr(loaded, each.name) for each in fields(loaded)}
        return LoadedMlx(**known, device=self.device, dtype=self.skeleton.dtype, config=self.skeleton.config)

    def _filled(self, progress: Callable[[Unit], None] | None, cache: object) -> tuple[Iterable[str], Streamer | None]:
        """Evaluate the model's arrays; returns what is missing."""
        from .execution.mlx_plan import fill

        with phase(self.seconds, "read"):  # quantizing and all: MLX does at once what stands in one array's way
            fill(self.skeleton.model, self.plan, workers=self.workers, progress=progress)
        if not self.sources.are_unchanged():
            raise InvalidCheckpointError("a file changed while it was loaded", file=str(self.weights), hint="try again when it is whole")
        return self.plan.missing, None


def plan_mlx(checkpoint: Checkpoint, settings: ModelLoadingConfig, seconds: dict[str, float]) -> PlannedMlx:
    """Decide how to load a checkpoint whose headers have been checked.

    Raises UsageError for what MLX does not do, MissingDependencyError without it, InvalidCheckpointError where tensors don't match.
    """
    from .execution.backends import choose_backend, probe
    from .execution.cache_key import SourceFiles
    from .execution.quantizers import check_mlx
    from .sources.download import local_folder

    _check_asked(checkpoint, settings)
    check_mlx(settings.quantization_config)
    with phase(seconds, "import"):
        hardware = probe(mlx=True)
        rules, device = choose_backend(hardware, Backend.MLX, None)
        import_module(".execution.mlx_plan", __package__)  # mlx-lm, and transformers below it
    folder = local_folder(checkpoint)
    with phase(seconds, "plan"):
        sources = SourceFiles.of(folder, checkpoint.shards)
        skeleton, plan = _skeleton_and_plan(checkpoint, settings, folder)
    quantized = settings.quantization_config is not None
    workers = settings.loading_workers if settings.loading_workers > 0 else rules.workers(hardware, quantized=quantized)
    strategy = settings.loading_strategy or rules.strategy()
    return PlannedMlx(
        checkpoint=checkpoint,
        settings=replace(settings, mmap=False, quantized_cache=CacheMode.OFF),
        folder=folder,
        weights=folder,
        skeleton=skeleton,
        plan=plan,
        rules=rules,
        device=device,
        strategy=strategy,
        workers=1 if strategy is LoadingStrategy.LOW_MEMORY else workers,
        seconds=seconds,
        sources=sources,
        hardware=hardware,
    )


def tokenizer_alone(settings: ModelLoadingConfig) -> TokenizerWrapper:
    """mlx-lm's tokenizer of a checkpoint of which nothing else is read. Raises MissingDependencyError without MLX."""
    from .execution.backends import choose_backend, probe
    from .sources.download import local_folder

    choose_backend(probe(mlx=True), Backend.MLX, None)
    from .execution.mlx_model import read_tokenizer

    return read_tokenizer(local_folder(Checkpoint.open(settings.model_name), shards=()))


def _skeleton_and_plan(checkpoint: Checkpoint, settings: ModelLoadingConfig, folder: Path) -> tuple[MlxSkeleton, LoadPlan]:
    """The model as it will be, once the checkpoint's tensors are found to be those that it needs."""
    from .execution.mlx_plan import make_mlx_plan
    from .execution.mlx_skeleton import MlxSkeleton, parameters

    stored = MlxSkeleton.build(folder, checkpoint.shards, checkpoint.config or {})
    if settings.quantization_config is not None and "quantization" in stored.config:
        raise UsageError("its weights are quantized already", hint="leave --quantize out to load them as they are")
    found = make_mlx_plan(checkpoint.tensors, stored, stored.made)
    check_plan(found, stored, checkpoint, allow_missing=settings.allow_missing)  # pyright: ignore[reportArgumentType]  # as a PlannedMlx's
    dtype = str(settings.dtype).removeprefix("torch.")
    skeleton = stored.filled(None if dtype == "auto" else dtype, settings.quantization_config)
    return skeleton, make_mlx_plan(checkpoint.tensors, stored, parameters(skeleton.model))


def _check_asked(checkpoint: Checkpoint, settings: ModelLoadingConfig) -> None:
    """Nothing that is asked may be left undone without a word."""
    for name in _OF_TORCH:
        if getattr(settings, name) != getattr(ModelLoadingConfig, name):
            raise UsageError(f"backend mlx has no {name}", hint="leave it out, or take another backend")
    if settings.loading_strategy is LoadingStrategy.STREAMING:
        raise UsageError("backend mlx does not stream", hint="leave --strategy out, or take another backend")
    if settings.quantized_cache is CacheMode.ONLY:
        raise UsageError("what MLX quantizes is not cached", hint="--save DIR keeps it")
    if settings.backend not in (None, Backend.MLX, Backend.MPS) or str(settings.device) not in ("None", "mlx", "mps"):
        raise UsageError(f"MLX chooses its own device, not '{settings.device or settings.backend}'", hint="leave it out")
    if checkpoint.format != "safetensors":
        hint = "mlload load MODEL --save DIR writes safetensors"
        raise UsageError(f"backend mlx reads safetensors, and {checkpoint.reference} is {checkpoint.format}", hint=hint)
