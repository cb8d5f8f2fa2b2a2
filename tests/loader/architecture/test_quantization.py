"""Quantization, found in the tensors that each method really leaves behind."""

from __future__ import annotations

from math import prod
from pathlib import Path

import pytest
from conftest import LLAMA_CONFIG, Table, llama_tensors, write_safetensors

import mlload
from mlload.loader.checkpoint import Checkpoint
from mlload.loader.validation import find_problems

NAMES = [name for name in llama_tensors(kv=8) if "_proj" in name]
DENSE = sum(prod(shape) for _, shape in llama_tensors(kv=8).values())


def replaced(**stored: tuple[str, object]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """A small Llama whose projections are stored as `stored`: suffixes to dtypes, and shapes as functions of the weight's shape."""
    table = llama_tensors(kv=8)
    for name in NAMES:
        shape = table.pop(name)[1]
        for suffix, (dtype, reshaped) in stored.items():
            table[name.removesuffix("weight") + suffix.replace("weight__", "weight.")] = (
                dtype,
                reshaped(shape) if callable(reshaped) else reshaped,
            )  # type: ignore[assignment]
    return table


def packed(divisor: int) -> object:
    return lambda shape: (prod(shape) // divisor, 1)


CASES: dict[str, tuple[Table, dict[str, object], float | None]] = {
    "nf4": (
        replaced(weight=("U8", packed(2)), weight__absmax=("F32", (2,)), **{"weight__quant_state.bitsandbytes__nf4": ("U8", (60,))}),
        {},
        4,
    ),
    "fp4": (
        replaced(weight=("U8", packed(2)), weight__absmax=("F32", (2,)), **{"weight__quant_state.bitsandbytes__fp4": ("U8", (60,))}),
        {},
        4,
    ),
    "int8": (replaced(weight=("I8", lambda shape: shape), SCB=("F32", lambda shape: shape[:1])), {}, 8),
    "gptq": (
        replaced(
            qweight=("I32", lambda s: (s[1] // 8, s[0])),
            qzeros=("I32", (1, 1)),
            scales=("F16", lambda s: (1, s[0])),
            g_idx=("I32", lambda s: s[1:]),
        ),
        {"quant_method": "gptq", "bits": 4, "group_size": 128},
        4,
    ),
    "awq": (
        replaced(qweight=("I32", lambda s: (s[1], s[0] // 8)), qzeros=("I32", (1, 1)), scales=("F16", lambda s: (1, s[0]))),
        {"quant_method": "awq", "bits": 4, "group_size": 64},
        4,
    ),
    "hqq": (
        replaced(W_q=("U8", packed(2)), scale=("F16", (1,)), zero=("F16", (1,))),
        {"quant_method": "hqq", "quant_config": {"nbits": 4, "group_size": 64}},
        4,
    ),
    "fp8": (
        replaced(weight=("F8_E4M3", lambda shape: shape), weight_scale_inv=("F32", (1, 1))),
        {"quant_method": "fp8", "weight_block_size": [128, 128]},
        8,
    ),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    import json

    tensors, declared, _ = CASES[request.param]
    write_safetensors(tmp_path / "model.safetensors", tensors)
    config = LLAMA_CONFIG | ({"quantization_config": declared} if declared else {})
    (tmp_path / "config.json").write_text(json.dumps(config))
    return request.param, tmp_path


def test_method_and_bits(case: tuple[str, Path]) -> None:
    method, folder = case
    found = mlload.inspect(folder).quantization
    assert found is not None
    assert (found.method, found.bits, found.quantized_tensors) == (method, CASES[method][2], len(NAMES))


def test_parameters_are_the_models_own(case: tuple[str, Path]) -> None:
    method, folder = case
    scales = {"hqq": 2 * len(NAMES)}  # HQQ's scale and zero are named like any tensor
    assert mlload.inspect(folder).parameters == DENSE + scales.get(method, 0)


def test_a_config_that_declares_what_is_not_there_is_a_problem(llama: Path) -> None:
    import json

    (llama / "config.json").write_text(json.dumps(LLAMA_CONFIG | {"quantization_config": {"quant_method": "gptq", "bits": 4}}))
    assert [problem.code for problem in find_problems(Checkpoint.open(llama))] == ["quantization-not-found"]


def test_an_ordinary_checkpoint_has_none(llama: Path) -> None:
    assert mlload.inspect(llama).quantization is None
