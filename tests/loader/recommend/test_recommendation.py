"""What is recommended: what there is, in an order that holds, and nothing that can't be done."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import made_up
import pytest
import shapes

from mlload import (
    Backend,
    DoesNotFitError,
    LoadingStrategy,
    ModelLoaderFactory,
    QuantizationMethod,
    UsageError,
    get_recommended_loader_config,
    recommend,
)
from mlload.loader.recommend.candidates import MARGIN, Candidate
from mlload.loader.recommend.machine import Machine, declared_machine, this_machine
from mlload.loader.recommend.recommendation import OBJECTIVES
from mlload.loader.recommend.use import Use

GIB = 1 << 30


@pytest.fixture(scope="module")
def llama_8b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("8b")
    shapes.write_llama_8b(folder)
    return folder


def cuda(size: str, host: str = "64GiB") -> Machine:
    return declared_machine(gpus=size, host=int(host.removesuffix("GiB")) * GIB)


def best(folder: Path, machine: Machine, **asked: object) -> Candidate:
    found = recommend(folder, machine=machine, **asked).best  # pyright: ignore[reportArgumentType]
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("size", "label"),
    [
        ("24GiB", "bfloat16 on cuda:0, full"),
        ("2x12GiB", "bfloat16 on cuda:0+cuda:1, full"),
        ("12GiB", "hqq with 8 bits on cuda:0, full"),
        ("8GiB", "hqq with 4 bits on cuda:0, full"),
    ],
)
def test_the_best_precision_that_is_held_in_memory(llama_8b: Path, size: str, label: str) -> None:
    found = [each for each in recommend(llama_8b, machine=cuda(size), backend="cuda").candidates if each.fits]
    assert found[0].way.label == label


def test_what_fits_nowhere_else_is_streamed(llama_8b: Path) -> None:
    way = best(llama_8b, declared_machine(device="cpu", memory="3GiB")).way
    assert way.strategy is LoadingStrategy.STREAMING
    assert way.resident is not None
    assert 1 * GIB < way.resident < 3 * GIB


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("size", ["6GiB", "24GiB", "2x16GiB"])
def test_nothing_that_fits_is_better_and_ranked_lower(llama_8b: Path, objective: str, size: str) -> None:
    found = recommend(llama_8b, machine=cuda(size), objective=objective)
    keys = [OBJECTIVES[objective][1](each) for each in found.candidates if each.fits]
    assert keys == sorted(keys)
    assert [each.fits for each in found.candidates] == sorted((each.fits for each in found.candidates), reverse=True)


def bytes_needed(candidate: Candidate) -> dict[str, int]:
    """By place, added up anew from the table."""
    framework, rest = 0, dict[str, int]()
    for component in candidate.footprint.components:
        for place, nbytes in component.nbytes.items():
            if component.name == "framework" and place in ("anonymous", "mapped"):
                framework += nbytes
            elif component.name not in ("loading", "logits"):
                rest[place] = rest.get(place, 0) + nbytes
    return rest | {"framework": framework}


@pytest.mark.parametrize("size", ["8GiB", "2x12GiB", "80GiB"])
def test_a_recommendation_fits_by_the_sum_of_its_components(llama_8b: Path, size: str) -> None:
    machine = cuda(size)
    needed = bytes_needed(best(llama_8b, machine))
    for index, device in enumerate(machine.hardware.cuda):
        assert needed.get(f"cuda:{index}", 0) * (1 + MARGIN) <= device.free_bytes


@pytest.mark.parametrize(
    ("use", "name", "nbytes"),
    [
        (Use(context=1024), "kv cache", 1024 * 2 * 8 * 128 * 32 * 2),
        (Use(context=1024, batch=3), "kv cache", 3 * 1024 * 2 * 8 * 128 * 32 * 2),
        (Use(context=1024), "activations", 1024 * (4 * 4096 + 3 * 14336) * 2),
        (Use(context=1024), "logits", (128256 + 3 * 1024 * 4096) * 2),
        (Use(context=1024, attention="eager"), "activations", 1024 * (5 * 4096 + 2 * 1024 + 3 * 4096) * 2 + 32 * 1024**2 * 8),
    ],
    ids=str,
)
def test_components_by_hand(llama_8b: Path, use: Use, name: str, nbytes: int) -> None:
    found = recommend(llama_8b, machine=cuda("80GiB"), use=use).best
    assert found is not None
    assert found.footprint.component(name) == {"cuda:0": nbytes}


def test_a_quantized_cache_is_smaller(llama_8b: Path) -> None:
    plain, quantized = (best(llama_8b, cuda("80GiB"), use=Use(4096, cache_bits=bits)).footprint for bits in (None, 4))
    assert quantized.component("kv cache")["cuda:0"] < plain.component("kv cache")["cuda:0"] / 3


def test_made_up_machines(tmp_path: Path) -> None:
    """A part of what tests/benchmarks/predictions.py looks at."""
    counts = made_up.judge(made_up.configs()[::5], made_up.machines()[::6], tmp_path)
    made = counts["pairs"] - counts["nothing fits"]
    assert (counts["pairs"], counts["fitting"], counts["best"]) == (20, made, made)
    assert made > 12


def test_that_nothing_fits_says_what_is_nearest(llama_8b: Path) -> None:
    found = recommend(llama_8b, machine=declared_machine(device="cpu", memory="1GiB"))
    assert found.best is None
    with pytest.raises(DoesNotFitError, match=r"nearest is bfloat16 on cpu, streaming: .* too much for host; streaming needs"):
        found.settings()


def test_a_package_that_is_missing_is_no_candidate(llama_8b: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "hqq", None)
    found = recommend(llama_8b, machine=cuda("8GiB"), backend="cuda")
    assert found.best is not None
    assert found.best.way.is_streamed or found.best.way.offload
    assert "needs bitsandbytes" in {each.problem for each in found.candidates}


def test_as_the_document_calls_it(llama_8b: Path) -> None:
    config = get_recommended_loader_config(llama_8b, backend=Backend.CUDA, available_memory_gb=8.0)
    assert config.backend is Backend.CUDA
    assert config.loading_strategy is LoadingStrategy.FULL
    assert config.quantization_config is not None
    assert config.quantization_config.method is QuantizationMethod.HQQ


def test_its_config_loads() -> None:
    config = get_recommended_loader_config("tiny", available_memory_gb=2.0, backend="cpu")
    assert ModelLoaderFactory.create_loader(config).load_model().num_parameters() == 624_640


@pytest.mark.parametrize(
    ("described", "sizes"),
    [
        ({"gpus": "2x24GiB"}, [24, 24]),
        ({"gpus": "24GiB, 2 x 16GiB"}, [24, 16, 16]),
        ({"device": "cuda", "memory": "40GiB"}, [40]),
        ({"device": "cuda:0", "memory": 8 * GIB}, [8]),
    ],
)
def test_described_devices(described: dict[str, str], sizes: Sequence[int]) -> None:
    assert [device.free_bytes for device in declared_machine(**described).hardware.cuda] == [size * GIB for size in sizes]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({"device": "tpu", "memory": "1GiB"}, "no machine with 'tpu'"),
        ({"device": "cuda"}, "how much memory has it"),
        ({"gpus": "0x24GiB"}, "1 to 64 GPUs, not 0"),
        ({"gpus": "2x"}, "'x' is no size|'2x' is no size"),
        ({"gpus": "2x24GiB", "memory": "1GiB"}, "--gpus describes CUDA devices"),
    ],
)
def test_machines_that_are_none(described: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        declared_machine(**described)  # pyright: ignore[reportArgumentType]


def test_apples_gpu_shares_the_hosts_memory(llama_8b: Path) -> None:
    found = recommend(llama_8b, machine=declared_machine(device="mps", memory="32GiB"), backend="mps").best
    assert found is not None
    assert found.way.strategy is LoadingStrategy.UNIFIED_MEMORY
    way = best(llama_8b, declared_machine(device="mps", memory="12GiB"), backend="mps").way
    assert way.strategy is LoadingStrategy.STREAMING


def test_this_machine(tmp_path: Path) -> None:
    machine = this_machine(tmp_path)
    assert machine.disk is not None
    assert machine.disk.free_bytes > 0
    assert machine.hardware.free_bytes > 0
    assert not machine.is_declared


@pytest.mark.parametrize("asked", [{"context": 0}, {"batch": 0}, {"attention": "fast"}, {"cache_bits": 3}])
def test_uses_that_are_none(asked: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        Use(**asked)  # pyright: ignore[reportArgumentType]
