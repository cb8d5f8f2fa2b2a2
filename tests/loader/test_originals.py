"""Checkpoints from before transformers' names: Meta's Llama against the model it was written from, Qwen-1 against its forward by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

import mlload
from mlload.loader.loading import load
from mlload.loader.settings import ModelLoadingConfig

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
META_NAMES = {
    "model.embed_tokens": "tok_embeddings",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.norm": "norm",
    "lm_head": "output",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "model.layers": "layers",
}
AXES = {"wo": 1, "w2": 1, "tok_embeddings": 1}


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    rope = {"rope_type": "default", "rope_theta": 500.0}
    sizes = {"vocab_size": 12, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, rope_parameters=rope)).eval()


def save_as_meta(model: LlamaForCausalLM, folder: Path, *, parts: int, **changes: object) -> Path:
    """The model as Meta wrote it: neighbouring rows of a head turned together, every matrix cut over the parts."""
    states: list[dict[str, torch.Tensor]] = [{"rope.freqs": torch.ones(2)} for _ in range(parts)]
    for name, tensor in model.state_dict().items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            tensor = tensor.view(-1, 2, 2, 16).transpose(1, 2).reshape(tensor.shape)
        for ours, theirs in META_NAMES.items():
            name = name.replace(ours, theirs)
        axis = AXES.get(name.split(".")[-2], 0)
        for state, part in zip(states, tensor.chunk(parts, axis) if tensor.ndim == 2 else [tensor] * parts, strict=True):
            state[name] = part.clone()
    for number, state in enumerate(states):
        torch.save(state, folder / f"consolidated.{number:02d}.pth")
    params = {"dim": 16, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "multiple_of": 8, "norm_eps": 1e-6, "rope_theta": 500.0}
    (folder / "params.json").write_text(json.dumps(params | {"vocab_size": -1} | changes))
    return folder


@pytest.mark.parametrize("strategy", ["full", "low_memory", "streaming"])
@pytest.mark.parametrize("parts", [1, 2])
def test_metas_llama(tmp_path: Path, parts: int, strategy: str) -> None:
    wanted = llama()
    loaded = load(ModelLoadingConfig(save_as_meta(wanted, tmp_path, parts=parts), loading_strategy=strategy))  # pyright: ignore[reportArgumentType]
    got = loaded.model.state_dict()
    assert type(loaded.model) is LlamaForCausalLM
    assert list(got) == list(wanted.state_dict())
    assert all(torch.equal(got[name], tensor) for name, tensor in wanted.state_dict().items())
    assert loaded.plan.unexpected == ()
    with torch.no_grad():
        assert torch.equal(loaded.model(IDS).logits, wanted(IDS).logits)


def test_metas_llama_in_another_dtype(tmp_path: Path) -> None:
    got = load(ModelLoadingConfig(save_as_meta(llama(), tmp_path, parts=2), dtype="bfloat16")).model.state_dict()
    assert all(torch.equal(got[name], tensor.bfloat16()) for name, tensor in llama().state_dict().items())


def test_heads_that_do_not_divide(tmp_path: Path) -> None:
    save_as_meta(llama(), tmp_path, parts=1, n_kv_heads=3)
    with pytest.raises(mlload.InvalidCheckpointError):
        load(ModelLoadingConfig(tmp_path))


QWEN: dict[str, object] = {
    "model_type": "qwen",
    "architectures": ["QWenLMHeadModel"],
    "auto_map": {"AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel"},
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "kv_channels": 4,
    "intermediate_size": 48,
    "vocab_size": 12,
    "layer_norm_epsilon": 1e-6,
    "rotary_emb_base": 700.0,
    "rotary_pct": 1.0,
    "seq_length": 64,
    "max_position_embeddings": 256,
    "no_bias": True,
    "scale_attn_weights": True,
    "tie_word_embeddings": False,
    "use_dynamic_ntk": True,
    "use_logn_attn": True,
}


def save_qwen(folder: Path, **changes: object) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    layer = {"ln_1.weight": (16,), "ln_2.weight": (16,), "attn.c_attn.weight": (48, 16), "attn.c_attn.bias": (48,)}
    layer |= {"attn.c_proj.weight": (16, 16), "mlp.w1.weight": (24, 16), "mlp.w2.weight": (24, 16), "mlp.c_proj.weight": (16, 24)}
    shapes = {f"transformer.h.{number}.{name}": shape for number in range(2) for name, shape in layer.items()}
    shapes |= {"transformer.wte.weight": (12, 16), "transformer.ln_f.weight": (16,), "lm_head.weight": (12, 16)}
    state = {name: torch.randn(shape) * 0.5 for name, shape in shapes.items()}
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(QWEN | changes))
    return state


def qwen_logits(state: dict[str, torch.Tensor]) -> torch.Tensor:
    """Qwen-1's forward: RMSNorm, rotary over halves of a head, causal attention, w1(x) gated by SiLU of w2(x)."""
    length = IDS.shape[1]
    angles = torch.outer(torch.arange(length).float(), 700.0 ** -(torch.arange(0, 4, 2) / 4)).repeat(1, 2)

    def normed(hidden: torch.Tensor, name: str) -> torch.Tensor:
        return hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + 1e-6) * state[f"{name}.weight"]

    def turned(heads: torch.Tensor) -> torch.Tensor:
        first, second = heads.chunk(2, -1)
        return heads * angles.cos() + torch.cat([-second, first], -1) * angles.sin()

    hidden = state["transformer.wte.weight"][IDS[0]]
    for layer in (f"transformer.h.{number}" for number in range(2)):
        fused = functional.linear(normed(hidden, f"{layer}.ln_1"), state[f"{layer}.attn.c_attn.weight"], state[f"{layer}.attn.c_attn.bias"])
        query, key, value = (part.view(length, 4, 4).transpose(0, 1) for part in fused.split(16, -1))
        scores = turned(query) @ turned(key).transpose(1, 2) / 2 + torch.full((length, length), -torch.inf).triu(1)
        mixed = (scores.softmax(-1) @ value).transpose(0, 1).reshape(length, 16)
        hidden = hidden + mixed @ state[f"{layer}.attn.c_proj.weight"].T
        inner = normed(hidden, f"{layer}.ln_2")
        gated = inner @ state[f"{layer}.mlp.w1.weight"].T * functional.silu(inner @ state[f"{layer}.mlp.w2.weight"].T)
        hidden = hidden + gated @ state[f"{layer}.mlp.c_proj.weight"].T
    return normed(hidden, "transformer.ln_f") @ state["lm_head.weight"].T


def test_qwen_of_the_first_generation(tmp_path: Path) -> None:
    wanted = qwen_logits(save_qwen(tmp_path))
    loaded = load(ModelLoadingConfig(tmp_path))
    assert type(loaded.model).__name__ == "Qwen2ForCausalLM"
    assert loaded.plan.unexpected == ()
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(IDS).logits[0], wanted, rtol=1e-5, atol=1e-5)


def test_split_weights_stay_pages_of_the_file(tmp_path: Path) -> None:
    save_qwen(tmp_path)
    assert load(ModelLoadingConfig(tmp_path)).prediction.loaded.anonymous == 0


def test_qwen_in_a_variant_that_is_not_computed(tmp_path: Path) -> None:
    save_qwen(tmp_path, no_bias=False)
    with pytest.raises(mlload.UsageError, match="no_bias False"):
        load(ModelLoadingConfig(tmp_path))
