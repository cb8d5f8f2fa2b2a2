"""Meta's original checkpoints: tensors cut over parts, and params.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import mlload
from mlload.loader.tensors import Sliced, TensorEntry

AXES = {"wq": 0, "wk": 0, "wv": 0, "wo": 1, "w1": 0, "w2": 1, "w3": 0, "output": 0}
PARAMS = {"dim": 8, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "multiple_of": 16, "norm_eps": 1e-5, "vocab_size": -1}


def whole() -> dict[str, torch.Tensor]:
    """A Llama under Meta's names."""
    shapes = {"attention.wq": (8, 8), "attention.wk": (4, 8), "attention.wv": (4, 8), "attention.wo": (8, 8), "attention_norm": (8,)}
    shapes |= {"feed_forward.w1": (16, 8), "feed_forward.w2": (8, 16), "feed_forward.w3": (16, 8), "ffn_norm": (8,)}
    layers = {f"layers.{index}.{name}.weight": shape for index in range(2) for name, shape in shapes.items()}
    outside = {"tok_embeddings.weight": (12, 8), "norm.weight": (8,), "output.weight": (12, 8), "rope.freqs": (1,)}
    return {name: torch.randn(shape) for name, shape in (layers | outside).items()}


def save(folder: Path, tensors: dict[str, torch.Tensor], *, parts: int = 2, embedding_axis: int = 1, **changes: object) -> Path:
    """The tensors as Meta's tensor-parallel parts."""
    axes = AXES | {"tok_embeddings": embedding_axis}
    for part in range(parts):
        state = {
            name: tensor.chunk(parts, axes[name.split(".")[-2]])[part].clone() if tensor.ndim == 2 else tensor
            for name, tensor in tensors.items()
        }
        torch.save(state, folder / f"consolidated.{part:02d}.pth")
    (folder / "params.json").write_text(json.dumps(PARAMS | changes))
    return folder


def read(folder: Path, tensor: TensorEntry) -> torch.Tensor:
    """The tensor's values, joined as its entry says."""
    if isinstance(tensor.arrangement, Sliced):
        return torch.cat([read(folder, part) for part in tensor.arrangement.parts], tensor.arrangement.axis)
    data = (folder / tensor.file).read_bytes()[tensor.offset : tensor.offset + tensor.nbytes]
    return torch.frombuffer(bytearray(data), dtype=torch.float32).reshape(tensor.shape)


@pytest.mark.parametrize(("parts", "embedding_axis"), [(1, 1), (2, 1), (2, 0), (4, 0)])
def test_parts_join_to_the_whole_tensors(tmp_path: Path, parts: int, embedding_axis: int) -> None:
    expected = whole()
    checkpoint = mlload.Checkpoint.open(save(tmp_path, expected, parts=parts, embedding_axis=embedding_axis))

    assert mlload.inspect(checkpoint).problems == ()
    assert {name: tensor.shape for name, tensor in checkpoint.tensors.items()} == {name: value.shape for name, value in expected.items()}
    assert all(torch.equal(read(tmp_path, tensor), expected[name]) for name, tensor in checkpoint.tensors.items())


def test_params_are_the_config(tmp_path: Path) -> None:
    report = mlload.inspect(save(tmp_path, whole(), rope_theta=500000.0, use_scaled_rope=True))

    assert (report.family, report.kind, report.hidden_size, report.num_layers) == ("llama", "decoder-only", 8, 2)
    assert (report.num_attention_heads, report.num_key_value_heads, report.vocab_size) == (4, 2, 12)
    assert report.rope is not None
    assert (report.rope.theta, report.rope.scaling, report.rope.factor) == (500000.0, "llama3", 8.0)


@pytest.mark.parametrize(
    ("params", "model_type"), [({}, "llama"), ({"hidden_dim": 16}, "mistral"), ({"hidden_dim": 16, "moe": {"num_experts": 8}}, "mixtral")]
)
def test_params_tell_the_family(tmp_path: Path, params: dict[str, object], model_type: str) -> None:
    assert mlload.inspect(save(tmp_path, whole(), **params)).family == model_type


def test_naming_one_part_reads_them_all(tmp_path: Path) -> None:
    save(tmp_path, whole())
    assert mlload.inspect(tmp_path / "consolidated.01.pth").parameters == sum(tensor.numel() for tensor in whole().values())


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    save(tmp_path, whole())
    state = torch.load(tmp_path / "consolidated.01.pth")
    del state["norm.weight"]
    state |= {"output.weight": torch.ones(6, 7), "rope.freqs": torch.ones(2), "layers.0.bias": torch.ones(1)}
    torch.save(state, tmp_path / "consolidated.01.pth")

    found = {(problem.severity, problem.code, problem.tensor) for problem in mlload.inspect(tmp_path).problems}
    assert found == {
        ("error", "missing-tensor", "norm.weight"),
        ("error", "missing-tensor", "layers.0.bias"),
        ("error", "slices", "output.weight"),
        ("error", "slices", "rope.freqs"),
        ("warning", "unknown-slices", "layers.0.bias"),
    }
