"""Settings in a file: every field comes back as it was written, and what is wrong is one line with the file's name."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path

import pytest
import torch

import mlload
from mlload import Backend, LoadingStrategy, ModelLoadingConfig, QuantizationConfig, QuantizationMethod
from mlload.loader.settings import CacheMode
from mlload.loader.settings_file import read_settings, settings_text
from mlload.loader.settings_mapping import build_settings, merged, parse_settings, plain_settings

EVERYTHING = ModelLoadingConfig(
    "org/name@main",
    backend=Backend.CUDA,
    loading_strategy=LoadingStrategy.LOW_MEMORY,
    quantization_config=QuantizationConfig(
        QuantizationMethod.HQQ,
        bits=3,
        group_size=32,
        axis=0,
        compute_dtype="bfloat16",
        quant_storage="uint8",
        double_quant=True,
        skip_modules=("lm_head", "a: b"),
    ),
    quantized_cache=CacheMode.OFF,
    dtype="float16",
    device="cuda:1",
    low_memory=True,
    offload_to_cpu=True,
    max_memory={0: 10, "cuda:1": "1GiB", "cpu": 20},
    memory=6 << 30,
    resident=2 << 30,
    loading_workers=3,
    use_safetensors=False,
    head="none",
    use_cache=False,
    attn_implementation="eager",
    allow_missing=True,
    mmap=False,
    trim=True,
    rank=1,
    world_size=2,
    llama_pro_path="blk_exp-32-40",
    verbose=True,
)


def written(folder: Path, content: str | bytes, name: str = "load.yaml") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_every_setting_comes_back(tmp_path: Path) -> None:
    assert [field.name for field in fields(EVERYTHING) if getattr(EVERYTHING, field.name) == field.default] == ["trust_remote_code"]
    assert build_settings(read_settings(written(tmp_path, settings_text(EVERYTHING)))) == EVERYTHING


def test_only_what_differs_from_the_defaults_is_written() -> None:
    config = ModelLoadingConfig("tiny", dtype=torch.bfloat16, quantization_config=QuantizationConfig(QuantizationMethod.BNB_NF4))
    assert plain_settings(config) == {"model_name": "tiny", "quantization_config": {"method": "nf4"}, "dtype": "bfloat16"}


def test_toml_and_yaml_say_the_same(tmp_path: Path) -> None:
    yaml = "model_name: tiny\nmemory: 6GiB\nquantized_cache: on\nloading_strategy: low-memory\n"
    yaml += "quantization_config: {method: hqq, bits: 4}\n"
    toml = 'model_name = "tiny"\nmemory = "6GiB"\nquantized_cache = "on"\nloading_strategy = "low_memory"\n'
    toml += '[quantization_config]\nmethod = "hqq"\nbits = 4\n'
    values = read_settings(written(tmp_path, yaml))
    assert values == read_settings(written(tmp_path, toml, "load.toml"))
    assert (values["memory"], values["loading_strategy"]) == (6 << 30, LoadingStrategy.LOW_MEMORY)


def test_what_is_given_wins() -> None:
    file = parse_settings({"dtype": "float16", "mmap": False, "quantization_config": {"method": "nf4", "double_quant": True}})
    both = merged(file, parse_settings({"dtype": "float32", "quantization_config": {"bits": 4}}))
    assert (both["dtype"], both["mmap"]) == ("float32", False)
    assert both["quantization_config"] == {"method": QuantizationMethod.BNB_NF4, "double_quant": True, "bits": 4}
    other = merged(file, parse_settings({"quantization_config": {"method": "hqq"}}))
    assert other["quantization_config"] == {"method": QuantizationMethod.HQQ}
    assert merged(file, {}) == file


WRONG = {
    "dtpye: float32": r"load\.yaml: unknown setting 'dtpye'; did you mean 'dtype'\?",
    "quantization_config: {metod: nf4}": r"load\.yaml: quantization_config: unknown setting 'metod'; did you mean 'method'\?",
    "quantization_config: {method: nf5}": r"quantization_config: method: unknown quantization method 'nf5'; did you mean 'nf4'\?",
    "quantization_config: nf4": r"load\.yaml: quantization_config: 'nf4' holds no settings by name",
    "quantization_config: {method: nf4, compute_dtype: int3}": "quantization_config: compute_dtype: unknown dtype 'int3'",
    "quantization_config: {method: hqq, bits: x}": r"load\.yaml: quantization_config: bits: 'x' is no whole number",
    "quantization_config: {method: nf4, skip_modules: 3}": "skip_modules: '3' is no list of names",
    "memory: much": r"load\.yaml: memory: 'much' is no size",
    "mmap: 1": "mmap: '1' is neither true nor false",
    "loading_workers: four": "loading_workers: 'four' is no whole number",
    "loading_strategy: fast": "loading_strategy: unknown strategy 'fast'",
    "device: 2001-01-01": "device: '2001-01-01' is no text",
    "trust_remote_code: true": "trust_remote_code holds from the command line alone",
    "- a": "holds no settings by name; write them as",
    "a: [1,2\nb: 3": r"load\.yaml, line 2: expected ',' or ']', but got ':'",
    "dtype: a: b": r"load\.yaml, line 1: mapping values are not allowed here",
    "dtype: auto\ndtype: auto": r"load\.yaml, line 2: 'dtype' stands twice",
    "dtype: &a auto\ndevice: *a": r"load\.yaml, line 2: aliases are not taken",
    "dtype: !!python/object/apply:os.system [x]": r"load\.yaml, line 1: could not determine a constructor",
    "memory: " + "9" * 9000: r"load\.yaml: Exceeds the limit",
    "device: 2001-99-99": "month must be in",
    "? [a]\n: b": "line 1: found unhashable key",
    "[" * 5000: "is nested too deeply",
    b"\xff": "is not UTF-8",
    b"\x00": "unacceptable character",
    "#" * 70_000: "has 70,000 bytes, more than the 65,536",
}


@pytest.mark.parametrize(("content", "words"), WRONG.items(), ids=lambda value: str(value)[:20])
def test_what_is_wrong_is_one_line(tmp_path: Path, content: str | bytes, words: str) -> None:
    with pytest.raises(mlload.UsageError, match=words) as raised:
        build_settings({"model_name": "tiny", **read_settings(written(tmp_path, content))})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a = [1,2\nb = 3", r"load\.toml, line 2: Unclosed array"),
        ("dtype = 1\ndtype = 2", r"load\.toml: Cannot overwrite a value"),
        ("a = " + "[" * 5000, "is nested too deeply"),
    ],
)
def test_wrong_toml_is_one_line(tmp_path: Path, content: str, words: str) -> None:
    with pytest.raises(mlload.UsageError, match=words):
        read_settings(written(tmp_path, content, "load.toml"))


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(mlload.NotFoundError, match=r"there is no file .*none\.yaml"):
        read_settings(tmp_path / "none.yaml")
    with pytest.raises(mlload.UsageError, match=r"load\.json is neither \.yaml nor \.toml"):
        read_settings(written(tmp_path, "{}", "load.json"))
    os.mkfifo(tmp_path / "fifo.yaml")
    with pytest.raises(mlload.UsageError, match="is a fifo"):
        read_settings(tmp_path / "fifo.yaml")
    assert read_settings(written(tmp_path, "# nothing")) == {}


def test_what_can_not_be_built() -> None:
    with pytest.raises(mlload.UsageError, match="no model is named"):
        build_settings({})
    with pytest.raises(mlload.UsageError, match="bits, axis: of which quantization"):
        build_settings(parse_settings({"model_name": "tiny", "quantization_config": {"bits": 4, "axis": 1}}))
