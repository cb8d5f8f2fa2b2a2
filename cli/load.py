"""`mlload load`: load models, check them, save one, try them with a prompt; or only show what loading would do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..loader.text import printable
from .load_settings import all_settings
from .options import (
    AllowMissing,
    Attention,
    Axis,
    Bits,
    Cache,
    ComputeDtype,
    Config,
    Debug,
    Device,
    DoubleQuant,
    Dtype,
    GroupSize,
    Json,
    LlamaPro,
    MaxMemory,
    Memory,
    Mmap,
    Models,
    OffloadToCpu,
    Quantize,
    QuantStorage,
    Rank,
    Resident,
    SkipModules,
    Strategy,
    Trim,
    TrustRemoteCode,
    UseCache,
    Workers,
    WorldSize,
)
from .output import note, print_json, print_tables

if TYPE_CHECKING:
    from ..loader.load_report import LoadReport, PlanReport
    from ..loader.planned import LoadedModel, PlannedLoad
    from ..loader.settings import ModelLoadingConfig


def load(
    context: typer.Context,
    models: Models = None,
    config: Config = None,
    prompt: Annotated[str | None, typer.Option("--prompt", metavar="TEXT", help="Go on from this text.")] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, max=1_000_000, help="How far to go on.")] = 100,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and the memory it will take; read no weights.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Look for NaN and infinity in the weights, and name the tensors.")] = False,
    save: Annotated[Path | None, typer.Option("--save", metavar="DIR", help="Write the loaded model there as a checkpoint.")] = None,
    as_json: Json = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Tell on stderr what is decided and each unit that is loaded.")] = False,
    debug: Debug = False,
    dtype: Dtype = "auto",
    device: Device = None,
    attention: Attention = None,
    use_cache: UseCache = None,
    llama_pro: LlamaPro = None,
    allow_missing: AllowMissing = False,
    trust_remote_code: TrustRemoteCode = False,
    strategy: Strategy = None,
    memory: Memory = None,
    max_memory: MaxMemory = None,
    offload_to_cpu: OffloadToCpu = False,
    resident: Resident = None,
    workers: Workers = -1,
    mmap: Mmap = True,
    trim: Trim = False,
    rank: Rank = 0,
    world_size: WorldSize = 1,
    quantize: Quantize = None,
    bits: Bits = None,
    group_size: GroupSize = None,
    axis: Axis = 1,
    double_quant: DoubleQuant = False,
    compute_dtype: ComputeDtype = None,
    quant_storage: QuantStorage = None,
    skip_modules: SkipModules = None,
    cache: Cache = "on",
) -> None:
    """Load models as from_pretrained would, sooner and in less memory; check them, save one, go on from a prompt with each."""
    settings = all_settings(context)  # of all parameters that stand for one; `debug` is read where errors are turned into lines
    if dry_run:
        _show_plans(settings, as_json=as_json)
    else:
        _show_loads(settings, check=check, save=save, prompt=prompt, max_new_tokens=max_new_tokens, as_json=as_json)


def _show_plans(settings: Sequence[ModelLoadingConfig], *, as_json: bool) -> None:
    from ..loader.load_report import plan_report
    from ..loader.loading import plan_loads
    from .load_tables import plan_tables

    reports = [plan_report(planned) for planned in plan_loads(settings)]
    if as_json:
        _print_json(reports, settings[0].memory)
    else:
        for report in reports:
            _print_name(report.reference, settings)
            print_tables(plan_tables(report))


def _show_loads(
    settings: Sequence[ModelLoadingConfig], *, check: bool, save: Path | None, prompt: str | None, max_new_tokens: int, as_json: bool
) -> None:
    from ..loader.errors import UsageError
    from ..loader.loading import plan_loads
    from .load_tables import load_tables

    if save is not None and len(settings) > 1:
        raise UsageError("--save writes one model", hint="save them one by one")
    if settings[0].is_left_to_another_rank and (check or save is not None or prompt is not None):
        raise UsageError(f"rank {settings[0].rank} gets no weights to look at", hint="leave --prompt, --check and --save to rank 0")
    kept: list[LoadedModel] = []  # all share the memory to the end
    reports: list[LoadReport] = []
    for planned in plan_loads(settings, are_carried_out=True):
        kept.append(_loaded(planned))
        if not as_json:
            _print_name(kept[-1].reference, settings)
        report = _tried(kept[-1], check=check, save=save, prompt=prompt, max_new_tokens=max_new_tokens, stream=not as_json)
        reports.append(report)
        if not as_json:
            print_tables(load_tables(report))
    if as_json:
        _print_json(reports, settings[0].memory)


def _print_json(reports: Sequence[PlanReport] | Sequence[LoadReport], memory: int | None) -> None:
    from ..loader.load_report import several_to_json

    print_json(reports[0].to_json() if len(reports) == 1 else several_to_json(reports, memory=memory))


def _print_name(reference: str, settings: Sequence[ModelLoadingConfig]) -> None:
    """The model that the next lines are about, where there are several."""
    if len(settings) > 1:
        print_tables([f"{printable(reference)}:"])


def _loaded(planned: PlannedLoad) -> LoadedModel:
    from .progress import unit_progress

    if planned.settings.verbose:
        return planned.execute()
    with unit_progress(planned.plan) as progress:
        return planned.execute(progress)


def _tried(loaded: LoadedModel, *, check: bool, save: Path | None, prompt: str | None, max_new_tokens: int, stream: bool) -> LoadReport:
    """What came of loading, and of all that was to be done with the model."""
    from ..loader.load_report import load_report

    report = load_report(loaded)
    if report.cache_problem is not None:
        note(f"warning: quantized weights are not kept for the next load: {report.cache_problem}")
    if check:
        report = replace(report, non_finite=loaded.non_finite())
    if save is not None:
        loaded.save(save)
    return report if prompt is None else _generated(report, loaded, prompt, max_new_tokens, stream=stream)


def _generated(report: LoadReport, loaded: LoadedModel, prompt: str, max_new_tokens: int, *, stream: bool) -> LoadReport:
    from ..loader.loading import phase

    seconds = dict(report.seconds)
    with phase(seconds, "generate"):
        text, count = loaded.generate(prompt, max_new_tokens=max_new_tokens, stream=stream)
    return replace(report, seconds=seconds, prompt=prompt, text=text, generated_tokens=count)
