"""Cases of config.json, of the index, and of names that are meant for a terminal."""

from __future__ import annotations

import json
from pathlib import Path

from hostile.case import Case, Writer
from hostile.writing import (
    CONFIG,
    INDEX,
    LLAMA_CONFIG,
    SHARDS,
    WEIGHTS,
    both,
    config,
    files,
    header,
    index,
    layer,
    llama,
    mapped,
    model,
    safetensors,
    tensor,
    weight_map,
)

_TOTAL = 4 * (2 * 16 * 8 + 8 + 2 * (8 + 8 + 64 + 32 + 32 + 64 + 128 * 3))


def _good(name: str, write: Writer, *codes: str) -> Case:
    return Case("good", name, write, 0, codes)


def _odd(name: str, write: Writer, *codes: str) -> Case:
    """Readable, with these problems."""
    return Case("broken", name, write, 0, codes)


def _calm(name: str, write: Writer, *codes: str) -> Case:
    """Hostile, and readable all the same."""
    return Case("hostile", name, write, 0, codes)


def _bad_config(name: str, write: Writer, *words: str) -> Case:
    return Case("broken", name, write, 4, (CONFIG, *words))


def _bad_index(name: str, write: Writer, *words: str) -> Case:
    return Case("hostile", name, write, 4, (INDEX, *words))


def _deep(opening: str, depth: int, closing: str) -> str:
    return opening * depth + "1" + closing * depth


def _with(key: str, text: str) -> str:
    """The LLaMA's config with one more key whose value is that JSON."""
    return json.dumps(LLAMA_CONFIG)[:-1] + f', "{key}": {text}}}'


def _remote_code(folder: Path) -> None:
    """A config that asks for Python files to be imported, and the files, which leave a mark."""
    mark = f"open({str(folder.parent / 'canary')!r}, 'w')\n"
    names = ("modeling_evil.py", "configuration_evil.py", "__init__.py", "conftest.py", "torch.py", "typer.py", "setup.py")
    files(dict.fromkeys(names, mark))(folder)
    auto_map = {"AutoConfig": "configuration_evil.Config", "AutoModelForCausalLM": "modeling_evil.Model"}
    config(auto_map=auto_map, trust_remote_code=True, custom_pipelines={"x": {"impl": "modeling_evil.py"}})(folder)


GOOD = (
    _good("config-llama", config()),
    _good("config-with-unknown-keys", config(anything={"goes": [1, None, "x"]})),
    _good("config-with-infinity", config(_with("time_step_limit", "[0.0, Infinity]"))),
    _good("index-two-shards", mapped()),
    _good("index-total-size", mapped(total_size=_TOTAL)),
    _good("index-total-size-a-float", mapped(total_size=float(_TOTAL))),
    _good("layers-100", model(llama(range(100)), num_hidden_layers=100)),
)

