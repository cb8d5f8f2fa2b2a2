"""A load that has been decided, and the model that comes of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from .architecture import Kind
from .budget import Candidate
from .checkpoint import Checkpoint
from .errors import NotFoundError, UsageError
from .fresh_memory import FreshMemory
from .generation import check_generates, generate
from .inputs import gguf_file, load_tokenizer
from .memory import Memory, Prediction, predict, predict_streamed, process_memory, staged_bytes
from .narration import tell, telling
from .phases import PhaseClock, phase
from .plan import LoadPlan, Unit
from .settings import CacheMode, LoadingStrategy, ModelLoadingConfig, QuantizationConfig
from .text import format_bytes
from .writing import sync_files

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from transformers.processing_utils import ProcessorMixin

    from .execution.backends import BackendRules, Hardware
    from .execution.quantized_cache import QuantizedCache
    from .execution.skeleton import Skeleton
    from .execution.streaming import Streamer


@dataclass
class LoadedModel:
    """A model as transformers knows it, and how it came to be.

    `seconds` for each phase, as `phases.PHASES` names them. `prediction` is the plan's, `measured` the growth of this process. `missing`
    are tensors that the checkpoint lacks and that were initialised at random, because that was allowed. `streamer` counts what a
    streamed model reads, of which at most `resident` bytes are in memory. `unit_devices` tell where each unit is, if not all are on one
    device. `quantization` is what was done to them, `candidates` the precisions that were looked at, if it was to be chosen. `cache`
    tells of the quantized weights on disk: `hit`, `miss`, `partial` or `off`; `cache_problem` why they could not be kept. A `gguf_file`
    holds its tokenizer, too.
    """

    reference: str
    checkpoint: Checkpoint
    model: PreTrainedModel
    kind: Kind | None
    folder: Path
    plan: LoadPlan
    prediction: Prediction
    measured: Memory
    strategy: LoadingStrategy
    missing: tuple[str, ...]
    seconds: dict[str, float]
    resident: int | None = None
    unit_devices: Mapping[str, torch.device] | None = None
    quantization: QuantizationConfig | None = None
    candidates: tuple[Candidate, ...] = ()
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

        `inputs` is written instead of the checkpoint's own tokenizer and processor. Raises UsageError if `folder` exists (nothing is
        ever overwritten), and for quantized weights that are streamed.
        """
        if os.path.lexists(folder):
            raise UsageError(f"{folder} exists already", hint="name a folder that does not")
        if self.streamer is not None and self.quantization is not None:
            raise UsageError("quantized weights are streamed as the CPU wants them, not as they are saved", hint="leave --resident out")
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
        """As the function `generate`. Raises UsageError also for a model that does not go on from a prompt."""
        check_generates(self.model, self.kind)
        return generate(self.model, self.tokenizer, prompt, max_new_tokens=max_new_tokens, stream=stream)

    def non_finite(self) -> dict[str, int]:
        """How many NaN and infinite elements each tensor has, for those that have any."""
        from .execution.checks import non_finite

        return non_finite(self.model)


