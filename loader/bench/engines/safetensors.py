"""safetensors: load_file for every shard, then transformers' model around the tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .model_class import class_and_config, device_of, model_of, weight_files

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..job import Job
    from ..phases import Phases


def load(job: Job, phases: Phases) -> PreTrainedModel:
    """On the CPU its tensors are mapped pages, read when they are first used."""
    from safetensors.torch import load_file

    model_class, config = class_and_config(job)
    device = str(device_of(job))
    phases.end("import")
    tensors = {name: tensor for path in weight_files(job) for name, tensor in load_file(path, device).items()}
    phases.end("read")
    model = model_of(tensors, model_class, config, job)
    phases.end("place")
    return model
