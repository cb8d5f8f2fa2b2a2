"""What users build on: public names, exit codes, options and JSON keys. A change here is a change of contract."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Outcome

import mlload

PUBLIC = """
AccessDeniedError ArchitectureConfig Backend BaseModelRunner BenchGrid BenchReport CPUModelLoader CUDAModelLoader Checkpoint
DecoderModelRunner DiffReport DoesNotFitError DynamicModel EncoderModelRunner ForwardState InferenceState InspectReport
InvalidCheckpointError LayeredModel LlmLayerCollector LoadPlan LoadingStrategy MLXModelLoader MPSModelLoader MissingDependencyError
MlloadError ModelArchitecture ModelLoader ModelLoaderFactory ModelLoadingConfig ModelOutputs ModelSpec NetworkError NotFoundError
PreTrainedCausalLM PreTrainedVLM QuantizationConfig QuantizationMethod QuantizedModelLoader Recommendation RopeScaling Seq2SeqModelRunner
StandardModelLoader StateDict ThresholdExceededError UsageError __version__ bench_load coerce_device compute_embedding compute_head
compute_layer detect_architecture detect_architecture_from_tensors diff get_recommended_loader_config inspect list_available_models
load_model load_model_and_tokenizer logit_lens open_probe partial_forward probe_layers recommend resolve_dtype
""".split()

INSPECT_KEYS = """
schema reference source location revision license format name file_type adapter family architecture version class_name kind partial
tensors parameters active_parameters bytes by_dtype components stacks layers embedding norm head hidden_size num_layers
num_attention_heads num_key_value_heads head_dim vocab_size context_length rope activation norm_type tie_word_embeddings
ties_stored_head shared_tensors fused_qkv fused_gate_up parallel_residual experts quantization kv_cache tokenizer files header_bytes
requests bytes_read problems
""".split()

DIFF_KEYS = "schema reference other glob regex same config only_before only_after shapes dtypes common_tensors".split()
LOAD_KEYS = """
schema reference class_name kind device strategy parameters dtype seconds predicted measured missing unexpected non_finite prompt text
generated_tokens cache cache_problem resident device_map quantization candidates
""".split()

PARTIAL_KEYS = """
schema reference class_name dtype device stack num_layers first last state texts tokens streamed seconds top lens generated
generated_tokens output hidden_output plot
""".split()

PLAN_KEYS = """
schema reference class_name kind backend device device_map strategy resident workers dtype read_bytes model_bytes peak loaded
quantization candidates units missing unexpected ties
""".split()

BENCH_KEYS = "schema reference weight_bytes tensors machine limits rows calibration warnings comparison".split()
BENCH_ROW_KEYS = """
label engine strategy quantize device dtype workers page_cache problem exit_code seconds load_seconds ratio waited_share phases imports peak
predicted resident_bytes read_bytes bytes_per_second share_of_limit first_token_seconds tokens_per_second runs timeline
""".split()

OPTIONS = {
    "inspect": "--tensors --regex --layers --diff --file --strict --json --debug --help".split(),
    "load": """
        --config --prompt --max-new-tokens --dry-run --check --save --json --verbose --debug --help
        --dtype --device --attention --use-cache --no-use-cache --llama-pro --allow-missing --trust-remote-code
        --strategy --memory --max-memory --offload-to-cpu --resident --workers --mmap --no-mmap --trim --rank --world-size
        --quantize --bits --group-size --axis --double-quant --compute-dtype --quant-storage --skip-modules --cache
    """.split(),
    "bench-load": """
        --synthetic --remove-synthetic --engine --runs --warm-up --strategy --quantize --device --dtype --workers --page-cache --resident
        --cache --prompt --max-new-tokens --predicted --json --csv --markdown --plot --save --compare --max-regression --debug --help
    """.split(),
    "recommend-config": """
        --objective --context --batch --attention --cache-bits --device --memory --gpus --host-memory --measure-disk --explain --all --write
        --verify --plot --json --debug --help
    """.split(),
    "partial-forward": """
        --text --ids --input --layers --stack --embedding-only --head --output --with-cache --topk --save-hidden --logit-lens --plot --skip
        --repeat --generate --resident --quantize --dtype --device --attention --trust-remote-code --json --debug --help
    """.split(),
    "probe-layers": """
        --text --file --column --span-column --labels --layers --stack --pool --tokens --attentions --cross-attentions
        --similarity --plot --logit-lens --engine --actors --max-length
        --batch-tokens --output --format --texts-per-shard --dtype --device --quantize --resident --trust-remote-code --json --debug
        --help
    """.split(),
}

RECOMMEND_KEYS = """
schema reference kind objective context batch attention cache_bits machine recommended nearest candidates notes
""".split()
CANDIDATE_KEYS = """
backend devices dtype precision strategy resident offload_to_cpu fits verdict short loss seconds_a_token bytes host_bytes peak loading
computing components settings
""".split()

PROBE_KEYS = """
schema reference revision class_name kind device dtype strategy pooling tokens max_length batch_tokens texts rows read_tokens
truncated_texts dropped_tokens empty_texts layers maps output format shards resumed_texts seconds
layer_similarity labels attention lens
""".split()

EXIT_CODES = {
    mlload.MlloadError: 1,
    mlload.UsageError: 2,
    mlload.NotFoundError: 3,
    mlload.AccessDeniedError: 3,
    mlload.NetworkError: 3,
    mlload.InvalidCheckpointError: 4,
    mlload.DoesNotFitError: 5,
    mlload.MissingDependencyError: 6,
    mlload.ThresholdExceededError: 7,
}


def test_public_names() -> None:
    assert mlload.__all__ == PUBLIC
    assert all(hasattr(mlload, name) for name in PUBLIC)


def test_a_misspelt_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Checkpiont"):
        mlload.Checkpiont  # noqa: B018


@pytest.mark.parametrize(("error", "code"), EXIT_CODES.items(), ids=lambda value: getattr(value, "__name__", str(value)))
def test_exit_codes(error: type[mlload.MlloadError], code: int) -> None:
    assert error.exit_code == code


@pytest.mark.parametrize(("command", "options"), OPTIONS.items())
def test_options(run: Callable[..., Outcome], command: str, options: list[str]) -> None:
    shown = re.findall(r"--[a-z-]+", run(command, "--help", env={"COLUMNS": "200"}).out)
    assert sorted(set(shown) - {"--tensors"} | ({"--tensors"} & set(options))) == sorted(options)


def test_inspect_keys(run: Callable[..., Outcome], llama: Path) -> None:
    answer = run("inspect", llama, "--json").json
    assert list(answer) == INSPECT_KEYS
    assert answer["schema"] == "mlload.inspect/1"


def test_diff_keys(run: Callable[..., Outcome], llama: Path) -> None:
    answer = run("inspect", llama, "--diff", llama, "--json").json
    assert list(answer) == DIFF_KEYS
    assert answer["schema"] == "mlload.diff/1"


def test_plan_keys(run: Callable[..., Outcome]) -> None:
    answer = run("load", "tiny", "--dry-run", "--json").json
    assert list(answer) == PLAN_KEYS
    assert answer["schema"] == "mlload.plan/1"


def test_load_keys(run: Callable[..., Outcome]) -> None:
    answer = run("load", "tiny", "--json").json
    assert list(answer) == LOAD_KEYS
    assert answer["schema"] == "mlload.load/1"


def test_bench_keys(run: Callable[..., Outcome]) -> None:
    """Of a row without figures, which has all keys, too, and takes no run."""
    answer = run("bench-load", "tiny", "--engine", "accelerate", "--quantize", "nf4", "--json").json
    assert list(answer) == BENCH_KEYS
    assert list(answer["rows"][0]) == BENCH_ROW_KEYS
    assert answer["schema"] == "mlload.bench/1"


def test_recommend_keys(run: Callable[..., Outcome]) -> None:
    answer = run("recommend-config", "tiny", "--json").json
    assert list(answer) == RECOMMEND_KEYS
    assert list(answer["recommended"]) == CANDIDATE_KEYS
    assert answer["schema"] == "mlload.recommend/1"


def test_partial_forward_keys(run: Callable[..., Outcome]) -> None:
    answer = run("partial-forward", "tiny", "--text", "A", "--json").json
    assert list(answer) == PARTIAL_KEYS
    assert answer["schema"] == "mlload.partial-forward/1"


def test_probe_keys(run: Callable[..., Outcome]) -> None:
    answer = run("probe-layers", "tiny", "--text", "A", "--json").json
    assert list(answer) == PROBE_KEYS
    assert answer["schema"] == "mlload.probe/1"
