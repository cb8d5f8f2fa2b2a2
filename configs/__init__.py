"""Data, not code: the model registry, and tables that loader/ reads."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


@cache
def table(name: str) -> dict[str, Any]:
    """The table `name`.json of this folder."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
