"""A probe's report as tables for a person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.color import Color
from rich.console import RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from ..loader.text import counted, printable
from ..runners.probing.label_probe import LabelReport
from ..runners.probing.report import ProbeReport, short
from .partial_tables import lens_table

_BAR = 30  # characters of the longest
_CELL = 4  # characters of a heat map's columns
_POOLINGS = {"none": "a row a token", "mean": "the mean of a text's tokens", "cls": "a text's first token"}
_POOLINGS |= {"last": "a text's last token", "max": "the largest of a text's tokens"}


def probe_tables(report: ProbeReport, *, drawn: bool = False) -> Iterator[RenderableType]:
    """Headline, facts, a row for each layer, and what else was asked; `drawn` puts bars and attention maps beside the numbers."""
    yield Text.assemble((report.class_name, "bold cyan"), f"  {report.kind or 'of unknown kind'}  {report.dtype} on {report.device}")
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    facts.add_row("texts", _texts(report))
    facts.add_row("rows", f"{report.rows:,} in each layer, {_rows(report)}")
    computed = report.texts - report.resumed_texts
    if computed and report.seconds["compute"]:
        rate = computed / sum(report.seconds[name] for name in ("tokenize", "compute", "write"))
        facts.add_row("speed", f"{rate:,.0f} texts a second, {report.batch_tokens:,} tokens at once")
    if report.output is not None:
        again = f", {report.resumed_texts:,} texts were there" if report.resumed_texts else ""
        facts.add_row("output", f"{printable(report.output)}: {counted(report.shards, 'shard')} of {report.format}{again}")
    yield facts
    yield Text()
    yield _layers(report, drawn=drawn)
    if report.maps:
        yield Text(f"attention maps: {', '.join(report.maps)}")
    if report.layer_similarity is not None:
        names = [short(name) for name in report.layer_similarity.names]
        measure = "linear CKA" if report.layer_similarity.how == "cka" else "cosine"
        yield from _heat_map(f"layers compared ({measure}, {report.layer_similarity.rows:,} rows)", names, report.layer_similarity.matrix)
    if report.labels is not None:
        yield from _labels(report.labels)
    if report.lens is not None:
        for number, text in enumerate(report.lens.texts):
            yield Text(f"\nafter each layer: {printable(text, limit=60)}")
            yield lens_table([line for line in report.lens.lines if line.prompt == number])
    if drawn and report.attention is not None:
        for name, matrix in report.attention.maps.items():
            yield from _heat_map(f"{short(name)}, mean of heads", report.attention.tokens, matrix)


def _texts(report: ProbeReport) -> str:
    parts = [f"{report.texts:,} of {counted(report.read_tokens, 'token')}"]
    if report.truncated_texts:
        parts.append(f"{report.truncated_texts:,} cut to {report.max_length:,} tokens, {report.dropped_tokens:,} dropped")
    if report.empty_texts:
        parts.append(f"{report.empty_texts:,} without a token")
    return "; ".join(parts)


def _rows(report: ProbeReport) -> str:
    if report.tokens is None:
        return _POOLINGS[report.pooling]
    return f"tokens of {printable(report.tokens, limit=60)}" + ("" if report.pooling == "none" else f", {report.pooling} of each group")


def _layers(report: ProbeReport, *, drawn: bool) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("layer", "shape", "norm", "mean", "spread", "similarity"):
        table.add_column(title, justify="left" if title == "layer" else "right", no_wrap=True)
    if drawn:
        table.add_column("norm", no_wrap=True)
    several = len({line.stack for line in report.layers}) > 1
    longest = max(line.norm for line in report.layers) or 1.0
    for line in report.layers:
        name = "embeddings" if line.layer == 0 else str(line.layer)
        shape = f"{line.rows:,} x {line.width:,}"
        values = (f"{line.norm:.4g}", f"{line.mean:.4g}", f"{line.spread:.4g}")
        similarity = "" if line.similarity is None else f"{line.similarity:.4f}"
        bar = ("█" * max(1, round(_BAR * line.norm / longest)),) if drawn else ()
        table.add_row(f"{line.stack} {name}" if several else name, shape, *values, similarity, *bar)
    return table


def _labels(report: LabelReport) -> Iterator[RenderableType]:
    """Accuracies layer by layer, the best one marked."""
    yield Text()
    kinds = f"{report.classes} labels on {report.texts:,} texts, {report.folds} folds"
    yield Text(f"linear probe for {kinds}; always saying the commonest: {report.majority:.3f}", style="dim")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("layer", "accuracy", "deviation", "shuffled", "selectivity"):
        table.add_column(title, justify="left" if title == "layer" else "right", no_wrap=True)
    best = max(score.accuracy for score in report.scores)
    for score in report.scores:
        values = (score.accuracy, score.deviation, score.control, score.selectivity)
        table.add_row(short(score.name), *(f"{value:.3f}" for value in values), style="bold" if score.accuracy == best else "")
    yield table


def _heat_map(title: str, names: Sequence[str], matrix: Sequence[Sequence[float | None]]) -> Iterator[RenderableType]:
    """A square of numbers in hundredths, on a terminal on a ground that is the brighter, the larger they are."""
    yield Text()
    yield Text(title, style="dim")
    table = Table(box=None, padding=0, header_style="dim", show_edge=False)
    table.add_column("", no_wrap=True)
    numbers = [str(number) for number in range(len(names))] if any(len(name) > _CELL for name in names) else names
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True, min_width=_CELL)
    values = [value for line in matrix for value in line if value is not None]
    low, high = min(0.0, *values), max(*values, 1e-9)
    for number, name, line in zip(numbers, names, matrix, strict=True):
        label = f"{printable(name, limit=20)}  " if numbers is names else f"{number} {printable(name, limit=20)}  "
        table.add_row(Text(label, style="dim"), *(_cell(value, low, high) for value in line))
    yield table


def _cell(value: float | None, low: float, high: float) -> Text:
    if value is None:
        return Text("-")
    level = (value - low) / (high - low)
    ground = Color.from_rgb(round(20 + 225 * level), round(20 + 180 * level**2), round(80 - 40 * level))
    return Text(f"{100 * value:.0f}", style=Style(color="black" if level > 0.6 else "white", bgcolor=ground))
