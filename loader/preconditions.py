"""What speaks against loading a checkpoint: found in its headers and its config, then in the plan, before a byte of weights is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .checkpoint import Checkpoint
from .errors import InvalidCheckpointError, UsageError
from .validation import find_problems

if TYPE_CHECKING:
    from .execution.skeleton import Skeleton
    from .plan import LoadPlan

_LACKING = ("missing-shard", "missing-tensor")


def check_checkpoint(checkpoint: Checkpoint, *, allow_missing: bool) -> None:
    """Nothing in the headers may speak against loading. Raises UsageError for an adapter, InvalidCheckpointError for all else."""
    if checkpoint.adapter is not None:
        base = checkpoint.adapter.base_model or "a model that it does not name"
        raise UsageError(f"{checkpoint.reference} is an adapter for {base}, which can't be loaded alone", hint="load its base model")
    if checkpoint.config is None:
        hint = "copy it from where the weights came from"
        raise InvalidCheckpointError("is missing: without it the model can't be built", file="config.json", hint=hint)
    _refuse_redirection(checkpoint.config)
    for problem in find_problems(checkpoint):
        is_fault = problem.severity == "error" or problem.code == "hidden-tensors"  # nobody knows whether the model would need them
        if is_fault and not (allow_missing and problem.code in _LACKING):
            raise InvalidCheckpointError(
                problem.message, file=problem.file or checkpoint.location, tensor=problem.tensor, hint="`mlload inspect` lists all problems"
            )


def _refuse_redirection(config: Mapping[str, object], depth: int = 4) -> None:
    """A config may not name other weights than those that were checked, nor attention code on a hub."""
    for key, value in config.items():
        kernel = "attn_implementation" in key and isinstance(value, str) and "/" in value
        if kernel or key == "transformers_weights":
            raise InvalidCheckpointError(
                f"its {key} would load '{value}'", file="config.json", hint=f"take {key} out if you trust the weights"
            )
        if isinstance(value, dict) and depth:
            _refuse_redirection(value, depth - 1)


def check_plan(plan: LoadPlan, skeleton: Skeleton, checkpoint: Checkpoint, *, allow_missing: bool) -> None:
    """Nothing may be initialised at random because the checkpoint lacks it, unless that is allowed. Raises InvalidCheckpointError."""
    hint = "`mlload inspect` shows what the checkpoint holds"
    for name, stored, wanted in plan.mismatched:
        message = f"its shape is {list(stored)}, but the config makes it {list(wanted)}"
        raise InvalidCheckpointError(message, file=checkpoint.location, tensor=name, hint=hint)
    lacking = sorted(skeleton.truly_missing(plan.missing))
    if allow_missing:  # random codes are no weights
        lacking = [name for name in lacking if skeleton.is_quantized(name)]
    if lacking:
        message = f"{type(skeleton.model).__name__} needs it, but the checkpoint does not hold it"
        rest = f" (and {len(lacking) - 1:,} more)" if len(lacking) > 1 else ""
        hint = "what is quantized can't be initialised at random" if allow_missing else "--allow-missing initialises it at random"
        raise InvalidCheckpointError(message + rest, file=checkpoint.location, tensor=lacking[0], hint=hint)
