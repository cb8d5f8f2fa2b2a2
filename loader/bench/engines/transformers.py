"""transformers: from_pretrained of the model's own class."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ..case import NOT_QUANTIZED
from .model_class import class_and_config, device_of, dtype_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..job import Job
    from ..phases import Phases


def load(job: Job, phases: Phases) -> PreTrainedModel:
    """The class is imported before; all else is one call, of which nobody outside can tell phases."""
    model_class, _ = class_and_config(job)
    extra = {} if job.case.quantize == NOT_QUANTIZED else {"quantization_config": _quantization(job.case.quantize)}
    device = device_of(job)
    phases.end("import")
    model = model_class.from_pretrained(job.folder, dtype=dtype_of(job), device_map={"": str(device)}, **extra)
    phases.end("read")
    return model


def _quantization(method: str) -> object:
    from ...execution.quantizers import require

    if method == "hqq":
        require("hqq", method)
        from transformers import HqqConfig

        return HqqConfig(nbits=4, group_size=64, axis=1)
    require("bitsandbytes", method)
    from transformers import BitsAndBytesConfig

    import_module("bitsandbytes")  # here, where imports are counted

    return BitsAndBytesConfig(load_in_8bit=True) if method == "int8" else BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=method)
