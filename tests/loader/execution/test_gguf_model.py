"""Loading GGUF files: the very weights that from_pretrained dequantizes, and one line for what it can't load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from transformers import LlamaForCausalLM

import mlload
from mlload.loader.loading import load, plan_load
from mlload.loader.settings import ModelLoadingConfig, QuantizationConfig, QuantizationMethod

LAYER = {"attn_q": (64, 64), "attn_k": (32, 64), "attn_v": (32, 64), "attn_output": (64, 64), "attn_norm": (64,)}
LAYER |= {"ffn_gate": (96, 64), "ffn_up": (96, 64), "ffn_down": (64, 96), "ffn_norm": (64,)}
TOKENS = ["<unk>", "<s>", "</s>", *(chr(97 + index) for index in range(26)), "ab", "cd", "Ġ"]


def write(folder: Path, kind: Type, *, head: bool = True, without: str = "", architecture: str = "llama", parts: int = 0) -> Path:
    writer = gguf.GGUFWriter(folder / "model.gguf", architecture, split_max_tensors=parts)
    writer.add_name("Tiny")
    writer.add_block_count(2)
    writer.add_embedding_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_feed_forward_length(96)
    writer.add_context_length(128)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(5000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_merges(["a b", "c d"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    shapes = {"token_embd": (32, 64), "output_norm": (64,)} | ({"output": (32, 64)} if head else {})
    shapes |= {f"blk.{number}.{name}": shape for number in range(2) for name, shape in LAYER.items()}
    random = np.random.default_rng(0)
    for name, shape in shapes.items():
        values = random.normal(size=shape).astype(np.float32)
        stored = Type.F32 if len(shape) == 1 else kind
        if name != without:
            writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "model.gguf"


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
@pytest.mark.parametrize("head", [True, False], ids=["apart", "tied"])
@pytest.mark.parametrize("kind", [Type.F16, Type.Q8_0], ids=lambda kind: kind.name)
def test_weights_are_those_of_from_pretrained(tmp_path: Path, kind: Type, head: bool, dtype: str) -> None:
    file = write(tmp_path, kind, head=head)
    loaded = load(ModelLoadingConfig(file, dtype=dtype, device="cpu"))
    wanted = LlamaForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=dtype)
    got = loaded.model.state_dict()
    assert type(loaded.model) is LlamaForCausalLM
    assert list(got) == list(wanted.state_dict())
    assert all(got[name].dtype == tensor.dtype and torch.equal(got[name], tensor) for name, tensor in wanted.state_dict().items())
    assert (loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight) is not head
    with torch.no_grad():
        assert torch.equal(loaded.model(torch.tensor([[3, 1, 4]])).logits, wanted(torch.tensor([[3, 1, 4]])).logits)


def test_tokenizer_is_the_files_own_and_the_model_can_be_saved(tmp_path: Path) -> None:
    loaded = load(ModelLoadingConfig(write(tmp_path, Type.Q8_0)))
    loaded.save(tmp_path / "saved")
    saved = load(ModelLoadingConfig(tmp_path / "saved"))
    assert saved.tokenizer("abcd")["input_ids"] == loaded.tokenizer("abcd")["input_ids"]
    assert all(torch.equal(saved.model.state_dict()[name], tensor) for name, tensor in loaded.model.state_dict().items())


def test_a_dry_run_tells_what_it_takes(tmp_path: Path) -> None:
    planned = plan_load(ModelLoadingConfig(write(tmp_path, Type.Q8_0)))
    assert planned.prediction.loaded.anonymous == sum(4 * parameter.numel() for parameter in planned.skeleton.model.parameters())


def test_a_tensor_that_the_file_lacks(tmp_path: Path) -> None:
    file = write(tmp_path, Type.F16, without="blk.1.ffn_up")
    with pytest.raises(mlload.InvalidCheckpointError, match=r"model\.layers\.1\.mlp\.up_proj\.weight.*needs it"):
        load(ModelLoadingConfig(file))


def test_an_architecture_that_transformers_does_not_read(tmp_path: Path) -> None:
    file = write(tmp_path, Type.F16, architecture="mine")
    with pytest.raises(mlload.InvalidCheckpointError, match=r"model\.gguf: .*architecture mine is not supported"):
        load(ModelLoadingConfig(file))


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The model in three parts, and in the folder `whole` as one file."""
    monkeypatch.setenv("MLLOAD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "whole").mkdir()
    write(tmp_path / "whole", Type.Q8_0, head=False)
    write(tmp_path, Type.Q8_0, head=False, parts=8)
    return sorted(tmp_path.glob("*.gguf"))


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_parts_make_the_model_that_one_file_makes(parts: list[Path], dtype: str) -> None:
    loaded, whole = (load(ModelLoadingConfig(path, dtype=dtype, device="cpu")) for path in (parts[1], parts[0].parent / "whole"))
    state, wanted = loaded.model.state_dict(), whole.model.state_dict()
    assert len(parts) == 3
    assert list(state) == list(wanted)
    assert all(torch.equal(state[name], tensor) for name, tensor in wanted.items())
    assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight
    assert loaded.model.config.to_diff_dict() | {"_name_or_path": ""} == whole.model.config.to_diff_dict() | {"_name_or_path": ""}
    assert loaded.tokenizer("abcd")["input_ids"] == whole.tokenizer("abcd")["input_ids"]


def test_nothing_is_left_of_joining_parts(parts: list[Path], tmp_path: Path) -> None:
    (tmp_path / "cache" / "gguf").mkdir(parents=True)
    (tmp_path / "cache" / "gguf" / ".joined.gguf-0123456789abcdef.tmp").write_text("of a load that was killed")
    load(ModelLoadingConfig(parts[0]))
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_a_part_that_is_not_there(parts: list[Path]) -> None:
    parts[1].unlink()
    with pytest.raises(mlload.InvalidCheckpointError, match=r"model-00002-of-00003\.gguf: .*not there"):
        load(ModelLoadingConfig(parts[0]))


def test_no_room_to_join_parts(parts: list[Path], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(mlload.DoesNotFitError, match=r"cache/gguf does not take the 67.1 KiB of all parts: .*MLLOAD_CACHE"):
        load(ModelLoadingConfig(parts[0]))


def test_quantizing_once_more(tmp_path: Path) -> None:
    file = write(tmp_path, Type.F16)
    with pytest.raises(mlload.UsageError, match="quantized already"):
        load(ModelLoadingConfig(file, quantization_config=QuantizationConfig(QuantizationMethod.BNB_NF4)))


@pytest.mark.parametrize("package", ["gguf", "accelerate"])
def test_without_its_packages(tmp_path: Path, package: str) -> None:
    code = (
        "import sys, importlib.util as u, mlload.cli; find = u.find_spec\n"
        f"u.find_spec = lambda name, *rest: None if name == {package!r} else find(name, *rest)\n"
        "sys.argv[0] = 'mlload'; mlload.cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code, "load", write(tmp_path, Type.F16)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (6, f'error: a GGUF file needs {package} to be loaded; pip install "mlload[gguf]"\n')
