"""The logit lens as a picture: a row for each layer, a column for each token, the likeliest next token in every cell."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..loader.errors import MissingDependencyError, UsageError
from ..loader.text import printable
from .lens import LensLine
from .new_file import write_new_bytes
from .top_tokens import Candidate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_COLUMNS, _MOST_CHARACTERS = 40, 10  # tokens of a prompt (its last ones), characters of a token
_ENDINGS = (".png", ".svg", ".pdf")
_TEXT = {"fontsize": 7, "parse_math": False}


def check_plot(path: Path) -> None:
    """Raises UsageError for a name that no picture has, MissingDependencyError without matplotlib."""
    if path.suffix not in _ENDINGS:
        raise UsageError(f"{path} is not called as a picture is", hint=f"end its name in {', '.join(_ENDINGS)}")
    if find_spec("matplotlib") is None:
        raise MissingDependencyError("pictures need matplotlib", hint='pip install "mlload[plot]"')


def plot_lens(lines: Sequence[LensLine], prompts: Sequence[Sequence[str]], path: Path) -> None:
    """Draw what the lens shows of every prompt, whose tokens `prompts` gives as texts, one below the other."""
    from matplotlib.figure import Figure

    rows = len({line.layer for line in lines})
    columns = min(_MOST_COLUMNS, max(map(len, prompts)))
    figure = Figure(figsize=(3 + 0.7 * columns, (1.5 + 0.25 * rows) * len(prompts)), layout="constrained")
    for number, axes in enumerate(figure.subplots(len(prompts), squeeze=False)[:, 0]):
        cells = {(line.layer, line.position): line.tokens[0] for line in lines if line.prompt == number}
        _draw(axes, cells, prompts[number])
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # of a script that the font lacks
        figure.savefig(picture, format=path.suffix[1:])
    write_new_bytes(path, picture.getvalue())


def _draw(axes: Axes, cells: Mapping[tuple[int, int], Candidate], tokens: Sequence[str]) -> None:
    layers = sorted({layer for layer, _ in cells})
    positions = range(max(0, len(tokens) - _MOST_COLUMNS), len(tokens))
    best = [[cells[layer, position] for position in positions] for layer in layers]
    image = axes.imshow([[cell.probability for cell in row] for row in best], aspect="auto", origin="lower", vmin=0, vmax=1)
    for row, line in enumerate(best):
        for column, cell in enumerate(line):
            colour = "black" if cell.probability > 0.6 else "white"
            axes.text(column, row, _shown(cell.text or str(cell.token)), ha="center", va="center", color=colour, **_TEXT)
    axes.set_xticks(range(len(positions)), [_shown(tokens[position]) for position in positions], **_TEXT)
    axes.set_yticks(range(len(layers)), [str(layer) for layer in layers], **_TEXT)
    axes.set_ylabel("layers gone through")
    axes.figure.colorbar(image, ax=axes, label="probability")


def _shown(token: str) -> str:
    return printable(token.replace(" ", "\N{OPEN BOX}"), limit=_MOST_CHARACTERS)
