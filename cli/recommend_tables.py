"""A recommendation as tables for a person: what to do, the memory of it by component, and what else there is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ..loader.recommend.candidates import Candidate
from ..loader.recommend.component import Bytes
from ..loader.recommend.recommendation import OBJECTIVES, Recommendation
from ..loader.text import format_bytes, printable

if TYPE_CHECKING:
    from ..loader.recommend.verify import Verified

_SHOWN = 12


def recommend_tables(found: Recommendation, measured: Verified | None, *, explain: bool, show_all: bool) -> Iterator[RenderableType]:
    """Headline, components of the best, measured beside predicted, candidates."""
    chosen = found.best or found.nearest
    yield _headline(found, chosen)
    if chosen is not None:
        yield _facts(found, chosen)
        yield Text()
        yield _components(chosen, explain=explain)
        if measured is not None:
            yield Text()
            yield _measured(measured)
    yield Text()
    yield _candidates(found, show_all=show_all)


def _headline(found: Recommendation, chosen: Candidate | None) -> Text:
    if chosen is None:
        return Text.assemble((printable(found.reference), "bold cyan"), "  can't be loaded here")
    verb = "" if found.best is not None else "  does not fit; nearest:"
    return Text.assemble((printable(found.reference), "bold cyan"), f"{verb}  {chosen.way.label}")


def _facts(found: Recommendation, chosen: Candidate) -> Table:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    use, hardware = found.use, found.machine.hardware
    facts.add_row("for", f"{use.batch} x {use.context:,} tokens, {use.attention} attention")
    facts.add_row("objective", f"{found.objective}: {OBJECTIVES[found.objective][0]}")
    devices = [f"cuda:{index} {format_bytes(each.free_bytes)} free ({printable(each.name)})" for index, each in enumerate(hardware.cuda)]
    devices += [f"mps {format_bytes(hardware.mps.free_bytes)}"] if hardware.mps else []
    host = [f"host {format_bytes(hardware.free_bytes)} free, {hardware.cores} cores"] if found.machine.host_is_known else []
    facts.add_row("machine", "; ".join([*devices, *host]) + (" (described)" if found.machine.is_declared else ""))
    if found.machine.limits:
        facts.add_row("limit", ", ".join(f"{format_bytes(each.nbytes)} ({format_bytes(each.left)} left)" for each in found.machine.limits))
    if found.machine.disk is not None:
        rate = f", {found.machine.disk.read_rate / 1e9:.2g} GB/s" if found.machine.disk.read_rate else ""
        facts.add_row("disk", f"{format_bytes(found.machine.disk.free_bytes)} free{rate}")
    if chosen.way.resident is not None:
        facts.add_row("resident", f"{format_bytes(chosen.way.resident)} of weights at once")
    facts.add_row("speed", f"about {chosen.speed.seconds:.3g} s a token")
    return facts


def _components(chosen: Candidate, *, explain: bool) -> Table:
    taken = chosen.footprint
    places = list(taken.peak)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("memory")
    for place in places:
        table.add_column("file-mapped" if place == "mapped" else place, justify="right")
    if explain:
        table.add_column("how", overflow="fold")
        table.add_column("source", overflow="fold", style="dim")
    for each in taken.components:
        table.add_row(each.name, *_sizes(each.nbytes, places), *((each.arithmetic, each.source) if explain else ()))
    beside = "the widest of activations and logits counts"
    for name, nbytes in (("while loading", taken.loading), ("while computing", taken.computing), ("at most", taken.peak)):
        how = {"while loading": "framework + weights + loading", "while computing": beside, "at most": chosen.speed.arithmetic}
        table.add_row(name, *_sizes(nbytes, places), *((how[name] if name != "at most" else "", "") if explain else ()), style="bold")
    if explain:
        table.add_row("a token", *("" for _ in places), chosen.speed.arithmetic, "loader/recommend/speed.py")
    return table


def _sizes(nbytes: Bytes, places: list[str]) -> list[str]:
    return [format_bytes(nbytes[place]) if nbytes.get(place) else "-" for place in places]


def _measured(measured: Verified) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("verified", "predicted", "measured"):
        table.add_column(title, justify="left" if title == "verified" else "right")
    for place, nbytes in measured.predicted.items():
        table.add_row("both at once" if place == "host" else place, format_bytes(nbytes), format_bytes(measured.measured[place]))
    table.add_row("", "", f"{measured.error:+.1%} off")
    return table


def _candidates(found: Recommendation, *, show_all: bool) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("", "precision", "device", "strategy", "error", "s a token", "memory", "verdict"):
        table.add_column(title, justify="right" if title in ("", "error", "s a token", "memory") else "left", overflow="fold")
    shown = found.candidates if show_all else found.candidates[:_SHOWN]
    for number, each in enumerate(shown, 1):
        kept = "" if each.way.resident is None else f" in {format_bytes(each.way.resident)}"
        error, speed = f"{each.way.loss:.2%}" if each.way.loss else "-", f"{each.speed.seconds:.3g}"
        sizes = format_bytes(each.footprint.nbytes)
        style = "green" if each.fits else "dim"
        table.add_row(
            str(number),
            each.way.precision,
            "+".join(each.way.devices),
            each.way.manner + kept,
            error,
            speed,
            sizes,
            Text(printable(each.verdict), style=style),
        )
    if len(shown) < len(found.candidates):
        table.add_row("", f"and {len(found.candidates) - len(shown)} more: --all")
    return table
