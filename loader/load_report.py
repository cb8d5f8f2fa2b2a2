"""What loading will do, and what it did, as plain data for tables and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from .budget import Candidate
from .memory import Memory
from .settings import QuantizationConfig
from .settings_mapping import plain_quantization

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from .architecture import Kind
    from .loading import LoadedModel, PlannedLoad
    from .plan import Unit

PLAN_SCHEMA = "mlload.plan/1"
LOAD_SCHEMA = "mlload.load/1"
PLANS_SCHEMA = "mlload.plans/1"  # of several models
LOADS_SCHEMA = "mlload.loads/1"


@dataclass(frozen=True, slots=True)
class UnitLine:
    """One unit: how many tensors the model gets, bytes read and bytes kept, and what is done to them."""

    name: str
    tensors: int
    read_bytes: int
    kept_bytes: int
    actions: tuple[str, ...]  # "mapped", "copied to bfloat16", the names of conversions


@dataclass(frozen=True)
class PlanReport:
    """A plan that has not been carried out."""

    reference: str
    class_name: str
    kind: str | None
    backend: str
    device: str
    device_map: dict[str, str] | None  # of each unit, where there are several devices
    strategy: str
    resident: int | None  # bytes of weights that streaming keeps in memory at most
    workers: int
    dtype: str
    read_bytes: int
    model_bytes: int
    peak: Memory
    loaded: Memory
    quantization: dict[str, object] | None  # while loading: its settings
    candidates: tuple[Candidate, ...]  # precisions that were looked at, where it was to be chosen
    units: tuple[UnitLine, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    ties: dict[str, str]

    def to_json(self) -> dict[str, object]:
        """One object of plain values."""
        return {"schema": PLAN_SCHEMA, **asdict(self)}


@dataclass(frozen=True)
class LoadReport:
    """A model that was loaded. `measured` is the growth of this process's memory since before its weights were read."""

    reference: str
    class_name: str
    kind: str | None
    device: str
    strategy: str
    parameters: int
    dtype: str
    seconds: dict[str, float]
    predicted: Memory
    measured: Memory
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    non_finite: dict[str, int] | None = None
    prompt: str | None = None
    text: str | None = None
    generated_tokens: int = 0
    cache: str = "off"  # of weights that are quantized while loading: hit, miss, partial, off
    cache_problem: str | None = None
    resident: int | None = None  # bytes of weights that streaming keeps in memory at most
    device_map: dict[str, str] | None = None  # of each unit, where there are several devices
    quantization: dict[str, object] | None = None  # while loading: its settings
    candidates: tuple[Candidate, ...] = ()  # precisions that were looked at, where it was to be chosen

    def to_json(self) -> dict[str, object]:
        """One object of plain values."""
        seconds = {name: round(value, 4) for name, value in self.seconds.items()}
        return {"schema": LOAD_SCHEMA, **asdict(self), "seconds": seconds}


def several_to_json(reports: Sequence[PlanReport] | Sequence[LoadReport], *, memory: int | None) -> dict[str, object]:
    """Several models that share `memory`, or what is free, as one object."""
    schema = PLANS_SCHEMA if isinstance(reports[0], PlanReport) else LOADS_SCHEMA
    return {"schema": schema, "memory": memory, "models": [report.to_json() for report in reports]}


def plan_report(planned: PlannedLoad) -> PlanReport:
    """What `planned` would do."""
    plan, prediction = planned.plan, planned.prediction
    mapped = planned.settings.mmap and planned.device.type == "cpu"
    return PlanReport(
        reference=str(planned.settings.model_name),
        class_name=_class_name(planned.skeleton.model),
        kind=_kind(planned.checkpoint.architecture.kind),
        backend=planned.rules.backend.value,
        device=str(planned.device),
        device_map=_device_map(planned.unit_devices),
        strategy=planned.strategy.value,
        resident=planned.resident,
        workers=planned.workers,
        dtype=_name(planned.skeleton.dtype),
        read_bytes=plan.source_bytes,
        model_bytes=plan.target_bytes,
        peak=prediction.peak,
        loaded=prediction.loaded,
        quantization=_settings(planned.settings.quantization_config),
        candidates=planned.candidates,
        units=tuple(_unit_line(unit, mapped=mapped) for unit in plan.units),
        missing=tuple(sorted(planned.skeleton.truly_missing(plan.missing))),
        unexpected=plan.unexpected,
        ties=dict(plan.ties),
    )


def load_report(loaded: LoadedModel) -> LoadReport:
    """What came of loading."""
    from .mlx_loading import LoadedMlx

    model = loaded.model
    of_mlx = isinstance(loaded, LoadedMlx)
    return LoadReport(
        reference=loaded.reference,
        class_name=_class_name(model),
        kind=_kind(loaded.kind),
        device=str(loaded.device if of_mlx else model.device),
        strategy=loaded.strategy.value,
        parameters=loaded.parameters if of_mlx else _parameters(model),
        dtype=_name(loaded.dtype if of_mlx else model.dtype),
        seconds=loaded.seconds,
        predicted=loaded.prediction.loaded,
        measured=loaded.measured,
        missing=loaded.missing,
        unexpected=loaded.plan.unexpected,
        cache=loaded.cache,
        cache_problem=loaded.cache_problem,
        resident=loaded.resident,
        device_map=_device_map(loaded.unit_devices),
        quantization=_settings(loaded.quantization),
        candidates=loaded.candidates,
    )


def _settings(quantization: QuantizationConfig | None) -> dict[str, object] | None:
    return None if quantization is None else plain_quantization(quantization)


def _device_map(devices: Mapping[str, torch.device] | None) -> dict[str, str] | None:
    return None if devices is None else {unit: str(device) for unit, device in devices.items()}


def _unit_line(unit: Unit, *, mapped: bool) -> UnitLine:
    actions: dict[str, None] = {}
    for step in unit.steps:
        if step.summary is not None:
            actions[step.summary] = None
        elif step.quantized:
            actions["quantized"] = None
        elif not step.is_view:
            actions[f"to {_name(step.targets[0].dtype)}"] = None
        else:
            actions["mapped" if mapped else "copied"] = None
    return UnitLine(unit.name, sum(len(step.targets) for step in unit.steps), unit.source_bytes, unit.target_bytes, tuple(actions))


def _parameters(model: PreTrainedModel) -> int:
    """Weights, also where several are packed in a byte: transformers counts bitsandbytes' so."""
    from .execution.hqq_quantizer import HqqQuantizer

    quantizer = getattr(model, "hf_quantizer", None)
    return model.num_parameters() + (quantizer.weights_packed_away(model) if isinstance(quantizer, HqqQuantizer) else 0)


def _class_name(model: object) -> str:
    """The class's name; with its module for mlx-lm's, which are all called Model."""
    kind = type(model)
    return f"{kind.__module__}.Model" if kind.__name__ == "Model" else kind.__name__


def _kind(kind: Kind | None) -> str | None:
    return None if kind is None else kind.value


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
