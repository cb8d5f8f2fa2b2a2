"""The `mlload` command. What a hub is asked first leaves before Typer is imported."""

from __future__ import annotations

import atexit
import gc
import sys

from .output import run_guarded


def main() -> None:
    """Entry point: runs the command, turns every error raised on purpose into one line and its exit code."""
    atexit.register(gc.freeze)  # memory goes with the process: freeing it object by object takes 20 ms
    run_guarded(_run)


def _run() -> None:
    from . import head_start

    begun = head_start.begin(sys.argv[1:])
    from .app import app

    app(prog_name="mlload", obj=begun)
