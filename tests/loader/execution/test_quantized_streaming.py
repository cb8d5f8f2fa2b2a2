"""Quantized weights, streamed from where they are kept: what the model loaded whole computes, in the memory that was given."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import bitsandbytes.functional as bnb
import pytest
import torch
import transformers
from conftest import Outcome

from mlload import DynamicModel, InferenceState, ModelLoadingConfig, QuantizationConfig, QuantizationMethod
from mlload.loader.loading import LoadedModel, load
from mlload.loader.quantization import cpu_packing, four_bit

# Warnings of the libraries about each other's newer and older ways.
pytestmark = pytest.mark.filterwarnings("default")

METHODS = {
    "nf4": QuantizationConfig(QuantizationMethod.BNB_NF4),
    "nf4 double": QuantizationConfig(QuantizationMethod.BNB_NF4, double_quant=True),
    "nf4 stored as bfloat16": QuantizationConfig(QuantizationMethod.BNB_NF4, quant_storage=torch.bfloat16),
    "fp4": QuantizationConfig(QuantizationMethod.BNB_FP4),
    "int8": QuantizationConfig(QuantizationMethod.BNB_INT8),
    "hqq": QuantizationConfig(QuantizationMethod.HQQ, bits=4),
    "hqq 3 bits": QuantizationConfig(QuantizationMethod.HQQ, bits=3),
}
MODELS: dict[str, Any] = {
    "llama": transformers.LlamaConfig(hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4, vocab_size=99),
    "gpt2": transformers.GPT2Config(n_embd=128, n_layer=4, n_head=4, vocab_size=99, n_positions=64),
}
IDS = torch.arange(20, 28)[None]


@pytest.fixture(scope="module", params=list(MODELS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(MODELS[request.param], dtype=torch.bfloat16).save_pretrained(out)
    time.sleep(2.1)  # until then the cache knows a file by its content, from then on by its times
    return out


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLLOAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def loaded(folder: Path | str, method: str, resident: int | str | None = None, *, mmap: bool = True) -> LoadedModel:
    settings = ModelLoadingConfig(folder, device="cpu", quantization_config=METHODS[method], resident=resident, mmap=mmap)  # pyright: ignore[reportArgumentType]  # sizes as people write them are taken
    return load(settings)


def logits(loaded: LoadedModel) -> torch.Tensor:
    with torch.no_grad():
        return loaded.model(IDS, use_cache=False).logits


@pytest.mark.parametrize("method", METHODS)
def test_the_logits_are_those_of_the_model_loaded_whole(folder: Path, method: str) -> None:
    whole = loaded(folder, method)
    budget = 2 * max(unit.target_bytes for unit in whole.plan.units)
    expected = logits(whole)
    for status in ("miss", "hit"):
        streamed = loaded(folder, method, budget)
        assert [torch.equal(logits(streamed), expected) for _ in range(3)] == [True] * 3
        assert streamed.streamer is not None
        assert streamed.streamer.counters.peak_resident_bytes <= budget
        assert streamed.cache in (status, "hit")  # the CPU may compute with what loading whole has kept


@pytest.mark.parametrize("method", METHODS)
def test_what_is_not_mapped_is_read_and_dropped_again(folder: Path, method: str) -> None:
    whole = loaded(folder, method)
    largest = max(unit.target_bytes for unit in whole.plan.units)
    streamed = loaded(folder, method, 2 * largest, mmap=False)
    for _ in range(3):
        assert torch.equal(logits(streamed), logits(whole))
    assert sum(map(held_beside_parameters, streamed.model.modules())) <= 2 * largest


def held_beside_parameters(module: Any) -> int:
    """Bytes of its weight that one of bitsandbytes' layers keeps where nobody drops them."""
    state, quant_state = getattr(module, "state", None), getattr(module, "quant_state", None)
    codes = getattr(state, "CB", None)
    return sum(tensor.nbytes for tensor in (codes, getattr(quant_state, "absmax", None)) if tensor is not None)


def test_tokens_are_those_of_the_model_loaded_whole() -> None:
    whole, streamed = loaded("tiny", "nf4"), loaded("tiny", "nf4", "400KiB")
    assert streamed.generate("A shard is", max_new_tokens=8) == whole.generate("A shard is", max_new_tokens=8)


def test_nothing_but_pages_is_taken_up() -> None:
    streamed = loaded("tiny", "nf4", "400KiB")
    logits(streamed)
    weight = streamed.model.get_parameter("model.layers.0.self_attn.q_proj.weight")
    before = weight.data_ptr()
    logits(streamed)
    assert weight.data_ptr() == before
    assert getattr(weight.quant_state, "packing_format_for_cpu", False) == bnb.has_avx512bf16()


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("is_nested", [False, True])
def test_weights_are_packed_as_the_library_packs_them(quant_type: str, is_nested: bool) -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 640, dtype=torch.bfloat16)
    codes, absmax = four_bit.quantize(weight, quant_type=quant_type)
    options: dict[str, Any] = {"quant_type": quant_type, "blocksize": 64, "shape": weight.shape, "dtype": weight.dtype}
    state = four_bit.quant_state(absmax, **options, double_quant=is_nested)
    packed, scales = cpu_packing.packed_codes(codes, state), cpu_packing.packed_scales(state)
    wanted, changed = bnb._convert_weight_packed_for_cpu(codes, state)
    assert torch.equal(packed, wanted)
    assert torch.equal(scales, changed.absmax)


def test_a_lazy_model_goes_on_token_by_token() -> None:
    asked = ModelLoadingConfig("tiny", device="cpu", quantization_config=METHODS["nf4"])
    whole, lazy = DynamicModel.load_auto(asked), DynamicModel.load_auto(asked, lazy=True)
    assert lazy.loaded.streamer is not None
    states = [InferenceState(model.config) for model in (whole, lazy)]
    for token in lazy.encode("A shard"):
        one, other = (model.forward(state, token) for model, state in zip((whole, lazy), states, strict=True))
        assert torch.equal(one, other)


def test_part_of_a_forward(run: Any) -> None:
    asked = ("partial-forward", "tiny", "--text", "A shard is", "--quantize", "nf4", "--json")
    whole, streamed = run(*asked), run(*asked, "--resident", "400KiB")
    assert streamed.json["top"] == whole.json["top"]
    assert streamed.json["streamed"]["peak_resident_bytes"] <= 400 << 10


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--cache", "off"), "quantized weights are streamed from the cache, which is off"),
        (("--save", "saved"), "not as they are saved"),
    ],
)
def test_what_can_not_be_done(run: Any, tmp_path: Path, options: tuple[str, str], words: str) -> None:
    options = (options[0], options[1].replace("saved", str(tmp_path / "saved")))
    outcome: Outcome = run("load", "tiny", "--device", "cpu", "--quantize", "nf4", "--resident", "400KiB", *options)
    assert outcome.code == 2
    assert words in outcome.err


def test_a_cache_that_can_not_be_written(run: Any, cache: Path) -> None:
    cache.write_text("a file")
    outcome: Outcome = run("load", "tiny", "--device", "cpu", "--quantize", "nf4", "--resident", "400KiB")
    assert outcome.code == 1
    assert "quantized weights can't be kept" in outcome.err
