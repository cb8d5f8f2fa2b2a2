"""What running part of a model did, as tables for a person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ..layers.lens import LensLine
from ..layers.partial_report import PartialReport
from ..layers.top_tokens import Candidate
from ..loader.text import counted, format_bytes, printable

_MOST_CHARACTERS = 60  # of a prompt, above what is said of it


def partial_tables(report: PartialReport) -> Iterator[RenderableType]:
    """What was generated, or the likeliest tokens, or after each layer; then the facts."""
    for number, text in enumerate(report.generated):
        yield from _prompt(report, number)
        yield printable(text, limit=100_000)
    for top in report.top:
        yield from _prompt(report, top.prompt)
        yield _candidates(top.tokens)
    for number in dict.fromkeys(line.prompt for line in report.lens):
        yield from _prompt(report, number)
        yield _lens([line for line in report.lens if line.prompt == number])
    yield _facts(report)


def _facts(report: PartialReport) -> Table:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    facts.add_row("model", f"{report.class_name} in {report.dtype} on {report.device}")
    facts.add_row("layers", f"{report.first}:{report.last} of {report.num_layers} in {printable(report.stack)}")
    if report.state is not None:
        shape = " x ".join(f"{size:,}" for size in report.state.shape)
        following = "norm and head" if report.state.layer >= report.num_layers else f"layer {report.state.layer}"
        facts.add_row("next", f"{following}, given {shape} {report.state.dtype}")
    if report.streamed is not None:
        read = f"{report.streamed.units_read} units of {report.streamed.units}, {format_bytes(report.streamed.bytes_read)}"
        facts.add_row("read", f"{read}, at most {format_bytes(report.streamed.peak_resident_bytes)} in memory")
    facts.add_row("tokens", f"{sum(map(len, report.tokens)):,} in {counted(len(report.tokens), 'prompt')}")
    facts.add_row("seconds", ", ".join(f"{name} {value:.2f}" for name, value in report.seconds.items()))
    for name, path in (("state", report.output), ("hidden states", report.hidden_output), ("picture", report.plot)):
        if path is not None:
            facts.add_row(name, printable(path))
    return facts


def _prompt(report: PartialReport, number: int) -> Iterator[Text]:
    """The prompt, where there are several."""
    if len(report.tokens) > 1:
        text = report.texts[number] if report.texts else f"prompt {number}"
        yield Text(printable(text, limit=_MOST_CHARACTERS), style="bold")


def _candidates(tokens: Sequence[Candidate]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for candidate in tokens:
        table.add_row(f"{candidate.probability:6.1%}", _shown(candidate))
    return table


def _lens(lines: Sequence[LensLine]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("after", justify="right")
    for place in range(max(len(line.tokens) for line in lines)):
        table.add_column(("likeliest", "second", "third")[place] if place < 3 else f"{place + 1}th")
    for line in lines:
        table.add_row(str(line.layer), *(f"{_shown(candidate)} {candidate.probability:.0%}" for candidate in line.tokens))
    return table


def _shown(candidate: Candidate) -> str:
    return str(candidate.token) if candidate.text is None else f"'{printable(candidate.text, limit=40)}'"
