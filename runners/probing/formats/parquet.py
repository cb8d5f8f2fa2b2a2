"""Shards as parquet files: a row a text, a column a layer; what pandas and `datasets` read.

A pooled layer is a fixed-size list of floats, any other a list of such lists; an attention map is one list, [heads, tokens, tokens] row
by row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow
import torch
from pyarrow import parquet
from torch import Tensor

from .arrays import to_array, to_tensor

_TEXT, _LENGTH = "text", "length"


def write(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path) -> None:
    """Write a shard to `path`."""
    job, first = json.loads(metadata["probe"]), int(metadata["first"])
    offsets, lengths = tensors["offsets"], tensors["lengths"]
    columns: dict[str, Any] = {_TEXT: pyarrow.array(range(first, first + len(lengths))), _LENGTH: pyarrow.array(to_array(lengths))}
    is_pooled = job["pooling"] != "none" and job["tokens"] is None
    for name, tensor in tensors.items():
        if name == "input_ids":
            columns[name] = _lists(_ends(lengths), pyarrow.array(to_array(tensor)))
        elif tensor.dim() == 2:
            rows = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(to_array(tensor).reshape(-1)), tensor.shape[1])
            columns[name] = rows if is_pooled else _lists(offsets, rows)
        elif name not in ("offsets", "lengths"):
            squares = lengths.long().square()
            columns[name] = _lists(_ends(squares * (tensor.numel() // max(int(squares.sum()), 1))), pyarrow.array(to_array(tensor)))
    table = pyarrow.table(columns).replace_schema_metadata(dict(metadata))
    parquet.write_table(table, path)


def read(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a shard, in memory."""
    table = parquet.read_table(path).combine_chunks()
    tensors = {"lengths": to_tensor(_flat(table, _LENGTH).to_numpy(zero_copy_only=False))}
    rows = torch.ones(table.num_rows, dtype=torch.int64)
    for name in table.column_names[2:]:
        column = _flat(table, name)
        if pyarrow.types.is_list(column.type):
            if pyarrow.types.is_fixed_size_list(column.type.value_type):
                rows = to_tensor(column.value_lengths().to_numpy(zero_copy_only=False)).long()
            column = column.flatten()
        width = column.type.list_size if pyarrow.types.is_fixed_size_list(column.type) else None
        values = to_tensor((column if width is None else column.flatten()).to_numpy(zero_copy_only=False))
        tensors[name] = values if width is None else values.view(-1, width)
    return {**tensors, "offsets": _ends(rows)}


def _ends(counts: Tensor) -> Tensor:
    return torch.cat((torch.zeros(1, dtype=torch.int64), counts.long().cumsum(0)))


def _lists(ends: Tensor, values: Any) -> Any:
    return pyarrow.ListArray.from_arrays(pyarrow.array(ends.int().numpy()), values)


def _flat(table: Any, name: str) -> Any:
    column = table.column(name)
    return column.chunk(0) if column.num_chunks else pyarrow.array([], type=column.type)
