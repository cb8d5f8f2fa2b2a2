"""Single tensors of a checkpoint: what is asked for, by whatever way of asking, and nothing else is read."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import write_safetensors
from safetensors.torch import load_file

import mlload
from mlload import PreTrainedCausalLM

WAYS = {
    "glob": (lambda state: state["h.*.attn.*.weight"], r"h\..*\.attn\..*\.weight"),
    "glob-method": (lambda state: state.glob("h.?.ln_1.*"), r"h\..\.ln_1\..*"),
    "compiled": (lambda state: state[re.compile(r"\.BIAS$", re.IGNORECASE)], r".*\.bias"),
    "regex": (lambda state: state.regex(r".*\.bias$"), r".*\.bias"),
    "compiled-method": (lambda state: state.regex(re.compile("wte|wpe")), r"w.e\.weight"),
    "list": (lambda state: state[["wte.weight", "ln_f.bias"]], r"wte\.weight|ln_f\.bias"),
    "nothing": (lambda state: state["*.attention.*.weight"], "none"),
    "empty": (lambda state: state[[]], "none"),
}


def short(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}


@pytest.fixture
def bare(gpt2: Path, tmp_path: Path) -> Path:
    """The checkpoint under the names that the hub's has, which are not the model's."""
    from safetensors.torch import save_file

    folder = Path(shutil.copytree(gpt2, tmp_path / "bare"))
    save_file(short(load_file(gpt2 / "model.safetensors")), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize(("ask", "names"), WAYS.values(), ids=list(WAYS))
def test_ways_of_asking(bare: Path, ask: Callable[[mlload.StateDict], dict[str, torch.Tensor]], names: str, loaded: bool) -> None:
    checkpoint = PreTrainedCausalLM.from_pretrained(bare)
    if loaded:
        _ = checkpoint.model
    wanted = {name: tensor for name, tensor in load_file(bare / "model.safetensors").items() if re.fullmatch(names, name)}
    got = ask(checkpoint.state)
    assert sorted(got) == sorted(wanted)
    assert all(torch.equal(got[name], tensor) for name, tensor in wanted.items())


def test_one_tensor_by_its_name() -> None:
    state = PreTrainedCausalLM.from_pretrained("tiny").state
    assert state["model.norm.weight"].shape == (128,)
    assert (len(state), "model.norm.weight" in state, "x" in state) == (56, True, False)
    assert list(dict(state)) == list(state) == state.keys()


@pytest.mark.parametrize("key", ["model.norm.wieght", ["model.norm.weight", "model.norm.wieght"]], ids=["name", "list"])
def test_an_unknown_name_tells_the_nearest(key: str | list[str]) -> None:
    with pytest.raises(mlload.UsageError, match=r"tiny has no tensor 'model\.norm\.wieght'; nearest: model\.norm\.weight"):
        PreTrainedCausalLM.from_pretrained("tiny").state[key]


def test_a_loaded_model_shows_what_it_holds(bare: Path) -> None:
    checkpoint = PreTrainedCausalLM.from_pretrained(bare, dtype="bfloat16")
    assert checkpoint.state["ln_f.bias"].dtype is torch.float32
    with torch.no_grad():
        checkpoint.model.get_parameter("transformer.ln_f.bias").fill_(7)
    assert torch.equal(checkpoint.state["ln_f.bias"], torch.full((16,), 7, dtype=torch.bfloat16))


@pytest.mark.parametrize("case", ["causal-mixtral", "causal-qwen2_moe", "causal-llama"])
def test_what_loading_puts_together_is_taken_apart(zoo: Path, case: str) -> None:
    checkpoint = PreTrainedCausalLM.from_pretrained(zoo / case, dtype="float32")
    before = {name: tensor.float() for name, tensor in checkpoint.state.glob("*").items()}
    with torch.no_grad():
        for parameter in checkpoint.model.parameters():
            parameter.mul_(2)
    after = checkpoint.state.glob("*")
    assert list(after) == list(before)
    assert all(torch.equal(after[name], 2 * tensor) for name, tensor in before.items())


def test_a_file_that_changed_meanwhile(bare: Path) -> None:
    state = PreTrainedCausalLM.from_pretrained(bare).state
    os.utime(bare / "model.safetensors", ns=(0, 0))
    with pytest.raises(mlload.InvalidCheckpointError, match=r"model\.safetensors: the file changed since its header was read"):
        state["ln_f.bias"]


LAZY = """
import sys, mlload
checkpoint = mlload.PreTrainedCausalLM.from_pretrained(sys.argv[1])
assert "LlamaForCausalLM" in repr(checkpoint)
assert not {"torch", "accelerate"} & set(sys.modules), "imported"
import torch
import mlload.loader.execution.weight_files
anonymous = lambda: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))
before = anonymous()
assert checkpoint.state["model.norm.weight"].sum() == 0
assert float(checkpoint.state["model.embed_tokens.weight"][-1, -1]) == 0
assert checkpoint.loaded is None
sys.stdout.write(str(anonymous() - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_tensor_of_a_large_checkpoint_takes_no_memory(llama: Path) -> None:
    table = {"model.embed_tokens.weight": ("BF16", (10, 8)), "model.norm.weight": ("BF16", (100 << 20,))}
    for shard in llama.glob("model*"):
        shard.unlink()
    write_safetensors(llama / "model.safetensors", table)
    done = subprocess.run([sys.executable, "-c", LAZY, llama], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 20 << 10  # KiB, of 200 MiB