@dataclass
class PlannedLoad:
    """Everything decided and nothing read: a skeleton on the meta device, the plan that fills it, and what that will take.

    Config and tokenizer lie in `folder`, the weights in `weights`. `resident`: so many bytes of a streamed
    model's weights may be in memory; None for all. `unit_devices` tell where each unit goes, if not all to `device`;
    `candidates` the precisions that were looked at, if it was to be chosen. `fresh` is memory for copies, made during the imports.
    """

    checkpoint: Checkpoint
    settings: ModelLoadingConfig
    folder: Path
    weights: Path
    skeleton: Skeleton
    plan: LoadPlan
    rules: BackendRules
    device: torch.device
    hardware: Hardware
    strategy: LoadingStrategy
    workers: int
    resident: int | None = None
    unit_devices: Mapping[str, torch.device] | None = None
    candidates: tuple[Candidate, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    fresh: FreshMemory | None = None

    @property
    def on_device(self) -> bool:
        """Whether the weights leave the host's memory."""
        return self.device.type != "cpu"

    @property
    def free_bytes(self) -> int:
        """Bytes that are free where the weights go."""
        from .execution.backends import free_on

        return free_on(self.device, self.hardware)

    @property
    def is_settled(self) -> bool:
        """Whether the user has said how to load it."""
        return self.settings.loading_strategy is not None or self.settings.resident is not None

    @property
    def prepared_bytes(self) -> int:
        """Memory for copies that is there already."""
        return 0 if self.fresh is None else self.fresh.filled

    @property
    def summary(self) -> str:
        """What a person would say of it."""
        how = f"at most {format_bytes(self.resident)} of weights in memory" if self.resident is not None else f"{self.workers} at once"
        sizes = f"{format_bytes(self.plan.source_bytes)} in {len(self.plan.units)} units"
        dtype = str(self.skeleton.dtype).removeprefix("torch.")
        return f"{type(self.skeleton.model).__name__} in {dtype}, {sizes}: {self.strategy.value} on {self.device}, {how}"

    @cached_property
    def prediction(self) -> Prediction:
        """Peak memory while loading, and what stays, in bytes."""
        mapped = self.settings.mmap
        if self.settings.is_left_to_another_rank:
            return Prediction(Memory(), Memory())
        staged = staged_bytes(self.workers) if self.device.type == "cuda" else 0
        if self.strategy is LoadingStrategy.STREAMING:
            return predict_streamed(self.plan, on_device=self.on_device, mapped=mapped, resident=self.resident, staged=staged)
        return predict(
            self.plan,
            on_device=self.on_device,
            mapped=mapped,
            workers=self.workers,
            staged=staged,
            can_be_prepared=self.settings.memory is None,
        )

    def execute(self, progress: Callable[[Unit], None] | None = None) -> LoadedModel:
        """Read the weights. `progress` hears of every unit once it is in place."""
        if self.settings.trim:
            from .execution.allocation import give_back_freed_memory

            give_back_freed_memory()
        cache = self.open_cache(self.plan.units)
        if cache is not None:
            tell(self.settings, f"{cache.found} of {cache.total} quantized units are in the cache")
        if self.fresh is not None:
            self._prepare_quantizing(cache)
            self.fresh.stop()
        before = process_memory() - Memory(anonymous=self.prepared_bytes)
        with cache or nullcontext(), nullcontext() if self.fresh is None else closing(self.fresh):
            missing, streamer = self._filled(telling(self.settings, progress), cache)
            if cache is not None:
                with phase(self.seconds, "cache"):
                    cache.close()
        return LoadedModel(
            reference=str(self.settings.model_name),
            checkpoint=self.checkpoint,
            model=self.skeleton.model,
            kind=self.checkpoint.architecture.kind,
            folder=self.folder,
            plan=self.plan,
            prediction=self.prediction,
            measured=process_memory() - before,
            strategy=self.strategy,
            missing=tuple(sorted(missing)),
            seconds=self.seconds,
            resident=self.resident,
            unit_devices=self.unit_devices,
            quantization=self.settings.quantization_config,
            candidates=self.candidates,
            streamer=streamer,
            gguf_file=gguf_file(self.checkpoint),
            **({} if cache is None else {"cache": cache.status, "cache_problem": cache.problem}),
        )

    def _prepare_quantizing(self, cache: QuantizedCache | None) -> None:
        """Get ready while memory is still made for what will be quantized."""
        quantized = next((step for step in self.plan.steps if step.quantized), None)
        if quantized is not None and (cache is None or cache.status == "miss"):
            with phase(self.seconds, "quantize"):
                self.skeleton.prepare_quantizing(quantized.targets[0].name)

    def open_cache(self, units: Sequence[Unit]) -> QuantizedCache | None:
        """The quantized weights that are kept of `units` of the plan, if they are to be.

        Raises NotFoundError where nothing but them may be used, and they lack some.
        """
        from .execution.cache_key import SourceFiles, cache_key
        from .execution.last_key import note_key
        from .execution.quantized_cache import open_cache

        asked, mode = self.settings.quantization_config, self.settings.quantized_cache
        if asked is None and mode is CacheMode.ONLY:
            raise UsageError("only quantized weights are cached", hint="say how they were quantized, as in --quantize nf4")
        if asked is None or mode is CacheMode.OFF or self.settings.rank > 0:
            return None
        is_streamed = self.strategy is LoadingStrategy.STREAMING
        with phase(self.seconds, "cache"):
            sources = SourceFiles.of(self.weights, self.checkpoint.shards)
            config, class_name = self.checkpoint.config or {}, type(self.skeleton.model).__qualname__
            is_packed = is_streamed and not self.on_device and self.skeleton.computes_packed
            key = cache_key(self.plan, sources, config, asked, class_name=class_name, device=self.device.type, is_packed=is_packed)
            cache = open_cache(key, units, sources, mapped=self.settings.mmap, workers=self.workers)
            if cache is not None:
                note_key([self.weights / name for name in self.checkpoint.shards], asked, key)
        if mode is CacheMode.ONLY and (cache is None or cache.status != "hit"):
            found = "nothing" if cache is None else f"{cache.found} of {cache.total} units"
            raise NotFoundError(
                f"{found} of {self.settings.model_name} in {asked.method.value} is cached", hint="load it once with --cache on"
            )
        return cache

    def _filled(self, progress: Callable[[Unit], None] | None, cache: QuantizedCache | None) -> tuple[Iterable[str], Streamer | None]:
        """Put the weights, or what will read them, into the model; returns what is missing."""
        from .execution.dispatch import dispatch
        from .execution.full import fill
        from .execution.streaming import stream
        from .execution.weight_files import WeightFiles

        if self.settings.is_left_to_another_rank:
            self.skeleton.finish_empty(self.device)
            return (), None
        files = WeightFiles(self.weights, mapped=self.settings.mmap)
        if self.strategy is LoadingStrategy.STREAMING:
            self._check_streamed(cache)
            with phase(self.seconds, "place"):
                streamer = stream(
                    self.skeleton, self.plan, files, device=self.device, resident=self.resident, cache=cache, progress=progress
                )
            return streamer.missing, streamer
        clock = PhaseClock()
        fill_from = partial(fill, workers=self.workers, progress=progress, cache=cache, clock=clock, fresh=self.fresh)
        with clock.shared_out(self.seconds):
            for device, plan in self._plans_by_device():
                fill_from(self.skeleton, plan, files, device=device)
        files.check_unchanged()
        files.close()
        if self.fresh is not None:
            self.fresh.check_unchanged()
        with phase(self.seconds, "place"):
            missing = self.skeleton.finish(set(self.plan.missing), self.device, self.unit_devices)
            if self.unit_devices is not None:
                dispatch(self.skeleton.model, self.unit_devices)
        return missing, None

    def _check_streamed(self, cache: QuantizedCache | None) -> None:
        """Raises UsageError for quantized weights that can't be streamed."""
        if cache is None and any(step.quantized for step in self.plan.steps):
            raise UsageError("quantized weights are streamed from the cache, which is off", hint="--cache on quantizes them once")

    def _plans_by_device(self) -> Iterator[tuple[torch.device, LoadPlan]]:
        """What goes to each device."""
        if self.unit_devices is None:
            yield self.device, self.plan
            return
        for device in dict.fromkeys(self.unit_devices.values()):
            yield device, replace(self.plan, units=tuple(unit for unit in self.plan.units if self.unit_devices[unit.name] == device))
