"""The process that is measured: loads one model with one engine, asks it something, and stays until it has been looked at."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import MlloadError
from .engines import engine_of
from .job import Job
from .phases import Phases

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def main() -> None:
    """Carry out the job of the command line: the descriptor to report to, and the job's text."""
    phases, job = Phases(int(sys.argv[1])), Job.from_text(sys.argv[2])
    try:
        model = engine_of(job.case.engine).load(job, phases)
        if model is not None:
            _use(model, job, phases)
            phases.tell(class_name=type(model).__name__)
        phases.tell(end=True, device=_device_peak())
    except MlloadError as error:
        phases.tell(error=str(error), code=error.exit_code)
    sys.stdin.read()  # until the one who watches has seen enough, or is gone
    os._exit(0)


def _use(model: PreTrainedModel, job: Job, phases: Phases) -> None:
    from .answer import ask, go_on

    if job.prompt is None:
        ask(model, phases, context=job.context, batch=job.batch)
    else:
        go_on(model, job.prompt, Path(job.folder), job.max_new_tokens, phases)


def _device_peak() -> int:
    """The most that torch held of CUDA devices at once."""
    import torch

    return sum(torch.cuda.max_memory_reserved(index) for index in range(torch.cuda.device_count())) if torch.cuda.is_available() else 0


if __name__ == "__main__":
    main()