CONFIGS = (
    _bad_config("config-empty", config(b""), "JSON"),
    _bad_config("config-zeros", config(bytes(600)), "JSON"),
    _bad_config("config-with-bom", config(b"\xef\xbb\xbf" + json.dumps(LLAMA_CONFIG).encode()), "byte order mark", "without a BOM"),
    _bad_config("config-text", config("not a config"), "JSON"),
    _bad_config("config-cut", config(json.dumps(LLAMA_CONFIG)[:100]), "JSON"),
    _bad_config("config-a-list", config(b"[]"), "list"),
    _bad_config("config-a-number", config(b"42"), "int"),
    _bad_config("config-null", config(b"null"), "NoneType"),
    _bad_config("config-html", config("<!DOCTYPE html><html></html>"), "JSON"),
    _bad_config("config-lfs-pointer", config("version https://git-lfs.github.com/spec/v1\n"), "JSON"),
    _bad_config("config-not-utf8", config(b'{"model_type": "\xff\xfe"}'), "UTF-8"),
    _bad_config("config-in-utf16", config(json.dumps(LLAMA_CONFIG).encode("utf-16")), "UTF-8"),
    _bad_config("config-trailing-comma", config('{"model_type": "llama",}'), "JSON"),
    _bad_config("config-two-objects", config("{}{}"), "JSON"),
    _bad_config("config-number-of-10000-digits", config(_with("hidden_size", "9" * 10_000)), "number is too long"),
    _bad_config("config-lists-100000-deep", config(_with("a", _deep("[", 100_000, "]"))), "nested too deeply"),
    _bad_config("config-text-config-100000-deep", config(_deep('{"text_config": ', 100_000, "}")), "nested too deeply"),
    _bad_config(
        "config-is-a-folder",
        both(config(), lambda folder: (folder / CONFIG).unlink(), lambda folder: (folder / CONFIG).mkdir()),
        "a folder",
    ),
    Case("broken", "tokenizer-config-broken", both(config(), files({"tokenizer_config.json": "{"})), 4, ("tokenizer_config.json", "JSON")),
    Case("broken", "tokenizer-config-a-list", both(config(), files({"tokenizer_config.json": "[]"})), 4, ("tokenizer_config.json", "list")),
    _odd("config-missing", files({WEIGHTS: safetensors(llama())}), "no-config"),
    _good("config-empty-object", config(b"{}")),
    _odd("config-null-values", config(json.dumps(dict.fromkeys(LLAMA_CONFIG))), "config-value"),
    _odd("layers-fewer-than-declared", config(num_hidden_layers=3), "layer-count"),
    _odd("layers-more-than-declared", config(num_hidden_layers=1), "extra-layers"),
    _odd("layers-with-a-gap", model(llama((0, 2)), num_hidden_layers=3), "missing-layers"),
    _odd("layers-without-the-first", model(llama((1, 2)), num_hidden_layers=3), "missing-layers"),
    _odd("layers-only-the-last", model(llama((79,)), num_hidden_layers=80), "missing-layers"),
    _odd("layers-none", model(llama(())), "layer-count"),
    _odd("vocab-size-larger", config(vocab_size=32), "vocab-size"),
    _odd("vocab-size-smaller", config(vocab_size=15), "vocab-size"),  # from_pretrained refuses it for its shape
    _odd("hidden-size-larger", config(hidden_size=16), "hidden-size"),
    _odd("heads-that-do-not-divide", config(num_attention_heads=3), "attention-heads"),
    _odd("key-value-heads-more", config(num_key_value_heads=2), "attention-heads"),
    _odd("intermediate-size-larger", config(intermediate_size=32), "intermediate-size"),
    _odd("quantization-not-found", config(quantization_config={"quant_method": "gptq", "bits": 4}), "quantization-not-found"),
    _odd("no-tensors", files({WEIGHTS: safetensors({}), CONFIG: LLAMA_CONFIG}), "no-tensors"),
    Case("broken", "strict", config(num_hidden_layers=3), 7, ("1 problem",), ("--json", "--strict")),
    Case("good", "strict-without-problems", config(), 0, (), ("--json", "--strict")),
)

