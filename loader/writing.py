"""Writes that survive: whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def sync_files(folder: Path) -> None:
    """Bring every file in `folder`, and the folder itself, to the disk."""
    for path in (*folder.iterdir(), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
