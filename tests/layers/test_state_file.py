"""State files are hostile input: what is not whole and sound is refused in one line."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mlload.layers.layered import LayeredModel
from mlload.layers.nested import Gone
from mlload.layers.packing import Packing, Unpacking
from mlload.layers.partial import partial_forward
from mlload.layers.state import ForwardState
from mlload.loader.errors import InvalidCheckpointError, MlloadError
from mlload.loader.execution.checked_file import write_checked
from mlload.loader.settings import ModelLoadingConfig

Content = dict[str, Any]


@pytest.fixture(scope="module")
def tiny() -> LayeredModel:
    return LayeredModel(ModelLoadingConfig("tiny", device="cpu"))


@pytest.fixture(scope="module")
def written(tiny: LayeredModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("state") / "state.safetensors"
    state = partial_forward(tiny, "A shard is", layers=":2").state
    assert state is not None
    state.save(path)
    return path


@pytest.fixture
def spoilt(written: Path, tmp_path: Path) -> Callable[..., Path]:
    """The state with its JSON changed, and a checksum that is right again."""

    def spoil(change: Callable[[Content], object], **tensors: torch.Tensor) -> Path:
        from safetensors import safe_open

        with safe_open(written, "pt") as file:
            content = json.loads(file.metadata()["mlload"])
            held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        content = copy.deepcopy(content)
        change(content)
        path = tmp_path / "spoilt.safetensors"
        write_checked(path, {"mlload": json.dumps(content)}, held | tensors)
        return path

    return spoil


def deep(depth: int) -> object:
    value: object = 0
    for _ in range(depth):
        value = {"list": [value]}
    return value


CHANGES: dict[str, Callable[[Content], object]] = {
    "another version": lambda state: state.update(schema="mlload.state/9"),
    "no layer": lambda state: state.pop("layer"),
    "a layer that is no number": lambda state: state.update(layer="2"),
    "more layers than outputs": lambda state: state.update(layer=5),
    "outputs that are no lists": lambda state: state.update(outputs={"model.layers": 2}),
    "no identity": lambda state: state.update(model={}),
    "an identity with more": lambda state: state["model"].update(extra="x"),
    "inputs that are a list": lambda state: state.update(inputs={"list": []}),
    "an unknown tensor": lambda state: state.update(inputs={"mapping": [["input_ids", {"tensor": "nothing"}]]}),
    "an unknown kind": lambda state: state["inputs"]["mapping"].append(["x", {"object": "os.system"}]),
    "a tensor that is gone among the inputs": lambda state: state["inputs"]["mapping"].append(["x", {"gone": ["F32", [1]]}]),
    "a giant that is gone": lambda state: state["outputs"]["model.layers"].__setitem__(0, {"gone": ["F32", [1 << 30, 1 << 30]]}),
    "a dtype that is none": lambda state: state["outputs"]["model.layers"].__setitem__(0, {"gone": ["F33", [1]]}),
    "a size that is none": lambda state: state["outputs"]["model.layers"].__setitem__(0, {"gone": ["F32", [-1]]}),
    "an order that is none": lambda state: state["inputs"]["mapping"].append(["x", {"tensor": "inputs.input_ids", "order": [0, 0]}]),
    "a shape that is too large": lambda state: state["inputs"]["mapping"].append(
        ["x", {"tensor": "inputs.input_ids", "shape": [1 << 30, 10]}]
    ),
    "fields that are no names": lambda state: state["inputs"]["mapping"].append(["x", {"fields": ["def"], "values": [1]}]),
    "keys that are lists": lambda state: state["inputs"]["mapping"].append([["x"], 1]),
    "a random state that is none": lambda state: state.update(random={"tensor": "inputs.input_ids"}),
    "endless nesting": lambda state: state["inputs"]["mapping"].append(["x", deep(90)]),
    "an entry without hidden states": lambda state: state.update(entry=[{"mapping": []}, {"mapping": []}]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_spoilt_state_is_refused_when_it_is_read(spoilt: Callable[..., Path], change: Callable[[Content], object]) -> None:
    with pytest.raises(InvalidCheckpointError, match=r"^spoilt\.safetensors: [^\n]*$"):
        ForwardState.load(spoilt(change))


LATER: dict[str, Callable[[Content], object]] = {
    "a text in place of a tensor": lambda state: state["entry"][1]["mapping"].__setitem__(1, ["position_embeddings", "cos"]),
    "hidden states of another size": lambda state: state["entry"][0]["mapping"].__setitem__(
        0, ["hidden_states", {"tensor": "entry.position_embeddings.0"}]
    ),
    "a token outside the vocabulary": lambda state: state["inputs"].update(mapping=[["input_ids", {"tensor": "ids"}]]),
}


@pytest.mark.parametrize("change", LATER.values(), ids=LATER)
def test_a_state_that_does_not_fit_is_refused_when_it_is_used(
    spoilt: Callable[..., Path], tiny: LayeredModel, change: Callable[[Content], object]
) -> None:
    path = spoilt(change, ids=torch.tensor([[70_000]]))
    with pytest.raises(MlloadError, match=r"^spoilt\.safetensors: [^\n]*$"):
        partial_forward(tiny, state=path)


@pytest.mark.parametrize("place", [12, 600, -3])
def test_a_changed_byte_is_noticed(written: Path, tmp_path: Path, place: int) -> None:
    content = bytearray(written.read_bytes())
    content[place] ^= 1
    (tmp_path / "state.safetensors").write_bytes(content)
    with pytest.raises(InvalidCheckpointError, match=r"^state\.safetensors"):
        ForwardState.load(tmp_path / "state.safetensors")


def test_weights_are_no_state() -> None:
    from mlload.configs import FOLDER

    with pytest.raises(InvalidCheckpointError, match="is no state of a forward"):
        ForwardState.load(FOLDER / "tiny" / "model-00001-of-00003.safetensors")


def test_values_come_back_as_they_lay() -> None:
    across = torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1)
    wide = torch.arange(3.0).reshape(1, 3).expand(5, 3)
    value = {"a": (across, [wide, None, 1.5, float("-inf")]), 3: Gone((1, 2), torch.bfloat16), "again": across}
    packing = Packing()
    packed = json.loads(json.dumps(packing.pack(value, "v")))
    assert [tensor.numel() for tensor in packing.tensors.values()] == [24, 3]
    back = Unpacking(packing.tensors, "file").unpack(packed)
    assert torch.equal(back["a"][0], across)
    assert back["a"][0].stride() == across.stride()
    assert back["a"][1][0].stride() == wide.stride()
    assert torch.equal(back["a"][1][0], wide)
    assert back["a"][1][1:] == [None, 1.5, float("-inf")]
    assert back[3] == value[3]
