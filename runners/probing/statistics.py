"""What a table says of a layer: sums over its rows, which add up whatever part of a corpus they come from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity


@dataclass
class Sums:
    """Of all rows of one layer: their number, lengths (L2), elements, squares, and cosines with the rows of the layer kept before it."""

    rows: int = 0
    width: int = 0
    lengths: float = 0.0
    elements: float = 0.0
    squares: float = 0.0
    cosines: float = 0.0

    def add(self, rows: Tensor, before: Tensor | None) -> None:
        """Count rows [rows, width]; empty ones (NaN) are left out."""
        there = rows.float()
        there = there if there.isfinite().all() else there[there.isfinite().all(dim=1)]
        norms = torch.linalg.vector_norm(there, dim=1)
        self.rows += len(there)
        self.width = there.shape[1]
        self.lengths += float(norms.sum())
        self.elements += float(there.sum())
        self.squares += float(norms.square().sum())
        if before is not None and before.shape == rows.shape:
            cosines = cosine_similarity(rows.float(), before.float(), dim=1)
            self.cosines += float(cosines.nansum())

    def merge(self, other: Sums) -> None:
        """Count another part of the corpus."""
        self.rows += other.rows
        self.width = other.width or self.width
        self.lengths += other.lengths
        self.elements += other.elements
        self.squares += other.squares
        self.cosines += other.cosines


@dataclass(frozen=True)
class LayerLine:
    """One kept layer: its rows and what they are like.

    `norm` is the mean length of a row, `mean` and `spread` (standard deviation) are of all elements, `similarity` is the mean cosine
    of its rows with those of the layer kept before it, None for the first.
    """

    stack: str
    layer: int
    rows: int
    width: int
    norm: float
    mean: float
    spread: float
    similarity: float | None


def layer_line(stack: str, layer: int, sums: Sums, *, is_first: bool) -> LayerLine:
    """The line of a table for the sums of a layer."""
    rows, elements = max(sums.rows, 1), max(sums.rows * sums.width, 1)
    mean = sums.elements / elements
    spread = math.sqrt(max(sums.squares / elements - mean * mean, 0.0))
    similarity = None if is_first else sums.cosines / rows
    return LayerLine(stack, layer, sums.rows, sums.width, sums.lengths / rows, mean, spread, similarity)
