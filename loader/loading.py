"""Loading a model: the checkpoint checked, the plan made, the plan carried out. Every way to load goes through here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from . import before_imports
from .checkpoint import Checkpoint
from .dtypes import TORCH_NAMES
from .errors import UsageError
from .fitting import fit
from .fresh_memory import FreshMemory
from .inputs import gguf_file
from .layout import PICKLED_NAMES
from .llama_pro import open_expanded, with_all_layers
from .narration import tell
from .originals import in_transformers_words
from .phases import PHASES, phase
from .plan import Unit, make_plan
from .planned import LoadedModel, PlannedLoad
from .precision import best_precision
from .preconditions import check_checkpoint, check_plan
from .settings import LoadingStrategy, ModelLoadingConfig, QuantizationConfig
from .sources.download import local_folder
from .text import did_you_mean

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from .execution.backends import BackendRules, Hardware
    from .execution.skeleton import Skeleton

DTYPES = ("auto", "float32", "float16", "bfloat16")


def load(settings: ModelLoadingConfig, progress: Callable[[Unit], None] | None = None) -> LoadedModel:
    """Load a model as `settings` ask.

    Raises InvalidCheckpointError where the model would not be the one that was saved: tensors missing, mismatched, duplicate;
    UsageError for what is unknown, DoesNotFitError for hardware that is not there, NotFoundError where there is no such checkpoint.
    """
    return plan_load(settings, is_carried_out=True).execute(progress)


def plan_load(settings: ModelLoadingConfig, *, is_carried_out: bool = False, checkpoint: Checkpoint | None = None) -> PlannedLoad:
    """Decide how to load; reads headers and config only, and not even those of a `checkpoint` that is open. As `plan_loads`."""
    return _fitted([_draft(settings, is_carried_out=is_carried_out, checkpoint=checkpoint)])[0]


def plan_loads(models: Sequence[ModelLoadingConfig], *, are_carried_out: bool = False) -> list[PlannedLoad]:
    """Decide how to load several models that share one memory; all are planned before one is read.

    If they `are_carried_out` right afterwards, the disk begins with the weights while torch is imported. Raises DoesNotFitError where they
    do not fit together, and what `load` raises.
    """
    return _fitted([_draft(settings, is_carried_out=are_carried_out, is_alone=len(models) == 1) for settings in models])


def _fitted(drafts: Sequence[PlannedLoad]) -> list[PlannedLoad]:
    planned = fit(best_precision(drafts, _requantized))
    for each in planned:
        tell(each.settings, each.summary)
    return planned


@dataclass(frozen=True)
class _Opened:
    """A checkpoint that nothing speaks against, in the words of transformers' class for it, and where it goes."""

    checkpoint: Checkpoint
    folder: Path
    weights: Path
    rules: BackendRules
    device: torch.device
    hardware: Hardware
    seconds: dict[str, float]
    fresh: FreshMemory | None


def _draft(
    settings: ModelLoadingConfig, *, is_carried_out: bool, is_alone: bool = True, checkpoint: Checkpoint | None = None
) -> PlannedLoad:
    """The plan of one model as if it were alone, in unlimited memory; without quantization where that is to be chosen."""
    seconds = dict.fromkeys(PHASES, 0.0)
    _dtype_name(settings.dtype)
    with phase(seconds, "headers"):
        base, checkpoint = _open(settings, checkpoint)
        check_checkpoint(checkpoint, allow_missing=settings.allow_missing)
    if settings.is_for_mlx:
        from .mlx_loading import plan_mlx

        return plan_mlx(checkpoint, settings, seconds)
    with phase(seconds, "headers"):
        checkpoint = _translated(checkpoint, settings)
        fresh = before_imports.begin(checkpoint, settings, is_alone=is_alone) if is_carried_out else None
    with ExitStack() as failing:
        if fresh is not None:
            failing.callback(fresh.close)
        with phase(seconds, "import"), before_imports.without_collector():
            for name in ("model_class", "skeleton", "streaming"):  # torch, transformers, and what stands on them
                import_module(f".execution.{name}", __package__)
        from .execution import backends, gguf_model

        hardware = backends.probe()
        rules, device = backends.choose_backend(hardware, settings.backend, settings.device or settings.budgeted_device)
        weights = local_folder(checkpoint)
        if gguf_file(checkpoint) is not None:
            checkpoint = gguf_model.in_transformers_config(checkpoint, settings, weights)
        folder = weights if settings.llama_pro_path is None else local_folder(base, shards=())
        planned = _planned(_Opened(checkpoint, folder, weights, rules, device, hardware, seconds, fresh), settings)
        failing.pop_all()
    return planned


