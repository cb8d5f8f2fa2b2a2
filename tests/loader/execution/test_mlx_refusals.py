"""Who gets MLX, and what is refused: each in one line with its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hostile.corpus import CASES

import mlload
from mlload import Backend, ModelLoaderFactory, ModelLoadingConfig, QuantizationConfig, QuantizationMethod
from mlload.loader.execution.backends import Device, Hardware
from mlload.loader.loading import load, plan_load

INT4 = QuantizationConfig(method=QuantizationMethod.MLX_INT4)
HOSTILE = """
architectures-of-objects num-attention-heads-zero num-hidden-layers-10-to-the-9 rope-of-texts quantization-method-a-list
quantization-not-found model-type-with-escapes config-all-objects vocab-size-smaller layers-with-a-gap pickle-runs-a-command
""".split()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"backend": Backend.MLX}, True),
        ({"device": "mlx"}, True),
        ({"quantization_config": INT4}, True),
        ({"backend": Backend.MPS, "quantization_config": INT4, "dtype": torch.float16}, True),  # as the loading documents write it
        ({"backend": Backend.MPS}, False),
        ({"backend": Backend.CPU, "quantization_config": INT4}, False),
        ({"backend": Backend.MPS, "quantization_config": QuantizationConfig(QuantizationMethod.HQQ)}, False),
        ({}, False),
    ],
)
def test_who_gets_mlx(settings: dict[str, object], expected: bool) -> None:
    assert ModelLoadingConfig("tiny", **settings).is_for_mlx is expected


def test_with_torch_its_quantization_is_one_clear_line() -> None:
    with pytest.raises(mlload.UsageError) as caught:
        load(ModelLoadingConfig("tiny", backend=Backend.CPU, quantization_config=INT4))
    assert str(caught.value) == "mlx_int4 needs the backend mlx; --device mlx, or --quantize hqq, which works with torch"


def test_without_the_extra() -> None:
    code = (
        "import sys, importlib.util as u, mlload.cli; find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'mlx_lm' else find(name, *rest)\n"
        "sys.argv[0] = 'mlload'; mlload.cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code, "load", "tiny", "--device", "mlx"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (6, 'error: backend mlx needs mlx and mlx-lm; pip install "mlload[mlx]"\n')


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"resident": 1 << 20}, "backend mlx has no resident"),
        ({"attn_implementation": "eager"}, "backend mlx has no attn_implementation"),
        ({"loading_strategy": "streaming"}, "backend mlx does not stream"),
        ({"quantized_cache": "only"}, "is not cached; --save DIR"),
        ({"device": "cuda"}, "MLX chooses its own device, not 'cuda'"),
        ({"quantization_config": QuantizationConfig(QuantizationMethod.HQQ)}, "hqq does not work with the backend mlx"),
        ({"quantization_config": QuantizationConfig(QuantizationMethod.MLX_INT4, bits=8)}, "mlx_int4 has 4 bits, not 8"),
        ({"quantization_config": QuantizationConfig(QuantizationMethod.MLX_INT8, group_size=48)}, "no groups of 48.*32, 64, 128"),
    ],
)
def test_what_mlx_does_not_do_is_said(settings: dict[str, object], words: str) -> None:
    with pytest.raises(mlload.UsageError, match=words):
        load(ModelLoadingConfig("tiny", backend=Backend.MLX, **settings))


class TestWithMlx:
    """What only MLX itself can tell."""

    @pytest.fixture(autouse=True)
    def _mlx(self) -> None:
        pytest.importorskip("mlx.core", reason="MLX is an extra")

    def test_the_example_of_the_loading_documents(self) -> None:
        config = ModelLoadingConfig(model_name="tiny", backend=Backend.MPS, dtype=torch.float16, quantization_config=INT4)
        loader = ModelLoaderFactory.create_loader(config)
        assert type(loader) is mlload.MLXModelLoader
        model, tokenizer = loader.load_model(), loader.load_tokenizer()
        assert type(model["model"]["layers"][0]["mlp"]["up_proj"]).__name__ == "QuantizedLinear"
        assert tokenizer.decode(tokenizer.encode("A shard")) == "A shard"
        assert 257 in tokenizer.eos_token_ids

    @pytest.mark.parametrize("name", HOSTILE)
    def test_hostile(self, tmp_path: Path, name: str) -> None:
        CASES[name].write(tmp_path)
        said, code = "", 0
        try:
            load(ModelLoadingConfig(tmp_path, device="mlx"))
        except mlload.MlloadError as error:
            said, code = str(error), error.exit_code
        assert "\n" not in said
        assert len(said) < 1000
        assert CASES[name].code in (0, 7, code)

    def test_a_type_that_mlx_lm_does_not_have(self, llama: Path) -> None:
        config = json.loads((llama / "config.json").read_text())
        (llama / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
        with pytest.raises(mlload.UsageError, match=r"mlx-lm .* has no model type 'bert'; another --device"):
            load(ModelLoadingConfig(llama, backend=Backend.MLX))

    def test_a_tensor_that_lacks(self, llama: Path) -> None:
        config = json.loads((llama / "config.json").read_text())
        (llama / "config.json").write_text(json.dumps(config | {"attention_bias": True}))
        with pytest.raises(mlload.InvalidCheckpointError, match=r"0\.self_attn\.k_proj\.bias: Model needs it.*\(and \d+ more\)"):
            load(ModelLoadingConfig(llama, backend=Backend.MLX))
        assert load(ModelLoadingConfig(llama, backend=Backend.MLX, allow_missing=True)).missing[0].endswith("k_proj.bias")

    def test_a_model_for_which_there_is_no_room(self) -> None:
        planned = plan_load(ModelLoadingConfig("tiny", backend=Backend.MLX))
        planned.hardware = Hardware(cores=1, free_bytes=1 << 40, mlx=Device("cpu", 1 << 20, 1 << 20))
        with pytest.raises(mlload.DoesNotFitError, match=r"1\.19 MiB are needed and 1 MiB are free; --quantize mlx_int4"):
            planned.execute()

    def test_a_file_that_is_cut_short_while_it_is_loaded(self, llama: Path) -> None:
        planned = plan_load(ModelLoadingConfig(llama, backend=Backend.MLX))
        (llama / "model-00001-of-00002.safetensors").write_bytes(b"\0" * 100)
        with pytest.raises(mlload.InvalidCheckpointError, match=r"model-0000\d-of-00002\.safetensors: MLX can't build weights"):
            planned.execute()

    def test_a_file_that_is_replaced_while_it_is_loaded(self, llama: Path) -> None:
        planned = plan_load(ModelLoadingConfig(llama, backend=Backend.MLX))
        shard = llama / "model-00001-of-00002.safetensors"
        content = shard.read_bytes()
        shard.unlink()
        shard.write_bytes(content)
        with pytest.raises(mlload.InvalidCheckpointError, match="changed while it was loaded"):
            planned.execute()
