"""Loading a model: the checkpoint checked, the plan made, the plan carried out. Every way to load goes through here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from .architecture import Kind
from .checkpoint import Checkpoint
from .dtypes import TORCH_NAMES
from .errors import NotFoundError, UsageError
from .inputs import gguf_file, load_tokenizer
from .llama_pro import open_expanded, with_all_layers
from .machine import free_bytes
from .memory import Memory, Prediction, predict, process_memory
from .originals import in_transformers_words
from .phases import PHASES, PhaseClock, phase
from .plan import LoadPlan, Unit, make_plan
from .preconditions import check_checkpoint, check_plan
from .read_ahead import begin_reading
from .settings import CacheMode, LoadingStrategy, ModelLoadingConfig
from .sources.download import local_folder
from .text import did_you_mean
from .writing import sync_files

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from transformers.processing_utils import ProcessorMixin

    from .execution.backends import BackendRules, Hardware
    from .execution.quantized_cache import QuantizedCache
    from .execution.skeleton import Skeleton
    from .execution.streaming import Streamer

DTYPES = ("auto", "float32", "float16", "bfloat16")


@dataclass
class LoadedModel:
    """A model as transformers knows it, and how it came to be.

    `seconds` for each phase, as `phases.PHASES` names them. `prediction` is the plan's, `measured` the growth of this process. `missing`
    are tensors that the checkpoint lacks and that were initialised at random, because that was allowed. `streamer` counts what a
    streamed model reads. `cache` tells of the quantized weights on disk: `hit`, `miss`, `partial` or `off`; `cache_problem` why they
    could not be kept. A `gguf_file` holds its tokenizer, too.
    """

    reference: str
    model: PreTrainedModel
    kind: Kind | None
    folder: Path
    plan: LoadPlan
    prediction: Prediction
    measured: Memory
    strategy: LoadingStrategy
    missing: tuple[str, ...]
    seconds: dict[str, float]
    streamer: Streamer | None = None
    cache: str = "off"
    cache_problem: str | None = None
    gguf_file: str | None = None

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The checkpoint's tokenizer, read at first use. Raises InvalidCheckpointError where it has none that can be read."""
        return load_tokenizer(self.folder, gguf_file=self.gguf_file)

    def save(self, folder: Path, *, inputs: PreTrainedTokenizerBase | ProcessorMixin | None = None) -> None:
        """Write the model, and what makes its inputs, as a checkpoint: to a new folder beside `folder`, then under its name.

        `inputs` is written instead of the checkpoint's own tokenizer and processor. Raises UsageError if `folder` exists: nothing is
        ever overwritten.
        """
        if os.path.lexists(folder):
            raise UsageError(f"{folder} exists already", hint="name a folder that does not")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            written = Path(scratch) / folder.name
            self._write(written)
            for config in self.folder.glob("*processor_config.json"):
                shutil.copyfile(config, written / config.name)
            if inputs is not None or self.gguf_file is not None or any(self.folder.glob("tokenizer*")):
                (inputs or self.tokenizer).save_pretrained(written)
            sync_files(written)
            os.rename(written, folder)

    def _write(self, folder: Path) -> None:
        """The weights and what is saved with them."""
        self.model.save_pretrained(folder)

    def generate(self, prompt: str, *, max_new_tokens: int, stream: bool = False) -> tuple[str, int]:
        """As the function `generate`."""
        return generate(self, prompt, max_new_tokens=max_new_tokens, stream=stream)

    def non_finite(self) -> dict[str, int]:
        """How many NaN and infinite elements each tensor has, for those that have any."""
        from .execution.checks import non_finite

        return non_finite(self.model)


