"""A model whose units are read when they are used, and dropped again: it needs no more memory than it is given."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import DoesNotFitError, UsageError
from ..plan import LoadPlan, Step, Unit
from ..text import format_bytes
from .on_demand import Weight, hold_on_demand, refuse_conversion
from .residency import Residency, StreamCounters, StreamedUnit, make
from .skeleton import Skeleton
from .weight_files import WeightFiles, extents

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


def stream(skeleton: Skeleton, plan: LoadPlan, files: WeightFiles, *, device: torch.device, resident: int | None) -> Streamer:
    """Let the skeleton's model read each unit of `plan` when it uses it, with at most `resident` bytes of units in memory at once.

    While one unit computes the next ones are read, as far as `resident` allows; None sets no limit. Tensors that are not part of the
    plan (computed tables, missing weights) stay in memory. Raises DoesNotFitError where a single unit is larger than `resident`,
    UsageError for a plan that quantizes.
    """
    model = skeleton.model
    if any(step.quantized for step in plan.steps):
        raise UsageError("weights can't be quantized while they are streamed", hint="save a quantized checkpoint first, and stream that")
    placed = _place(skeleton, plan, files, device)
    missing = skeleton.finish(set(plan.missing), device)
    model.requires_grad_(False)
    homes = _homes(model, placed)
    parts = [(unit.name, [step for step in unit.steps if any(target.name in homes for target in step.targets)]) for unit in plan.units]
    parts = [(name, steps) for name, steps in parts if steps]
    views = {step.targets[0].name for step in plan.steps if _is_pages(step, files, device)}
    units = tuple(_unit(number, name, steps, placed, homes, views) for number, (name, steps) in enumerate(parts))
    _check_budget(units, resident)
    residency = Residency(units, skeleton, files, device=device, budget=resident)
    for unit, (_, steps) in zip(units, parts, strict=True):
        for step in steps:
            _let_go(step, unit, residency, homes)
    dtypes = {placed[name].dtype for name in homes}
    refuse_conversion(model, [torch.empty(0, dtype=dtype, device=device) for dtype in dtypes])
    return Streamer(model, frozenset(missing), units, residency.counters, residency)


def _place(skeleton: Skeleton, plan: LoadPlan, files: WeightFiles, device: torch.device) -> dict[str, Tensor]:
    """Fill the model so far that it can be finished: pages of files, else tensors without memory. Returns them as the model holds them."""
    stored = {target.name for step in plan.steps for target in step.targets}
    compared = {name for tie in skeleton.ties.items() if stored.issuperset(tie) for name in tie}  # whether they are equal decides
    placed: dict[str, Tensor] = {}
    for step in plan.steps:
        names = {target.name for target in step.targets}
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


def _unit(number: int, name: str, steps: list[Step], placed: Mapping[str, Tensor], homes: _Homes, views: set[str]) -> StreamedUnit:
    mapped = {step.targets[0].name: step.sources[0][0] for step in steps if step.targets[0].name in views}
    looked_up = {target for target in mapped if all(isinstance(module, nn.Embedding) for module, _ in homes[target])}
    return StreamedUnit(
        number=number,
        name=name,
        nbytes=sum(step.target_bytes for step in steps),
        mapped={target: placed[target] for target in mapped},
        made=Unit(name, tuple(step for step in steps if step.targets[0].name not in views)),
        parameters=frozenset(target for target in homes if isinstance(placed[target], nn.Parameter)),
        dense=extents(entry for target, entry in mapped.items() if target not in looked_up),
        pages=extents(mapped.values()),
    )


def _let_go(step: Step, unit: StreamedUnit, residency: Residency, homes: _Homes) -> None:
    """Put a weight to be read on demand wherever the model holds a tensor of `step`."""
    for target in step.targets:
        places = homes.get(target.name, [])
        weight = Weight(target.name, step, unit, residency, is_tied=len(places) > 1)
        for module, key in places:
            hold_on_demand(module, key, weight)


def _check_budget(units: Iterable[StreamedUnit], resident: int | None) -> None:
    largest = max(units, key=lambda unit: unit.nbytes, default=None)
    if resident is not None and largest is not None and largest.nbytes > resident:
        raise DoesNotFitError(
            f"{largest.name} alone takes {format_bytes(largest.nbytes)}, more than the {format_bytes(resident)} that may be resident",
            hint=f"allow {largest.nbytes:,} bytes ({format_bytes(largest.nbytes)}) or more",
        )
