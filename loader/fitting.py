"""How each of several models is loaded, so that all fit in the memory that is given or free: whole, or streamed in a part of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .budget import Need, least_together, share_out
from .errors import DoesNotFitError
from .memory import least_streamed
from .settings import LoadingStrategy
from .text import format_bytes

if TYPE_CHECKING:
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
    given = [draft.settings.memory for draft in drafts if draft.settings.memory is not None]
    return Budget(min(given), True) if given else Budget(int(min(draft.free_bytes for draft in drafts) * _PART_FOR_WEIGHTS), False)


def _fit(drafts: Sequence[PlannedLoad]) -> Sequence[PlannedLoad]:
    budget = budget_of(drafts)
    if not budget.is_given and all(draft.is_settled for draft in drafts):
        return drafts
    needs = [_need(draft) for draft in drafts]
    shares = share_out(needs, budget.nbytes)
    if shares is None:
        raise _does_not_fit(drafts, needs, budget)
    return [draft if share is None else _streamed(draft, share) for draft, share in zip(drafts, shares, strict=True)]


def _need(draft: PlannedLoad) -> Need:
    if draft.settings.is_left_to_another_rank:
        return Need(0, 0)
    plan, prediction = draft.plan, draft.prediction
    unit, transient = least_streamed(plan, on_device=draft.on_device, mapped=draft.settings.mmap)
    is_streamed = draft.strategy is LoadingStrategy.STREAMING
    if is_streamed and draft.resident is not None:
        taken = min(draft.resident, plan.target_bytes) + transient
        return Need(taken, taken)
    can_be_streamed = (is_streamed or not draft.is_settled) and not any(step.quantized for step in plan.steps)
    return Need(prediction.peak_bytes, prediction.kept_bytes, unit + transient if can_be_streamed else None, is_streamed)


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
