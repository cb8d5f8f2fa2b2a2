"""Every model type, tiny, as a folder of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import transformers

ZOO = Path(__file__).parent.parent / "zoo.py"


@contextmanager
def zoo_cases() -> Iterator[list[Path]]:
    """The folders, by name; from then on transformers and warnings are quiet."""
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([sys.executable, ZOO, "--out", scratch], check=True, capture_output=True)
        yield sorted(Path(scratch).iterdir())
