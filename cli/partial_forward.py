"""`mlload partial-forward`: run some layers of a model, or all of them in less memory than it has weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Attention, Debug, Device, Dtype, Json, Model, Quantize, Resident, TrustRemoteCode
from .output import print_json, print_tables

if TYPE_CHECKING:
    from ..layers.partial_request import PartialRequest
    from ..loader.settings import ModelLoadingConfig

Texts = Annotated[list[str] | None, typer.Option("--text", metavar="TEXT", help="A prompt; several share one pass over the weights.")]
Ids = Annotated[str | None, typer.Option("--ids", metavar="1,2,3", help="Token ids in place of a prompt.")]
Input = Annotated[Path | None, typer.Option("--input", metavar="FILE", help="Go on from the state that --output wrote.")]
Output = Annotated[Path | None, typer.Option("--output", metavar="FILE", help="Write the state after the last of the layers there.")]
WithCache = Annotated[bool, typer.Option("--with-cache", help="Keep the layers' keys and values in the state, too.")]
Layers = Annotated[
    str | None, typer.Option("--layers", metavar="A:B", help="Layers A to B, without B; 8: is to the end, norm and head included.")
]
Stack = Annotated[
    str | None, typer.Option("--stack", help="encoder, decoder, vision, audio, or a stack's name; the main one if not given.")
]
EmbeddingOnly = Annotated[bool, typer.Option("--embedding-only", help="No layer at all: stop before the first one.")]
Head = Annotated[bool, typer.Option("--head", help="The final norm and the head as well; alone: nothing but them.")]
TopK = Annotated[int, typer.Option("--topk", min=1, max=1_000, help="How many of the likeliest tokens to show.")]
SaveHidden = Annotated[Path | None, typer.Option("--save-hidden", metavar="FILE", help="Write what enters every layer there.")]
Lens = Annotated[bool, typer.Option("--logit-lens", help="The likeliest tokens after every layer.")]
Plot = Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Draw the lens there (.png, .svg, .pdf).")]
Skip = Annotated[str | None, typer.Option("--skip", metavar="3,5", help="Layers that hand on what comes in.")]
Repeat = Annotated[str | None, typer.Option("--repeat", metavar="3,5", help="Layers that are gone through twice.")]
Generate = Annotated[int | None, typer.Option("--generate", metavar="N", min=1, max=1_000_000, help="Go on by so many tokens.")]


def partial_forward(
    model: Model,
    text: Texts = None,
    ids: Ids = None,
    input_state: Input = None,
    layers: Layers = None,
    stack: Stack = None,
    embedding_only: EmbeddingOnly = False,
    head: Head = False,
    output: Output = None,
    with_cache: WithCache = False,
    topk: TopK = 5,
    save_hidden: SaveHidden = None,
    logit_lens: Lens = False,
    plot: Plot = None,
    skip: Skip = None,
    repeat: Repeat = None,
    generate: Generate = None,
    resident: Resident = None,
    quantize: Quantize = None,
    dtype: Dtype = "auto",
    device: Device = None,
    attention: Attention = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run some of a model's layers, on prompts or on from where an earlier run stopped: bit by bit what the whole model computes."""
    del debug  # read where errors are turned into lines
    from ..layers.partial_request import PartialRequest
    from ..loader.settings import ModelLoadingConfig, QuantizationConfig, QuantizationMethod, choice, parse_bytes

    request = PartialRequest(
        texts=tuple(text or ()),
        ids=_numbers(ids, "--ids"),
        input=input_state,
        layers=layers,
        embedding_only=embedding_only,
        stack=stack,
        head=head,
        output=output,
        cache=with_cache,
        topk=topk,
        save_hidden=save_hidden,
        lens=logit_lens or plot is not None,
        plot=plot,
        skip=_numbers(skip, "--skip"),
        repeat=_numbers(repeat, "--repeat"),
        generate=generate,
    )
    request.check()
    budget = None if resident is None else parse_bytes(resident)
    settings = ModelLoadingConfig(model, dtype=dtype, device=device, attn_implementation=attention, resident=budget)
    settings.trust_remote_code = trust_remote_code
    if quantize is not None:
        settings.quantization_config = QuantizationConfig(choice(QuantizationMethod, quantize))
    _show(settings, request, as_json=as_json)


def _show(settings: ModelLoadingConfig, request: PartialRequest, *, as_json: bool) -> None:
    from ..layers.partial_run import run_partial

    report = run_partial(settings, request)
    if as_json:
        print_json(report.to_json())
    else:
        from .partial_tables import partial_tables

        print_tables(partial_tables(report))


def _numbers(text: str | None, option: str) -> tuple[int, ...]:
    """The whole numbers in `3,5`. Raises UsageError for anything else."""
    from ..loader.errors import UsageError

    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise UsageError(f"{option} {text!r}: numbers with commas between them are wanted", hint="for example 3,5")
    return tuple(map(int, parts))
