"""Checkpoints as objects: the examples of the seed, what each part is, and that none comes before it is asked for."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_safetensors
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, GPT2LMHeadModel

import mlload
from mlload import PreTrainedCausalLM, PreTrainedVLM

SEED = """\
PreTrainedCausalLM(
  (model): GPT2LMHeadModel [layers=12, hidden_size=768]
  (tokenizer): GPT2TokenizerFast [vocab_size=50257]
  (config): GPT2Config [model_type=gpt2]
  (generation_config): GenerationConfig [loaded]
  (parameters): 124,439,808
  (device): cpu
  (dtype): torch.float32
)"""


def full_size_gpt2(folder: Path) -> Path:
    """GPT-2 as the hub has it, masks and all, but for the values."""
    table: dict[str, tuple[str, tuple[int, ...]]] = {"wte.weight": ("F32", (50257, 768)), "wpe.weight": ("F32", (1024, 768))}
    linear = {"attn.c_attn": (768, 2304), "attn.c_proj": (768, 768), "mlp.c_fc": (768, 3072), "mlp.c_proj": (3072, 768)}
    for layer in range(12):
        table |= {f"h.{layer}.{name}.weight": ("F32", shape) for name, shape in linear.items()}
        table |= {f"h.{layer}.{name}.bias": ("F32", shape[1:]) for name, shape in linear.items()}
        table |= {f"h.{layer}.{norm}.{leaf}": ("F32", (768,)) for norm in ("ln_1", "ln_2") for leaf in ("weight", "bias")}
        table[f"h.{layer}.attn.bias"] = ("F32", (1, 1, 1024, 1024))
    table |= {"ln_f.weight": ("F32", (768,)), "ln_f.bias": ("F32", (768,))}
    write_safetensors(folder / "model.safetensors", table)
    sizes = {"n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 1024, "vocab_size": 50257}
    files = {
        "config.json": {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], **sizes},
        "tokenizer.json": {"model": {"vocab": {f"token{number}": number for number in range(50257)}}},
        "tokenizer_config.json": {"tokenizer_class": "GPT2TokenizerFast"},
        "generation_config.json": {"eos_token_id": 50256},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device would be cuda")
def test_the_seeds_repr(tmp_path: Path) -> None:
    checkpoint = PreTrainedCausalLM.from_pretrained(full_size_gpt2(tmp_path))
    assert repr(checkpoint) == SEED
    assert checkpoint.loaded is None


def test_repr_is_the_same_before_and_after_loading(gpt2: Path) -> None:
    checkpoint = PreTrainedCausalLM.from_pretrained(gpt2, torch_dtype=torch.float16, device="cpu")
    before = repr(checkpoint)
    assert "(dtype): torch.float16" in before
    _ = checkpoint.tokenizer, checkpoint.model
    assert repr(checkpoint) == before.replace("TokenizersBackend", type(checkpoint.tokenizer).__name__)


def test_quick_start_of_the_seed(gpt2: Path) -> None:
    model: PreTrainedCausalLM[GPT2LMHeadModel] = PreTrainedCausalLM.from_pretrained(str(gpt2))
    text = model.encode("hello world")
    output = model.generate(text.input_ids, max_length=50)
    assert model.decode(output[0]).startswith("hello world")
    wanted = GPT2LMHeadModel.from_pretrained(gpt2).generate(text.input_ids.cpu(), max_length=50)  # pyright: ignore[reportAttributeAccessIssue]
    assert torch.equal(output.cpu(), wanted)
    assert model.state["*.attention.*.weight"] == {}
    assert len(model.state.regex(r".*\.bias$")) == 13


def test_parts_come_one_by_one_and_are_transformers_own(gpt2: Path) -> None:
    checkpoint = PreTrainedCausalLM.from_pretrained(gpt2)
    wanted = AutoConfig.from_pretrained(gpt2).to_dict()
    assert {key: value for key, value in checkpoint.config.to_dict().items() if wanted[key] != value} == {}
    assert checkpoint.generation_config.to_dict() == GenerationConfig.from_pretrained(gpt2).to_dict()  # pyright: ignore[reportOptionalMemberAccess]
    assert type(checkpoint.tokenizer) is type(AutoTokenizer.from_pretrained(gpt2))
    assert checkpoint.loaded is None
    model = checkpoint.model
    assert checkpoint.config is model.config
    assert checkpoint.generation_config is model.generation_config


def test_a_generation_config_changed_before_loading_holds(gpt2: Path) -> None:
    checkpoint = PreTrainedCausalLM.from_pretrained(gpt2)
    checkpoint.generation_config.max_new_tokens = 3  # pyright: ignore[reportOptionalMemberAccess]
    assert checkpoint.generate(checkpoint.encode("hello", add_special_tokens=False).input_ids).shape[1] <= 4


def test_what_is_asked_of_length_overrules_the_checkpoint() -> None:
    checkpoint = PreTrainedCausalLM.from_pretrained("tiny")  # whose generation config says 200 new tokens
    assert checkpoint.generate(checkpoint.encode("A shard").input_ids, max_length=12).shape == (1, 12)


def test_several_texts_make_rows() -> None:
    assert PreTrainedCausalLM.from_pretrained("tiny").encode(["A", "A shard"]).input_ids.shape == (2, 7)


def test_saved_again_it_is_the_same_checkpoint(llava: Path, tmp_path: Path) -> None:
    checkpoint = PreTrainedVLM.from_pretrained(llava)
    checkpoint.save_pretrained(tmp_path / "again")
    again = PreTrainedVLM.from_pretrained(tmp_path / "again")
    assert mlload.diff(llava, tmp_path / "again", glob="*").same
    assert again.encode("what").input_ids.tolist() == checkpoint.encode("what").input_ids.tolist()
    assert again.image_processor.to_dict() == checkpoint.image_processor.to_dict()
    with pytest.raises(mlload.UsageError, match="exists already"):
        checkpoint.save_pretrained(tmp_path / "again")


def test_what_was_changed_in_the_tokenizer_is_saved(gpt2: Path, tmp_path: Path) -> None:
    checkpoint = PreTrainedCausalLM.from_pretrained(gpt2)
    checkpoint.tokenizer.add_tokens(["shard"])
    checkpoint.save_pretrained(tmp_path / "again")
    assert PreTrainedCausalLM.from_pretrained(tmp_path / "again").decode([12]) == "shard"


def image(size: int = 10) -> Any:
    from PIL import Image

    return Image.new("RGB", (size, size), "red")


def test_images_and_text_of_the_seed(llava: Path) -> None:
    vlm = PreTrainedVLM.from_pretrained(str(llava))
    inputs = vlm.process_images_and_text(images=image(), text="What's in this image?")
    assert (inputs["input_ids"] == 4).sum() == 4  # one for each patch
    output = vlm.generate(**inputs, max_new_tokens=3)
    assert output.shape[1] <= inputs["input_ids"].shape[1] + 3
    assert "(processor): LlavaProcessor" in repr(vlm)


TEXTS = {
    "several-images": ([image, image], "what", [8]),
    "placed-by-the-text": (image, "what is <image>", [4]),
    "a-row-for-each": ([image, [image, image]], ["what", "is"], [4, 8]),
    "text-alone": (None, "what", [0]),
}


@pytest.mark.parametrize("template", [None, "{% for part in messages[0].content %}{{ part.text or '<image>' }} {% endfor %}"])
@pytest.mark.parametrize(("images", "text", "tokens"), TEXTS.values(), ids=list(TEXTS))
def test_every_image_has_its_place(llava: Path, images: Any, text: Any, tokens: list[int], template: str | None) -> None:
    def made(each: Any) -> Any:
        return [made(one) for one in each] if isinstance(each, list) else each and each()

    vlm = PreTrainedVLM.from_pretrained(llava)
    vlm.processor.chat_template = template  # pyright: ignore[reportAttributeAccessIssue]
    inputs = vlm.process_images_and_text(made(images), text)
    assert (inputs["input_ids"] == 4).sum(dim=1).tolist() == tokens


def test_clip_compares_and_does_not_generate(clip: Path) -> None:
    vlm = PreTrainedVLM.from_pretrained(clip)
    inputs = vlm.process_images_and_text(images=[image(), image()], text="what")
    assert vlm.model(**inputs.to(vlm.model.device)).logits_per_image.shape == (2, 1)
    with pytest.raises(mlload.UsageError, match="CLIPModel is no model that goes on"):
        vlm.generate(**inputs)


REFUSED = {
    "no-checkpoint": (lambda: PreTrainedCausalLM.from_pretrained("./nothing"), mlload.NotFoundError, "nothing"),
    "two-dtypes": (
        lambda: PreTrainedCausalLM.from_pretrained("tiny", dtype="float32", torch_dtype=torch.float16),
        mlload.UsageError,
        "give dtype alone",
    ),
    "no-processor": (lambda: PreTrainedVLM.from_pretrained("tiny").processor, mlload.InvalidCheckpointError, "preprocessor_config.json"),
}


@pytest.mark.parametrize(("act", "error", "words"), REFUSED.values(), ids=list(REFUSED))
def test_refusals(act: Any, error: type[mlload.MlloadError], words: str) -> None:
    if error is mlload.InvalidCheckpointError:
        pytest.importorskip("PIL", reason="images need Pillow")
    with pytest.raises(error, match=words):
        act()


def test_without_pillow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [path for path in sys.path if "site-packages" not in path])
    monkeypatch.delitem(sys.modules, "PIL", raising=False)
    with pytest.raises(mlload.MissingDependencyError, match=r"Pillow; pip install .mlload\[vision\]"):
        _ = PreTrainedVLM.from_pretrained("tiny").processor


def test_fewer_images_than_texts(llava: Path) -> None:
    with pytest.raises(mlload.UsageError, match="1 images for 2 texts"):
        PreTrainedVLM.from_pretrained(llava).process_images_and_text([image()], ["what", "is"])


def test_a_device_that_is_not_there_is_shown_and_refused_when_used() -> None:
    checkpoint = PreTrainedCausalLM.from_pretrained("tiny", device="cuda:77")
    assert "(device): cuda:77" in repr(checkpoint)
    with pytest.raises(mlload.DoesNotFitError, match="cuda:77"):
        _ = checkpoint.model
