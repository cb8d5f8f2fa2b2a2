"""30 machines that are made up, 20 shapes from headers alone: whether what is recommended fits, by an arithmetic of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import shapes

from mlload import Checkpoint, LoadingStrategy, recommend
from mlload.loader.recommend.candidates import Candidate
from mlload.loader.recommend.machine import Machine, declared_machine
from mlload.loader.recommend.recommendation import OBJECTIVES, Recommendation
from mlload.loader.recommend.use import Use

GIB = 1 << 30
_BASE = {"rms_norm_eps": 1e-5, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "max_position_embeddings": 32768}
# Hidden size, inner size, layers, heads, heads of keys, vocabulary.
_DENSE = (
    (512, 1408, 8, 8, 2, 32000), (768, 2048, 12, 12, 12, 50304), (1024, 2816, 16, 16, 4, 32000), (1536, 4096, 20, 12, 2, 151936),
    (2048, 5632, 22, 32, 4, 32000), (2048, 8192, 16, 32, 8, 128256), (2560, 6912, 28, 20, 20, 100352), (3072, 8192, 28, 24, 8, 128256),
    (4096, 11008, 32, 32, 32, 32000), (4096, 14336, 32, 32, 8, 128256), (5120, 13824, 40, 40, 40, 32000), (5120, 17920, 40, 40, 10, 100352),
    (6656, 17920, 60, 52, 52, 32000), (8192, 28672, 80, 64, 8, 128256), (12288, 28672, 88, 96, 8, 32768),
)  # fmt: skip
# The same, with experts of a smaller inner size.
_SPARSE = ((1024, 512, 12, 16, 4, 32000, 16), (2048, 768, 24, 32, 4, 151936, 64), (2048, 768, 48, 32, 4, 151936, 128),
           (4096, 14336, 32, 32, 8, 32000, 8), (4096, 1536, 94, 64, 4, 151936, 128))  # fmt: skip
# Bytes a weight of a matrix in a layer, beside two or four for what is not quantized.
_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "int8": 1.0, "nf4": 0.5 + 4 / 64,
          **{f"hqq with {bits} bits": bits / 8 + 4 / 64 for bits in (8, 4, 3, 2)}}  # fmt: skip
_ERRORS = {"int8": 1, "hqq with 8 bits": 1, "nf4": 2, "hqq with 4 bits": 2, "hqq with 3 bits": 3, "hqq with 2 bits": 4}


def configs() -> list[Mapping[str, Any]]:
    """Twenty, from 50 million parameters to 235 billion."""
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")
    dense = [
        _BASE | dict(zip(keys, sizes, strict=True)) | {"architectures": ["LlamaForCausalLM"], "model_type": "llama"} for sizes in _DENSE
    ]
    return dense + [
        _BASE
        | dict(zip((*keys, "num_experts"), sizes, strict=True))
        | {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "moe_intermediate_size": sizes[1], "num_experts_per_tok": 8}
        for sizes in _SPARSE
    ]


def machines() -> list[Machine]:
    """Thirty: CPUs, one GPU, several, Apple's."""
    hosts = [declared_machine(device="cpu", memory=size * GIB) for size in (2, 4, 8, 16, 32, 64, 128, 256, 512)]
    alone = [declared_machine(gpus=f"{size}GiB", host=64 * GIB) for size in (6, 8, 11, 12, 16, 24, 32, 48, 80, 141)]
    several = ("2x8GiB", "2x24GiB", "4x16GiB", "4x24GiB", "8x24GiB", "2x80GiB", "8x80GiB", "24GiB,12GiB")
    return hosts + alone + [declared_machine(gpus=gpus, host=128 * GIB) for gpus in several] + [
        declared_machine(device="mps", memory=size * GIB) for size in (16, 36, 128)
    ]  # fmt: skip


def write(folder: Path, config: Mapping[str, Any]) -> Path:
    """True headers over files that are holes."""
    shapes.write(folder, config, dict(shapes._tensors(config)), shards=4)
    return folder


