"""Thousands of small changes to good checkpoints, the same ones every time: nothing but an MlloadError may come of any."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hostile.corpus import CASES
from hostile.writing import CONFIG, INDEX, SHARDS

import mlload
from mlload.configs import table

_CHANGES = 600  # of each kind
# What takes the place of a value.
_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2,
        7,
        2**31,
        2**63 - 1,
        2**63,
        2**64,
        10**12,
        10**400,
        -(10**400),
        0.5,
        -0.0,
        1e308,
        float("inf"),
        float("nan"),
    ),
    *("", "x", "0", "F32", "Q4_0", "\x00", "\x1b[31m", "[/red]", "\u202e", "\ud800", "/", "..", "a" * 5000, "model.layers.0.w", SHARDS[0]),
    *([], [[]], [None], [0], [-1], [1, 2, 3], ["x"] * 3, [{}], [1] * 70, {}, {"": {}}, {"a": [1]}, {"quant_method": "gptq", "bits": 4}),
)
# Keys that come in: all that a config is asked for, and some of headers and indexes.
_KEYS = (
    *table("config_keys"),
    *("quantization_config", "text_config", "rope_parameters", "rope_scaling", "layer_types", "architectures", "is_encoder_decoder"),
    *("__metadata__", "metadata", "total_size", "dtype", "shape", "data_offsets", "", "\x00"),
)
_Change = Callable[[random.Random, bytes], bytes]


def _bytes(rng: random.Random, data: bytes) -> bytes:
    """A few bytes changed, inserted, removed or repeated, mostly near the beginning."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(min(len(changed), rng.choice((16, 600, len(changed)))) + 1)
        length = rng.choice((0, 1, 1, 1, 2, 8, 100))
        piece = rng.choice((rng.randbytes(length), bytes(length), changed[at : at + 20], b'"', b"{", b"9" * length, b"-", b"\xff" * length))
        changed[at : at + rng.choice((0, len(piece), length))] = piece
    return bytes(changed[: rng.choice((len(changed),) * 9 + (rng.randrange(len(changed) + 1),))])


def _json(rng: random.Random, data: bytes) -> bytes:
    """One or two values changed, added or removed."""
    whole = json.loads(data)
    for _ in range(rng.randint(1, 2)):
        places = list(_places(whole))
        if not places:
            break
        parent, key = rng.choice(places)
        here = [container[name] for container, name in rng.choices(places, k=2)]
        value = deepcopy(rng.choice((*_VALUES, *here)))
        what = rng.random()
        if what < 0.1:
            del parent[key]
        elif what < 0.3 and isinstance(parent, dict):
            parent[rng.choice((*_KEYS, *parent))] = value
        else:
            parent[key] = value
    return json.dumps(whole).encode()


def _header(rng: random.Random, data: bytes) -> bytes:
    """The same in a safetensors header, with the right length in front of it."""
    end = 8 + struct.unpack("<Q", data[:8])[0]
    text = _json(rng, data[8:end])
    return struct.pack("<Q", len(text)) + text + data[end:]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a JSON value with each of its keys or positions."""
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    for key, child in items:
        yield value, key
        yield from _places(child)


# The checkpoints by their cases' names, the file that is changed, and how.
_TARGETS: dict[str, tuple[str, str, _Change]] = {
    "header": ("index-two-shards", SHARDS[0], _header),
    "header bytes": ("index-two-shards", SHARDS[1], _bytes),
    "index": ("index-two-shards", INDEX, _json),
    "index bytes": ("index-two-shards", INDEX, _bytes),
    "config": ("index-two-shards", CONFIG, _json),
    "config bytes": ("index-two-shards", CONFIG, _bytes),
    "zip": ("pytorch-zip", "pytorch_model.bin", _bytes),
    "old pickles": ("pytorch-legacy", "pytorch_model.bin", _bytes),
    "gguf": ("gguf", "model.gguf", _bytes),
}


@pytest.mark.parametrize("target", list(_TARGETS))
def test_changes_give_answers_or_errors_in_words(target: str, tmp_path: Path) -> None:
    name, file, change = _TARGETS[target]
    CASES[name].write(tmp_path)
    good = (tmp_path / file).read_bytes()
    rng = random.Random(target)
    mlload.inspect(tmp_path)
    for _ in range(_CHANGES):
        (tmp_path / file).write_bytes(change(rng, good))
        with suppress(mlload.MlloadError):
            json.dumps(mlload.inspect(tmp_path).to_json(), allow_nan=False)


@pytest.mark.parametrize("depth", range(700, 1_000, 3))
def test_depth_near_the_limit(depth: int, tmp_path: Path) -> None:
    """What is parsed just so must not overflow the stack of what handles it."""
    nested = "[" * depth + "]" * depth
    record = f'{{"w": {{"dtype": {nested}, "shape": [2], "data_offsets": [0, 8]}}}}'.encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(record)) + record + bytes(8))
    with pytest.raises(mlload.InvalidCheckpointError):
        mlload.inspect(tmp_path)
