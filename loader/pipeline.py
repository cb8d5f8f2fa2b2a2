"""Pipelines of diffusers: several models, each in a folder of its own, listed in model_index.json."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from .errors import UsageError
from .formats import format_of
from .text import printable

_NO_MODEL = re.compile(r"Scheduler|Tokenizer|Processor|FeatureExtractor")  # in the classes of parts that hold no weights
_MOST_NAMED = 6


def refuse_pipeline(index: Mapping[str, object], *, location: str, files: Iterable[str]) -> None:
    """Raise UsageError, which names the models of the pipeline and how to ask for one; do nothing if the index lists none."""
    models = [name for name, part in index.items() if _is_model(part)]
    if not models:
        return
    kind = index.get("_class_name")
    named = f" ({printable(kind, limit=60)})" if isinstance(kind, str) else ""
    shown = ", ".join(printable(name, limit=60) for name in models[:_MOST_NAMED]) + (" ..." if len(models) > _MOST_NAMED else "")
    weights = next((file for file in files if file.partition("/")[0] in models and format_of(file)), None)  # known of a hub only
    way_out = f"one of these folders, such as {location}/{models[0]}" if weights is None else f"one of its files, such as --file {weights}"
    raise UsageError(f"{location} is a diffusers pipeline{named} of several models: {shown}", hint=f"inspect {way_out}")


def _is_model(part: object) -> bool:
    """Whether a part of the index, [library, class], is a model; what the pipeline does without is [null, null]."""
    return isinstance(part, list) and len(part) == 2 and isinstance(part[1], str) and not _NO_MODEL.search(part[1])
