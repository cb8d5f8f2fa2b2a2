"""Quantization, found in the tensors that each method really leaves behind, and the weights counted in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil, prod
from pathlib import Path
from typing import Any

import pytest
from conftest import LLAMA_CONFIG, Outcome, Table, llama_tensors, write_safetensors

import mlload
from mlload.loader.checkpoint import Checkpoint
from mlload.loader.inspection import InspectReport
from mlload.loader.validation import find_problems

PLAIN = llama_tensors(hidden=128, kv=64, inner=256)
CONFIG = LLAMA_CONFIG | {"hidden_size": 128, "intermediate_size": 256}
NAMES = [name for name in PLAIN if "_proj" in name]
DENSE = sum(prod(shape) for _, shape in PLAIN.values())

Shape = tuple[int, ...]
Stored = Mapping[str, tuple[str, Callable[[int, int], Shape]]]


@dataclass(frozen=True)
class Case:
    """What stands for each weight of `outputs` rows and `inputs` columns: suffixes in place of `weight`, dtypes and shapes."""

    method: str
    bits: float | None
    stored: Stored
    declared: dict[str, Any] = field(default_factory=dict)
    group_size: int | None = None
    key: str = "quantization_config"


def compressed(**groups: Any) -> dict[str, Any]:
    """The config of compressed-tensors for groups of weights; activations have eight bits."""
    activations = {"num_bits": 8, "type": "int", "strategy": "token"}
    return {
        "quant_method": "compressed-tensors",
        "config_groups": {name: {"input_activations": activations, "weights": group} for name, group in groups.items()},
    }


def same(o: int, i: int) -> Shape:
    return (o, i)


def one(o: int, i: int) -> Shape:
    return (1,)


def rows(o: int, i: int) -> Shape:
    return (o,)


def columns(divisor: float) -> Callable[[int, int], Shape]:
    """Inputs divided."""
    return lambda o, i: (o, ceil(i / divisor))


def flat(divisor: int) -> Callable[[int, int], Shape]:
    return lambda o, i: (ceil(o * i / divisor),)


def tall(divisor: int) -> Callable[[int, int], Shape]:
    return lambda o, i: (o * i // divisor, 1)


def four_bit(kind: str, dtype: str = "U8", block: int = 64, **more: Any) -> Stored:
    packed = tall(2 if dtype == "U8" else 4)
    return {
        "weight": (dtype, packed),
        "weight.absmax": ("F32", flat(block)),
        "weight.quant_map": ("F32", one),
        f"weight.quant_state.bitsandbytes__{kind}": ("U8", lambda o, i: (80,)),
        **more,
    }


NESTED = {"weight.absmax": ("U8", flat(64)), "weight.nested_absmax": ("F32", one), "weight.nested_quant_map": ("F32", one)}
GPTQ = {
    "qzeros": ("I32", lambda o, i: (1, o // 8)),
    "scales": ("F16", lambda o, i: (1, o)),
    "g_idx": ("I32", lambda o, i: (i,)),
}
AWQ = {"qweight": ("I32", lambda o, i: (i, o // 8)), "qzeros": ("I32", lambda o, i: (1, o // 8)), "scales": ("F16", lambda o, i: (2, o))}
HQQ = {name: ("I64", one) for name in ("nbits", "group_size", "axis", "stores_quant_config")} | {
    "shape": ("I64", lambda o, i: (2,)),
    "scale": ("F16", tall(64)),
    "zero": ("F16", tall(64)),
    "meta": ("U8", rows),
}
WORDS = {"weight_shape": ("I64", lambda o, i: (2,)), "weight_scale": ("BF16", columns(64))}
NVFP4 = {"weight_scale": ("F8_E4M3", columns(16)), "input_scale": ("F32", one)}

CASES: dict[str, Case] = {
    "nf4": Case("nf4", 4, four_bit("nf4"), group_size=64),
    "nf4-nested": Case("nf4", 4, four_bit("nf4", **NESTED), group_size=64),
    "nf4-in-bfloat16": Case("nf4", 4, four_bit("nf4", "BF16", 128), group_size=128),
    "fp4": Case("fp4", 4, four_bit("fp4"), group_size=64),
    "int8": Case("int8", 8, {"weight": ("I8", same), "SCB": ("F32", rows), "weight_format": ("U8", one)}),
    "gptq": Case(
        "gptq", 4, GPTQ | {"qweight": ("I32", lambda o, i: (i // 8, o))}, {"quant_method": "gptq", "bits": 4, "group_size": 128}, 128
    ),
    "gptq-of-3-bits": Case("gptq", 3, GPTQ | {"qweight": ("I32", lambda o, i: (i * 3 // 32, o))}, {"quant_method": "gptq", "bits": 3}),
    "gptq-without-g_idx": Case("gptq", 3, {"qweight": ("I32", lambda o, i: (i * 3 // 32, o))}, {"quant_method": "gptq", "bits": 3}),
    "awq": Case("awq", 4, AWQ, {"quant_method": "awq", "bits": 4, "group_size": 64}, 64),
    "awq-without-config": Case("awq", 4, AWQ),
    "hqq": Case("hqq", 4, HQQ | {"W_q": ("U8", tall(2))}, {"quant_method": "hqq", "quant_config": {"nbits": 4, "group_size": 64}}, 64),
    "hqq-of-3-bits": Case(
        "hqq",
        3,
        HQQ | {"W_q": ("I32", lambda o, i: (ceil(o * i / 64 / 10), 64))},
        {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 3, "group_size": 64}, "scale_quant_params": None}},
        64,
    ),
    "fp8": Case(
        "fp8",
        8,
        {"weight": ("F8_E4M3", same), "weight_scale_inv": ("F32", lambda o, i: (1, 1))},
        {"quant_method": "fp8", "weight_block_size": [128, 128]},
    ),
    "mlx": Case(
        "mlx",
        4,
        {"weight": ("U32", columns(8)), "scales": ("BF16", columns(64)), "biases": ("BF16", columns(64))},
        {"group_size": 64, "bits": 4},
        64,
        key="quantization",
    ),
    "mlx-of-6-bits": Case(
        "mlx",
        6,
        {"weight": ("U32", columns(32 / 6)), "scales": ("BF16", columns(32)), "biases": ("BF16", columns(32))},
        {"group_size": 32, "bits": 6},
        32,
        key="quantization",
    ),
    "nvfp4-modelopt": Case(
        "nvfp4",
        4,
        NVFP4 | {"weight": ("U8", columns(2)), "weight_scale_2": ("F32", one)},
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_scheme": {"num_bits": 8}},
        16,
    ),
    "nvfp4-compressed-tensors": Case(
        "nvfp4",
        4,
        NVFP4 | {"weight_packed": ("U8", columns(2)), "weight_global_scale": ("F32", one), "input_global_scale": ("F32", one)},
        compressed(group_0={"num_bits": 4, "type": "float", "group_size": 16}),
        16,
    ),
    "mxfp4": Case("mxfp4", 4, {"weight": ("U8", columns(2)), "weight_scale": ("U8", columns(32))}, {"quant_method": "quark"}, 32),
    "fp4-in-int8": Case("mxfp4", 4, {"weight": ("I8", columns(2)), "scale": ("F8_E8M0", columns(32))}, {"quant_method": "fp8"}, 32),
    "w4a16": Case(
        "compressed-tensors", 4, WORDS | {"weight_packed": ("I32", columns(8))}, compressed(a={"num_bits": 4, "group_size": 64}), 64
    ),
    "w4a16-of-two-groups": Case(
        "compressed-tensors",
        4,
        WORDS | {"weight_packed": ("I32", columns(8))},
        compressed(a={"num_bits": 8, "group_size": 64}, b={"num_bits": 4, "group_size": 64}),
        64,
    ),
    "w8a8-int": Case(
        "int8", 8, {"weight": ("I8", same), "weight_scale": ("BF16", lambda o, i: (o, 1))}, compressed(a={"num_bits": 8, "type": "int"})
    ),
    "w8a8-float": Case(
        "fp8", 8, {"weight": ("F8_E4M3", same), "weight_scale": ("BF16", lambda o, i: (o, 1))}, compressed(a={"num_bits": 8})
    ),
    "bitnet": Case("bitnet", 2, {"weight": ("U8", lambda o, i: (o // 4, i)), "weight_scale": ("BF16", one)}, {"quant_method": "bitnet"}),
    "eetq": Case(
        "eetq",
        8,
        {"weight": ("I8", lambda o, i: (i, o)), "weight_scales": ("F16", rows)},
        {"quant_method": "eetq", "weights": "int8"},
    ),
    "quanto-int8": Case(
        "quanto",
        8,
        {"weight._data": ("I8", same), "weight._scale": ("BF16", lambda o, i: (o, 1)), "input_scale": ("BF16", one)},
        {"quant_method": "quanto", "weights": "int8"},
    ),
    "quanto-int4": Case(
        "quanto",
        4,
        {
            "weight._data._data": ("U8", lambda o, i: (o // 2, i)),
            "weight._scale": ("BF16", tall(128)),
            "weight._shift": ("BF16", tall(128)),
        },
        {"quant_method": "quanto", "weights": "int4"},
    ),
    "aqlm": Case(
        "aqlm",
        2,
        {
            "codes": ("I16", lambda o, i: (o, i // 8, 1)),
            "codebooks": ("F16", lambda o, i: (1, 65536, 1, 8)),
            "scales": ("F16", lambda o, i: (o, 1, 1, 1)),
        },
        {"quant_method": "aqlm", "nbits_per_codebook": 16, "num_codebooks": 1, "in_group_size": 8, "out_group_size": 1},
    ),
    "exl2": Case(
        "exl2",
        4.5,
        {
            "q_weight": ("I32", lambda o, i: (i * 9 // 64, o)),
            "q_scale": ("I32", lambda o, i: (4, o // 8)),
            "q_scale_max": ("F16", lambda o, i: (4,)),
            "q_groups": ("I16", lambda o, i: (8,)),
            "q_invperm": ("I16", lambda o, i: (i,)),
        },
        {"quant_method": "exl2", "bits": 4.65, "head_bits": 6},
    ),
    "exl3": Case(
        "exl3",
        3,
        {"trellis": ("I16", lambda o, i: (i // 16, o // 16, 48)), "suh": ("F16", lambda o, i: (i,)), "svh": ("F16", rows)},
        {"quant_method": "exl3", "bits": 3.0},
    ),
}


def written(folder: Path, stored: Stored, section: dict[str, Any], key: str = "quantization_config") -> InspectReport:
    """The report on a small Llama whose projections are stored so."""
    table: dict[str, tuple[str, Shape]] = {name: entry for name, entry in PLAIN.items() if name not in NAMES}
    for name in NAMES:
        outputs, inputs = PLAIN[name][1]
        table |= {name.removesuffix("weight") + suffix: (dtype, shape(outputs, inputs)) for suffix, (dtype, shape) in stored.items()}
    return report(folder, table, {key: section} if section else {})


def report(folder: Path, table: Table, config: dict[str, Any]) -> InspectReport:
    write_safetensors(folder / "model.safetensors", table)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    return mlload.inspect(folder)


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_what_each_method_stores(case: Case, tmp_path: Path) -> None:
    found = written(tmp_path, case.stored, case.declared, case.key)
    quantization = found.quantization
    assert quantization is not None
    assert (quantization.method, quantization.bits, quantization.group_size) == (case.method, case.bits, case.group_size)
    assert (quantization.quantized_tensors, quantization.counted_as_stored) == (len(NAMES), 0)
    assert found.parameters == DENSE
    assert found.problems == ()


def test_settings_of_single_modules(tmp_path: Path) -> None:
    stored = {"weight": ("U32", columns(8)), "scales": ("BF16", columns(64)), "biases": ("BF16", columns(64))}
    table = {name: entry for name, entry in PLAIN.items() if name not in NAMES}
    for name in NAMES:
        outputs, inputs = PLAIN[name][1]
        wide = ("U32", columns(4)) if name == NAMES[0] else stored["weight"]
        for suffix, (dtype, shape) in (stored | {"weight": wide}).items():
            table[name.removesuffix("weight") + suffix] = (dtype, shape(outputs, inputs))
    own = {NAMES[0].removesuffix(".weight"): {"group_size": 64, "bits": 8}, "lm_head": False}
    found = report(tmp_path, table, {"quantization": {"group_size": 64, "bits": 4, **own}})
    assert found.parameters == DENSE
    assert found.quantization is not None
    assert found.quantization.bits == pytest.approx(4.1, abs=0.3)


UNKNOWN: dict[str, tuple[Stored, dict[str, Any]]] = {
    "gptq-without-bits": ({"qweight": ("I32", columns(8)), "scales": ("F16", one)}, {"quant_method": "gptq"}),
    "mlx-without-bits": ({"weight": ("U32", columns(8)), "scales": ("BF16", columns(64))}, {}),
    "no-layout-known": ({"indices": ("I32", columns(8))}, {"quant_method": "vptq"}),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_what_cannot_be_known_is_counted_as_stored(case: str, tmp_path: Path, run: Callable[..., Outcome]) -> None:
    found = written(tmp_path, *UNKNOWN[case])
    assert found.quantization is not None
    assert (found.quantization.bits, found.quantization.counted_as_stored) == (None, len(NAMES))
    assert found.parameters == DENSE - sum(prod(PLAIN[name][1]) * 7 // 8 for name in NAMES)
    assert f"{len(NAMES)} tensors counted as stored" in " ".join(run("inspect", tmp_path, env={"COLUMNS": "200"}).out.split())


def test_layers_that_differ_in_a_text_alone_are_folded(tmp_path: Path) -> None:
    table = dict(PLAIN) | {name: ("U8", (prod(PLAIN[name][1]) // 2, 1)) for name in NAMES}
    for place, name in enumerate(NAMES):
        table |= {f"{name}.absmax": ("U8", (8,)), f"{name}.quant_state.bitsandbytes__nf4": ("U8", (80 + place,))}
    assert [(group.first, group.last) for group in report(tmp_path, table, {}).layers] == [(0, 1)]


def test_double_quantization_is_shown(tmp_path: Path, run: Callable[..., Outcome]) -> None:
    written(tmp_path, CASES["nf4-nested"].stored, {})
    assert "nf4, 4 bits a weight, group size 64, double quantization" in run("inspect", tmp_path, env={"COLUMNS": "200"}).out


@pytest.mark.parametrize("method", ["gptq", "bitnet", "x"])
def test_a_config_that_declares_what_is_not_there_is_a_problem(llama: Path, method: str) -> None:
    (llama / "config.json").write_text(json.dumps(LLAMA_CONFIG | {"quantization_config": {"quant_method": method, "bits": 4}}))
    assert [problem.code for problem in find_problems(Checkpoint.open(llama))] == ["quantization-not-found"]


def test_weights_to_be_quantized_at_each_load_are_no_problem(llama: Path) -> None:
    section = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
    (llama / "config.json").write_text(json.dumps(LLAMA_CONFIG | {"quantization_config": section}))
    assert find_problems(Checkpoint.open(llama)) == ()


def test_an_ordinary_checkpoint_has_none(llama: Path) -> None:
    assert mlload.inspect(llama).quantization is None
