"""`mlload probe-layers`: run texts through a model, look at its hidden states layer by layer, keep them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from .options import Debug, Device, Dtype, Json, Model, Quantize, Resident, TrustRemoteCode
from .output import print_json, print_tables
from .probe_options import (
    ENGINES,
    Actors,
    Attentions,
    BatchTokens,
    Column,
    CrossAttentions,
    Engine,
    Format,
    Labels,
    Layers,
    Lens,
    MaxLength,
    Output,
    Plot,
    Pool,
    Similarity,
    SpanColumn,
    Stack,
    Texts,
    TextsFile,
    TextsPerShard,
    Tokens,
)

if TYPE_CHECKING:
    from ..runners.probing.report import ProbeReport
    from ..runners.probing.texts import Example


def probe_layers(
    model: Model,
    text: Texts = None,
    file: TextsFile = None,
    column: Column = "text",
    span_column: SpanColumn = None,
    labels: Labels = None,
    layers: Layers = None,
    stack: Stack = None,
    pool: Pool = "auto",
    tokens: Tokens = None,
    attentions: Attentions = False,
    cross_attentions: CrossAttentions = False,
    similarity: Similarity = None,
    plot: Plot = None,
    logit_lens: Lens = False,
    max_length: MaxLength = None,
    batch_tokens: BatchTokens = None,
    engine: Engine = "local",
    actors: Actors = 2,
    output: Output = None,
    format: Format = "safetensors",
    texts_per_shard: TextsPerShard = 1024,
    dtype: Dtype = "auto",
    device: Device = None,
    quantize: Quantize = None,
    resident: Resident = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run texts through a model: a table of its layers, and their hidden states in a folder."""
    del debug  # read where errors are turned into lines
    texts = _texts(text, file, column=column, span_column=span_column)
    looks = {"labels": _labels(file, labels), "similarity": similarity, "plot": plot, "logit_lens": logit_lens}
    from ..loader.settings import parse_bytes
    from ..runners.models import load_model
    from ..runners.probing.probe import probe_layers as probe
    from ..runners.probing.settings import ProbeSettings

    settings = ProbeSettings(
        layers=layers,
        stack=stack,
        pool=pool,
        tokens=tokens,
        max_length=max_length,
        batch_tokens=batch_tokens,
        attentions=attentions,
        cross_attentions=cross_attentions,
        texts_per_shard=texts_per_shard,
    )
    size = None if resident is None else parse_bytes(resident)
    options = {"quantize": quantize, "attentions": settings.wants_maps, "resident": size, "trust_remote_code": trust_remote_code}
    load = partial(load_model, model, device, dtype=dtype if dtype != "auto" else None, head=False, **options)
    run = partial(probe, load, texts, settings, output=output, format=format, actors=_actors(engine, actors), **looks)
    _show(run, text, file, drawn=plot == "-", as_json=as_json)


def _show(run: Callable[..., ProbeReport], text: list[str] | None, file: str | None, *, drawn: bool, as_json: bool) -> None:
    """Run the probe under a bar, and print what came of it."""
    from ..runners.probing.texts import count_texts
    from .progress import text_progress

    with text_progress(lambda: len(text) if text else count_texts(file or "-")) as progress:
        report = run(progress=progress)
    if as_json:
        print_json(report.to_json())
    else:
        from .probe_tables import probe_tables

        print_tables(probe_tables(report, drawn=drawn))


def _texts(texts: list[str] | None, file: str | None, *, column: str, span_column: str | None) -> Iterable[str | Example]:
    """Where the texts are. Raises UsageError where they are nowhere, or in two places."""
    from ..loader.errors import UsageError
    from ..runners.probing.texts import Columns, TextFile

    if texts and file is not None:
        raise UsageError("--text and --file both give texts", hint="give one of them")
    if texts:
        return texts
    if file is None and sys.stdin.isatty():
        raise UsageError("there is no text", hint='give --text "...", --file, or a text a line on standard input')
    return TextFile(file or "-", Columns(column, span_column))


def _actors(engine: str, count: int) -> int | None:
    """How many actors the engine has; None for one that has none. Raises UsageError for an unknown engine."""
    from ..loader.errors import UsageError
    from ..loader.text import did_you_mean

    if engine not in ENGINES:
        raise UsageError(f"unknown engine '{engine}'", hint=did_you_mean(engine, ENGINES) or f"known: {', '.join(ENGINES)}")
    return count if engine == "ray" else None


def _labels(file: str | None, column: str | None) -> list[str] | None:
    """What stands in the column of labels. Raises UsageError without a file that has columns."""
    from ..loader.errors import UsageError
    from ..runners.probing.texts import read_labels

    if column is None:
        return None
    if file is None:
        raise UsageError("--labels names a column, but there is no --file", hint="name a .jsonl, .csv, .tsv or .parquet file")
    return read_labels(file, column)
