"""HQQ while loading: the hqq library's own layers, tensor for tensor, and what is saved of them loads again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from conftest import Outcome
from hard_weights import same_bits
from hqq.core.quantize import BaseQuantizeConfig, HQQLinear
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

import mlload
from mlload import ModelLoadingConfig, QuantizationConfig, QuantizationMethod
from mlload.loader.loading import LoadedModel, load

SIZES = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
MODELS = {
    "llama": transformers.LlamaConfig(**SIZES, vocab_size=99),
    "tied": transformers.LlamaConfig(**SIZES, vocab_size=64, tie_word_embeddings=True),
    "qwen2": transformers.Qwen2Config(**SIZES, vocab_size=99),
    "gpt2": transformers.GPT2Config(n_embd=128, n_layer=2, n_head=4, vocab_size=99, n_positions=64),
    "mixtral": transformers.MixtralConfig(**SIZES, vocab_size=99, num_local_experts=2),
    "t5": transformers.T5Config(d_model=128, d_ff=256, d_kv=32, num_layers=2, num_heads=4, vocab_size=99),
}
IDS = torch.arange(20, 28)[None]


@pytest.fixture(scope="module")
def save(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Saves a random model under its name, once."""
    root = tmp_path_factory.mktemp("models")

    def saved(name: str) -> Path:
        if not (root / name).exists():
            torch.manual_seed(0)
            config = MODELS[name]
            kind = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
            model = kind.from_config(config, dtype=torch.bfloat16)
            for parameter in model.parameters():
                parameter.data.normal_(std=0.05)
            model.save_pretrained(root / name)
        return root / name

    return saved


def quantized(folder: Path | str, *, dtype: str = "auto", **settings: object) -> LoadedModel:
    asked = QuantizationConfig(QuantizationMethod.HQQ, **settings)  # pyright: ignore[reportArgumentType]
    return load(ModelLoadingConfig(folder, device="cpu", dtype=dtype, quantization_config=asked))


def plain(folder: Path, dtype: str = "auto") -> nn.Module:
    return load(ModelLoadingConfig(folder, device="cpu", dtype=dtype)).model


def librarys(module: nn.Module, dtype: torch.dtype, **settings: int) -> HQQLinear:
    """The library's layer from the weights of an ordinary one."""
    weight = module.get_parameter("weight").data
    bias = module.bias if isinstance(module.bias, torch.Tensor) else None
    weight = weight.T.contiguous() if isinstance(module, Conv1D) else weight
    return HQQLinear.from_weights(weight, bias, BaseQuantizeConfig(**settings), compute_dtype=dtype, device="cpu", del_orig=False)


def layers(model: nn.Module) -> dict[str, HQQLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, HQQLinear)}


def differing(layer: HQQLinear, wanted: HQQLinear) -> list[str]:
    ours, theirs = HQQLinear.state_dict(layer), HQQLinear.state_dict(wanted)
    assert ours.keys() == theirs.keys()
    return [name for name in theirs if not same_bits(ours[name].data, theirs[name].data)]


def logits(model: nn.Module) -> torch.Tensor:
    inputs = {"decoder_input_ids": IDS} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(input_ids=IDS, **inputs).logits


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("bits", [8, 4, 3, 2, 1])
def test_layers_are_the_librarys(save: Callable[[str], Path], bits: int, axis: int) -> None:
    original, model = plain(save("llama")), quantized(save("llama"), bits=bits, axis=axis).model
    wanted = {name: librarys(original.get_submodule(name), torch.bfloat16, nbits=bits, axis=axis) for name in layers(model)}
    assert len(wanted) == 14
    assert [differing(layer, wanted[name]) for name, layer in layers(model).items()] == [[]] * 14
    got = logits(model)
    for name, layer in wanted.items():
        original.set_submodule(name, layer)
    assert torch.equal(got, logits(original))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(("name", "count"), [("qwen2", 14), ("gpt2", 8), ("mixtral", 8), ("t5", 28), ("tied", 14)])
def test_every_linear_layer_but_the_head(save: Callable[[str], Path], name: str, count: int, dtype: str, tmp_path: Path) -> None:
    original, loaded = plain(save(name), dtype), quantized(save(name), dtype=dtype, group_size=32)
    found = layers(loaded.model)
    assert len(found) == count
    for path, layer in found.items():
        assert differing(layer, librarys(original.get_submodule(path), getattr(torch, dtype), group_size=32)) == []
    rest = {path: value for path, value in loaded.model.state_dict().items() if path.rpartition(".")[0] not in found}
    assert all(torch.equal(value, original.state_dict()[path]) for path, value in rest.items())
    loaded.save(tmp_path / "saved")
    again = load(ModelLoadingConfig(tmp_path / "saved", device="cpu"))
    assert again.plan.unexpected == ()
    assert torch.equal(logits(loaded.model), logits(again.model))


