"""The model without weights, in each of the classes that it may be of; the checkpoint decides which one it fills."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import torch

from ..checkpoint import Checkpoint
from ..plan import LoadPlan
from ..settings import ModelLoadingConfig
from .model_class import classes_with, model_class_and_config, own_dtype, refusals, set_dtype
from .quantizers import library_config
from .skeleton import Skeleton, find_quantizer
from .weight_files import TORCH_DTYPES


def skeletons(
    checkpoint: Checkpoint,
    settings: ModelLoadingConfig,
    folder: Path,
    device: torch.device,
    dtype_name: str | None,
    possible: Callable[[torch.dtype], torch.dtype],
) -> Iterator[Skeleton]:
    """The model without weights, in each class that it may be of; `possible` makes of a dtype one that the device computes in."""
    own, base_config = model_class_and_config(
        checkpoint.config or {}, checkpoint.architecture.kind, folder=folder, trust_remote_code=settings.trust_remote_code
    )
    asked = library_config(settings.quantization_config)
    for model_class in classes_with(settings.head, own, base_config):
        config = copy.deepcopy(base_config)
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
            if settings.use_cache is not None:
                skeleton.set_use_cache(settings.use_cache)
        yield skeleton


def first_filled(skeletons: Iterator[Skeleton], plan_of: Callable[[Skeleton], LoadPlan]) -> tuple[Skeleton, LoadPlan]:
    """The first of the models that the checkpoint fills, with its plan; where it fills none, the last."""
    skeleton = next(skeletons)
    plan = plan_of(skeleton)
    filled = not plan.mismatched and not skeleton.truly_missing(plan.missing)
    following = None if filled else next(skeletons, None)
    return (skeleton, plan) if following is None else first_filled(chain((following,), skeletons), plan_of)


def _stored_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """The dtype of the first floating-point tensor."""
    dtypes = (TORCH_DTYPES.get(tensor.dtype) for tensor in checkpoint.tensors.values())
    return next((dtype for dtype in dtypes if dtype is not None and dtype.is_floating_point), torch.get_default_dtype())
