"""A model whose units are read when they are used, and dropped again: it needs no more memory than it is given."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import DoesNotFitError
from ..plan import LoadPlan, Step, Unit
from ..tensors import TensorEntry, extents
from ..text import format_bytes
from .kept_weights import KeptWeights
from .on_demand import Weight, hold_on_demand, refuse_conversion
from .quantized_cache import QuantizedCache
from .residency import Residency, StreamCounters, StreamedUnit, make
from .skeleton import Skeleton
from .weight_files import WeightFiles

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_Homes = Mapping[str, list[tuple[nn.Module, str]]]  # of each tensor, the modules that hold it, and its names there


@dataclass(frozen=True)
class Streamer:
    """A streamed model, and what streaming it did so far.

    The model computes as one that was loaded whole, for inference: its weights ask for no gradient, and a change made to them in place
    is lost when their unit is dropped. Weights that are mapped pages can be gone over freely (`parameters()`, `state_dict()`); those that
    are converted while they are read are in memory as long as somebody holds them, whatever the budget. `missing` names the tensors that
    neither the checkpoint nor a tie gives. The files that it is streamed from must stay open as long as it is used.
    """

    model: PreTrainedModel
    missing: frozenset[str]
    units: tuple[StreamedUnit, ...]
    counters: StreamCounters
    residency: Residency


def stream(
    skeleton: Skeleton,
    plan: LoadPlan,
    files: WeightFiles,
    *,
    device: torch.device,
    resident: int | None,
    cache: QuantizedCache | None = None,
    progress: Callable[[Unit], None] | None = None,
) -> Streamer:
    """Let the skeleton's model read each unit of `plan` when it uses it, with at most `resident` bytes of units in memory at once.

    While one unit computes the next ones are read, as far as `resident` allows; None sets no limit. Tensors that are not part of the
    plan (computed tables, missing weights) stay in memory. What the plan quantizes is read from `cache`, into which it is put first where
    it is not there; `progress` hears of every unit that is. Raises DoesNotFitError where a single unit is larger than `resident`.
    """
    model = skeleton.model
    _check_budget(plan, resident)
    kept = None if cache is None else KeptWeights(skeleton, cache, device, mapped=files.are_mapped)
    names = {} if kept is None else _place_kept(kept, plan, files, progress)
    placed = _place(skeleton, plan, files, device)
    placed.update((name, model.get_parameter_or_buffer(name)) for each in names.values() for name in each)
    missing = skeleton.finish(set(plan.missing), device)
    model.requires_grad_(False)
    homes = _homes(model, placed)
    parts = [_Part(unit.name, _steps(unit, homes), names.get(unit.name, set())) for unit in plan.units]
    parts = [part for part in parts if part.steps or part.kept]
    views = {step.targets[0].name for step in plan.steps if _is_pages(step, files, device)}
    ranges = {name: kept.extents(name) for name in names} if kept is not None else {}
    units = tuple(_unit(number, part, ranges.get(part.name, ()), placed, homes, views) for number, part in enumerate(parts))
    residency = Residency(units, skeleton, files, device=device, budget=resident, kept=kept)
    for unit, part in zip(units, parts, strict=True):
        _let_go(part, unit, residency, homes)
    dtypes = {placed[name].dtype for name in homes}
    refuse_conversion(model, [torch.empty(0, dtype=dtype, device=device) for dtype in dtypes])
    return Streamer(model, frozenset(missing), units, residency.counters, residency)


@dataclass(frozen=True)
class _Part:
    """What is read on demand of a unit: the tensors of steps, and quantized weights, by their names."""

    name: str
    steps: Sequence[Step]
    kept: Set[str]


def _place_kept(kept: KeptWeights, plan: LoadPlan, files: WeightFiles, progress: Callable[[Unit], None] | None) -> dict[str, Set[str]]:
    """Have all quantized weights ready; returns their names, unit by unit."""
    names: dict[str, Set[str]] = {}
    for unit in plan.units:
        if unit.is_quantized:
            names[unit.name] = kept.place(unit, files)
            if progress is not None:
                progress(unit)
    return names


def _steps(unit: Unit, homes: _Homes) -> list[Step]:
    """The steps of a unit whose tensors the model holds, but for those that quantize."""
    return [step for step in unit.steps if not step.quantized and any(target.name in homes for target in step.targets)]


def _place(skeleton: Skeleton, plan: LoadPlan, files: WeightFiles, device: torch.device) -> dict[str, Tensor]:
    """Fill the model so far that it can be finished: pages of files, else tensors without memory. Returns them as the model holds them."""
    stored = {target.name for step in plan.steps for target in step.targets}
    compared = {name for tie in skeleton.ties.items() if stored.issuperset(tie) for name in tie}  # whether they are equal decides
    placed: dict[str, Tensor] = {}
    for step in plan.steps:
        names = {target.name for target in step.targets}
        if step.quantized:
            continue
        if _is_pages(step, files, device):
            values = {step.targets[0].name: files.read(step.sources[0][0])}
        elif not names.isdisjoint(compared) or any(name.endswith("_extra_state") for name in names):
            values = make(Unit(step.unit, (step,)), frozenset(), skeleton, files, device)
        else:
            values = {target.name: torch.empty(target.shape, dtype=target.dtype, device="meta") for target in step.targets}
        for name, value in values.items():
            skeleton.place(name, value)
            if not name.endswith("_extra_state"):
                placed[name] = skeleton.model.get_parameter_or_buffer(name)
    return placed


def _is_pages(step: Step, files: WeightFiles, device: torch.device) -> bool:
    return step.is_view and device.type == "cpu" and files.is_mapped(step.sources[0][0])


def _homes(model: nn.Module, placed: Mapping[str, Tensor]) -> _Homes:
    """Where the model holds each of `placed`: tied ones in several places, those that gave way to another nowhere."""
    name_of = {id(tensor): name for name, tensor in placed.items()}
    homes: dict[str, list[tuple[nn.Module, str]]] = defaultdict(list)
    for module in model.modules():
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            if id(tensor) in name_of:
                homes[name_of[id(tensor)]].append((module, key))
    return dict(homes)


def _unit(
    number: int, part: _Part, kept: Sequence[TensorEntry], placed: Mapping[str, Tensor], homes: _Homes, views: Set[str]
) -> StreamedUnit:
    mapped = {step.targets[0].name: step.sources[0][0] for step in part.steps if step.targets[0].name in views}
    looked_up = {target for target in mapped if all(isinstance(module, nn.Embedding) for module, _ in homes[target])}
    return StreamedUnit(
        number=number,
        name=part.name,
        nbytes=sum(step.target_bytes for step in part.steps) + sum(extent.nbytes for extent in kept),
        mapped={target: placed[target] for target in (*mapped, *part.kept) if not placed[target].is_meta},
        made=Unit(part.name, tuple(step for step in part.steps if step.targets[0].name not in views)),
        parameters=frozenset(target for target in homes if isinstance(placed[target], nn.Parameter)),
        dense=extents(entry for target, entry in mapped.items() if target not in looked_up),
        pages=extents(mapped.values()),
        kept=kept,
    )


def _let_go(part: _Part, unit: StreamedUnit, residency: Residency, homes: _Homes) -> None:
    """Put a weight to be read on demand wherever the model holds a tensor of the unit."""
    makers = {target.name: step for step in part.steps for target in step.targets}
    for name in (*makers, *part.kept):
        places = homes.get(name, [])
        weight = Weight(name, makers.get(name), unit, residency, is_tied=len(places) > 1)
        for module, key in places:
            hold_on_demand(module, key, weight)


def _check_budget(plan: LoadPlan, resident: int | None) -> None:
    largest = max(plan.units, key=lambda unit: unit.target_bytes, default=None)
    if resident is not None and largest is not None and largest.target_bytes > resident:
        nbytes = largest.target_bytes
        raise DoesNotFitError(
            f"{largest.name} alone takes {format_bytes(nbytes)}, more than the {format_bytes(resident)} that may be resident",
            hint=f"allow {nbytes:,} bytes ({format_bytes(nbytes)}) or more",
        )
