"""The Typer app: a table of contents over one file a command."""

from __future__ import annotations

from typing import Annotated

import typer

from .bench_load import bench_load
from .inspect import inspect
from .load import load
from .partial_forward import partial_forward
from .probe_layers import probe_layers
from .recommend_config import recommend_config

app = typer.Typer(
    name="mlload",
    help="Know, load and run Hugging Face checkpoints that may be larger than the machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="MODEL: a folder, a .safetensors, .gguf or .bin file, a hub id (org/name, org/name@revision), or a registered name (tiny).",
)
app.command()(inspect)
app.command("recommend-config")(recommend_config)
app.command()(load)
app.command("probe-layers")(probe_layers)
app.command("bench-load")(bench_load)
app.command("partial-forward")(partial_forward)


def _print_version(asked: bool) -> None:
    if asked:
        from .. import __version__

        typer.echo(f"mlload {__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)] = False,
) -> None:
    del version  # acted on by its callback