@dataclass
class PlannedLoad:
    """Everything decided and nothing read: a skeleton on the meta device, the plan that fills it, and what that will take.

    Config and tokenizer lie in `folder`, the weights in `weights`.
    """

    checkpoint: Checkpoint
    settings: ModelLoadingConfig
    folder: Path
    weights: Path
    skeleton: Skeleton
    plan: LoadPlan
    rules: BackendRules
    device: torch.device
    strategy: LoadingStrategy
    workers: int
    seconds: dict[str, float] = field(default_factory=dict)

    @cached_property
    def prediction(self) -> Prediction:
        """Peak memory while loading, and what stays, in bytes."""
        return predict(self.plan, on_device=self.device.type != "cpu", mapped=self.settings.mmap, workers=self.workers)

    def execute(self, progress: Callable[[Unit], None] | None = None) -> LoadedModel:
        """Read the weights. `progress` hears of every unit once it is in place."""
        before = process_memory()
        cache = self._cache()
        with cache or nullcontext():
            missing, streamer = self._filled(progress, cache)
            if cache is not None:
                with phase(self.seconds, "cache"):
                    cache.close()
        return LoadedModel(
            reference=str(self.settings.model_name),
            model=self.skeleton.model,
            kind=self.checkpoint.architecture.kind,
            folder=self.folder,
            plan=self.plan,
            prediction=self.prediction,
            measured=process_memory() - before,
            strategy=self.strategy,
            missing=tuple(sorted(missing)),
            seconds=self.seconds,
            streamer=streamer,
            gguf_file=gguf_file(self.checkpoint),
            **({} if cache is None else {"cache": cache.status, "cache_problem": cache.problem}),
        )

    def _cache(self) -> QuantizedCache | None:
        """The quantized weights that are kept of this plan. Raises NotFoundError where nothing but them may be used, and they lack some."""
        from .execution.cache_key import SourceFiles, cache_key
        from .execution.quantized_cache import open_cache

        asked, mode = self.settings.quantization_config, self.settings.quantized_cache
        if asked is None and mode is CacheMode.ONLY:
            raise UsageError("only quantized weights are cached", hint="say how they were quantized, as in --quantize nf4")
        if asked is None or mode is CacheMode.OFF or self.strategy is LoadingStrategy.STREAMING or self.settings.rank > 0:
            return None
        with phase(self.seconds, "cache"):
            sources = SourceFiles.of(self.weights, self.checkpoint.shards)
            config, class_name = self.checkpoint.config or {}, type(self.skeleton.model).__qualname__
            key = cache_key(self.plan, sources, config, asked, class_name=class_name, device=self.device.type)
            cache = open_cache(key, self.plan, sources, mapped=self.settings.mmap, workers=self.workers)
        if mode is CacheMode.ONLY and (cache is None or cache.status != "hit"):
            found = "nothing" if cache is None else f"{cache.found} of {cache.total} units"
            raise NotFoundError(
                f"{found} of {self.settings.model_name} in {asked.method.value} is cached", hint="load it once with --cache on"
            )
        return cache

    def _filled(self, progress: Callable[[Unit], None] | None, cache: QuantizedCache | None) -> tuple[Iterable[str], Streamer | None]:
        """Put the weights, or what will read them, into the model; returns what is missing."""
        from .execution.full import fill
        from .execution.streaming import stream
        from .execution.weight_files import WeightFiles

        if self.settings.rank > 0 and self.strategy is LoadingStrategy.LOW_MEMORY:
            self.skeleton.finish_empty(self.device)
            return (), None
        files = WeightFiles(self.weights, mapped=self.settings.mmap)
        if self.strategy is LoadingStrategy.STREAMING:
            with phase(self.seconds, "place"):
                streamer = stream(self.skeleton, self.plan, files, device=self.device, resident=self.settings.resident)
            return streamer.missing, streamer
        clock = PhaseClock()
        with clock.shared_out(self.seconds):
            fill(self.skeleton, self.plan, files, device=self.device, workers=self.workers, progress=progress, cache=cache, clock=clock)
        files.check_unchanged()
        files.close()
        with phase(self.seconds, "place"):
            return self.skeleton.finish(set(self.plan.missing), self.device), None


def load(settings: ModelLoadingConfig, progress: Callable[[Unit], None] | None = None) -> LoadedModel:
    """Load a model as `settings` ask.

    Raises InvalidCheckpointError where the model would not be the one that was saved: tensors missing, mismatched, duplicate;
    UsageError for what is unknown, DoesNotFitError for hardware that is not there, NotFoundError where there is no such checkpoint.
    """
    return plan_load(settings, is_carried_out=True).execute(progress)