def weights(config: Mapping[str, Any], precision: str) -> float:
    """Bytes of all weights, from the config's sizes alone."""
    hidden, layers, heads = config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"]
    head, experts = config.get("head_dim", hidden // heads), config.get("num_experts", 0)
    attention = hidden * head * (2 * heads + 2 * config["num_key_value_heads"])
    block = 3 * hidden * config.get("moe_intermediate_size", config["intermediate_size"]) * max(experts, 1)
    plain = 4.0 if precision == "float32" else 2.0
    quantized = attention if experts else attention + block  # experts lie side by side, which no method quantizes
    rest = 2 * config["vocab_size"] * hidden + layers * ((block + hidden * experts) if experts else 0)
    return layers * quantized * _BYTES[precision] + rest * plain


def fits(candidate: Candidate, machine: Machine, config: Mapping[str, Any], use: Use) -> bool:
    """Whether weights and cache have room on all devices together, and what streaming keeps on its one."""
    way, wide = candidate.way, 4 if candidate.way.dtype == "float32" else 2
    head = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    cache = 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head * use.context * use.batch * wide
    kept = weights(config, way.precision) if way.resident is None else float(way.resident)
    hardware = machine.hardware
    if way.backend.value == "cpu":
        room = hardware.free_bytes
    elif way.backend.value == "mps":
        room = min(hardware.mps.free_bytes if hardware.mps else 0, hardware.free_bytes)
    else:
        room = sum(hardware.cuda[int(device.partition(":")[2])].free_bytes for device in way.devices)
    return kept + cache <= room


def is_best(found: Recommendation) -> bool:
    """Whether nothing that fits and stands further down is better in what was asked for."""
    fitting = [each for each in found.candidates if each.fits]
    values = {
        "fidelity": lambda each: _ERRORS.get(each.way.precision, 0),
        "balanced": lambda each: (each.streams, _ERRORS.get(each.way.precision, 0)),
        "speed": lambda each: each.speed.seconds,
        "memory": lambda each: each.footprint.host + sum(v for k, v in each.footprint.peak.items() if k not in ("anonymous", "mapped")),
    }
    measure = values[found.objective]
    return all(measure(fitting[0]) <= measure(each) for each in fitting)


def judge(chosen: Sequence[Mapping[str, Any]], on: Sequence[Machine], folder: Path) -> dict[str, int]:
    """How many recommendations there were, how many fit, how many were the best; how many machines had room for none."""
    counts = {"pairs": 0, "fitting": 0, "best": 0, "nothing fits": 0, "streamed": 0}
    for number, config in enumerate(chosen):
        checkpoint = Checkpoint.open(write(folder / str(number), config))
        for place, machine in enumerate(on):
            use = Use(context=(512, 4096, 16384)[place % 3], batch=1 + place % 2)
            found = recommend(checkpoint, machine=machine, objective=list(OBJECTIVES)[(number + place) % len(OBJECTIVES)], use=use)
            counts["pairs"] += 1
            if found.best is None:
                counts["nothing fits"] += 1
                continue
            counts["fitting"] += fits(found.best, machine, config, use)
            counts["best"] += is_best(found)
            counts["streamed"] += found.best.way.strategy is LoadingStrategy.STREAMING
    return counts


def measure() -> Iterator[str]:
    """What came of all pairs."""
    with tempfile.TemporaryDirectory() as scratch:
        counts = judge(configs(), machines(), Path(scratch))
    none = counts["nothing fits"]
    pairs, fitting, best = counts["pairs"], counts["fitting"], counts["best"]
    yield f"{pairs} pairs of 30 machines and 20 shapes, four objectives and several contexts in turn. In {none} nothing fits, and that"
    yield f"is said; of {pairs - none} recommendations {fitting} fit by the other arithmetic, and in {best} nothing further down is better"
    yield f"in what was asked for. {counts['streamed']} are streamed."
    yield ""
