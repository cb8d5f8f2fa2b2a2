"""run:ai's model streamer, then transformers' model around the tensors."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .model_class import class_and_config, device_of, model_of, weight_files

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..job import Job
    from ..phases import Phases


def load(job: Job, phases: Phases) -> PreTrainedModel:
    """`workers` are its threads that read."""
    library: Any = import_module("runai_model_streamer")
    if job.case.workers > 0:
        os.environ["RUNAI_STREAMER_CONCURRENCY"] = str(job.case.workers)
    model_class, config = class_and_config(job)
    device = device_of(job)
    phases.end("import")
    with library.SafetensorsStreamer() as streamer:
        streamer.stream_files(weight_files(job), device=str(device))
        tensors = dict(streamer.get_tensors())
    phases.end("read")
    model = model_of(tensors, model_class, config, job)
    phases.end("place")
    return model
