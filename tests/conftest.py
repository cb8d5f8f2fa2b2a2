"""Fixtures that the whole suite shares: the command as a process, small checkpoints, the zoo of all model types."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parent.parent
WIDTH = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U32": 4, "I16": 2, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E8M0": 1}

Table = Mapping[str, tuple[str, tuple[int, ...]]]


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test keeps anything in the user's own cache, or reads the user's own models."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLLOAD_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        patch.delenv("MLLOAD_MODELS", raising=False)
        yield


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, object]:
        return json.loads(self.out)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Outcome]:
    """`mlload` as a user starts it, in a process of its own, with an empty cache and no hub unless `env` names one."""

    def start(*arguments: str | Path, env: Mapping[str, str] | None = None) -> Outcome:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING")) and "proxy" not in key.lower()}
        clean |= {
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_OFFLINE": "1",
            "NO_COLOR": "1",
            "MLLOAD_CACHE": str(tmp_path / "cache"),
            **(env or {}),
        }
        command = [sys.executable, "-m", "mlload", *map(str, arguments)]
        done = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False)
        return Outcome(done.returncode, done.stdout, done.stderr)

    return start


def write_safetensors(path: Path, tensors: Table, *, metadata: Mapping[str, str] | None = None) -> Path:
    """A well-formed file with zeros for weights; `tensors` gives each one's dtype and shape."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": metadata}
    end = 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + WIDTH[dtype] * prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(path, 8 + len(text) + end)
    return path


def llama_tensors(
    layers: int = 2, hidden: int = 8, kv: int = 4, inner: int = 16, vocab: int = 10, *, head: bool = True
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The table of a small Llama."""
    table: dict[str, tuple[str, tuple[int, ...]]] = {
        "model.embed_tokens.weight": ("BF16", (vocab, hidden)),
        "model.norm.weight": ("BF16", (hidden,)),
    }
    for index in range(layers):
        shapes = {
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (kv, hidden),
            "self_attn.v_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }
        table |= {f"model.layers.{index}.{name}.weight": ("BF16", shape) for name, shape in shapes.items()}
    return table | ({"lm_head.weight": ("BF16", (vocab, hidden))} if head else {})


LLAMA_CONFIG: dict[str, object] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 10,
    "max_position_embeddings": 64,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A small, well-formed Llama in two shards with an index."""
    folder = tmp_path / "llama"
    folder.mkdir()
    table = llama_tensors()
    shards = {
        "model-00001-of-00002.safetensors": dict(list(table.items())[:11]),
        "model-00002-of-00002.safetensors": dict(list(table.items())[11:]),
    }
    for name, tensors in shards.items():
        write_safetensors(folder / name, tensors, metadata={"format": "pt"})
    total = sum(2 * prod(shape) for _, shape in table.values())
    weight_map = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(LLAMA_CONFIG))
    return folder


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Every model type of transformers that can be instantiated tiny, saved with the truth about it: once for all processes that test."""
    alone = worker_id == "master"
    out = (tmp_path_factory.getbasetemp() if alone else tmp_path_factory.getbasetemp().parent) / "zoo"
    with FileLock(f"{out}.lock"):
        if not out.exists():
            being_made = out.with_name("zoo-being-made")
            command = [sys.executable, ROOT / "tests" / "zoo.py", "--out", being_made]
            subprocess.run(command, check=True, capture_output=True, timeout=800)
            being_made.rename(out)
    return out


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with the model of that name of tiny_models.MODELS, which nobody may change."""
    import tiny_models

    home = tmp_path_factory.mktemp("models")

    def folder(name: str) -> Path:
        return home / name if (home / name).exists() else tiny_models.save_model(name, home / name)

    return folder
