"""Models of mlx-lm held against transformers' (what they say) and against mlx-lm's own loading and quantizing (every array)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import LLAMA_CONFIG, Outcome, llama_tensors, write_safetensors
from mlx_checkpoints import CONFIGS

import mlload
from mlload import Backend, LoadingStrategy, ModelLoadingConfig, QuantizationConfig, QuantizationMethod
from mlload.configs import FOLDER
from mlload.loader.load_report import load_report, plan_report
from mlload.loader.loading import load, plan_load
from mlload.loader.memory import Memory

mx = pytest.importorskip("mlx.core", reason="MLX is an extra")
mlx_lm = pytest.importorskip("mlx_lm", reason="MLX is an extra")

TINY = FOLDER / "tiny"
TOKENS = [[3, 1, 4, 1, 5, 9, 2, 6]]
TOLERANCE = 2e-6  # of the largest logit, in float32
BITS = {QuantizationMethod.MLX_INT4: 4, QuantizationMethod.MLX_INT8: 8}

Run = Callable[..., Outcome]


def arrays(model: object) -> dict[str, mx.array]:
    from mlx.utils import tree_flatten

    return dict(tree_flatten(model.parameters()))


def same(one: dict[str, mx.array], other: dict[str, mx.array]) -> bool:
    alike = list(one) == list(other)
    return alike and all(array.dtype == other[name].dtype and mx.array_equal(array, other[name]).item() for name, array in one.items())


def mlx_lm_quantized(folder: Path, bits: int, group_size: int) -> dict[str, mx.array]:
    model, config = mlx_lm.utils.load_model(folder)
    with redirect_stdout(StringIO()):
        return arrays(mlx_lm.utils.quantize_model(model, config, group_size, bits)[0])


@pytest.mark.parametrize("name", CONFIGS)
def test_it_says_what_transformers_says(mlx_models: Path, name: str) -> None:
    loaded = load(ModelLoadingConfig(mlx_models / name, backend="mlx", dtype="float32"))
    wanted = transformers.AutoModelForCausalLM.from_pretrained(mlx_models / name, dtype=torch.float32)
    with torch.no_grad():
        logits = wanted(torch.tensor(TOKENS)).logits.numpy()
    assert type(loaded.model).__module__.startswith("mlx_lm.models.")
    assert np.abs(np.array(loaded.model(mx.array(TOKENS))) - logits).max() <= TOLERANCE * np.abs(logits).max()
    assert loaded.plan.missing == loaded.plan.unexpected == ()


@pytest.mark.parametrize("group_size", [32, 64])
@pytest.mark.parametrize("method", BITS, ids=lambda method: method.value)
@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_quantized_weights_are_mlx_lms_own(mlx_models: Path, name: str, method: QuantizationMethod, group_size: int) -> None:
    asked = QuantizationConfig(method, group_size=group_size)
    loaded = load(ModelLoadingConfig(mlx_models / name, backend=Backend.MLX, quantization_config=asked))
    assert same(arrays(loaded.model), mlx_lm_quantized(mlx_models / name, BITS[method], group_size))
    assert loaded.plan.target_bytes == sum(array.nbytes for array in arrays(loaded.model).values())


def test_cast_and_then_quantized(mlx_models: Path) -> None:
    asked = QuantizationConfig(QuantizationMethod.MLX_INT4, skip_modules=("lm_head",))
    loaded = load(ModelLoadingConfig(mlx_models / "llama", device="mlx", dtype=torch.float32, quantization_config=asked))
    made = arrays(loaded.model)
    assert made["model.layers.0.mlp.up_proj.scales"].dtype == mx.float32
    assert made["lm_head.weight"].dtype == mx.float32
    assert "lm_head.scales" not in made


@pytest.mark.parametrize("quantization", [None, QuantizationConfig(QuantizationMethod.MLX_INT8, group_size=32)], ids=["plain", "int8"])
def test_what_is_saved_loads_again(tmp_path: Path, quantization: QuantizationConfig | None) -> None:
    loaded = load(ModelLoadingConfig("tiny", backend=Backend.MLX, quantization_config=quantization))
    loaded.save(tmp_path / "saved")
    again = load(ModelLoadingConfig(tmp_path / "saved", backend=Backend.MLX))
    by_mlx_lm, tokenizer = mlx_lm.load(str(tmp_path / "saved"))
    assert same(arrays(again.model), arrays(loaded.model))
    assert same(arrays(by_mlx_lm), arrays(loaded.model))
    assert mlx_lm.generate(by_mlx_lm, tokenizer, "Q: What is a shard?", max_tokens=6) == "\nA: A "
    assert mlload.inspect(tmp_path / "saved").problems == ()
    with pytest.raises(mlload.UsageError, match="exists already"):
        loaded.save(tmp_path / "saved")


def test_what_is_saved_quantized_is_not_quantized_again(tmp_path: Path) -> None:
    asked = QuantizationConfig(QuantizationMethod.MLX_INT8)
    load(ModelLoadingConfig("tiny", quantization_config=asked)).save(tmp_path / "saved")
    with pytest.raises(mlload.UsageError, match="quantized already"):
        load(ModelLoadingConfig(tmp_path / "saved", quantization_config=asked))


def test_units_tell_what_becomes_of_their_tensors(mlx_models: Path) -> None:
    planned = plan_load(ModelLoadingConfig(mlx_models / "mixtral", backend=Backend.MLX, dtype="float32"))
    assert [unit.name for unit in planned.plan.units] == ["model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "lm_head"]
    stacked = next(step for step in planned.plan.steps if step.targets[0].name.endswith("0.block_sparse_moe.switch_mlp.up_proj.weight"))
    assert stacked.summary == "ExpandDims, Concatenate"
    assert [entry.name for entry, _ in stacked.sources] == [f"model.layers.0.block_sparse_moe.experts.{n}.w3.weight" for n in range(4)]
    assert planned.plan.source_bytes == sum(entry.nbytes for entry in planned.checkpoint.tensors.values())


def test_prompt_is_gone_on_from(run: Run) -> None:
    outcome = run("load", "tiny", "--device", "mlx", "--quantize", "mlx_int8", "--prompt", "Q: What is a shard?", "--check")
    assert outcome.out.startswith("Q: What is a shard?\nA: A shard is one of the weight files into which a large checkpoint is cut.\n")
    assert "mlx_lm.models.llama.Model  decoder-only, 625 K parameters in bfloat16 on cpu, unified_memory" in outcome.out
    assert "all weights are finite" in outcome.out
    assert outcome.err == ""


def test_reports_are_those_of_any_other() -> None:
    planned, other = (plan_load(ModelLoadingConfig("tiny", device=device)) for device in ("mlx", "cpu"))
    plan, wanted = plan_report(planned), plan_report(other)
    assert (plan.backend, plan.read_bytes, plan.model_bytes) == ("mlx", wanted.read_bytes, wanted.model_bytes)
    assert plan.loaded == Memory(anonymous=1_249_280)  # as all of it is read, none is mapped
    report, wanted = load_report(planned.execute()), load_report(other.execute())
    assert (report.parameters, report.dtype, report.kind, report.cache) == (wanted.parameters, wanted.dtype, wanted.kind, "off")


def test_weights_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    table = llama_tensors(hidden=64, inner=64)
    path = write_safetensors(tmp_path / "model.safetensors", table)
    with path.open("r+b") as file:
        file.seek(-2, os.SEEK_END)  # the last element of the head
        file.write(b"\xc0\x7f")
    config = LLAMA_CONFIG | {"hidden_size": 64, "num_attention_heads": 32, "num_key_value_heads": 2, "intermediate_size": 64}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load(ModelLoadingConfig(tmp_path, device="mlx")).non_finite() == {"lm_head.weight": 1}


MEASURED = """
import sys
from mlload import ModelLoadingConfig, QuantizationConfig, QuantizationMethod
from mlload.loader.loading import plan_load

