"""`mlload inspect`: what a checkpoint is, layer by layer, without downloading or loading it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Debug, File, Json, Model
from .output import print_json, print_tables

if TYPE_CHECKING:
    from ..loader.checkpoint import Checkpoint
    from ..loader.tensors import TensorEntry


def inspect(
    model: Model,
    pattern: Annotated[
        str | None, typer.Argument(metavar="[PATTERN]", help="List the tensors whose names match this glob.", show_default=False)
    ] = None,
    tensors: Annotated[bool, typer.Option("--tensors", help="List the tensors: all of them, or those that match PATTERN.")] = False,
    regex: Annotated[
        str | None, typer.Option("--regex", metavar="EXPRESSION", help="List the tensors in whose names this finds something.")
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Unfold the layers: a row for each.")] = False,
    diff: Annotated[str | None, typer.Option("--diff", metavar="OTHER", help="Show what differs from another checkpoint instead.")] = None,
    file: File = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 7 if there are problems (with --diff: differences).")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Know what a checkpoint is, layer by layer, without downloading or loading it.

    Reads headers only: family, parameters, bytes, layers, quantization, context, cache, files and problems.
    """
    del debug  # read where errors are turned into lines
    if diff is not None:
        _show_diff(model, diff, as_json=as_json, strict=strict)
        return
    from ..loader.checkpoint import Checkpoint

    opened = Checkpoint.begin(model, file=file)
    # Imported while a hub's answers are on their way.
    from ..loader.inspection import inspect as inspect_checkpoint

    if not as_json:
        import_module(".inspect_tables", __package__)
    checkpoint = opened()
    report = inspect_checkpoint(checkpoint)
    listed = _chosen(checkpoint, pattern, regex) if tensors or pattern is not None or regex is not None else None
    if as_json:
        print_json(report.to_json() | ({} if listed is None else {"tensor_table": [each._asdict() for each in listed]}))
    elif listed is not None:
        from .tensor_tables import tensor_table

        print_tables(tensor_table(listed, checkpoint))
    else:
        from .inspect_tables import inspect_tables

        print_tables(inspect_tables(report, unfold=layers))
    count = sum(problem.severity != "note" for problem in report.problems)
    if strict and count:
        from ..loader.errors import ThresholdExceededError

        raise ThresholdExceededError(f"{model} has {count} problem{'s' * (count > 1)}")


def _chosen(checkpoint: Checkpoint, pattern: str | None, regex: str | None) -> list[TensorEntry]:
    """The tensors that the glob and the regular expression choose, all without either."""
    from ..loader.selection import select_glob, select_regex

    names = list(checkpoint.tensors)
    if pattern is not None:
        names = select_glob(names, pattern)
    if regex is not None:
        names = select_regex(names, regex)
    return [checkpoint.tensors[name] for name in names]


def _show_diff(model: str, other: str, *, as_json: bool, strict: bool) -> None:
    from ..loader.diff import diff as diff_checkpoints

    report = diff_checkpoints(model, other)
    if as_json:
        print_json(report.to_json())
    else:
        from .tensor_tables import diff_tables

        print_tables(diff_tables(report))
    if strict and not report.same:
        from ..loader.errors import ThresholdExceededError

        raise ThresholdExceededError(f"{model} and {other} differ")
