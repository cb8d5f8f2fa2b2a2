import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from mlload.loader import before_imports
from mlload.loader.before_imports import begin
from mlload.loader.checkpoint import Checkpoint
from mlload.loader.execution.allocation import Arena
from mlload.loader.fresh_memory import FreshMemory
from mlload.loader.loading import load
from mlload.loader.memory import process_memory
from mlload.loader.settings import Backend, CacheMode, LoadingStrategy, ModelLoadingConfig, QuantizationConfig, QuantizationMethod

MIB = 1 << 20
SLACK = 8 * MIB  # of what else this process does meanwhile
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can be asked for pages, and told that they are not needed")


def held() -> int:
    return process_memory().anonymous


def filled(nbytes: int) -> FreshMemory:
    fresh = FreshMemory(nbytes)
    fresh._thread.join()
    if not fresh.filled:
        pytest.skip("this kernel gives no pages beforehand")
    return fresh


def test_pages_are_there_before_anybody_writes_to_them() -> None:
    before = held()
    fresh = filled(100 * MIB)
    assert fresh.filled == 100 * MIB
    assert held() - before == pytest.approx(100 * MIB, abs=SLACK)


def test_pieces_are_apart_and_keep_what_is_written_while_others_are_filled() -> None:
    fresh = FreshMemory(200 * MIB)
    arenas = [Arena(60 * MIB, fresh=fresh) for _ in range(4)]  # one more than there is room for
    tensors = [arena.empty((15 * MIB,), torch.float32).fill_(number) for number, arena in enumerate(arenas)]
    fresh.stop()
    assert all(bool((tensor == number).all()) for number, tensor in enumerate(tensors))


def test_a_piece_that_nobody_holds_goes_back_and_the_rest_at_the_end() -> None:
    before = held()
    fresh = filled(100 * MIB)
    kept, dropped = (Arena(40 * MIB, fresh=fresh).empty((40 * MIB,), torch.uint8).fill_(7) for _ in range(2))
    del dropped
    assert held() - before == pytest.approx(60 * MIB, abs=SLACK)
    fresh.close()
    assert held() - before == pytest.approx(40 * MIB, abs=SLACK)
    assert Arena(10 * MIB, fresh=fresh).empty((MIB,), torch.uint8).fill_(1).sum() == MIB
    assert bool((kept == 7).all())
    del kept, fresh
    assert held() - before < SLACK


def test_stopping_leaves_the_rest_to_whoever_writes() -> None:
    fresh = FreshMemory(4 << 30)
    fresh.stop()
    assert fresh.filled < 4 << 30
    assert Arena(40 * MIB, fresh=fresh).empty((MIB,), torch.uint8).fill_(3).sum() == 3 * MIB


@pytest.mark.parametrize(
    ("asked", "copied"),
    [
        ({"dtype": "float32"}, 2),
        ({"dtype": torch.float32, "device": "cpu"}, 2),
        ({}, 0),
        ({"dtype": "bfloat16"}, 0),
        ({"dtype": "float32", "backend": Backend.CUDA}, 0),
        ({"dtype": "float32", "device": "cuda"}, 0),
        ({"dtype": "float32", "loading_strategy": LoadingStrategy.STREAMING}, 0),
        ({"dtype": "float32", "resident": 10 * MIB}, 0),
    ],
)
def test_memory_is_made_for_what_will_be_copied(llama_84mb: Path, asked: dict[str, Any], copied: int) -> None:
    checkpoint = Checkpoint.open(llama_84mb)
    stored = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    fresh = begin(checkpoint, ModelLoadingConfig(llama_84mb, **asked), is_alone=True)
    assert (0 if fresh is None else len(fresh._block)) == pytest.approx(copied * stored, rel=0.01)
    if fresh is not None:
        fresh.close()  # or it would be filled while other tests measure
    assert begin(checkpoint, ModelLoadingConfig(llama_84mb, **asked), is_alone=False) is None


def test_memory_is_made_for_what_will_be_quantized(llama_84mb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(before_imports, "PREPARED_FROM", MIB)
    checkpoint = Checkpoint.open(llama_84mb)
    int8 = QuantizationConfig(QuantizationMethod.BNB_INT8)
    settings = ModelLoadingConfig(llama_84mb, quantization_config=int8, quantized_cache=CacheMode.OFF, device="cpu")
    fresh = begin(checkpoint, settings, is_alone=True)
    assert fresh is not None
    layers = sum(tensor.nbytes for tensor in checkpoint.tensors.values() if ".layers." in tensor.name)
    assert len(fresh._block) == pytest.approx(layers / 2, rel=0.02)
    fresh.close()


def test_what_comes_out_is_the_same_and_no_more_memory_stays(llama_84mb: Path) -> None:
    loaded = load(ModelLoadingConfig(llama_84mb, dtype="float32"))
    expected = transformers.AutoModelForCausalLM.from_pretrained(llama_84mb, dtype=torch.float32).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.model.state_dict().items())
    assert loaded.measured.anonymous == pytest.approx(loaded.prediction.loaded.anonymous, abs=SLACK)
