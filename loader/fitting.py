"""How each of several models is loaded, so that all fit in the memory that is given or free: whole, or streamed in a part of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .budget import Need, least_together, share_out
from .devices import spread
from .errors import DoesNotFitError
from .memory import least_streamed
from .settings import LoadingStrategy
from .text import format_bytes

if TYPE_CHECKING:
    import torch

    from .planned import PlannedLoad

_PART_FOR_WEIGHTS = 0.9  # of what is free: the rest is for what the models compute


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes that the weights of all models together may take on one device, and whether the user said so."""

    nbytes: int
    is_given: bool


def fit(drafts: Sequence[PlannedLoad]) -> list[PlannedLoad]:
    """The same loads with strategies that fit together, device by device. Raises DoesNotFitError where there are none."""
    fitted = list(drafts)
    for device in {draft.device for draft in drafts}:
        places = [place for place, draft in enumerate(drafts) if draft.device == device]
        for place, load in zip(places, _fit([drafts[place] for place in places]), strict=True):
            fitted[place] = load
    return fitted


def budget_of(drafts: Sequence[PlannedLoad]) -> Budget:
    """What models on one device may take: the least that one of them allows, else most of what is free there."""
    given = [limit for draft in drafts for limit in (draft.settings.memory, _limit(draft, _name(draft.device))) if limit is not None]
    most = int(min(draft.free_bytes for draft in drafts) * _PART_FOR_WEIGHTS)
    if given and drafts[0].on_device:  # a device has no more than it has; a host can drop pages and swap
        given.append(most)
    return Budget(min(given), True) if given else Budget(most, False)


def _fit(drafts: Sequence[PlannedLoad]) -> Sequence[PlannedLoad]:
    budget = budget_of(drafts)
    if not budget.is_given and all(draft.is_settled for draft in drafts):
        return drafts
    needs = [need_of(draft) for draft in drafts]
    shares = share_out(needs, budget.nbytes)
    if len(drafts) == 1 and shares != [None] and (over_devices := _over_devices(drafts[0])):
        return [over_devices]
    if shares is None:
        raise _does_not_fit(drafts, needs, budget)
    return [draft if share is None else _streamed(draft, share) for draft, share in zip(drafts, shares, strict=True)]


def _over_devices(draft: PlannedLoad) -> PlannedLoad | None:
    """The load over all CUDA devices that may be used, where it fits them and nobody asked for one device or another way."""
    one_was_asked = draft.settings.device is not None and ":" in str(draft.settings.device)
    if draft.device.type != "cuda" or one_was_asked or draft.is_settled or draft.settings.offload_to_cpu:
        return None
    parts = spread([(unit.name, unit.target_bytes) for unit in draft.plan.units], _rooms(draft))
    if parts is None:
        return None
    from torch import device as to_device

    from .execution.dispatch import require_accelerate

    require_accelerate()
    return replace(draft, unit_devices={unit: to_device(name) for unit, name in parts.items()})


def _rooms(draft: PlannedLoad) -> dict[str, int]:
    """Bytes that the weights may take on each CUDA device, beside what converting them takes."""
    from torch import device as to_device

    from .execution.backends import free_on

    left = draft.settings.memory
    transient = draft.prediction.peak.device - draft.prediction.loaded.device
    rooms: dict[str, int] = {}
    for index in range(len(draft.hardware.cuda)):
        name, limit = f"cuda:{index}", _limit(draft, f"cuda:{index}")
        if limit is None and draft.settings.max_memory is not None:
            continue
        room = (int(free_on(to_device(name), draft.hardware) * _PART_FOR_WEIGHTS) if limit is None else limit) - transient
        rooms[name] = max(0, room if left is None else min(room, left))
        left = None if left is None else left - rooms[name]
    return rooms


def _limit(draft: PlannedLoad, device: str) -> int | None:
    limit = (draft.settings.max_memory or {}).get(device)
    return limit if isinstance(limit, int) else None


def _name(device: torch.device) -> str:
    """As max_memory names it."""
    return f"cuda:{device.index or 0}" if device.type == "cuda" else device.type


def need_of(draft: PlannedLoad) -> Need:
    """What it takes, loaded whole or streamed."""
    if draft.settings.is_left_to_another_rank:
        return Need(0, 0)
    plan, prediction = draft.plan, draft.prediction
    unit, transient = least_streamed(plan, on_device=draft.on_device, mapped=draft.settings.mmap)
    is_streamed = draft.strategy is LoadingStrategy.STREAMING
    if is_streamed and draft.resident is not None:
        taken = min(draft.resident, plan.target_bytes) + transient
        return Need(taken, taken)
    if draft.on_device and draft.settings.offload_to_cpu and not draft.is_settled:  # the unit that computes, and the next one
        taken = sum(sorted(each.target_bytes for each in plan.units)[-2:]) + transient
        return Need(taken, taken, unit + transient, is_streamed=True)
    can_be_streamed = (is_streamed or not draft.is_settled) and not any(step.quantized for step in plan.steps)
    return Need(prediction.peak_bytes, prediction.kept_bytes, unit + transient if can_be_streamed else None, is_streamed)


def least_streamed_of(draft: PlannedLoad) -> int:
    """Bytes that it can't be streamed in less than."""
    return sum(least_streamed(draft.plan, on_device=draft.on_device, mapped=draft.settings.mmap))


def _streamed(draft: PlannedLoad, share: int) -> PlannedLoad:
    transient = least_streamed(draft.plan, on_device=draft.on_device, mapped=draft.settings.mmap)[1]
    resident = share - transient
    is_whole = resident >= draft.plan.target_bytes
    return replace(draft, strategy=LoadingStrategy.STREAMING, resident=None if is_whole else resident, workers=1)


def _does_not_fit(drafts: Sequence[PlannedLoad], needs: Sequence[Need], budget: Budget) -> DoesNotFitError:
    names = ", ".join(str(draft.settings.model_name) for draft in drafts)
    verb = "takes" if len(drafts) == 1 else "together take"
    least = least_together(needs)
    streamed = ", streamed" if any(need.least is not None for need in needs) else ""
    limit = f"{format_bytes(budget.nbytes)} that {'may be taken' if budget.is_given else 'are free'}"
    message = f"{names} {verb} at least {format_bytes(least)}{streamed}: {format_bytes(least - budget.nbytes)} more than the {limit}"
    hint = f"allow {least:,} bytes or more" if budget.is_given else "--strategy full loads all the same"
    return DoesNotFitError(message, hint=hint)
