"""`mlload load`: load a model, check it, save it, try it with a prompt; or only show what loading would do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import (
    AllowMissing,
    Attention,
    Axis,
    Bits,
    Cache,
    Debug,
    Device,
    DoubleQuant,
    Dtype,
    GroupSize,
    Json,
    Mmap,
    Model,
    Quantize,
    Resident,
    Strategy,
    TrustRemoteCode,
    Workers,
)
from .output import note, print_json, print_tables

if TYPE_CHECKING:
    from ..loader.load_report import LoadReport
    from ..loader.loading import LoadedModel
    from ..loader.settings import ModelLoadingConfig, QuantizationConfig


def load(
    model: Model,
    prompt: Annotated[str | None, typer.Option("--prompt", metavar="TEXT", help="Go on from this text.")] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, max=1_000_000, help="How far to go on.")] = 100,
    dtype: Dtype = "auto",
    device: Device = None,
    strategy: Strategy = None,
    resident: Resident = None,
    quantize: Quantize = None,
    bits: Bits = None,
    group_size: GroupSize = None,
    axis: Axis = 1,
    double_quant: DoubleQuant = False,
    cache: Cache = "on",
    workers: Workers = -1,
    attention: Attention = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and the memory it will take; read no weights.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Look for NaN and infinity in the weights, and name the tensors.")] = False,
    save: Annotated[Path | None, typer.Option("--save", metavar="DIR", help="Write the loaded model there as a checkpoint.")] = None,
    mmap: Mmap = True,
    allow_missing: AllowMissing = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Load a model as from_pretrained would, sooner and in less memory; check it, save it, go on from a prompt with it."""
    del debug  # read where errors are turned into lines
    from ..loader.settings import CacheMode, LoadingStrategy, ModelLoadingConfig, choice, parse_bytes

    settings = ModelLoadingConfig(
        model,
        loading_strategy=None if strategy is None else choice(LoadingStrategy, strategy.replace("-", "_")),
        quantization_config=_quantization(quantize, bits=bits, group_size=group_size, axis=axis, double_quant=double_quant),
        quantized_cache=choice(CacheMode, cache),
        dtype=dtype,
        device=device,
        resident=None if resident is None else parse_bytes(resident),
        loading_workers=workers,
        attn_implementation=attention,
        mmap=mmap,
        allow_missing=allow_missing,
        trust_remote_code=trust_remote_code,
    )
    if dry_run:
        _show_plan(settings, as_json=as_json)
    else:
        _show_load(settings, check=check, save=save, prompt=prompt, max_new_tokens=max_new_tokens, as_json=as_json)


def _quantization(
    method: str | None, *, bits: int | None, group_size: int | None, axis: int, double_quant: bool
) -> QuantizationConfig | None:
    from ..loader.settings import QuantizationConfig, QuantizationMethod, choice

    if method is None:
        return None
    return QuantizationConfig(choice(QuantizationMethod, method), bits=bits, group_size=group_size, axis=axis, double_quant=double_quant)


def _show_load(
    settings: ModelLoadingConfig, *, check: bool, save: Path | None, prompt: str | None, max_new_tokens: int, as_json: bool
) -> None:
    from ..loader.load_report import load_report

    loaded = _loaded(settings)
    report = load_report(loaded)
    if report.cache_problem is not None:
        note(f"warning: quantized weights are not kept for the next load: {report.cache_problem}")
    if check:
        report = replace(report, non_finite=loaded.non_finite())
    if save is not None:
        loaded.save(save)
    if prompt is not None:
        report = _generated(report, loaded, prompt, max_new_tokens, stream=not as_json)
    if as_json:
        print_json(report.to_json())
    else:
        from .load_tables import load_tables

        print_tables(load_tables(report))


def _show_plan(settings: ModelLoadingConfig, *, as_json: bool) -> None:
    from ..loader.load_report import plan_report
    from ..loader.loading import plan_load

    report = plan_report(plan_load(settings))
    if as_json:
        print_json(report.to_json())
    else:
        from .load_tables import plan_tables

        print_tables(plan_tables(report))


def _loaded(settings: ModelLoadingConfig) -> LoadedModel:
    from ..loader.loading import plan_load
    from .progress import unit_progress

    planned = plan_load(settings, is_carried_out=True)
    with unit_progress(planned.plan) as progress:
        return planned.execute(progress)


def _generated(report: LoadReport, loaded: LoadedModel, prompt: str, max_new_tokens: int, *, stream: bool) -> LoadReport:
    from ..loader.loading import phase

    seconds = dict(report.seconds)
    with phase(seconds, "generate"):
        text, count = loaded.generate(prompt, max_new_tokens=max_new_tokens, stream=stream)
    return replace(report, seconds=seconds, prompt=prompt, text=text, generated_tokens=count)
