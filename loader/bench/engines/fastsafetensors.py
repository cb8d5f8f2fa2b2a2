"""fastsafetensors: its file loader, then transformers' model around the tensors."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .model_class import class_and_config, device_of, model_of, weight_files

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..job import Job
    from ..phases import Phases


def load(job: Job, phases: Phases) -> PreTrainedModel:
    """`workers` are its threads that copy. Without GPU Direct Storage, which few machines have."""
    library: Any = import_module("fastsafetensors")
    model_class, config = class_and_config(job)
    device = device_of(job)
    phases.end("import")
    threads = {"max_threads": job.case.workers} if job.case.workers > 0 else {}
    place = f"cuda:{device.index or 0}" if device.type == "cuda" else str(device)  # it wants to know which
    loader = library.SafeTensorsFileLoader(None, place, nogds=True, **threads)
    loader.add_filenames({0: weight_files(job)})
    buffer = loader.copy_files_to_device()
    tensors = {name: buffer.get_tensor(name) for name in loader.get_keys()}
    phases.end("read")
    model: Any = model_of(tensors, model_class, config, job)
    model._fastsafetensors_buffer = buffer  # the tensors lie in it
    phases.end("place")
    return model
