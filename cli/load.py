"""`mlload load`: load a model whole, and try it with a prompt."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from .options import Debug, Json, Model
from .output import print_json, print_tables

SCHEMA = "mlload.load/1"


def load(
    model: Model,
    prompt: Annotated[str | None, typer.Option("--prompt", metavar="TEXT", help="Go on from this text.")] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, max=1_000_000, help="How far to go on.")] = 100,
    dtype: Annotated[str, typer.Option("--dtype", help="auto (the checkpoint's own), float32, float16 or bfloat16.")] = "auto",
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, mps.")] = "cpu",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Load a model whole, and go on from a prompt with it."""
    del debug  # read where errors are turned into lines
    from ..loader.pretrained import generate, load_pretrained

    loaded = load_pretrained(model, dtype=dtype, device=device)
    started = time.perf_counter()
    text, count = (None, 0) if prompt is None else generate(loaded, prompt, max_new_tokens=max_new_tokens, stream=not as_json)
    seconds = loaded.seconds if prompt is None else loaded.seconds | {"generate": time.perf_counter() - started}
    answer: dict[str, object] = {
        "schema": SCHEMA,
        "reference": model,
        "class_name": type(loaded.model).__name__,
        "kind": loaded.kind and loaded.kind.value,
        "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "device": str(loaded.model.device),
        "seconds": {phase: round(value, 4) for phase, value in seconds.items()},
        "prompt": prompt,
        "text": text,
        "generated_tokens": count,
    }
    if as_json:
        print_json(answer)
    else:
        print_tables(_summary(answer, seconds))


def _summary(answer: dict[str, object], seconds: dict[str, float]) -> list[str]:
    from ..loader.text import format_count

    parameters = format_count(int(str(answer["parameters"])))
    phases = ", ".join(f"{phase} {value:.2f} s" for phase, value in seconds.items())
    return [f"{answer['class_name']}, {answer['kind']}, {parameters} parameters in {answer['dtype']} on {answer['device']}", phases]
