"""Running a model within a budget of memory, and single layers of one: beside the resident model and transformers' offload to disk."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from processes import run_in_turn

SHAPE, RUNS = "llama-1.1b", 5
BUDGET = 300 * 2**20
TOKENS, GENERATED = 16, 20


def measure(shape: str = SHAPE) -> Iterator[str]:
    """A table of ways to run one model, each a process of its own, timed inside after imports and loading; then a layer alone."""
    from mlload.loader.bench.synthetic import synthetic

    folder = str(synthetic(shape))
    commands = {name: [sys.executable, __file__, name, folder] for name in WAYS}
    results = {name: [json.loads(run.output) for run in each.runs] for name, each in run_in_turn(commands, runs=RUNS).items()}
    yield f"{shape}, bfloat16, warm; medians of {RUNS}; streamed in {BUDGET >> 20} MiB of weights. Anonymous memory is what the work added."
    yield ""
    yield "| | seconds | anonymous MiB |"
    yield "|---|---|---|"
    for name, each in results.items():
        seconds, anonymous = (median(run[key] for run in each) for key in ("seconds", "anonymous"))
        yield f"| {WAYS[name][0]} | {seconds:.3f} | {anonymous / 2**20:.0f} |"
    layers = results["layer"]
    rate = median(run["copy_seconds"] for run in layers)
    yield ""
    yield f"The layer has {layers[0]['bytes']:,} bytes; copied to memory that is there already in {rate:.4f} s. Of the files' other"
    yield f"pages {max(run['others'] for run in layers):,} bytes were touched."


def main() -> None:
    """One way, in this process."""
    way, folder = sys.argv[1:]
    sys.stdout.write(json.dumps(WAYS[way][1](folder)))


def _timed(prepare: Callable[[], Callable[[], Any]]) -> dict[str, float]:
    from mlload.loader.memory import process_memory

    before = process_memory().anonymous
    work = prepare()
    begun = time.perf_counter()
    work()
    return {"seconds": time.perf_counter() - begun, "anonymous": process_memory().anonymous - before}


def _forward(prompts: int, resident: int | None) -> Callable[[str], dict[str, float]]:
    return lambda folder: _timed(lambda: _going(_loaded(folder, resident), prompts))


def _generation(resident: int | None) -> Callable[[str], dict[str, float]]:
    return lambda folder: _timed(lambda: _generating(_loaded(folder, resident)))


def _offload(going: Callable[[Any], Callable[[], Any]]) -> Callable[[str], dict[str, float]]:
    def run(folder: str) -> dict[str, float]:
        import torch
        import transformers

        places = {"model.layers": "disk", **dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu")}
        with tempfile.TemporaryDirectory() as scratch:
            options = {"dtype": torch.bfloat16, "device_map": places, "offload_folder": scratch}
            return _timed(lambda: going(transformers.AutoModelForCausalLM.from_pretrained(folder, **options)))

    return run


def _loaded(folder: str, resident: int | None) -> Any:
    from mlload.loader.loading import load
    from mlload.loader.settings import ModelLoadingConfig

    return load(ModelLoadingConfig(folder, device="cpu", resident=resident)).model


def _going(model: Any, prompts: int = 1) -> Callable[[], Any]:
    import torch

    ids = torch.arange(100, 100 + TOKENS).repeat(prompts, 1)
    return lambda: torch.no_grad()(model)(ids, use_cache=False)


def _generating(model: Any) -> Callable[[], Any]:
    import torch

    ids = torch.arange(100, 100 + TOKENS)[None]
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": GENERATED, "min_new_tokens": GENERATED, "do_sample": False}
    return lambda: model.generate(ids, **options)


def _layer(folder: str) -> dict[str, float]:
    """One layer from the middle, every byte of it looked at; how much of the files' pages is mapped beside it."""
    import torch

    from mlload import LlmLayerCollector

    with tempfile.TemporaryDirectory() as scratch:
        collector = LlmLayerCollector(folder, Path(scratch) / "cache.json", dtype="auto")
        kept: list[torch.nn.Module] = []

        def work() -> None:
            kept.append(collector.load_layer(collector.num_layers // 2))
            for parameter in kept[0].parameters():
                parameter.detach().view(torch.int16).max()

        found = _timed(lambda: work)
    weights = [parameter.detach() for parameter in kept[0].parameters()]
    nbytes = sum(weight.nbytes for weight in weights)
    found |= {"bytes": nbytes, "others": max(0, _mapped_bytes(folder) - nbytes)}
    copies = [torch.zeros_like(weight) for weight in weights]
    begun = time.perf_counter()
    for copy, weight in zip(copies, weights, strict=True):
        copy.copy_(weight)
    return found | {"copy_seconds": time.perf_counter() - begun}


def _mapped_bytes(folder: str) -> int:
    """Bytes of the folder's files that this process has mapped and touched."""
    total, is_ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.partition(" ")[0]:
            is_ours = folder in line
        elif is_ours and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


# What is shown of each way, and what runs it in a folder.
WAYS: dict[str, tuple[str, Callable[[str], dict[str, float]]]] = {
    "resident": (f"{TOKENS} tokens, resident", _forward(1, None)),
    "streamed": (f"{TOKENS} tokens, streamed", _forward(1, BUDGET)),
    "offloaded": (f"{TOKENS} tokens, transformers' disk offload", _offload(_going)),
    "streamed-ten": (f"ten prompts of {TOKENS} tokens in one pass, streamed", _forward(10, BUDGET)),
    "resident-generation": (f"{GENERATED} tokens generated, resident", _generation(None)),
    "streamed-generation": (f"{GENERATED} tokens generated, streamed", _generation(BUDGET)),
    "offloaded-generation": (f"{GENERATED} tokens generated, transformers' disk offload", _offload(_generating)),
    "layer": ("a layer alone, from LlmLayerCollector", _layer),
}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main()
    else:
        sys.stdout.writelines(f"{line}\n" for line in measure())
