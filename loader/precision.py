"""The best precision that fits: all linear layers alike, and then as many layers as there is room for not quantized at all.

Every candidate is planned, and its bytes are the plan's: nothing is read, and nothing guessed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from .budget import Candidate, least_together
from .errors import DoesNotFitError, UsageError
from .fitting import budget_of, least_streamed_of, need_of
from .settings import LoadingStrategy, QuantizationConfig, QuantizationMethod
from .text import counted, format_bytes

if TYPE_CHECKING:
    from .plan import LoadPlan, Unit
    from .planned import PlannedLoad

    Requantize = Callable[[PlannedLoad, QuantizationConfig | None], PlannedLoad]

# From the best to the smallest: bitsandbytes, whose weights most tools read, or HQQ in its place, which also goes on below 4 bits.
_BITSANDBYTES = ((QuantizationMethod.BNB_INT8, None), (QuantizationMethod.BNB_NF4, None))
_IN_ITS_PLACE = ((QuantizationMethod.HQQ, 8), (QuantizationMethod.HQQ, 4))
_SMALLEST = ((QuantizationMethod.HQQ, 3), (QuantizationMethod.HQQ, 2))
_LAYER = re.compile(r"(?P<stack>.*)\.(?P<number>\d+)")


def best_precision(drafts: Sequence[PlannedLoad], requantize: Requantize) -> Sequence[PlannedLoad]:
    """Each draft whose quantization is left to us in the best precision in which all fit together; `requantize` plans one anew.

    Raises DoesNotFitError where none is small enough, UsageError for what can't be left to us.
    """
    if not any(map(_is_auto, drafts)):
        return drafts
    for draft in filter(_is_auto, drafts):
        _check(draft)
    budget = budget_of(drafts).nbytes
    tried: list[Sequence[PlannedLoad]] = []
    for loads in _rungs(drafts, requantize):
        tried.append(loads)
        if _needed(loads) <= budget:
            break
    else:
        raise _nothing_fits(drafts, tried, budget)
    if len(tried) > 1:
        tried.append(_with_layers_kept(tried[-1], tried[0], budget - _needed(tried[-1]), requantize))
    return [replace(load, candidates=_candidates(place, tried, drafts, budget)) for place, load in enumerate(tried[-1])]


def _is_auto(draft: PlannedLoad) -> bool:
    asked = draft.settings.quantization_config
    return asked is not None and asked.method is QuantizationMethod.AUTO


def _check(draft: PlannedLoad) -> None:
    asked, settings = draft.settings.quantization_config, draft.settings
    if asked is not None and asked.bits is not None:
        raise UsageError("auto chooses how many bits", hint="--quantize hqq takes --bits")
    if draft.strategy is LoadingStrategy.STREAMING or (settings.offload_to_cpu and draft.on_device):
        raise UsageError("auto can't choose for weights that are streamed", hint="--quantize nf4, or leave it out")


def _rungs(drafts: Sequence[PlannedLoad], requantize: Requantize) -> Iterator[Sequence[PlannedLoad]]:
    """All models in one precision after the other, each planned when it is looked at. What is quantized already stays as it is."""
    plain = [replace(draft, settings=replace(draft.settings, quantization_config=None)) if _is_auto(draft) else draft for draft in drafts]
    yield plain
    for method, bits in _methods(drafts[0].device.type):
        configs = [_config(draft, method, bits) if _can_be_quantized(draft) else None for draft in drafts]
        yield [load if config is None else requantize(load, config) for load, config in zip(plain, configs, strict=True)]


def _methods(device: str) -> Iterator[tuple[QuantizationMethod, int | None]]:
    """Those whose libraries are here."""
    with_bitsandbytes = device in ("cpu", "cuda") and find_spec("bitsandbytes") is not None and find_spec("accelerate") is not None
    if with_bitsandbytes:
        yield from _BITSANDBYTES
    if find_spec("hqq") is not None:
        yield from (*(() if with_bitsandbytes else _IN_ITS_PLACE), *_SMALLEST)


def _can_be_quantized(draft: PlannedLoad) -> bool:
    return _is_auto(draft) and draft.checkpoint.quantization is None


def _config(draft: PlannedLoad, method: QuantizationMethod, bits: int | None) -> QuantizationConfig:
    """What was asked beside the method, as far as the method has it."""
    asked = draft.settings.quantization_config or QuantizationConfig(method)
    group_size = asked.group_size if method is QuantizationMethod.HQQ else None
    return replace(asked, method=method, bits=bits, group_size=group_size)


def _needed(loads: Sequence[PlannedLoad]) -> int:
    """What all of them need together, loaded whole but for those that are to be streamed: that is slower than any precision."""
    needs = (need_of(load) for load in loads)
    return least_together([need if need.is_streamed else replace(need, least=None) for need in needs])


def _with_layers_kept(
    loads: Sequence[PlannedLoad], plain: Sequence[PlannedLoad], room: int, requantize: Requantize
) -> Sequence[PlannedLoad]:
    """The loads, with as many units not quantized as there is room for.

    One method and no quantization are all that a model of transformers can mix. What is kept first is what errors are worst in: modules
    outside the layers, then the first and the last layer, then inwards. Every later layer builds on the first ones, and nothing mends
    what the last ones do.
    """
    kept: list[list[str]] = [[] for _ in loads]
    for place, lower, upper in _most_sensitive_first(loads, plain):
        more = upper.target_bytes - lower.target_bytes
        if more <= room:
            room -= more
            kept[place].append(lower.name)
    return [_keeping(load, names, requantize) for load, names in zip(loads, kept, strict=True)]


def _keeping(load: PlannedLoad, names: list[str], requantize: Requantize) -> PlannedLoad:
    config = load.settings.quantization_config
    if config is None or not names:
        return load
    all_kept = len(names) == sum(unit.is_quantized for unit in load.plan.units)
    return requantize(load, None if all_kept else replace(config, skip_modules=(*config.skip_modules, *names)))


def _most_sensitive_first(loads: Sequence[PlannedLoad], plain: Sequence[PlannedLoad]) -> Iterator[tuple[int, Unit, Unit]]:
    """Which model's, and each quantized unit as it is, and as it would be without quantization."""
    ranked: list[tuple[int, int, Unit, Unit]] = []
    for place, (load, unquantized) in enumerate(zip(loads, plain, strict=True)):
        upper = {unit.name: unit for unit in unquantized.plan.units}
        ranked += [(rank, place, unit, upper[unit.name]) for unit, rank in _ranks(load.plan) if unit.is_quantized]
    for _, place, lower, upper in sorted(ranked, key=lambda line: line[:2]):
        yield place, lower, upper


