"""Arguments and options that several commands share, declared once."""

from __future__ import annotations

from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="Folder, weights file, hub id (org/name or org/name@revision) or registered name.", show_default=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Resident = Annotated[
    str | None, typer.Option("--resident", metavar="SIZE", help="Stream, with at most so much of weights in memory (2GiB).")
]
File = Annotated[
    str | None, typer.Option("--file", metavar="NAME", help="The weights file to take where there are several; with --diff on both sides.")
]
