"""One engine at one piece of work, in a process of its own that run_layers.py starts, watches and lets go on."""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

Work = Callable[[], object]


@dataclass(frozen=True)
class Job:
    """What is to be done: `prompts` of so many `tokens`, one forward or `generated` tokens; after a warm-up, the median of `rounds`."""

    engine: str
    folder: str
    tokens: int = 16
    prompts: int = 1
    generated: int = 0
    resident: int | None = None
    warm_up: bool = True
    rounds: int = 3


@dataclass(frozen=True)
class Engine:
    """How a way to run models is called in tables, what it imports, and what makes the work of it."""

    name: str
    modules: tuple[str, ...]
    prepare: Callable[[Job, Path], Work]


def main() -> None:
    """The job that stands on the command line. Says when it has imported, waits, loads, works, and tells seconds as JSON."""
    job = Job(**json.loads(sys.argv[1]))
    answers, sys.stdout = sys.stdout, sys.stderr  # some engines talk
    engine = ENGINES[job.engine]
    for module in engine.modules:
        importlib.import_module(module)
    importlib.import_module("torch").set_grad_enabled(False)
    _say(answers, "imported")
    sys.stdin.readline()
    with tempfile.TemporaryDirectory() as scratch:
        begun = time.perf_counter()
        work = engine.prepare(job, Path(scratch))
        loading = time.perf_counter() - begun
        rounds = [_seconds(work) for _ in range(job.rounds + job.warm_up)]
        _say(answers, json.dumps({"loading": loading, "seconds": median(rounds[job.warm_up :])}))


def _say(answers: Any, line: str) -> None:
    answers.write(f"{line}\n")
    answers.flush()


def _seconds(work: Work) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _work(model: Any, job: Job) -> Work:
    import torch

    ids = torch.arange(100, 100 + job.tokens).repeat(job.prompts, 1)
    if not job.generated:
        return lambda: model(ids, use_cache=False)
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": job.generated, "min_new_tokens": job.generated}
    return lambda: model.generate(ids, **options, do_sample=False)


def _ours(method: str | None = None) -> Callable[[Job, Path], Work]:
    def prepare(job: Job, _: Path) -> Work:
        from mlload.loader.loading import load
        from mlload.loader.settings import LoadingStrategy, ModelLoadingConfig, QuantizationConfig, QuantizationMethod

        asked = None if method is None else QuantizationConfig(QuantizationMethod(method))
        strategy = LoadingStrategy.STREAMING  # what of it is pages stays mapped where there is no budget
        settings = ModelLoadingConfig(job.folder, device="cpu", loading_strategy=strategy, resident=job.resident, quantization_config=asked)
        return _work(load(settings).model, job)

    return prepare


def _resident(job: Job, _: Path) -> Work:
    import transformers

    return _work(transformers.AutoModelForCausalLM.from_pretrained(job.folder, dtype="auto"), job)


def _device_map(job: Job, scratch: Path) -> Work:
    """Layers on the disk; what is little stays in memory."""
    import transformers

    places = {"model.layers": "disk", **dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu")}
    options: Mapping[str, Any] = {"dtype": "auto", "device_map": places, "offload_folder": str(scratch)}
    return _work(transformers.AutoModelForCausalLM.from_pretrained(job.folder, **options), job)


def _disk_offload(job: Job, scratch: Path) -> Work:
    import accelerate
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(job.folder, dtype="auto")
    return _work(accelerate.disk_offload(model, str(scratch / "offload"), torch.device("cpu")), job)


def _airllm(job: Job, scratch: Path) -> Work:
    import airllm  # pyright: ignore[reportMissingImports]  # installed by who wants to compare

    return _work(airllm.AutoModel.from_pretrained(job.folder, device="cpu", layer_shards_saving_path=str(scratch)), job)


def _layer_collector(job: Job, scratch: Path) -> Work:
    """The example of its documents: all parts loaded, one token computed."""
    import llm_layer_collector as peer  # pyright: ignore[reportMissingImports]  # installed by who wants to compare
    import torch
    from transformers import DynamicCache

    def example() -> object:
        collector = peer.LlmLayerCollector(job.folder, str(scratch / f"{time.time_ns()}.json"), dtype=torch.bfloat16)
        embedding, norm, head = collector.load_input_embedding(), collector.load_norm(), collector.load_head()
        layers = collector.load_layer_set(0, collector.num_layers - 1)
        ids, cache, config = torch.arange(100, 100 + job.tokens)[None], DynamicCache(), collector.config
        state = peer.StaticAutoModel.compute_embedding(job.tokens, job.tokens, embedding, ids, config, cache)
        for layer in layers:
            state.state = peer.StaticAutoModel.compute_layer(layer, config, state, cache)
        return peer.StaticAutoModel.compute_head(head, norm(state.state), "cpu", temperature=0)

    return example


def _our_collector(job: Job, scratch: Path) -> Work:
    """The same example by ours."""
    import torch

    import mlload

    def example() -> object:
        collector = mlload.LlmLayerCollector(job.folder, scratch / f"{time.time_ns()}.json", dtype=torch.bfloat16)
        embedding, norm, head = collector.load_input_embedding(), collector.load_norm(), collector.load_head()
        layers = collector.load_layer_set(0, collector.num_layers - 1)
        state = mlload.compute_embedding(embedding, torch.arange(100, 100 + job.tokens)[None], collector.config)
        for layer in layers:
            state.state = mlload.compute_layer(layer, state)
        return mlload.compute_head(head, norm(state.state), topk=1)

    return example


def _one_layer(job: Job, scratch: Path) -> Work:
    """A layer from the middle, every byte of it looked at. The collector is there already, its headers read."""
    import torch

    import mlload

    collector = mlload.LlmLayerCollector(job.folder, scratch / "cache.json", dtype="auto")

    def work() -> object:
        layer = collector.load_layer(collector.num_layers // 2)
        return [parameter.detach().view(torch.int16).max() for parameter in layer.parameters()]

    return work


def _reading(job: Job, _: Path) -> Work:
    """Every byte of the weights, from the beginning of each file to its end: the disk's own rate."""
    from mlload.loader.bench.page_cache import read_through

    return lambda: [read_through(path) for path in sorted(Path(job.folder).glob("*.safetensors"))]


_OURS = ("torch", "transformers.models.llama.modeling_llama", "mlload.loader.execution.streaming", "mlload.layers.collector")
_THEIRS = ("torch", "transformers.models.llama.modeling_llama", "accelerate")

ENGINES = {
    "resident": Engine("resident model", _THEIRS, _resident),
    "streamed": Engine("mlload, streamed", _OURS, _ours()),
    "free": Engine("mlload, streamed without a budget", _OURS, _ours()),
    "nf4": Engine("mlload, NF4 streamed from the cache", (*_OURS, "bitsandbytes"), _ours("nf4")),
    "device_map": Engine("transformers `device_map`, layers on disk", _THEIRS, _device_map),
    "disk_offload": Engine("accelerate `disk_offload`", _THEIRS, _disk_offload),
    "airllm": Engine("AirLLM", (*_THEIRS, "airllm"), _airllm),
    "disk": Engine("reading the files once, nothing else", ("torch",), _reading),
    "example": Engine("mlload, the example of `LlmLayerCollector`", _OURS, _our_collector),
    "peer example": Engine("llm-layer-collector, its example", (*_THEIRS, "llm_layer_collector"), _layer_collector),
    "layer": Engine("mlload, one layer", _OURS, _one_layer),
}


if __name__ == "__main__":
    main()
