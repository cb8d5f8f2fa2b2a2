"""Rows of hidden states: which tokens go into which row, and what is made of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

POOLINGS = ("none", "mean", "cls", "last", "max")


@dataclass(frozen=True)
class Groups:
    """The tokens of a batch that make up each row.

    `tokens` are places in the batch flattened to [texts * length], group after group; `sizes` how many belong to each. A group may be
    empty.
    """

    tokens: Tensor
    sizes: Tensor

    @classmethod
    def of_texts(cls, lengths: Sequence[int], width: int) -> Groups:
        """A group for each text: its first tokens, as many as `lengths` says, in a batch padded on the right to `width`."""
        sizes = torch.tensor(lengths)
        starts = torch.arange(len(lengths)) * width
        inside = torch.arange(int(sizes.sum())) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
        return cls(starts.repeat_interleave(sizes) + inside, sizes)

    @classmethod
    def of_lists(cls, groups: Sequence[Sequence[int]]) -> Groups:
        """Groups written out."""
        tokens = torch.tensor([token for group in groups for token in group], dtype=torch.long)
        return cls(tokens, torch.tensor([len(group) for group in groups], dtype=torch.long))

    def pooled(self, states: Tensor, how: str) -> Tensor:
        """[texts, length, width] as rows [groups, width], or a row for each token with `none`.

        Single tokens come as they are, several averaged (`mean`) or their largest elements (`max`) in float32; an empty group is NaN.
        """
        flat, tokens, sizes = states.flatten(0, 1), self.tokens.to(states.device), self.sizes.to(states.device)
        if how == "none":
            return flat.index_select(0, tokens)
        ends = sizes.cumsum(0)
        if how in ("mean", "max"):
            rows = embedding_bag(tokens, flat.float(), ends - sizes, mode=how)
        else:
            chosen = (ends - sizes if how == "cls" else ends - 1).clamp(0, max(len(tokens) - 1, 0))
            rows = flat.index_select(0, tokens[chosen]) if len(tokens) else flat.new_zeros(len(sizes), flat.shape[1])
        return rows if bool(sizes.all()) else rows.masked_fill((sizes == 0)[:, None], float("nan"))
