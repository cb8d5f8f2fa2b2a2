"""Every format of the registry: the same rows as safetensors hold, the same bytes each time, the metadata in each shard."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mlload
from mlload import load_model, open_probe, probe_layers
from mlload.runners.probing.formats import FORMATS

TEXTS = ["the bank of the river", "a", "", "he deposited the check at the bank"]
WAYS = {
    "tokens": {"pool": "none"},
    "mean": {"pool": "mean", "layers": "0,-1"},
    "words": {"pool": "mean", "tokens": "words"},
    "maps": {"pool": "none", "attentions": True, "layers": "1"},
}
OTHERS = [name for name in FORMATS if name != "safetensors"]


def needs(name: str) -> None:
    if FORMATS[name].package is not None:
        pytest.importorskip(FORMATS[name].package or "", reason=f"the {name} extra")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", OTHERS)
def test_every_format_holds_the_same(tiny_model: Callable[[str], Path], tmp_path: Path, name: str, way: str) -> None:
    needs(name)
    runner = load_model(tiny_model("gpt2"), device="cpu")
    for out, format in (("plain", "safetensors"), ("one", name), ("two", name)):
        probe_layers(runner, TEXTS, output=tmp_path / out, format=format, texts_per_shard=3, **WAYS[way])
    assert files(tmp_path / "one") == files(tmp_path / "two")
    plain, other = open_probe(tmp_path / "plain"), open_probe(tmp_path / "one")
    assert other.index["format"] == name
    assert torch.equal(plain.lengths, other.lengths)
    for kept in plain.names:
        for wanted, found in zip(plain[kept], other[kept], strict=True):
            assert torch.equal(wanted.nan_to_num(), found.nan_to_num())


def test_bfloat16_becomes_the_same_numbers(tmp_path: Path) -> None:
    probe_layers("tiny", ["A shard"], output=tmp_path / "plain", layers="6", device="cpu")
    probe_layers("tiny", ["A shard"], output=tmp_path / "npz", layers="6", format="npz", device="cpu")
    plain, other = open_probe(tmp_path / "plain")[6].tensor(), open_probe(tmp_path / "npz")[6].tensor()
    assert (plain.dtype, other.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(plain.float(), other)


def test_parquet_is_read_by_pandas_own_library(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    parquet: Any = pytest.importorskip("pyarrow.parquet", reason="the parquet extra")
    probe_layers(tiny_model("mbert"), TEXTS, output=tmp_path / "out", format="parquet", pool="mean", layers="3")
    table = parquet.read_table(tmp_path / "out" / "shard-00000.parquet")
    assert table.column_names == ["text", "length", "layer.3"]
    assert str(table.schema.field("layer.3").type) == "fixed_size_list<element: float>[32]"
    assert json.loads(table.schema.metadata[b"probe"])["pooling"] == "mean"
    assert table.column("layer.3")[1].as_py() == open_probe(tmp_path / "out")[3][1].tolist()


@pytest.mark.parametrize("name", [name for name, line in FORMATS.items() if line.package])
def test_without_its_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("sys.path", [path for path in sys.path if "site-packages" not in path])
    for module in [each for each in sys.modules if each.partition(".")[0] == FORMATS[name].package]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(mlload.MissingDependencyError, match=rf'needs {FORMATS[name].package}; pip install "mlload\[{name}\]"'):
        FORMATS[name].reader()
