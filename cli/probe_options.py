"""The options of `probe-layers`: which texts, what of them, and where to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Texts = Annotated[list[str] | None, typer.Option("--text", metavar="TEXT", help="A text; as often as you like.")]
TextsFile = Annotated[
    str | None,
    typer.Option("--file", metavar="PATH", help="Texts: one a line, or a column of .jsonl, .csv, .tsv, .parquet; - is standard input."),
]
Column = Annotated[str, typer.Option("--column", metavar="NAME", help="The column that holds the texts.")]
SpanColumn = Annotated[
    str | None, typer.Option("--span-column", metavar="NAME", help="The column that holds the characters of --tokens span.")
]
Layers = Annotated[
    str | None, typer.Option("--layers", metavar="LAYERS", help="0,6,12 or -1 or 0:13:2; 0 is the embeddings; all if not given.")
]
Stack = Annotated[str | None, typer.Option("--stack", help="Of a seq2seq model: encoder, decoder or both.")]
Pool = Annotated[
    str, typer.Option("--pool", help="none, mean, cls, last or max of a text's tokens; auto: as the model's makers do, else none.")
]
Tokens = Annotated[
    str | None, typer.Option("--tokens", metavar="WHICH", help="words, word:bank, 3:9 (characters) or span; all tokens if not given.")
]
Attentions = Annotated[bool, typer.Option("--attentions", help="Keep attention maps, too.")]
CrossAttentions = Annotated[bool, typer.Option("--cross-attentions", help="Keep a decoder's maps of its encoder, too.")]
MaxLength = Annotated[int | None, typer.Option("--max-length", min=1, help="Tokens of a text; as many as the model reads if not given.")]
BatchTokens = Annotated[int | None, typer.Option("--batch-tokens", min=1, help="Tokens computed at once, padding counted.")]
Output = Annotated[Path | None, typer.Option("--output", metavar="DIR", help="Keep the states there; a killed job goes on when run again.")]
Format = Annotated[str, typer.Option("--format", help="What they are kept as: safetensors, parquet, npz or zarr.")]
TextsPerShard = Annotated[int, typer.Option("--texts-per-shard", min=1, help="What a killed job loses at most.")]
Labels = Annotated[
    str | None, typer.Option("--labels", metavar="COLUMN", help="A linear probe on each layer for the labels in this column of --file.")
]
Similarity = Annotated[str | None, typer.Option("--similarity", metavar="cosine|cka", help="Compare every layer with every other.")]
Plot = Annotated[str | None, typer.Option("--plot", metavar="FILE", help="A picture: .png, .svg or .pdf; - draws on the terminal.")]
Lens = Annotated[bool, typer.Option("--logit-lens", help="The likeliest tokens after every layer, for each --text.")]
ENGINES = ("local", "ray")
Engine = Annotated[str, typer.Option("--engine", metavar="local|ray", help="What computes: this process, or actors on Ray.")]
Actors = Annotated[int, typer.Option("--actors", min=1, help="With --engine ray: processes, each with the model.")]
