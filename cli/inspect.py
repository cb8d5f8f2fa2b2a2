"""`mlload inspect`: what a checkpoint is, layer by layer, without downloading or loading it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Annotated

import typer

from ..loader.text import counted
from .head_start import HeadStart
from .options import Debug, File, Json, Model
from .output import note, print_json, print_tables, terminal_width, waiting

if TYPE_CHECKING:
    from ..loader.checkpoint import Checkpoint
    from ..loader.inspection import InspectReport
    from ..loader.tensors import TensorEntry


def inspect(
    context: typer.Context,
    model: Model,
    pattern: Annotated[
        str | None, typer.Argument(metavar="[PATTERN]", help="List the tensors whose names match this glob.", show_default=False)
    ] = None,
    tensors: Annotated[
        bool, typer.Option("--tensors", help="List the tensors: all of them, or those that match PATTERN. With --diff: unfold.")
    ] = False,
    regex: Annotated[
        str | None, typer.Option("--regex", metavar="EXPRESSION", help="List the tensors in whose names this finds something.")
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Unfold the layers: a row for each.")] = False,
    diff: Annotated[
        str | None,
        typer.Option(
            "--diff",
            metavar="OTHER",
            help="Show what differs from another checkpoint instead (with PATTERN or --regex: among these tensors).",
        ),
    ] = None,
    file: File = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 7 if there are problems (with --diff: differences).")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Know what a checkpoint is, layer by layer, without downloading or loading it.

    Reads headers only: family, parameters, bytes, layers, quantization, context, cache, files and problems.
    """
    del debug  # read where errors are turned into lines
    listing = tensors or pattern is not None or regex is not None
    if layers and (listing or diff is not None):
        from ..loader.errors import UsageError

        raise UsageError("--layers does not go with --diff or with a list of tensors", hint="--tensors unfolds what --diff shows")
    if diff is not None:
        _show_diff(model, diff, file, pattern, regex, unfold=tensors, as_json=as_json, strict=strict)
        return
    checkpoint, report = _inspected(
        model, file, context.find_object(HeadStart), None if as_json else ".tensor_tables" if listing else ".inspect_tables"
    )
    listed = _chosen(checkpoint, pattern, regex) if listing else None
    if as_json:
        print_json(report.to_json() | ({} if listed is None else {"tensor_table": [each.to_json() for each in listed]}))
    elif listed is not None:
        from .tensor_tables import tensor_table

        print_tables(tensor_table(listed, checkpoint, width=terminal_width()))
    else:
        from .inspect_tables import inspect_tables

        print_tables(inspect_tables(report, unfold=layers, width=terminal_width()))
    count = sum(problem.severity != "note" for problem in report.problems)
    if strict and count:
        from ..loader.errors import ThresholdExceededError

        raise ThresholdExceededError(f"{model} has {counted(count, 'problem')}")


def _inspected(model: str, file: str | None, begun: HeadStart | None, tables: str | None) -> tuple[Checkpoint, InspectReport]:
    """The checkpoint and its report. What will show them is imported while a hub's answers are on their way."""
    from ..loader.checkpoint import Checkpoint

    opened = (begun and begun.take(model, file)) or Checkpoint.begin(model, file=file)
    from ..loader.inspection import inspect as inspect_checkpoint

    if tables is not None:
        import_module(tables, __package__)
    with waiting(f"reading {model}"):
        checkpoint = opened()
    return checkpoint, inspect_checkpoint(checkpoint)


def _chosen(checkpoint: Checkpoint, pattern: str | None, regex: str | None) -> list[TensorEntry]:
    """The tensors that the glob and the regular expression choose, all without either. That it is none is an answer, and said."""
    from ..loader.selection import nearest, select

    names = select(checkpoint.tensors, glob=pattern, regex=regex)
    wanted = pattern if regex is None else regex
    if wanted is not None and not names:
        hint = "it is a file, which --file names" if wanted in checkpoint.shards else nearest(list(checkpoint.tensors), wanted)
        note(f"no tensor matches '{wanted}'; {hint}")
    return [checkpoint.tensors[name] for name in names]


def _show_diff(
    model: str, other: str, file: str | None, pattern: str | None, regex: str | None, *, unfold: bool, as_json: bool, strict: bool
) -> None:
    from ..loader.diff import diff as diff_checkpoints

    with waiting(f"reading {model} and {other}"):
        report = diff_checkpoints(model, other, file=file, glob=pattern, regex=regex)
    if not (report.common_tensors or report.only_before or report.only_after):
        note("no tensor of either was chosen")
    if as_json:
        print_json(report.to_json())
    else:
        from .tensor_tables import diff_tables

        print_tables(diff_tables(report, unfold=unfold, width=terminal_width()))
    if strict and not report.same:
        from ..loader.errors import ThresholdExceededError

        raise ThresholdExceededError(f"{model} and {other} differ")
