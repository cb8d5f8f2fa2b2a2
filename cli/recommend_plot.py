"""A recommendation as a picture: for each candidate what takes its memory, one bar on the other, beside what there is."""

from __future__ import annotations

import io
from importlib import import_module
from typing import Any

from ..loader.recommend.candidates import Candidate
from ..loader.recommend.recommendation import Recommendation
from ..loader.text import printable

_GIB = 1 << 30
_BARS = 16


def plotted(found: Recommendation, form: str) -> bytes:
    """The picture's file."""
    figures: Any = import_module("matplotlib.figure")  # without pyplot: no window, nothing global
    shown = found.candidates[:_BARS]
    figure = figures.Figure(figsize=(11, 2 + 0.45 * len(shown)), layout="constrained")
    axes = figure.subplots()
    axes.set_title(printable(f"{found.reference}: {found.use.batch} x {found.use.context:,} tokens"), parse_math=False)
    _draw(axes, shown)
    for name, nbytes in _limits(found).items():
        axes.axvline(nbytes / _GIB, color="black", linestyle="--", linewidth=1)
        axes.text(nbytes / _GIB, -0.6, f" {name}", fontsize="small", parse_math=False)
    picture = io.BytesIO()
    figure.savefig(picture, format=form, dpi=120)
    return picture.getvalue()


def _draw(axes: Any, shown: tuple[Candidate, ...]) -> None:
    """Weights first; what lies in different places side by side, in one colour."""
    names = list(dict.fromkeys(component.name for each in shown for component in each.footprint.components))
    for place, each in enumerate(shown):
        left = 0.0
        for component in each.footprint.components:
            width = sum(component.nbytes.values()) / _GIB
            axes.barh(place, width, left=left, color=f"C{names.index(component.name)}", alpha=1.0 if each.fits else 0.35)
            left += width
    for number, name in enumerate(names):
        axes.barh(0, 0, color=f"C{number}", label=name)
    axes.set_yticks(range(len(shown)), [each.way.label for each in shown], parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel("GiB, all places together (pale: does not fit)")
    if shown:
        axes.legend(fontsize="small")


def _limits(found: Recommendation) -> dict[str, int]:
    hardware = found.machine.hardware
    limits = {f"cuda:{index}": each.free_bytes for index, each in enumerate(hardware.cuda)}
    limits |= {"mps": hardware.mps.free_bytes} if hardware.mps else {}
    return limits | ({"host": hardware.free_bytes} if found.machine.host_is_known else {})