def plan_load(settings: ModelLoadingConfig, *, is_carried_out: bool = False) -> PlannedLoad:
    """Decide how to load; reads headers and config only.

    If it `is_carried_out` right afterwards, the disk begins with the weights while torch is imported.
    """
    seconds = dict.fromkeys(PHASES, 0.0)
    dtype_name = _dtype_name(settings.dtype)
    with phase(seconds, "headers"):
        base, checkpoint = _open(settings)
        check_checkpoint(checkpoint, allow_missing=settings.allow_missing)
    if settings.is_for_mlx:  # found by its name, because it stands on this module
        return import_module(".mlx_loading", __package__).plan_mlx(checkpoint, settings, seconds)
    with phase(seconds, "headers"):
        checkpoint = _translated(checkpoint, settings)
        if is_carried_out:
            _begin_reading(checkpoint, settings)
    with phase(seconds, "import"):
        for name in ("model_class", "skeleton", "streaming"):  # torch, transformers, and what stands on them
            import_module(f".execution.{name}", __package__)
    from .execution import backends, gguf_model

    rules, device = backends.choose_backend(hardware := backends.probe(), settings.backend, settings.device)
    weights = local_folder(checkpoint)
    if gguf_file(checkpoint) is not None:
        checkpoint, dtype_name = gguf_model.in_transformers_config(checkpoint, settings, weights), dtype_name or "F32"
    folder = weights if settings.llama_pro_path is None else local_folder(base, shards=())
    with phase(seconds, "plan"):
        skeleton = _build_skeleton(checkpoint, settings, folder, device, dtype_name, partial(rules.dtype, hardware))
        is_gguf = gguf_file(checkpoint) is not None
        plan = gguf_model.dequantizing_plan(checkpoint, skeleton, weights, device) if is_gguf else make_plan(checkpoint.tensors, skeleton)
        check_plan(plan, skeleton, checkpoint, allow_missing=settings.allow_missing)
    strategy = _strategy(settings, rules, plan, hardware, device)
    quantized = any(step.quantized for step in plan.steps)
    workers = settings.loading_workers if settings.loading_workers > 0 else rules.workers(hardware, quantized=quantized)
    workers = 1 if strategy is LoadingStrategy.LOW_MEMORY else workers
    return PlannedLoad(checkpoint, settings, folder, weights, skeleton, plan, rules, device, strategy, workers, seconds)


def _open(settings: ModelLoadingConfig) -> tuple[Checkpoint, Checkpoint]:
    """The checkpoint that is named, for its config and its tokenizer, and the one that holds the weights, as a rule the same."""
    checkpoint = Checkpoint.open(settings.model_name)
    if settings.llama_pro_path is None:
        return checkpoint, checkpoint
    return checkpoint, open_expanded(checkpoint, settings.llama_pro_path)


def _translated(checkpoint: Checkpoint, settings: ModelLoadingConfig) -> Checkpoint:
    """The checkpoint with the layers, names and config that transformers' class for it wants."""
    if settings.llama_pro_path is not None:
        checkpoint = with_all_layers(checkpoint, settings.llama_pro_path)
    own_code = settings.trust_remote_code and "auto_map" in (checkpoint.config or {})
    return checkpoint if own_code else in_transformers_words(checkpoint)


def _begin_reading(checkpoint: Checkpoint, settings: ModelLoadingConfig) -> None:
    """Have the disk read all weights, if they are here, will all be needed, and stay in memory until they are."""
    whole = settings.loading_strategy is not LoadingStrategy.STREAMING and settings.resident is None and settings.rank == 0
    if whole and settings.quantization_config is None and checkpoint.source != "hub":
        paths = [local_folder(checkpoint) / name for name in checkpoint.shards]
        if sum(path.stat().st_size for path in paths) < free_bytes():
            begin_reading(paths)