_NUMBERS = {"negative": -1, "zero": 0, "text": "32", "list": [32], "object": {"a": 1}, "boolean": True, "float": 2.5, "huge": 10**400}
_GARBAGE: dict[str, object] = {
    "numbers": 1,
    "texts": "x",
    "lists": [[[]], {}, None],
    "objects": {"": {"": None}},
    "booleans": True,
    "floats": 1e308,
}
_FOUND = {"numbers": ("vocab-size", "attention-heads"), "objects": ()}  # what such a config can be held against
# Keys whose values something reads.
_READ = (
    *("architectures", "model_type", "hidden_act", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size"),
    *(
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "layer_types",
        "sliding_window",
        "tie_word_embeddings",
        "torch_dtype",
        "text_config",
    ),
    *("quantization_config", "is_encoder_decoder", "num_experts", "kv_lora_rank", "sliding_window_pattern", "max_position_embeddings"),
)

HOSTILE_CONFIGS = (
    *(
        _calm(f"config-all-{what}", config(**dict.fromkeys(_READ, value)), *_FOUND.get(what, ("config-value",)))
        for what, value in _GARBAGE.items()
    ),
    *(
        _calm(f"num-hidden-layers-{what}", config(num_hidden_layers=value), "config-value")
        for what, value in _NUMBERS.items()
        if what != "zero"
    ),
    _calm("num-hidden-layers-zero", config(num_hidden_layers=0), "extra-layers"),
    _calm("num-hidden-layers-10-to-the-9", config(num_hidden_layers=10**9), "layer-count"),
    _calm("num-attention-heads-zero", config(num_attention_heads=0)),
    _calm("num-key-value-heads-negative", config(num_key_value_heads=-8), "config-value"),
    _calm("hidden-size-10-to-the-12", config(hidden_size=10**12), "hidden-size"),
    _calm("context-10-to-the-12", config(max_position_embeddings=10**12)),
    _calm("numbers-infinite", config(_with("rope_theta", "1e400"))),
    _calm("text-config-90-deep", config(_deep('{"text_config": ', 90, "}"))),
    _bad_config("text-config-900-deep", config(_deep('{"text_config": ', 900, "}")), "nested too deeply"),
    _calm(
        "quantization-bits-10-to-the-400",
        config(quantization_config={"quant_method": "gptq", "bits": 10**400, "group_size": 10**400}),
        "quantization-not-found",
    ),
    _calm(
        "quantization-bits-negative",
        model(llama() | {"model.layers.0.mlp.up_proj.qweight": ("I32", [2, 2])}, quantization_config={"quant_method": "gptq", "bits": -1}),
    ),
    _calm(
        "quantization-bits-1000",
        model(llama() | {"model.layers.0.mlp.up_proj.qweight": ("I32", [2, 2])}, quantization_config={"bits": 1000}),
    ),
    _calm(
        "quantization-infinite",
        config(_with("quantization_config", '{"quant_method": "x", "bits": 1e999, "version": NaN}')),
        "quantization-not-found",
    ),
    _calm("quantization-lists-90-deep", config(_with("quantization_config", '{"weight_block_size": ' + _deep("[", 90, "]") + "}"))),
    _calm("quantization-method-a-list", config(quantization_config={"quant_method": ["gptq"], "bits": "4"})),
    _calm("rope-of-texts", config(rope_parameters={"rope_type": "yarn", "factor": "8", "rope_theta": [1]})),
    _calm("rope-type-unhashable", config(rope_scaling={"rope_type": {"a": []}, "factor": 1e400})),
    _calm("rope-a-set-a-layer", config(rope_parameters={"full_attention": [], "sliding_attention": {"rope_theta": 1e4}})),
    _calm(
        "layer-types-too-few",
        model(llama((0, 5)), num_hidden_layers=6, layer_types=["full_attention", "sliding_attention"]),
        "missing-layers",
    ),
    _calm("layer-types-unknown", config(layer_types=["\x1b[31m", "[red]"], sliding_window=10**12)),
    _calm("layer-types-100000", config(layer_types=["sliding_attention"] * 100_000, sliding_window=4)),
    _calm("architectures-of-objects", config(architectures=[{"a": 1}])),
    _calm("model-type-with-escapes", config(model_type="\x1b]0;owned\x07\x1b[2J", architectures=["[red]\u202eevil"])),
    _calm("model-type-of-a-megabyte", config(model_type="llama" * 200_000, architectures=["A" * 1_000_000])),
    _calm("dtype-with-escapes", config(torch_dtype="\x1b[31m", dtype="\x1b[31m")),
    _calm("remote-code", _remote_code),
)

INDEXES = (
    *(
        _bad_index(f"shard-{what}", mapped({"lm_head.weight": shard}), "tensor lm_head.weight")
        for what, shard in {
            "above": "../evil.safetensors",
            "absolute": "/etc/passwd",
            "with-a-folder": "sub/model.safetensors",
            "with-backslashes": "..\\evil.safetensors",
            "with-a-nul": "model\0.safetensors",
            "with-a-drive": "C:model.safetensors",
            "empty": "",
            "dot": ".",
            "two-dots": "..",
            "of-256-characters": "a" * 244 + ".safetensors",
            "a-number": 1,
            "null-in-a-list": [None],
            "an-object": {"file": "model.safetensors"},
            "true": True,
        }.items()
    ),
    _bad_index("index-empty", index(b""), "JSON"),
    _bad_index("index-a-list", index(b"[]"), "list"),
    _bad_index("index-without-weight-map", index({"metadata": {}}), "weight_map"),
    _bad_index("index-weight-map-empty", index({"weight_map": {}}), "weight_map"),
    _bad_index("index-weight-map-a-list", index({"weight_map": list(weight_map())}), "weight_map"),
    _bad_index("index-weight-map-null", index({"weight_map": None}), "weight_map"),
    _bad_index("index-100000-deep", index(_deep('{"weight_map": ', 100_000, "}")), "nested too deeply"),
    _bad_index("index-html", index("<!DOCTYPE html>"), "JSON"),
    Case("hostile", "index-to-the-config", mapped({"lm_head.weight": CONFIG}), 4, (CONFIG, "bytes")),
    Case("hostile", "index-to-itself", mapped({"lm_head.weight": INDEX}), 4, (INDEX, "bytes")),
    _calm("index-to-a-pickle", mapped({"lm_head.weight": "pytorch_model.bin"}), "missing-shard", "wrong-shard"),
    _odd("index-names-what-no-shard-holds", mapped({"ghost.weight": SHARDS[0]}), "missing-tensor"),
    _odd("index-names-another-shard", mapped({"lm_head.weight": SHARDS[1]}), "wrong-shard"),
    _odd("index-leaves-a-tensor-out", mapped({"lm_head.weight": None}), "unlisted-tensor"),
    _odd("index-total-size-wrong", mapped(total_size=1), "total-size"),
    _odd("index-total-size-negative", mapped(total_size=-1), "total-size"),
    _odd("index-total-size-a-text", mapped(total_size="many"), "total-size"),
    _odd("index-total-size-true", mapped(total_size=True), "total-size"),
    _calm("index-total-size-10-to-the-400", mapped(total_size=10**400), "total-size"),
    _calm("index-total-size-nested", mapped(total_size=[[[]]] * 1000), "total-size"),
    _calm("index-metadata-a-list", index({"metadata": [1], "weight_map": weight_map()})),
    _odd(
        "tensor-in-two-shards",
        both(mapped(), files({SHARDS[1]: safetensors(dict(layer(1)) | {"lm_head.weight": ("F32", [16, 8])})})),
        "duplicate-tensor",
    ),
    _odd("shard-missing", both(mapped(), lambda folder: (folder / SHARDS[1]).unlink()), "missing-shard", "layer-count"),
    Case(
        "broken",
        "shards-all-missing",
        both(mapped(), *(lambda folder, shard=shard: (folder / shard).unlink() for shard in SHARDS)),
        3,
        (INDEX, "2 shards"),
    ),
    Case(
        "broken",
        "shard-cut",
        both(mapped(), lambda folder: (folder / SHARDS[1]).write_bytes((folder / SHARDS[1]).read_bytes()[:-5])),
        4,
        (SHARDS[1], "tensor", "cut short"),
    ),
    Case(
        "broken",
        "shard-an-lfs-pointer",
        both(mapped(), files({SHARDS[1]: "version https://git-lfs.github.com/spec/v1\n"})),
        4,
        (SHARDS[1], "Git LFS"),
    ),
)

_NAMES = {
    "markup-closing": "[/red]",
    "markup-bold": "[bold]w[/bold]",
    "markup-link": "[link=file:///etc/passwd]w[/link]",
    "markup-emoji": ":smiley:",
    "ansi-colours": "\x1b[31mw\x1b[0m",
    "ansi-title": "\x1b]0;owned\x07w",
    "ansi-eight-bit": "\x9b2Jw",
    "bidi-override": "w\u202egnp.exe",
    "bidi-isolates": "\u2066w\u2069\u200f",
    "zero-width": "w\u200b\u200d\ufeff",
    "newline": "w\nerror: fake",
    "carriage-return": "w\rno problems found",
    "backspaces": "w\b\b\bx",
    "line-separator": "w\u2028x\u2029y",
    "nul": "w\0x",
    "tab": "w\tx",
    "emoji": "😀🏳️‍🌈",
    "combining": "w" + "\u0301" * 200,
    "dots": "." * 500,
    "spaces": "  w  ",
    "numbers": ".".join(map(str, range(200))),
    "dunder": "__class__.__init__.__globals__",
    "format": "{0.__class__} %s %n",
    "path": "../../etc/passwd",
    "giant-number": "model.layers." + "9" * 400 + ".mlp.w",
    "unicode-digits": "model.layers.١٢.mlp.w",
    "layer-with-a-zero": "00.w",
}


def _named(name: str) -> Writer:
    return files(
        {
            WEIGHTS: safetensors({name: ("F32", [2]), f"model.layers.0.{name}": ("F32", [2, 2]), f"model.layers.0.b{name}": ("F32", [2])}),
            CONFIG: {},
        }
    )


NAMES = (
    *(Case("hostile", f"name-{what}", _named(name), 0, ("F32",), ("--tensors",)) for what, name in _NAMES.items()),
    *(Case("hostile", f"part-{what}", _named(name), 0, ("F32",), ("--layers",)) for what, name in list(_NAMES.items())[:11]),
    Case("hostile", "name-in-an-error", header({"\x1b[31m\n\u202e": None}), 4, (WEIGHTS, "tensor", "\\x1b")),
    Case("hostile", "expression-without-end", _named("a" * 900 + "!"), 2, ("takes too long",), ("--regex", "^(a|aa|a)+$")),
    Case("hostile", "expression-broken", config(), 2, ("\\x1b", "not a regular expression"), ("--regex", "(\x1b")),
    Case("hostile", "glob-of-many-stars", _named("a" * 900 + "!"), 0, ("0 of 3",), ("--tensors", "*a" * 40 + "b")),
    Case("hostile", "name-of-100000-characters", _named("a" * 100_000), 4, (WEIGHTS, "tensor aaa", "characters")),
    Case("hostile", "name-of-10-mb", _named("a.0." * 2_500_000), 4, (WEIGHTS, "tensor a.0.a.0.", "characters")),
    Case("hostile", "dtype-of-a-megabyte", tensor(dtype="\x1b[31m" * 200_000), 4, (WEIGHTS, "tensor w", "dtype")),
)

CASES = (*GOOD, *CONFIGS, *HOSTILE_CONFIGS, *INDEXES, *NAMES)
