"""What all engines but mlload's own share: transformers imported quietly, the checkpoint's class, and a model around loaded tensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import UsageError

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from ..job import Job


def class_and_config(job: Job) -> tuple[Any, PretrainedConfig]:
    """The class that the checkpoint's config names, imported, and the config."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    config = transformers.AutoConfig.from_pretrained(job.folder)
    named = getattr(transformers, (config.architectures or ["AutoModel"])[0], None)
    return named or transformers.AutoModel, config


def dtype_of(job: Job) -> torch.dtype | str:
    """The dtype to ask for, as from_pretrained takes it."""
    import torch

    return "auto" if job.case.dtype == "auto" else getattr(torch, job.case.dtype)


def device_of(job: Job) -> torch.device:
    """The device that is asked for, else the best that is there, as mlload chooses it."""
    from ...execution.backends import choose_backend, probe

    return choose_backend(probe(), None, job.case.device)[1]


def weight_files(job: Job) -> list[str]:
    """Paths of the weights. Raises UsageError where they are not safetensors."""
    if not all(name.endswith(".safetensors") for name in job.files):
        raise UsageError(f"{job.case.engine} reads safetensors only")
    return [str(Path(job.folder, name)) for name in job.files]


def model_of(tensors: dict[str, torch.Tensor], model_class: Any, config: PretrainedConfig, job: Job) -> PreTrainedModel:
    """transformers' model with these tensors for weights, without a copy where dtype and place allow it."""
    return model_class.from_pretrained(None, config=config, state_dict=tensors, dtype=dtype_of(job), device_map={"": str(device_of(job))})
