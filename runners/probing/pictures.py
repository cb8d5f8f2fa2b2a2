"""A probe as a picture: norms by layer, layers compared, labels found, and the attention maps of one text."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...loader.errors import MissingDependencyError, UsageError
from ...loader.text import counted, printable
from ...loader.writing import replacing_with
from .report import short

if TYPE_CHECKING:
    from .label_probe import LabelReport
    from .layer_similarity import LayerSimilarity
    from .reader import Probe
    from .report import ProbeReport

_ENDINGS = (".png", ".svg", ".pdf")
_MOST_MAPS = 12
_INCHES = 4.0


def check_picture(path: Path) -> None:
    """Raises UsageError for a file that can't be drawn to, MissingDependencyError without matplotlib: before anything is computed."""
    if path.suffix.lower() not in _ENDINGS:
        raise UsageError(f"{path} can't be drawn", hint=f"end it in {', '.join(_ENDINGS)}; - draws on the terminal")
    if find_spec("matplotlib") is None:
        raise MissingDependencyError("a picture needs matplotlib", hint='pip install "mlload[plot]"')


def draw(report: ProbeReport, probe: Probe, path: Path) -> None:
    """Write the picture of a report to `path`; the attention maps are those of the first text."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    maps = [name for name in probe.names if "attentions" in name][:_MOST_MAPS]
    panels = [partial(_norms, report)]
    if report.layer_similarity is not None:
        panels.append(partial(_square, report.layer_similarity))
    if report.labels is not None:
        panels.append(partial(_labels, report.labels))
    tokens = () if report.attention is None else report.attention.tokens
    panels += [partial(_map, probe, name, tokens) for name in maps]
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    with mpl.rc_context({"svg.hashsalt": "mlload"}):
        figure = Figure((columns * _INCHES * 1.2, rows * _INCHES), layout="constrained")
        FigureCanvasAgg(figure)
        for number, panel in enumerate(panels, 1):
            panel(figure.add_subplot(rows, columns, number))
        rows = "each token" if report.pooling == "none" else f"{report.pooling} of tokens"
        figure.suptitle(f"{printable(report.reference, limit=60)}: {counted(report.texts, 'text')}, {rows}", parse_math=False)
        with replacing_with(path) as scratch, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # of tokens in scripts that the font does not have
            figure.savefig(scratch, format=path.suffix[1:].lower(), dpi=150)


def _norms(report: ProbeReport, axes: Any) -> None:
    for stack in dict.fromkeys(line.stack for line in report.layers):
        lines = [line for line in report.layers if line.stack == stack]
        axes.plot([line.layer for line in lines], [line.norm for line in lines], marker="o", label=f"{stack}: norm")
        axes.plot([line.layer for line in lines], [line.spread for line in lines], marker=".", linestyle=":", label=f"{stack}: spread")
    axes.set(title="Rows by layer", xlabel="layer (0: the embeddings)", yscale="log")
    axes.legend(fontsize="small")


def _square(similarity: LayerSimilarity, axes: Any) -> None:
    values = [[float("nan") if value is None else value for value in line] for line in similarity.matrix]
    image = axes.imshow(values, vmin=min(0.0, min(min(line) for line in values)), vmax=1, cmap="viridis")
    names = [short(name) for name in similarity.names]
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize="x-small")
    axes.set_yticks(range(len(names)), names, fontsize="x-small")
    axes.set_title(f"Layers compared: {'linear CKA' if similarity.how == 'cka' else 'cosine'}")
    axes.figure.colorbar(image, ax=axes, shrink=0.8)


def _labels(report: LabelReport, axes: Any) -> None:
    places, names = range(len(report.scores)), [short(score.name) for score in report.scores]
    accuracies, deviations = [score.accuracy for score in report.scores], [score.deviation for score in report.scores]
    axes.errorbar(places, accuracies, deviations, marker="o", label="labels")
    axes.plot(places, [score.control for score in report.scores], marker=".", linestyle=":", label="shuffled labels")
    axes.axhline(report.majority, color="grey", linewidth=1, label="the commonest label")
    axes.set_xticks(places, names, rotation=90, fontsize="x-small")
    axes.set(title="A linear probe for the labels", ylabel="accuracy", ylim=(0, 1.02))
    axes.legend(fontsize="small")


def _map(probe: Probe, name: str, tokens: Sequence[str], axes: Any) -> None:
    axes.imshow(probe[name][0].float().mean(dim=0).numpy(), cmap="magma", vmin=0)
    axes.set(title=f"{short(name)}, mean of heads", xlabel="token read", ylabel="token")
    if tokens:
        axes.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize="x-small", parse_math=False)
        axes.set_yticks(range(len(tokens)), tokens, fontsize="x-small", parse_math=False)
