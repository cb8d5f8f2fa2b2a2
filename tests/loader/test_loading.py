"""Loading: for every model type the very model that from_pretrained gives, and a clear line for every checkpoint that can't be loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conformance import differences, pretrained
from safetensors.torch import load_file, save_file
from zoo import entries
from zoo_configs import KNOWN_FAILURES

import mlload
from mlload.loader.loading import load, plan_load
from mlload.loader.settings import ModelLoadingConfig

CASES = [f"{entry.task}-{entry.model_type}" for entry in entries() if entry.model_type not in KNOWN_FAILURES]
LLAMA = "causal-llama"
MIXTRAL = "causal-mixtral"


@pytest.mark.parametrize("case", CASES)
def test_every_model_type_in_float32(zoo: Path, case: str) -> None:
    assert differences(zoo / case, torch.float32) == []


@pytest.mark.parametrize("case", CASES)
def test_every_model_type_from_shards_in_bfloat16(zoo: Path, case: str, tmp_path: Path) -> None:
    assert differences(sharded(zoo / case, tmp_path), torch.bfloat16) == []


def sharded(folder: Path, out: Path) -> Path:
    """The same checkpoint with every other tensor in a second shard."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    weight_map = {name: f"model-0000{1 + place % 2}-of-00002.safetensors" for place, name in enumerate(names)}
    for shard in sorted(set(weight_map.values())):
        save_file({name: tensors[name] for name in names if weight_map[name] == shard}, out / shard, metadata={"format": "pt"})
    (out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    for file in folder.glob("*.json"):
        shutil.copy(file, out)
    return out


@pytest.fixture
def copy(zoo: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A checkpoint of the zoo that a test may spoil."""
    return lambda case: Path(shutil.copytree(zoo / case, tmp_path / case))


def change_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def test_weights_are_the_files_own_pages_until_they_are_written_to(copy: Callable[[str], Path]) -> None:
    folder = copy(LLAMA)
    before = (folder / "model.safetensors").read_bytes()
    model = load(ModelLoadingConfig(folder)).model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert (folder / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("case", [LLAMA, MIXTRAL])
@pytest.mark.parametrize("strategy", ["full", "low_memory", "unified_memory"])
def test_strategies_give_the_same_weights(zoo: Path, case: str, strategy: str, mmap: bool) -> None:
    settings = ModelLoadingConfig(zoo / case, loading_strategy=strategy, dtype="bfloat16", mmap=mmap)  # pyright: ignore[reportArgumentType]
    wanted = pretrained(zoo / case, torch.bfloat16)[0].state_dict()
    got = load(settings).model.state_dict()
    assert all(torch.equal(got[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize("offset", range(1, 8))
def test_tensors_that_are_not_aligned_are_copied(copy: Callable[[str], Path], offset: int) -> None:
    folder = copy(LLAMA)
    file = folder / "model.safetensors"
    wanted = {name: tensor.clone() for name, tensor in load_file(file).items()}  # else they are pages of the file
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    file.write_bytes((length + offset).to_bytes(8, "little") + data[8 : 8 + length] + b" " * offset + data[8 + length :])
    got = load(ModelLoadingConfig(folder)).model.state_dict()
    assert all(torch.equal(got[name], tensor) for name, tensor in wanted.items())


def test_generation_config_is_the_checkpoints(copy: Callable[[str], Path]) -> None:
    folder = copy(LLAMA)
    (folder / "generation_config.json").write_text(json.dumps({"max_new_tokens": 7}))
    assert load(ModelLoadingConfig(folder)).model.generation_config.max_new_tokens == 7  # pyright: ignore[reportOptionalMemberAccess]


def test_a_tensor_that_the_checkpoint_lacks_is_named(copy: Callable[[str], Path]) -> None:
    folder = copy(LLAMA)
    drop(folder, "model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight")
    with pytest.raises(mlload.InvalidCheckpointError, match=r"model\.layers\.1\.mlp\.down_proj\.weight.*\(and 1 more\)"):
        load(ModelLoadingConfig(folder))


def test_what_is_missing_is_random_where_that_is_allowed(copy: Callable[[str], Path]) -> None:
    folder = copy(LLAMA)
    drop(folder, "model.layers.1.mlp.up_proj.weight")
    loaded = load(ModelLoadingConfig(folder, allow_missing=True))
    assert loaded.missing == ("model.layers.1.mlp.up_proj.weight",)
    assert loaded.model.get_parameter("model.layers.1.mlp.up_proj.weight").std() > 0


def drop(folder: Path, *names: str) -> None:
    kept = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items() if name not in names}
    save_file(kept, folder / "model.safetensors")


REFUSED = {
    "unknown-type": ({"model_type": "lama"}, mlload.UsageError, "did you mean 'llama'"),
    "no-type": ({"model_type": None}, mlload.UsageError, "names no model type"),
    "own-code": ({"model_type": "mine", "auto_map": {"AutoModel": "mine.Model"}}, mlload.UsageError, "--trust-remote-code"),
    "activation": ({"hidden_act": "siluu"}, mlload.InvalidCheckpointError, "can't build LlamaForCausalLM"),
    "heads": ({"num_attention_heads": 0}, mlload.InvalidCheckpointError, "can't build"),
    "wrong-type": ({"intermediate_size": "wide"}, mlload.InvalidCheckpointError, "config.json"),
    "shape": ({"intermediate_size": 48}, mlload.InvalidCheckpointError, "the config makes it|intermediate_size"),
    "other-class": ({"architectures": ["BertModel"]}, mlload.InvalidCheckpointError, "not for model type 'llama'"),
    "no-model-class": ({"architectures": ["Trainer"]}, None, ""),
    "other-weights": ({"transformers_weights": "x.safetensors"}, mlload.InvalidCheckpointError, "transformers_weights"),
}


@pytest.mark.parametrize(("changes", "error", "words"), REFUSED.values(), ids=list(REFUSED))
def test_configs_that_give_no_model(
    copy: Callable[[str], Path], changes: dict[str, object], error: type[Exception] | None, words: str
) -> None:
    folder = copy(LLAMA)
    change_config(folder, **changes)
    if error is None:
        load(ModelLoadingConfig(folder))
        return
    with pytest.raises(error, match=words) as raised:
        load(ModelLoadingConfig(folder))
    assert "\n" not in str(raised.value)


def test_a_file_that_changes_while_it_is_loaded(copy: Callable[[str], Path]) -> None:
    folder = copy(LLAMA)
    planned = plan_load(ModelLoadingConfig(folder))
    with pytest.raises(mlload.InvalidCheckpointError, match=r"model\.safetensors.*changed"):
        planned.execute(lambda unit: (folder / "model.safetensors").touch())


def test_a_file_that_shrinks_before_it_is_read(copy: Callable[[str], Path]) -> None:
    folder = copy(LLAMA)
    planned = plan_load(ModelLoadingConfig(folder))
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-100])
    with pytest.raises(mlload.InvalidCheckpointError, match="shorter"):
        planned.execute()


def test_a_plan_predicts_what_stays(zoo: Path) -> None:
    planned = plan_load(ModelLoadingConfig(zoo / MIXTRAL, dtype="bfloat16"))
    prediction, size = planned.prediction, sum(2 * tensor.numel() for tensor in planned.skeleton.targets.values())
    assert prediction.loaded.anonymous + prediction.loaded.mapped == size
    experts = [step for step in planned.plan.steps if step.conversion is not None]
    assert experts
    assert all(step.is_a_stack for step in experts)


def test_units_have_the_names_that_people_use(zoo: Path) -> None:
    names = [unit.name for unit in plan_load(ModelLoadingConfig(zoo / LLAMA)).plan.units]
    assert names == ["model.embed_tokens", *(f"model.layers.{index}" for index in range(3)), "model.norm", "lm_head"]


def test_keys_and_values_are_kept_only_if_asked() -> None:
    model = load(ModelLoadingConfig("tiny", use_cache=False)).model
    assert (model.config.use_cache, model.generation_config.use_cache) == (False, False)
    assert model(torch.arange(8)[None]).past_key_values is None


def test_other_ranks_get_the_structure_and_the_tables_that_no_checkpoint_holds(zoo: Path) -> None:
    settings = ModelLoadingConfig(zoo / LLAMA, low_memory=True, rank=1, world_size=2, device="cpu")
    model = load(settings).model
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    wanted = dict(pretrained(zoo / LLAMA, torch.float32)[0].named_buffers())
    assert all(torch.equal(buffer, wanted[name]) for name, buffer in model.named_buffers())
