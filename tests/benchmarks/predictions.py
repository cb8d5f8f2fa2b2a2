"""Predictions beside what loads really take, recommendations for made-up machines, and recommendations tried under a hard limit."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import made_up
from memory_group import memory_limit
from prediction_peers import peers_of

from mlload import Checkpoint, QuantizationConfig, QuantizationMethod, recommend
from mlload.loader.bench.case import Case
from mlload.loader.bench.job import Job
from mlload.loader.bench.run import Run, run
from mlload.loader.bench.synthetic import synthetic
from mlload.loader.recommend.calibration import measure_lacking
from mlload.loader.recommend.candidates import MARGIN, Scene, footprint_of
from mlload.loader.recommend.component import on_host
from mlload.loader.recommend.frameworks import known_frameworks
from mlload.loader.recommend.machine import declared_machine, this_machine
from mlload.loader.recommend.precisions import Precision
from mlload.loader.recommend.use import Use
from mlload.loader.recommend.way import Way
from mlload.loader.settings import Backend, CacheMode, LoadingStrategy
from mlload.loader.settings_mapping import plain_settings

MIB = 1 << 20
STRATEGIES = (LoadingStrategy.FULL, LoadingStrategy.LOW_MEMORY, LoadingStrategy.STREAMING)
SHORT, LONG = 16, 1024
STREAMED_SHARE = 0.4  # of the weights that are resident
_LLAMA = {"rms_norm_eps": 1e-5, "tie_word_embeddings": False, "dtype": "bfloat16", "vocab_size": 32000, "max_position_embeddings": 4096}
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "decoder": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 1024, "intermediate_size": 2816,
        "num_hidden_layers": 12, "num_attention_heads": 16, "num_key_value_heads": 4, **_LLAMA,
    },
    "experts": {
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 768, "intermediate_size": 2048,
        "moe_intermediate_size": 384, "num_hidden_layers": 8, "num_attention_heads": 12, "num_key_value_heads": 4, "head_dim": 64,
        "num_experts": 16, "num_experts_per_tok": 4, **_LLAMA,
    },
    "encoder": {
        "architectures": ["BertForMaskedLM"], "model_type": "bert", "dtype": "float32", "hidden_size": 768, "intermediate_size": 3072,
        "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 30522, "max_position_embeddings": 2048, "hidden_act": "gelu",
    },
    "seq2seq": {
        "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "dtype": "float32", "d_model": 512, "d_ff": 1536, "d_kv": 64,
        "num_layers": 8, "num_decoder_layers": 8, "num_heads": 8, "vocab_size": 32128, "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False, "is_encoder_decoder": True, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1,
    },
    "sliding": {
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_size": 1024, "intermediate_size": 3584,
        "num_hidden_layers": 12, "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 64, "sliding_window": 512, **_LLAMA,
    },
}  # fmt: skip
LARGE, LARGEST = "llama-1.1b", "llama-2-7b"


@dataclass(frozen=True)
class Cell:
    """One load: which model, how, and how many tokens it is then given."""

    name: str
    folder: Path
    dtype: str
    method: str | None
    bits: int | None
    strategy: LoadingStrategy
    context: int

    @property
    def label(self) -> str:
        precision = self.dtype if self.method is None else f"{self.method}{self.bits or ''}"
        return f"{self.name} | {precision} | {self.strategy.value.replace('_', '-')} | {self.context:,}"

    @cached_property
    def scene(self) -> Scene:
        return Scene(Checkpoint.open(self.folder), this_machine(), Use(self.context), known_frameworks())

    @cached_property
    def precision(self) -> Precision:
        quantization = None if self.method is None else QuantizationConfig(QuantizationMethod(self.method), bits=self.bits)
        return Precision(self.dtype, quantization, 0.0)

    @cached_property
    def way(self) -> Way:
        way = Way(Backend.CPU, ("cpu",), self.dtype, self.strategy, self.precision.quantization)
        if self.strategy is not LoadingStrategy.STREAMING:
            return way
        plan = self.scene.plan(self.precision)
        largest = max(unit.target_bytes for unit in plan.units)
        return replace(way, resident=max(largest, int(plan.target_bytes * STREAMED_SHARE)))

    def predicted(self) -> tuple[int, int]:
        """Bytes of the host, of the whole process and over the imports."""
        taken = footprint_of(self.scene, self.way, self.scene.plan(self.precision))
        assert taken is not None
        return taken.host, taken.host - on_host(taken.component("framework"))

    def measured(self) -> Run:
        settings = replace(self.way.settings(str(self.folder)), quantized_cache=CacheMode.OFF)
        return run(Job(Case("mlload"), str(self.folder), (), context=self.context, settings=plain_settings(settings)))


def cells() -> Iterator[Cell]:
    """Five architectures in two precisions, every strategy, short and long; quantized ones in some of these; and a large model."""
    plain = [
        (dtype, None, None, strategy, context) for context, dtype, strategy in product((LONG, SHORT), ("bfloat16", "float32"), STRATEGIES)
    ]
    quantized = (
        ("bfloat16", "nf4", None, LoadingStrategy.FULL, LONG),
        ("bfloat16", "int8", None, LoadingStrategy.LOW_MEMORY, SHORT),
        ("bfloat16", "hqq", 4, LoadingStrategy.FULL, LONG),
    )
    for (dtype, method, bits, strategy, context), (name, folder) in product((*quantized, *plain), folders().items()):
        yield Cell(name, folder, dtype, method, bits, strategy, context)
    large = synthetic(LARGE)
    yield Cell(LARGE, large, "bfloat16", None, None, LoadingStrategy.FULL, LONG)
    yield Cell(LARGE, large, "bfloat16", None, None, LoadingStrategy.STREAMING, SHORT)
    yield Cell(LARGE, large, "float32", None, None, LoadingStrategy.FULL, SHORT)
    yield Cell(LARGE, large, "bfloat16", "nf4", None, LoadingStrategy.FULL, SHORT)
    yield Cell(LARGEST, synthetic(LARGEST), "bfloat16", None, None, LoadingStrategy.FULL, SHORT)


def folders() -> dict[str, Path]:
    """The checkpoints of SHAPES, made if need be."""
    made: dict[str, Path] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, config in SHAPES.items():
            path = Path(scratch) / f"predictions-{name}.json"
            path.write_text(json.dumps(config))
            made[name] = synthetic(str(path))
    return made


def measure_cells() -> Iterator[str]:
    """The table, and what the errors come to."""
    measure_lacking(("import", "forward", "nf4", "int8", "hqq", "numba"))
    known = peers_of({**folders(), LARGE: synthetic(LARGE), LARGEST: synthetic(LARGEST)})
    errors: dict[str, list[float]] = {}
    yield "| model | precision | strategy | tokens | predicted MiB | measured MiB | off | over imports: off | accelerate off | hf-mem off |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for cell in cells():
        done, (whole, over) = cell.measured(), cell.predicted()
        real_over = done.resident - done.imports.anonymous - done.imports.mapped
        offs = {
            "mlload, of the whole process": whole / done.resident - 1,
            "mlload, over the imports": over / real_over - 1,
            "accelerate estimate-memory, over the imports": known[cell.name].accelerate(cell.dtype, cell.method) / real_over - 1,
            "hf-mem, over the imports": known[cell.name].hf_mem(cell.context) / real_over - 1,
        }
        for who, off in offs.items():
            errors.setdefault(who, []).append(off)
        shown = " | ".join(f"{off:+.1%}" for off in offs.values())
        yield f"| {cell.label} | {whole / MIB:.0f} | {done.resident / MIB:.0f} | {shown} |"
    yield ""
    yield from _summary(errors)


def _summary(errors: Mapping[str, Sequence[float]]) -> Iterator[str]:
    yield "| prediction | cells | median error | worst | most under |"
    yield "|---|---|---|---|---|"
    for who, offs in errors.items():
        sizes = [abs(off) for off in offs]
        yield f"| {who} | {len(offs)} | {median(sizes):.1%} | {max(sizes):.1%} | {min(offs):+.1%} |"
    yield ""


# Loads a model as a file of settings says, and runs a forward over so many tokens, as the prediction has it.
TRIED = """
import json, os, sys
from mlload.loader.bench.answer import ask
from mlload.loader.bench.phases import Phases
from mlload.loader.loading import load
from mlload.loader.settings_mapping import build_settings, parse_settings
ask(load(build_settings(parse_settings(json.loads(sys.argv[1])))).model, Phases(os.open(os.devnull, os.O_WRONLY)), context=int(sys.argv[2]))
os._exit(0)
"""
# Memory of a described machine, in MiB, and tokens, so that different ways are recommended for each model.
ROOM = (
    ("decoder", 20_000, LONG), ("decoder", 700, SHORT), ("experts", 20_000, LONG), ("experts", 720, SHORT), ("encoder", 20_000, LONG),
    ("encoder", 800, SHORT), ("seq2seq", 20_000, LONG), ("seq2seq", 690, SHORT), ("sliding", 20_000, LONG), ("sliding", 760, SHORT),
)  # fmt: skip


def measure_limited() -> Iterator[str]:
    """Each recommendation carried out in a group that may have what was predicted and 5 % more."""
    yield "| model | recommended | tokens | limit, MiB | ended with |"
    yield "|---|---|---|---|---|"
    made = folders()
    for name, room, context in ROOM:
        found = recommend(made[name], machine=declared_machine(device="cpu", memory=room * MIB), use=Use(context))
        assert found.best is not None
        limit = int(found.best.footprint.host * (1 + MARGIN))
        settings = plain_settings(replace(found.settings(), quantized_cache=CacheMode.OFF))
        with memory_limit(limit) as limited:
            command = [*limited, sys.executable, "-W", "ignore", "-c", TRIED, json.dumps(settings), str(context)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        outcome = "done" if done.returncode == 0 else f"code {done.returncode} {done.stderr.strip()[-80:]}"
        yield f"| {name} | {found.best.way.label} | {context:,} | {limit / MIB:.0f} | {outcome} |"
    yield ""


def measure() -> Iterator[str]:
    """All three."""
    yield "### Predicted and measured peaks"
    yield ""
    yield "The kernel's high-water mark of the whole process, loading and one forward. accelerate and hf-mem tell of weights (hf-mem of the"
    yield "cache, too), so that they are held against what the process took over its imports."
    yield ""
    yield from measure_cells()
    yield "### Made-up machines"
    yield ""
    yield from made_up.measure()
    yield "### Under a limit of the prediction and 5 %"
    yield ""
    try:
        yield from measure_limited()
    except OSError as error:
        yield f"Not measured, for there can be no such limit here ({error.strerror})."


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for line in measure():
        sys.stdout.write(f"{re.sub(r' +$', '', line)}\n")
        sys.stdout.flush()
