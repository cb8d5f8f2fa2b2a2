"""Measuring what frameworks take on this machine: the embedded model is loaded, which is next to nothing, and all else is theirs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable

from ...configs import FOLDER
from ..bench.case import Case
from ..bench.job import Job
from ..bench.run import run
from ..memory import Memory
from .frameworks import keep, kept_sizes

_FOLDER = FOLDER / "tiny"
_TOKENS = 8
_BACKGROUND = ("import", "forward")  # measured together
# What numba and one compiled loop take, in a process that has all else.
_NUMBA = """
import json, sys, torch, transformers
from mlload.loader.memory import process_memory
from mlload.loader.quantization.compiled import compiled
before = process_memory()
compiled("four_bit", torch.bfloat16)
taken = process_memory() - before
sys.stdout.write(json.dumps([taken.anonymous, taken.mapped]))
"""


def measure_lacking(names: Iterable[str]) -> bool:
    """Measure those of `names` that were not yet with these versions, and keep what comes of it; returns whether there were any.

    Of CUDA what it takes of the host, where there is a device. Raises RunFailedError.
    """
    sizes = kept_sizes()
    lacking = [name for name in dict.fromkeys((*_BACKGROUND, *names)) if name not in sizes]
    if not lacking:
        return False
    if not all(name in sizes for name in _BACKGROUND):
        sizes |= _background()
    for name in lacking:
        if name == "numba":
            sizes[name] = _plain(_numba())
        elif name not in _BACKGROUND:
            job = _job(None, device=name) if name == "cuda" else _job(name)
            sizes[name] = _plain(_of_a_forward(job) - _memory(sizes["import"]) - _memory(sizes["forward"]))
    keep(sizes)
    return True


def _background() -> dict[str, dict[str, int]]:
    done = run(_job(None))
    _, anonymous, mapped = done.timeline[-1]
    return {"import": _plain(done.imports), "forward": _plain(Memory(anonymous, mapped) - done.imports)}


def _of_a_forward(job: Job) -> Memory:
    _, anonymous, mapped = run(job).timeline[-1]
    return Memory(anonymous, mapped)


def _job(method: str | None, *, device: str = "cpu") -> Job:
    quantized = {} if method is None else {"quantization_config": {"method": method}}
    settings = {"model_name": str(_FOLDER), "device": device, "dtype": "bfloat16", "quantized_cache": "off", **quantized}
    return Job(Case("mlload"), str(_FOLDER), (), context=_TOKENS, settings=settings)


def _numba() -> Memory:
    done = subprocess.run([sys.executable, "-P", "-W", "ignore", "-c", _NUMBA], capture_output=True, text=True, check=True)
    return Memory(*json.loads(done.stdout))


def _memory(line: dict[str, int]) -> Memory:
    return Memory(line["anonymous"], line["mapped"])


def _plain(memory: Memory) -> dict[str, int]:
    return {"anonymous": max(0, memory.anonymous), "mapped": max(0, memory.mapped)}
