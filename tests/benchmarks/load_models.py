"""Loading whole models: mlload beside from_pretrained, each in a process of its own, in turn; memory sampled from outside."""

from __future__ import annotations

import select
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
import transformers

# The class is imported before the clock starts: both engines need it alike.
PROGRAM = """
import json, sys, time
engine, folder, dtype, method = sys.argv[1:]
import torch, transformers
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()
config = transformers.AutoConfig.from_pretrained(folder)
model_class = getattr(transformers, config.architectures[0])
if method:
    import bitsandbytes
if engine == "mlload":
    import mlload
    from mlload.loader.loading import plan_load
    import mlload.loader.execution.streaming, mlload.loader.execution.model_class
print("ready", flush=True)
sys.stdin.readline()
begun = time.perf_counter()
if engine == "mlload":
    quantization = mlload.QuantizationConfig(mlload.QuantizationMethod(method)) if method else None
    model = plan_load(mlload.ModelLoadingConfig(folder, dtype=dtype, device="cpu", quantization_config=quantization)).execute().model
else:
    bits = {"nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "int8": {"load_in_8bit": True}}
    extra = {"quantization_config": transformers.BitsAndBytesConfig(**bits[method]), "device_map": "cpu"} if method else {}
    model = model_class.from_pretrained(folder, dtype=getattr(torch, dtype), **extra)
print(time.perf_counter() - begun, flush=True)
sys.stdin.readline()
"""

MODELS: Mapping[str, transformers.PretrainedConfig] = {
    "Llama, 1.1 B": transformers.LlamaConfig(
        hidden_size=2048, num_hidden_layers=22, intermediate_size=5632, num_attention_heads=32, num_key_value_heads=4, vocab_size=32000
    ),
    "mixture of 32 experts, 0.55 B": transformers.Qwen3MoeConfig(
        hidden_size=1024,
        num_hidden_layers=12,
        num_attention_heads=16,
        num_key_value_heads=4,
        head_dim=64,
        num_experts=32,
        num_experts_per_tok=4,
        moe_intermediate_size=384,
        vocab_size=32000,
    ),
}
# Model, dtype, quantization, runs of each engine after one that warms up (none where a run takes a minute).
CASES = (
    ("Llama, 1.1 B", "bfloat16", "", 5),
    ("mixture of 32 experts, 0.55 B", "bfloat16", "", 5),
    ("Llama, 1.1 B", "float32", "", 3),
    ("Llama, 1.1 B", "bfloat16", "nf4", 1),
    ("Llama, 1.1 B", "bfloat16", "int8", 1),
)


@dataclass(frozen=True)
class Load:
    """Seconds of one load, and how far the process's anonymous memory rose over its imports: at the peak, and in the end."""

    seconds: float
    peak_bytes: int
    kept_bytes: int


def measure() -> Iterator[str]:
    """The table, line by line."""
    yield "Seconds from the call to the model, imports done before, page cache warm; anonymous memory over the imports', sampled every ms:"
    yield ""
    yield "| model | mlload s | from_pretrained s | times as fast | mlload peak, kept MiB | from_pretrained peak, kept MiB |"
    yield "|---|---|---|---|---|---|"
    with tempfile.TemporaryDirectory() as scratch:
        folders = {name: _write(config, Path(scratch) / str(number)) for number, (name, config) in enumerate(MODELS.items())}
        for name, dtype, method, runs in CASES:
            yield _row(f"{name}, {method or dtype}", _in_turn(folders[name], dtype, method, runs))


def _write(config: transformers.PretrainedConfig, folder: Path) -> Path:
    """Random weights in bfloat16, in shards."""
    config.dtype = torch.bfloat16
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    model = model.to_empty(device="cpu")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    model.save_pretrained(folder, max_shard_size="500MB")
    return folder


def _in_turn(folder: Path, dtype: str, method: str, runs: int) -> dict[str, list[Load]]:
    done: dict[str, list[Load]] = defaultdict(list)
    warming = int(runs > 1)
    for number in range(runs + warming):
        for engine in ("mlload", "transformers"):
            load = _run(engine, folder, dtype, method)
            if number >= warming:
                done[engine].append(load)
    return done


def _run(engine: str, folder: Path, dtype: str, method: str) -> Load:
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, engine, str(folder), dtype, method]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    while process.stdout.readline().strip() != "ready":
        assert process.poll() is None, f"{engine} ended before it was ready"
    before = peak = _anonymous(process.pid)
    process.stdin.write("\n")
    process.stdin.flush()
    while not select.select([process.stdout], [], [], 0.001)[0]:
        peak = max(peak, _anonymous(process.pid))
    seconds, kept = float(process.stdout.readline()), _anonymous(process.pid)
    process.communicate("\n")
    return Load(seconds, max(peak, kept) - before, kept - before)


def _anonymous(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def _row(name: str, loads: Mapping[str, list[Load]]) -> str:
    ours, theirs = loads["mlload"], loads["transformers"]
    ratio = median(other.seconds / own.seconds for own, other in zip(ours, theirs, strict=True))
    cells = [f"{median(load.seconds for load in each):.3f}" for each in (ours, theirs)]
    memory = [
        f"{median(load.peak_bytes for load in each) / 2**20:,.0f}, {median(load.kept_bytes for load in each) / 2**20:,.0f}"
        for each in (ours, theirs)
    ]
    return f"| {' | '.join([name, *cells, f'{ratio:.1f}', *memory])} |"


if __name__ == "__main__":
    for line in measure():
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
