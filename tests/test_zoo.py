"""Every model type of transformers, from headers alone: kind, stacks, layers, embedding, norm and head, judged by running the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from zoo import entries
from zoo_configs import KNOWN_FAILURES

import mlload
from mlload.loader.architecture import ArchitectureConfig
from mlload.loader.checkpoint import Checkpoint
from mlload.loader.validation import find_problems

CASES = [f"{entry.task}-{entry.model_type}" for entry in entries() if entry.model_type not in KNOWN_FAILURES]


def parts(architecture: ArchitectureConfig) -> dict[str, object]:
    main, names = architecture.structure.main, architecture.tensor_names
    return {
        "kind": architecture.kind.value,
        "stacks": sorted([stack.prefix, stack.num_layers] for stack in architecture.structure.stacks),
        "main_stack": main.prefix if main else None,
        "num_layers": main.num_layers if main else None,
        "embedding": names.embedding,
        "norm": names.norm,
        "head": names.head,
    }


def truth(folder: Path) -> dict[str, object]:
    judged = json.loads((folder / "truth.json").read_text())
    judged |= {"stacks": sorted(judged["stacks"]), "norm": judged["norm"] and judged["norm"][0]}
    return judged


@pytest.mark.parametrize("case", CASES)
def test_config_and_headers_tell_the_parts(zoo: Path, case: str) -> None:
    checkpoint = Checkpoint.open(zoo / case)
    judged = truth(zoo / case)
    assert parts(checkpoint.architecture) == {key: judged[key] for key in parts(checkpoint.architecture)}


@pytest.mark.parametrize("case", CASES)
def test_a_sound_checkpoint_has_no_problems(zoo: Path, case: str) -> None:
    assert find_problems(Checkpoint.open(zoo / case)) == ()


@pytest.mark.parametrize("case", CASES)
def test_sizes_and_experts(zoo: Path, case: str) -> None:
    report, judged = mlload.inspect(zoo / case), truth(zoo / case)
    assert (
        report.parameters >= int(str(judged["parameters"])) or judged["model_type"] == "marian"
    )  # stored buffers count; Marian's sinusoids are not stored
    assert (report.experts.num_experts if report.experts else 0) == judged["experts"]
    assert report.vocab_size == judged["vocab_size"]


@pytest.mark.parametrize("case", CASES)
def test_norm_and_activation(zoo: Path, case: str) -> None:
    report, judged = mlload.inspect(zoo / case), truth(zoo / case)
    assert report.norm_type == (judged["norm_type"] or report.norm_type)
    assert report.activation == (judged["activation"] or report.activation)  # none judged: it is written out in the model's own code


# A prompt of its own before every text; latents compressed over time; layers that are gone through many times.
UNCOUNTED = {"causal-cpmant", "causal-deepseek_v4", "causal-hrm_text"}


@pytest.mark.parametrize("case", CASES)
def test_cache(zoo: Path, case: str) -> None:
    found, judged = mlload.inspect(zoo / case).kv_cache, truth(zoo / case)["cache"]
    if judged is None:  # transformers caches nothing, or in its own way
        return
    sizes = found and {"each": found.bytes_per_token, "full": found.full_bytes_per_token, "window": found.window}
    assert sizes == (None if case in UNCOUNTED else judged)


# Without a config some things can't be known: a BERT that was trained to decode has the very tensors of one that was not.
ALIKE = {"causal-bigbird_pegasus", "seq2seq-bigbird_pegasus", "masked-funnel"}


@pytest.mark.parametrize("case", [case for case in CASES if case not in ALIKE])
def test_tensor_names_alone_tell_all_but_the_kind(zoo: Path, case: str) -> None:
    found = parts(ArchitectureConfig.from_tensors(None, Checkpoint.open(zoo / case).tensors))
    judged = truth(zoo / case)
    assert found | {"kind": ""} == {key: judged[key] for key in found} | {"kind": ""}
