"""This package, as `mlload load` uses it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from ...loading import plan_load
from ...settings import CacheMode, LoadingStrategy, ModelLoadingConfig, QuantizationConfig, QuantizationMethod
from ...settings_mapping import build_settings, parse_settings
from ..case import NOT_QUANTIZED

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..job import Job
    from ..phases import Phases


def load(job: Job, phases: Phases) -> PreTrainedModel:
    """Plan, and carry the plan out. Its own seconds tell the phases; what is between them goes to planning and placing."""
    planned = plan_load(_settings(job), is_carried_out=True)
    before = dict(planned.seconds)
    phases.end_several({"import": before["import"]}, rest="plan")
    phases.tell(strategy=planned.strategy.value, workers=planned.workers, predicted=asdict(planned.prediction.peak))
    phases.tell(prepared=planned.prepared_bytes)
    loaded = planned.execute()
    spent = {name: value - before.get(name, 0.0) for name, value in loaded.seconds.items() if name != "place"}
    phases.end_several({name: value for name, value in spent.items() if value}, rest="place")
    return loaded.model


def _settings(job: Job) -> ModelLoadingConfig:
    if job.settings is not None:
        return build_settings(parse_settings(job.settings))
    case = job.case
    return ModelLoadingConfig(
        job.folder,
        loading_strategy=None if case.strategy is None else LoadingStrategy(case.strategy),
        quantization_config=None if case.quantize == NOT_QUANTIZED else QuantizationConfig(QuantizationMethod(case.quantize)),
        quantized_cache=CacheMode.OFF if case.quantize == NOT_QUANTIZED else CacheMode(job.cache),
        dtype=case.dtype,
        device=case.device,
        resident=job.resident if case.strategy == LoadingStrategy.STREAMING.value else None,
        loading_workers=case.workers,
    )