def _strategy(
    settings: ModelLoadingConfig, rules: BackendRules, plan: LoadPlan, hardware: Hardware, device: torch.device
) -> LoadingStrategy:
    """What is asked, else streaming where a budget is given or the copies that loading makes would not fit, else the backend's own."""
    if settings.loading_strategy is not None:
        return settings.loading_strategy
    if settings.resident is not None:
        return LoadingStrategy.STREAMING
    needed = predict(plan, on_device=device.type != "cpu", mapped=settings.mmap, workers=1).peak.anonymous
    fits = needed < hardware.free_bytes or any(step.quantized for step in plan.steps)
    return rules.strategy() if fits else LoadingStrategy.STREAMING


def _build_skeleton(
    checkpoint: Checkpoint,
    settings: ModelLoadingConfig,
    folder: Path,
    device: torch.device,
    dtype_name: str | None,
    possible: Callable[[torch.dtype], torch.dtype],
) -> Skeleton:
    """The model without weights; `possible` makes of a dtype one that the device computes in."""
    from .execution.model_class import model_class_and_config, own_dtype, refusals, set_dtype
    from .execution.quantizers import library_config
    from .execution.skeleton import Skeleton, find_quantizer
    from .execution.weight_files import TORCH_DTYPES

    model_class, config = model_class_and_config(
        checkpoint.config or {}, checkpoint.architecture.kind, folder=folder, trust_remote_code=settings.trust_remote_code
    )
    asked = library_config(settings.quantization_config)
    with refusals(model_class.__name__):
        dtype = possible(own_dtype(config, _stored_dtype(checkpoint)) if dtype_name is None else TORCH_DTYPES[dtype_name])
        if settings.attn_implementation is not None:
            config._attn_implementation = settings.attn_implementation
        quantizer = find_quantizer(config, asked, device)
        dtype = dtype if quantizer is None else quantizer.update_dtype(dtype)
        set_dtype(config, dtype)
        config.name_or_path = str(folder)
        skeleton = Skeleton.build(model_class, config, dtype, device=device, quantizer=quantizer)
        skeleton.read_generation_config(folder)
    return skeleton


def check_generates(loaded: LoadedModel) -> None:
    """Raises UsageError for a model that does not go on from a prompt."""
    if not loaded.model.can_generate() or loaded.kind is Kind.ENCODER_ONLY:
        raise UsageError(f"{type(loaded.model).__name__} is no model that goes on from a prompt")


def generate(loaded: LoadedModel, prompt: str, *, max_new_tokens: int, stream: bool = False) -> tuple[str, int]:
    """What the model says after `prompt`, and in how many tokens; with `stream` also written to stdout as it comes, after the prompt.

    Raises UsageError for a model that does not generate, or a prompt without a token.
    """
    from transformers import TextStreamer

    check_generates(loaded)
    model: Any = loaded.model  # `generate` comes from a mixin that its type does not show
    inputs = loaded.tokenizer(prompt, return_tensors="pt").to(model.device)
    if inputs["input_ids"].shape[1] == 0:
        raise UsageError("the prompt holds no token to go on from")
    streamer = TextStreamer(loaded.tokenizer, skip_special_tokens=True) if stream else None
    tokens = model.generate(**inputs, max_new_tokens=max_new_tokens, max_length=None, streamer=streamer)[0]
    start = 0 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
    return str(loaded.tokenizer.decode(tokens[start:], skip_special_tokens=True)), int(tokens.shape[0]) - start


def _dtype_name(dtype: torch.dtype | str) -> str | None:
    """Our name of a dtype, None for "auto". Raises UsageError for one that weights can't be loaded in."""
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise UsageError(f"unknown dtype '{name}'", hint=did_you_mean(name, DTYPES) or f"known: {', '.join(DTYPES)}")
    return TORCH_NAMES.get(name)


def _stored_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """The dtype of the first floating-point tensor."""
    import torch

    from .execution.weight_files import TORCH_DTYPES

    dtypes = (TORCH_DTYPES.get(tensor.dtype) for tensor in checkpoint.tensors.values())
    return next((dtype for dtype in dtypes if dtype is not None and dtype.is_floating_point), torch.get_default_dtype())
