"""`mlload partial-forward` as a user runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import transformers
from conftest import Outcome

from mlload.configs import FOLDER

Run = Callable[..., Outcome]
PROMPT = "Q: What is a shard?"


def test_a_chain_of_parts_says_what_the_whole_says(run: Run, tmp_path: Path) -> None:
    whole = run("partial-forward", "tiny", "--text", PROMPT, "--json").json
    first = run("partial-forward", "tiny", "--text", PROMPT, "--layers", "0:2", "--output", "a.safetensors", "--json").json
    assert first["state"] == {"stack": "model.layers", "layer": 2, "shape": [1, 19, 128], "dtype": "bfloat16"}
    assert first["streamed"]["units_read"] == 3
    second = run("partial-forward", "tiny", "--input", "a.safetensors", "--layers", "2:6", "--output", "b.safetensors")
    assert second.err == ""
    assert "next     norm and head, given 1 x 19 x 128 bfloat16" in second.out
    last = run("partial-forward", "tiny", "--input", "b.safetensors", "--head", "--json").json
    assert (last["first"], last["last"], last["texts"]) == (6, 6, [PROMPT])
    assert last["top"] == whole["top"]
    assert last["top"][0]["tokens"][0]["text"] == "\n"


def test_prompts_are_gone_on_from_in_one_pass_and_within_a_budget(run: Run) -> None:
    options = ["--text", PROMPT, "--text", "A checkpoint is", "--generate", "12", "--resident", "400KiB", "--json"]
    answer = run("partial-forward", "tiny", *options).json
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER / "tiny", padding_side="left")
    model = transformers.AutoModelForCausalLM.from_pretrained(FOLDER / "tiny")
    inputs = tokenizer([PROMPT, "A checkpoint is"], return_tensors="pt", padding=True)
    expected = model.generate(**inputs, max_new_tokens=12)[:, inputs["input_ids"].shape[1] :]
    assert answer["generated_tokens"] == expected.tolist()
    assert answer["generated"] == tokenizer.batch_decode(expected, skip_special_tokens=True)
    assert answer["streamed"]["peak_resident_bytes"] <= 400 * 1024


def test_the_lens_is_shown(run: Run) -> None:
    out = run("partial-forward", "tiny", "--text", PROMPT, "--logit-lens", "--topk", "2", "--skip", "2").out
    assert out.splitlines()[0].split() == ["after", "likeliest", "second"]
    assert [line.split()[0] for line in out.splitlines()[1:8]] == list("0123456")


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ([], 2, "there must be one thing to begin with: --text, --ids or --input"),
        (["--text", "A", "--ids", "1"], 2, "there must be one thing to begin with"),
        (["--text", "A", "--output", "x"], 2, "say where they end, as in --layers 0:8"),
        (["--text", "A", "--generate", "2", "--layers", "0:2"], 2, "--generate runs the whole model as it is"),
        (["--text", "A", "--skip", "a"], 2, "--skip 'a': numbers with commas between them are wanted"),
        (["--text", "A", "--embedding-only", "--layers", "0:2"], 2, "--embedding-only stops before the first layer"),
        (["--text", "A", "--logit-lens", "--layers", "0:2"], 2, "--logit-lens looks at the layers up to the last one"),
        (["--text", "A", "--with-cache"], 2, "--with-cache keeps keys and values in the state that --output writes"),
        (["--input", "a", "--layers", "2:4", "--output", "b", "--with-cache"], 2, "a state goes on with the cache that it holds"),
        (["--input", "nothing.safetensors"], 3, "there is no state nothing.safetensors"),
        (["--text", "A", "--resident", "1KB"], 5, "more than the 0.977 KiB that may be resident"),
    ],
)
def test_wrong_options_get_one_line(run: Run, options: list[str], code: int, words: str) -> None:
    outcome = run("partial-forward", "tiny", *options)
    assert (outcome.code, outcome.err.count("\n")) == (code, 1), outcome.err
    assert words in outcome.err
