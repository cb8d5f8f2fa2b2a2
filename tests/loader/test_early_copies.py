import gc
import mmap
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from time import sleep

import numpy as np
import pytest
import torch
import transformers

from mlload.loader.before_imports import begin
from mlload.loader.checkpoint import Checkpoint
from mlload.loader.early_copies import EarlyCopies, can_be_early
from mlload.loader.errors import InvalidCheckpointError
from mlload.loader.loading import load, plan_load
from mlload.loader.memory import process_memory
from mlload.loader.plan import LoadPlan
from mlload.loader.settings import ModelLoadingConfig
from mlload.loader.tensors import Strided, TensorEntry

MIB = 1 << 20
SLACK = 8 * MIB  # of what else this process does meanwhile
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has them")


def stored(folder: Path, sizes: Sequence[int]) -> tuple[list[TensorEntry], np.ndarray]:
    """Tensors of so many weights one after the other in a file, and the bits of all of them."""
    bits = np.arange(sum(sizes), dtype=np.uint32).astype(np.uint16)
    (folder / "file").write_bytes(b"a" + bits.tobytes())
    starts = np.cumsum([0, *sizes[:-1]])
    entries = zip(sizes, starts, strict=True)
    return [TensorEntry(f"{start}", "BF16", (size,), "file", 1 + 2 * int(start), 2 * size) for size, start in entries], bits


def sources(plan: LoadPlan) -> list[TensorEntry]:
    """The tensors that a model is made of."""
    return [entry for step in plan.steps for entry, _ in step.sources]


def finished(copies: EarlyCopies) -> EarlyCopies:
    copies._thread.join()
    return copies


@pytest.mark.parametrize("sizes", [(65536,), (1, 3, 7, 65536), (40 * MIB, 5, 33 * MIB)], ids=str)
def test_bits_are_those_of_torch(tmp_path: Path, sizes: Sequence[int]) -> None:
    entries, bits = stored(tmp_path, sizes)
    copies = finished(EarlyCopies(tmp_path, entries[::-1], 0))
    for entry in entries:
        copy = copies.copy_of(entry)
        assert copy is not None
        of_it = bits[(entry.offset - 1) // 2 :][: entry.numel]
        expected = torch.from_numpy(of_it.view(np.int16)).view(torch.bfloat16).float()
        assert torch.equal(torch.frombuffer(copy, dtype=torch.int32), expected.view(torch.int32))
        assert copies.copy_of(entry) is None, "it would be two tensors' memory"


def test_only_what_is_needed_is_copied(tmp_path: Path) -> None:
    entries, bits = stored(tmp_path, (3, 5, 2))
    copies = finished(EarlyCopies(tmp_path, [entries[0], entries[2]], 2 * mmap.PAGESIZE))
    assert copies.copy_of(entries[1]) is None
    copy = copies.copy_of(entries[2])
    assert copy is not None
    assert (np.frombuffer(copy, np.uint32) >> 16).tolist() == bits[8:].tolist()
    piece = copies.take(100)
    assert piece is not None, "what was asked for other copies"
    assert bytes(piece) == bytes(100)


def test_many_tensors_apart_from_one_another_are_found_in_no_time(tmp_path: Path) -> None:
    entries, bits = stored(tmp_path, (1,) * 60_000)
    copies = finished(EarlyCopies(tmp_path, entries[::2], 0))
    found = [copies.copy_of(entry) for entry in entries[:60:2]]
    assert [np.frombuffer(copy, np.uint32)[0] >> 16 for copy in found if copy is not None] == bits[:60:2].tolist()
    copies.close()


def test_what_nobody_takes_goes_back(tmp_path: Path) -> None:
    entries, _ = stored(tmp_path, (16 * MIB, 16 * MIB))
    gc.collect()  # of the tests before
    before = process_memory().anonymous
    copies = finished(EarlyCopies(tmp_path, entries, 0))
    kept = copies.copy_of(entries[1])
    copies.close()
    assert kept is not None
    assert process_memory().anonymous - before == pytest.approx(len(kept), abs=SLACK)


def test_a_file_that_ends_too_soon_is_left_to_who_loads(tmp_path: Path) -> None:
    entries, _ = stored(tmp_path, (MIB, 64 * MIB))
    os.truncate(tmp_path / "file", 10 * MIB)
    copies = finished(EarlyCopies(tmp_path, entries, 0))
    assert copies.copy_of(entries[1]) is None
    copies.close()


def test_only_plain_bfloat16_can_be_early() -> None:
    plain = TensorEntry("weight", "BF16", (2,), "file", 0, 4)
    assert can_be_early(plain)
    assert not can_be_early(plain._replace(dtype="F16"))
    assert not can_be_early(plain._replace(nbytes=0))
    assert not can_be_early(plain._replace(arrangement=Strided((2,))))


def test_the_model_is_transformers_own(llama_84mb: Path) -> None:
    settings = ModelLoadingConfig(llama_84mb, dtype="float32", device="cpu")
    copies = begin(Checkpoint.open(llama_84mb), settings, is_alone=True)
    assert isinstance(copies, EarlyCopies)
    finished(copies)
    assert copies.filled > 140 * MIB
    copies.close()
    expected = transformers.AutoModelForCausalLM.from_pretrained(llama_84mb, dtype=torch.float32).state_dict()
    for stops_at_once in (True, False):
        planned = plan_load(settings, is_carried_out=True)
        assert isinstance(planned.fresh, EarlyCopies)
        if not stops_at_once:
            planned.fresh.close()
            planned.fresh = finished(EarlyCopies(llama_84mb, sources(planned.plan), 0))
        loaded = planned.execute().model.state_dict()
        assert loaded.keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in loaded.items())


def test_a_load_that_fails_while_it_is_planned_leaves_nothing(llama_84mb: Path) -> None:
    gc.collect()
    before = process_memory().anonymous
    with pytest.raises(InvalidCheckpointError, match="no such attention") as error:
        load(ModelLoadingConfig(llama_84mb, dtype="float32", device="cpu", attn_implementation="no such attention"))
    sleep(1)  # in which a thread that went on would be done
    assert process_memory().anonymous - before < SLACK, f"while somebody looks at {error}"


def test_a_file_that_is_replaced_meanwhile_is_noticed(llama_23mb: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in llama_23mb.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    planned = plan_load(ModelLoadingConfig(folder, dtype="float32", device="cpu"))
    planned.fresh = finished(EarlyCopies(folder, sources(planned.plan), 0))
    (weights,) = folder.glob("*.safetensors")
    weights.with_suffix(".new").write_bytes(weights.read_bytes())
    weights.with_suffix(".new").rename(weights)
    with pytest.raises(InvalidCheckpointError, match="changed while it was loaded"):
        planned.execute()
    assert load(ModelLoadingConfig(folder, dtype="float32", device="cpu")).model.dtype == torch.float32
