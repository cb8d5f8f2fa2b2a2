"""accelerate: an empty model, and load_checkpoint_and_dispatch to fill it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import InvalidCheckpointError
from .model_class import class_and_config, device_of, dtype_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..job import Job
    from ..phases import Phases


def load(job: Job, phases: Phases) -> PreTrainedModel:
    """It knows nothing of the names that transformers changes while loading: what it leaves empty is an error."""
    import torch
    from accelerate import init_empty_weights, load_checkpoint_and_dispatch

    model_class, config = class_and_config(job)
    phases.end("import")
    asked = dtype_of(job)
    dtype = asked if isinstance(asked, torch.dtype) else config.dtype or torch.float32
    with init_empty_weights():
        model = model_class._from_config(config, dtype=dtype)
    model.tie_weights()
    phases.end("plan")
    load_checkpoint_and_dispatch(model, job.folder, device_map={"": str(device_of(job))}, dtype=dtype)
    empty = [name for name, tensor in model.state_dict().items() if tensor.is_meta]
    if empty:
        raise InvalidCheckpointError(f"accelerate finds nothing for {empty[0]} (and {len(empty) - 1:,} more)", file=job.folder)
    phases.end("read")
    return model.eval()
