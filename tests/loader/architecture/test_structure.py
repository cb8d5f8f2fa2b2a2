"""Structure from names that are not transformers' own; the zoo tests cover those that are."""

from __future__ import annotations

import pytest

from mlload.loader.architecture import Structure, find_structure
from mlload.loader.tensors import TensorEntry

GGUF = "token_embd output_norm output blk.{}.attn_norm blk.{}.attn_q blk.{}.attn_k blk.{}.ffn_up blk.{}.ffn_norm"
GGUF_T5 = (
    "token_embd dec.output_norm enc.output_norm dec.blk.{}.attn_q dec.blk.{}.attn_norm dec.blk.{}.cross_attn_q "
    "enc.blk.{}.attn_q enc.blk.{}.ffn_up"
)
META = "tok_embeddings norm output layers.{}.attention.wq layers.{}.attention_norm layers.{}.feed_forward.w1"


def structure_of(names: str, layers: int = 2) -> Structure:
    expanded = dict.fromkeys(name.format(index) + ".weight" for name in names.split() for index in range(layers))
    return find_structure(TensorEntry(name, "F32", (8,) if "norm" in name else (64, 8), "", 0, 4) for name in expanded)


@pytest.mark.parametrize(
    ("names", "main", "embedding", "norm", "head"),
    [
        (GGUF, "blk", "token_embd.weight", "output_norm.weight", "output.weight"),
        (GGUF_T5, "dec.blk", "token_embd.weight", "dec.output_norm.weight", None),
        (META, "layers", "tok_embeddings.weight", "norm.weight", "output.weight"),
    ],
)
def test_parts_of_other_naming_schemes(names: str, main: str, embedding: str, norm: str, head: str | None) -> None:
    found = structure_of(names)
    assert found.main is not None
    assert (found.main.prefix, found.main.num_layers) == (main, 2)
    assert [part and part.name for part in (found.embedding, found.norm, found.head)] == [embedding, norm, head]


def test_numbered_weights_are_no_layers() -> None:
    found = structure_of("lm_heads.{} model.embed_tokens.{} model.layers.{}.mlp.up_proj model.layers.{}.mlp.down_proj")
    assert [stack.prefix for stack in found.stacks] == ["model.layers"]


def test_gaps_keep_their_numbers() -> None:
    names = ["model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.b", "model.layers.7.mlp.up_proj.weight", "model.layers.7.mlp.b"]
    found = find_structure(TensorEntry(name, "F32", (8, 8), "", 0, 4) for name in names)
    assert found.main is not None
    assert list(found.main.layers) == [0, 7]


def test_no_tensors_no_structure() -> None:
    found = find_structure([])
    assert (found.stacks, found.main, found.embedding, found.norm, found.head) == ((), None, None, None, None)
