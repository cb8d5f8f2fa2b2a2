"""What is made of kept states: layers compared, labels found, pictures."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import mlload
from mlload import load_model, open_probe, probe_layers
from mlload.runners.probing.layer_similarity import layer_similarity

Models = Callable[[str], Path]
PLACES = ["the bank of the river", "money in the bank", "a red shard", "a blue tensor"]


def corpus(count: int) -> tuple[list[str], list[str]]:
    """Texts with a label that their words tell."""
    chosen = random.Random(0)
    labels = [chosen.choice(["red", "blue"]) for _ in range(count)]
    return [f"{chosen.choice(PLACES[:2])} is {label}" for label in labels], labels


def linear_cka(one: torch.Tensor, other: torch.Tensor) -> float:
    """By its definition, from explicit kernels, unbiased."""

    def hsic(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        count, ones = len(first), torch.ones(len(first), dtype=torch.float64)
        total = (first @ second).trace() + (ones @ first @ ones) * (ones @ second @ ones) / ((count - 1) * (count - 2))
        return (total - 2 / (count - 2) * (ones @ first @ second @ ones)) / (count * (count - 3))

    kernels = [rows.double() @ rows.double().T for rows in (one, other)]
    for kernel in kernels:
        kernel.fill_diagonal_(0)
    return float(hsic(*kernels) / (hsic(kernels[0], kernels[0]) * hsic(kernels[1], kernels[1])).sqrt())


def test_layers_are_compared_as_defined(tiny_model: Models, tmp_path: Path) -> None:
    runner = load_model(tiny_model("llama"), device="cpu")
    report = probe_layers(runner, corpus(40)[0], output=tmp_path / "out", pool="mean", texts_per_shard=16, similarity="cka")
    probe = open_probe(tmp_path / "out")
    assert report.layer_similarity is not None
    for row in range(4):
        for column in range(4):
            wanted = linear_cka(probe[row].tensor(), probe[column].tensor())
            assert report.layer_similarity.matrix[row][column] == pytest.approx(wanted, abs=1e-4)
    cosines = layer_similarity(probe, "cosine")
    wanted = torch.nn.functional.cosine_similarity(probe[1].tensor(), probe[3].tensor(), dim=1).mean()
    assert cosines.matrix[1][3] == pytest.approx(float(wanted), abs=1e-5)
    assert cosines.matrix[2][2] == pytest.approx(1.0, abs=1e-5)


def test_a_sample_of_rows_stands_for_many(tiny_model: Models, tmp_path: Path) -> None:
    runner = load_model(tiny_model("mbert"), device="cpu")
    probe_layers(runner, corpus(300)[0], output=tmp_path / "out", pool="none", texts_per_shard=64)
    assert 700 <= layer_similarity(open_probe(tmp_path / "out"), "cosine").rows <= 1_024


def test_labels_are_found_where_they_are(tiny_model: Models) -> None:
    pytest.importorskip("sklearn", reason="the probe extra")
    texts, labels = corpus(60)
    report = probe_layers(tiny_model("mbert"), texts, pool="mean", labels=labels)
    assert report.output is None
    assert report.labels is not None
    assert (report.labels.classes, report.labels.folds, report.labels.texts) == (2, 5, 60)
    for score in report.labels.scores:
        assert score.accuracy > 0.95
        assert score.control < 0.75
        assert score.selectivity == pytest.approx(score.accuracy - score.control)


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_picture_of_everything(tiny_model: Models, tmp_path: Path, ending: str) -> None:
    pytest.importorskip("matplotlib", reason="the plot extra")
    runner = load_model(tiny_model("mt5"), device="cpu")
    picture = tmp_path / f"probe.{ending}"
    report = probe_layers(runner, PLACES[0], attentions=True, cross_attentions=True, layers="0,2", plot=picture)
    assert picture.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml")
    assert report.attention is not None
    assert report.attention.tokens[1:3] == ("the", "bank")
    assert list(report.attention.maps) == ["encoder.attentions.2", "decoder.attentions.2", "decoder.cross_attentions.2"]
    assert all(sum(line) == pytest.approx(1, abs=1e-5) for line in report.attention.maps["decoder.cross_attentions.2"])


def test_what_a_picture_shows_without_one(tiny_model: Models) -> None:
    runner = load_model(tiny_model("mbert"), device="cpu")
    report = probe_layers(runner, PLACES[0], pool="mean", attentions=True, plot="-")
    assert report.layer_similarity is None  # of one row
    assert report.attention is not None
    assert probe_layers(runner, PLACES[0], pool="none", plot="-").layer_similarity is not None


REFUSED = {
    "similarity": ({"similarity": "cosin"}, "unknown similarity 'cosin'; did you mean 'cosine'"),
    "few-rows": ({"similarity": "cka", "pool": "mean"}, "2 of the 4 rows that it takes to compare layers; give more"),
    "tokens": ({"labels": ["a", "b"], "pool": "none"}, "rows are of tokens; --pool mean"),
    "one-label": ({"labels": ["a", "a"], "pool": "mean"}, "label 'a' is on 2 of 2 texts; two labels or more"),
    "count": ({"labels": ["a"], "pool": "mean"}, "there are 1 labels for 2 texts"),
    "ending": ({"plot": "probe.txt"}, "probe.txt can't be drawn; end it in .png"),
}


@pytest.mark.parametrize(("options", "words"), REFUSED.values(), ids=list(REFUSED))
def test_refusals(tiny_model: Models, options: dict[str, object], words: str) -> None:
    pytest.importorskip("sklearn", reason="the probe extra")
    with pytest.raises(mlload.UsageError, match=words.replace(".", r"\.")):
        probe_layers(tiny_model("mbert"), PLACES[:2], **options)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("options", "extra"), [({"plot": "a.png"}, "plot"), ({"labels": ["a", "b"], "pool": "mean"}, "probe")])
def test_without_its_package_the_extra_is_named(
    tiny_model: Models, monkeypatch: pytest.MonkeyPatch, options: dict[str, object], extra: str
) -> None:
    runner = load_model(tiny_model("mbert"), device="cpu")
    monkeypatch.setattr("sys.path", [path for path in sys.path if "site-packages" not in path])
    for module in [each for each in sys.modules if each.partition(".")[0] in ("matplotlib", "sklearn")]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(mlload.MissingDependencyError, match=rf'pip install "mlload\[{extra}\]"'):
        probe_layers(runner, PLACES[:2], **options)  # pyright: ignore[reportArgumentType]
