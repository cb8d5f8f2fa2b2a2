"""A plan, and what came of loading, as tables for a person."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ..loader.load_report import LoadReport, PlanReport, UnitLine
from ..loader.memory import Memory
from ..loader.text import format_bytes, format_count, printable

_MOST_NAMES = 5  # of one kind
_CACHE = {"hit": "hit: nothing was quantized", "miss": "miss: all was quantized", "partial": "partial: the rest was quantized"}


def plan_tables(report: PlanReport) -> Iterator[RenderableType]:
    """Headline, facts, units (equal layers folded), and what does not match."""
    yield Text.assemble((report.class_name, "bold cyan"), f"  {report.kind or 'of unknown kind'}  {report.dtype} on {_devices(report)}")
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    facts.add_row("strategy", f"{report.strategy}, {_within(report.resident) or f'{report.workers} at once'}")
    facts.add_row("weights", f"{format_bytes(report.read_bytes)} read, {format_bytes(report.model_bytes)} in the model")
    _add_precision(facts, report)
    facts.add_row("peak memory", _memory(report.peak))
    facts.add_row("once loaded", _memory(report.loaded))
    yield facts
    yield Text()
    yield _units(report.units)
    yield from _names("tied", [f"{name} = {partner}" for name, partner in report.ties.items()])
    yield from _names("missing", report.missing, style="red")
    yield from _names("unexpected", report.unexpected, style="yellow")


def load_tables(report: LoadReport) -> Iterator[RenderableType]:
    """Headline, seconds, memory predicted and measured, and what was found."""
    how = ", ".join(filter(None, (report.strategy, _within(report.resident))))
    what = f"{format_count(report.parameters)} parameters in {report.dtype} on {_devices(report)}, {how}"
    headline = f"  {report.kind or 'of unknown kind'}, {what}"
    yield Text.assemble((report.class_name, "bold cyan"), headline)
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    facts.add_row("seconds", ", ".join(f"{name} {value:.2f}" for name, value in report.seconds.items() if value))
    facts.add_row("predicted", _memory(report.predicted))
    facts.add_row("measured", f"{_memory(report.measured)} (mapped pages count once they are used)")
    _add_precision(facts, report)
    if report.cache != "off":
        facts.add_row("cache", _CACHE[report.cache])
    if report.generated_tokens:
        rate = report.generated_tokens / max(report.seconds.get("generate", 0.0), 1e-9)
        facts.add_row("generated", f"{report.generated_tokens} tokens, {rate:.1f} a second")
    yield facts
    yield from _names("missing, initialised at random", report.missing, style="red")
    yield from _names("unexpected, not used", report.unexpected, style="yellow")
    if report.non_finite is not None:
        found = [f"{name}: {count:,} elements are NaN or infinite" for name, count in report.non_finite.items()]
        yield from _names("not finite", found, style="red")
        if not found:
            yield Text("all weights are finite")


def _add_precision(facts: Table, report: PlanReport | LoadReport) -> None:
    """What was chosen, and what else was looked at."""
    if report.candidates:
        *others, chosen = report.candidates
        facts.add_row("precision", f"{chosen.precision}: {format_bytes(chosen.nbytes)}, fits")
        for other in reversed(others):
            facts.add_row("", f"{other.precision}: {format_bytes(other.nbytes)}, {'fits' if other.fits else 'does not fit'}")


def _units(units: tuple[UnitLine, ...]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("unit", "tensors", "read", "kept", "how"):
        table.add_column(title, justify="right" if title in ("tensors", "read", "kept") else "left", overflow="fold")
    for _, alike in groupby(units, key=lambda unit: (re.sub(r"\d+", "#", unit.name), unit.tensors, unit.read_bytes, unit.actions)):
        folded = list(alike)
        first = folded[0]
        name = first.name if len(folded) == 1 else f"{first.name} .. {folded[-1].name.rsplit('.', 1)[-1]}  ({len(folded)} alike)"
        sizes = (str(first.tensors), format_bytes(first.read_bytes), format_bytes(first.kept_bytes))
        table.add_row(printable(name), *sizes, "; ".join(first.actions))
    return table


def _devices(report: PlanReport | LoadReport) -> str:
    return report.device if report.device_map is None else ", ".join(dict.fromkeys(report.device_map.values()))


def _within(resident: int | None) -> str:
    return "" if resident is None else f"at most {format_bytes(resident)} of weights in memory"


def _memory(memory: Memory) -> str:
    parts = [f"{format_bytes(memory.anonymous)} anonymous", f"{format_bytes(memory.mapped)} file-mapped"]
    if memory.device:
        parts.append(f"{format_bytes(memory.device)} on the device")
    return ", ".join(parts)


def _names(title: str, names: list[str] | tuple[str, ...], *, style: str = "") -> Iterator[Text]:
    if names:
        rest = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
        shown = ", ".join(printable(name, limit=120) for name in names[:_MOST_NAMES])
        yield Text.assemble((f"{title}: ", style), f"{shown}{rest}")