def _ranks(plan: LoadPlan) -> Iterator[tuple[Unit, int]]:
    """Each unit and how many layers of its stack lie between it and the nearer end; -1 for what is no layer."""
    layers = {unit.name: found for unit in plan.units if (found := _LAYER.fullmatch(unit.name))}
    sizes = Counter(found["stack"] for found in layers.values())
    for unit in plan.units:
        found = layers.get(unit.name)
        yield unit, -1 if found is None else min(int(found["number"]), sizes[found["stack"]] - 1 - int(found["number"]))


def precision_of(load: PlannedLoad) -> str:
    """As people say it: `bfloat16`, `nf4`, `hqq with 3 bits, 4 units left in bfloat16`."""
    config, dtype = load.settings.quantization_config, str(load.skeleton.dtype).removeprefix("torch.")
    if config is None:
        return dtype
    name = config.method.value if config.bits is None else f"{config.method.value} with {config.bits} bits"
    kept = sum(1 for unit in load.plan.units if unit.name in config.skip_modules)
    return f"{name}, {counted(kept, 'unit')} left in {dtype}" if kept else name


def _candidates(place: int, tried: Sequence[Sequence[PlannedLoad]], drafts: Sequence[PlannedLoad], budget: int) -> tuple[Candidate, ...]:
    found = [Candidate(precision_of(loads[place]), loads[place].prediction.peak_bytes, _needed(loads) <= budget) for loads in tried]
    return tuple(dict.fromkeys(found))


def _nothing_fits(drafts: Sequence[PlannedLoad], tried: Sequence[Sequence[PlannedLoad]], budget: int) -> DoesNotFitError:
    smallest = min(tried, key=lambda loads: _needed(loads))
    needed, streamed = _needed(smallest), sum(map(least_streamed_of, tried[0]))
    names, verb = ", ".join(str(draft.settings.model_name) for draft in drafts), "takes" if len(drafts) == 1 else "together take"
    precision = " and ".join(dict.fromkeys(precision_of(load) for load in smallest))
    message = f"{names} {verb} {format_bytes(needed)} even in {precision}: {format_bytes(needed - budget)} more than {format_bytes(budget)}"
    if len(tried) == 1:
        return DoesNotFitError(message, hint='pip install "mlload[quantize]" brings what makes it smaller')
    if streamed <= budget:
        return DoesNotFitError(message, hint="without --quantize it is streamed, and fits")
    return DoesNotFitError(message, hint=f"allow {needed:,} bytes, or {streamed:,} to stream it without --quantize")