def kernel(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))

planned = plan_load(ModelLoadingConfig(sys.argv[1], quantization_config=QuantizationConfig(QuantizationMethod.MLX_INT4)))
open("/proc/self/clear_refs", "w").write("5")  # the highest so far is forgotten
before = kernel("VmRSS")
planned.execute()
sys.stdout.write(str(kernel("VmHWM") - before))
"""


def test_at_most_one_weight_is_in_memory_unquantized(tmp_path: Path) -> None:
    table = llama_tensors(8, 1024, 256, 4096, 4000)  # 255 MB of zeros, which take no space on the disk
    write_safetensors(tmp_path / "model.safetensors", table)
    sizes = {"hidden_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 16, "num_key_value_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_CONFIG | sizes | {"intermediate_size": 4096, "vocab_size": 4000}))
    predicted = plan_load(ModelLoadingConfig(tmp_path, quantization_config=QuantizationConfig(QuantizationMethod.MLX_INT4))).prediction
    done = subprocess.run([sys.executable, "-c", MEASURED, tmp_path], capture_output=True, text=True, check=True)
    layer = 2 * (1024 * 1024 * 2 + 1024 * 256 * 2 + 1024 * 4096 * 3)
    assert predicted.loaded.anonymous < predicted.peak.anonymous < predicted.loaded.anonymous + layer
    assert abs(int(done.stdout) - predicted.peak.anonymous) < layer


def test_low_memory_is_one_at_a_time() -> None:
    assert plan_load(ModelLoadingConfig("tiny", backend=Backend.MLX)).workers == 4
    assert plan_load(ModelLoadingConfig("tiny", backend=Backend.MLX, loading_strategy=LoadingStrategy.LOW_MEMORY)).workers == 1