def _planned(opened: _Opened, settings: ModelLoadingConfig) -> PlannedLoad:
    from .execution import gguf_model
    from .execution.candidates import candidates, first_filled

    checkpoint, rules = opened.checkpoint, opened.rules
    with phase(opened.seconds, "import"), before_imports.without_collector():  # the class's own module, and what it stands on
        class_and_config = _class_and_config(opened, settings)
    with phase(opened.seconds, "plan"):
        skeletons = (_build_skeleton(opened, settings, *each) for each in candidates(settings.head, *class_and_config))
        if gguf_file(checkpoint) is not None:
            plan_of = partial(gguf_model.dequantizing_plan, checkpoint, folder=opened.weights, device=opened.device)
        else:
            plan_of = partial(make_plan, checkpoint.tensors)
        skeleton, plan = first_filled(skeletons, plan_of)
        check_plan(plan, skeleton, checkpoint, allow_missing=settings.allow_missing)
    strategy = _strategy(settings, rules)
    one_by_one = strategy in (LoadingStrategy.LOW_MEMORY, LoadingStrategy.STREAMING)
    workers = rules.workers(opened.hardware, quantized=any(step.quantized for step in plan.steps))
    return PlannedLoad(
        **vars(opened),
        settings=settings,
        skeleton=skeleton,
        plan=plan,
        strategy=strategy,
        workers=1 if one_by_one else settings.loading_workers if settings.loading_workers > 0 else workers,
        resident=settings.resident,
    )


def _requantized(draft: PlannedLoad, quantization: QuantizationConfig | None) -> PlannedLoad:
    """The same model in another precision."""
    opened = _Opened(**{field.name: getattr(draft, field.name) for field in fields(_Opened)})
    return _planned(opened, replace(draft.settings, quantization_config=quantization))


def _open(settings: ModelLoadingConfig, checkpoint: Checkpoint | None) -> tuple[Checkpoint, Checkpoint]:
    """The checkpoint that is named, for its config and its tokenizer, and the one that holds the weights, as a rule the same."""
    checkpoint = checkpoint or Checkpoint.open(settings.model_name)
    pickled = next((name for name in checkpoint.files if name in PICKLED_NAMES), None)
    if pickled is not None and not settings.use_safetensors and checkpoint.format == "safetensors" and checkpoint.source != "file":
        checkpoint = Checkpoint.open(settings.model_name, file=pickled)
    if settings.llama_pro_path is None:
        return checkpoint, checkpoint
    return checkpoint, open_expanded(checkpoint, settings.llama_pro_path)


def _translated(checkpoint: Checkpoint, settings: ModelLoadingConfig) -> Checkpoint:
    """The checkpoint with the layers, names and config that transformers' class for it wants."""
    if settings.llama_pro_path is not None:
        checkpoint = with_all_layers(checkpoint, settings.llama_pro_path)
    own_code = settings.trust_remote_code and "auto_map" in (checkpoint.config or {})
    return checkpoint if own_code else in_transformers_words(checkpoint)


def _strategy(settings: ModelLoadingConfig, rules: BackendRules) -> LoadingStrategy:
    """What is asked, else streaming where a budget for it is given, else the backend's own, if that fits."""
    return settings.loading_strategy or (rules.strategy() if settings.resident is None else LoadingStrategy.STREAMING)


def _class_and_config(opened: _Opened, settings: ModelLoadingConfig) -> tuple[type[PreTrainedModel], PretrainedConfig]:
    """What the model is built of; the folder has whatever code of its own the checkpoint brings."""
    from .execution.model_class import model_class_and_config

    config, kind = opened.checkpoint.config or {}, opened.checkpoint.architecture.kind
    return model_class_and_config(config, kind, folder=opened.folder, trust_remote_code=settings.trust_remote_code)


def _build_skeleton(
    opened: _Opened, settings: ModelLoadingConfig, model_class: type[PreTrainedModel], config: PretrainedConfig
) -> Skeleton:
    """The model without weights, in a dtype that the device computes in."""
    from .execution.model_class import own_dtype, refusals, set_dtype
    from .execution.quantizers import library_config
    from .execution.skeleton import Skeleton, find_quantizer
    from .execution.weight_files import TORCH_DTYPES

    checkpoint, device = opened.checkpoint, opened.device
    dtype_name = _dtype_name(settings.dtype) or ("F32" if gguf_file(checkpoint) is not None else None)
    asked = library_config(settings.quantization_config)
    with refusals(model_class.__name__):
        dtype = own_dtype(config, _stored_dtype(checkpoint)) if dtype_name is None else TORCH_DTYPES[dtype_name]
        dtype = opened.rules.dtype(opened.hardware, dtype)
        if settings.attn_implementation is not None:
            config._attn_implementation = settings.attn_implementation
        quantizer = find_quantizer(config, asked, device)
        dtype = dtype if quantizer is None else quantizer.update_dtype(dtype)
        set_dtype(config, dtype)
        config.name_or_path = str(opened.folder)
        skeleton = Skeleton.build(model_class, config, dtype, device=device, quantizer=quantizer)
        skeleton.read_generation_config(opened.folder)
        if settings.use_cache is not None:
            skeleton.set_use_cache(settings.use_cache)
    return skeleton


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
