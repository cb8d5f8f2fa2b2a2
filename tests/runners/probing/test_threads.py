"""Batches of an encoder that are computed at once: each is what it is alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import mlload
from mlload.runners.probing.job import ProbeJob
from mlload.runners.probing.settings import ProbeSettings

TEXTS = ["a shard " * (1 + number % 7) for number in range(60)]


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_files_are_the_same_with_any_number_of_threads(tiny_model: Callable[[str], Path], tmp_path: Path, threads: int) -> None:
    runner = mlload.load_model(tiny_model("mbert"), device="cpu", attentions=False, head=False)
    assert ProbeJob(runner, ProbeSettings())._at_once == threads
    mlload.probe_layers(runner, TEXTS, pool="mean", batch_tokens=64, output=tmp_path / "many")
    assert torch.get_num_threads() == threads
    torch.set_num_threads(1)
    mlload.probe_layers(runner, TEXTS, pool="mean", batch_tokens=64, output=tmp_path / "one")
    many, one = (mlload.open_probe(tmp_path / name) for name in ("many", "one"))
    for name in one.names:
        assert torch.equal(many[name].tensor(), one[name].tensor())


def test_a_model_whose_weights_come_and_go_computes_one_at_a_time(tiny_model: Callable[[str], Path]) -> None:
    streamed = mlload.load_model(tiny_model("mbert"), device="cpu", head=False, resident=4 << 20)
    assert ProbeJob(streamed, ProbeSettings())._at_once == 1