@pytest.mark.parametrize("settings", [{"bits": 3}, {"bits": 1, "axis": 0}, {"group_size": 128}, {"compute_dtype": torch.float32}], ids=str)
def test_what_is_saved_loads_again(save: Callable[[str], Path], settings: dict[str, object], tmp_path: Path) -> None:
    loaded = quantized(save("qwen2"), **settings)
    loaded.save(tmp_path / "saved")
    again = load(ModelLoadingConfig(tmp_path / "saved", device="cpu"))
    wanted = layers(loaded.model)
    assert [differing(layer, wanted[name]) for name, layer in layers(again.model).items()] == [[]] * 14
    assert torch.equal(logits(loaded.model), logits(again.model))
    streamed = load(ModelLoadingConfig(tmp_path / "saved", device="cpu", loading_strategy="streaming"))  # pyright: ignore[reportArgumentType]
    assert torch.equal(logits(loaded.model), logits(streamed.model))
    original = mlload.inspect(save("qwen2")).parameters
    assert mlload.inspect(tmp_path / "saved").parameters == original


def test_the_library_reads_what_is_saved(save: Callable[[str], Path], tmp_path: Path) -> None:
    loaded = quantized(save("qwen2"))
    loaded.save(tmp_path / "saved")
    prefix = "model.layers.1.self_attn.q_proj."
    stored = load_file(tmp_path / "saved" / "model.safetensors")
    layer = HQQLinear(None, None, compute_dtype=torch.bfloat16, device="cpu")
    layer.load_state_dict({name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)})
    hidden = torch.randn(3, 128).bfloat16()
    assert torch.equal(layer(hidden), layers(loaded.model)[prefix[:-1]](hidden))


def test_the_model_behaves_as_one(save: Callable[[str], Path]) -> None:
    model = quantized(save("qwen2")).model
    wanted = logits(model)
    assert (model.dtype, model.is_quantized, str(model.device)) == (torch.bfloat16, True, "cpu")
    assert model.num_parameters() == sum(parameter.numel() for parameter in model.parameters())
    assert torch.equal(logits(model.to("cpu")), wanted)
    assert model.generate(IDS, max_new_tokens=3, min_new_tokens=3, do_sample=False).shape == (1, 11)
    model.to("cpu", torch.float32)
    assert {layer.compute_dtype for layer in layers(model).values()} == {torch.float32}
    assert torch.allclose(logits(model), wanted.float(), atol=0.3)


def test_layers_that_groups_do_not_divide_stay(save: Callable[[str], Path]) -> None:
    names = set(layers(quantized(save("llama"), group_size=128 * 256, axis=0).model))
    assert names == {f"model.layers.{index}.mlp.{name}_proj" for index in range(2) for name in ("gate", "up", "down")}
    with pytest.raises(mlload.UsageError, match="no linear layer that groups of 65536 divide"):
        quantized(save("llama"), group_size=65_536)


def test_the_cache_gives_the_same_layers(save: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLOAD_CACHE", str(tmp_path))
    first, second = quantized(save("qwen2")), quantized(save("qwen2"))
    assert (first.cache, second.cache) == ("miss", "hit")
    wanted = layers(first.model)
    assert [differing(layer, wanted[name]) for name, layer in layers(second.model).items()] == [[]] * 14


def test_modules_that_are_skipped_stay(save: Callable[[str], Path], tmp_path: Path) -> None:
    loaded = quantized(save("llama"), skip_modules=("v_proj", "model.layers.1"))
    assert len(layers(loaded.model)) == 6
    loaded.save(tmp_path / "saved")
    assert list(layers(plain(tmp_path / "saved"))) == list(layers(loaded.model))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bits": 5}, "hqq has 1 or 2 or 3 or 4 or 8 bits, not 5"),
        ({"group_size": 12}, "hqq has no groups of 12 weights"),
        ({"axis": 2}, "hqq has no axis 2"),
    ],
)
def test_settings_that_hqq_does_not_have(settings: dict[str, object], words: str) -> None:
    with pytest.raises(mlload.UsageError, match=words):
        quantized("tiny", **settings)


def test_a_quantized_checkpoint_is_not_quantized_again(save: Callable[[str], Path], tmp_path: Path) -> None:
    quantized(save("llama")).save(tmp_path / "saved")
    for method in (QuantizationMethod.HQQ, QuantizationMethod.BNB_NF4):
        with pytest.raises(mlload.UsageError, match="is quantized already"):
            load(ModelLoadingConfig(tmp_path / "saved", quantization_config=QuantizationConfig(method)))


def test_codes_are_never_made_up(save: Callable[[str], Path], tmp_path: Path) -> None:
    quantized(save("llama")).save(tmp_path / "saved")
    file = tmp_path / "saved" / "model.safetensors"
    tensors = {name: value.clone() for name, value in load_file(file).items() if not name.endswith("1.mlp.up_proj.scale")}
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(mlload.InvalidCheckpointError, match=r"1\.mlp\.up_proj\.scale.*can't be initialised at random"):
        load(ModelLoadingConfig(tmp_path / "saved", allow_missing=True))


def test_the_command(run: Callable[..., Outcome], save: Callable[[str], Path], tmp_path: Path) -> None:
    options = ("--quantize", "hqq", "--bits", "2", "--group-size", "32", "--axis", "0")
    outcome = run("load", save("llama"), *options, "--json", "--save", tmp_path / "saved")
    assert outcome.json["parameters"] == mlload.inspect(save("llama")).parameters
    assert run("load", tmp_path / "saved", "--json").json["parameters"] == outcome.json["parameters"]
    assert run("load", save("llama"), "--quantize", "nf4", "--axis", "0").err == "error: nf4 has no axis 0; hqq has 0 and 1\n"
    assert "quantized" in run("load", save("llama"), *options, "--dry-run").out
