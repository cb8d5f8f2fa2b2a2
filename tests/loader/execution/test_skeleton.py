"""The private names of transformers that loading stands on: a release that moves one is told here, in words."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
import transformers
from transformers import PreTrainedModel, conversion_mapping, core_model_loading, monkey_patching
from transformers.quantizers import auto
from transformers.quantizers.base import HfQuantizer, get_keys_to_not_convert
from transformers.utils import loading_report

ROOT = Path(__file__).parents[3]
USED = {
    core_model_loading.rename_source_key: "source_key weight_renamings weight_converters base_model_prefix meta_state_dict",
    core_model_loading.dot_natural_key: "s",
    core_model_loading.revert_weight_conversion: "model state_dict",
    core_model_loading.WeightConverter.convert: "self layer_name model config hf_quantizer",
    core_model_loading.WeightConverter.add_tensor: "self target_key source_key source_pattern future",
    conversion_mapping.get_model_conversion_mapping: "model key_mapping hf_quantizer",
    monkey_patching.patch_output_recorders: "model",
    loading_report.LoadStateDictInfo: "missing_keys unexpected_keys mismatched_keys error_msgs conversion_errors skipped_pp_keys",
    auto.get_hf_quantizer: "config quantization_config device_map weights_only user_agent",
    get_keys_to_not_convert: "model",
    HfQuantizer.preprocess_model: "self model dtype",
    HfQuantizer.param_needs_quantization: "self model param_name",
    HfQuantizer.get_quantize_ops: "self",
    PreTrainedModel.get_init_context: "dtype is_quantized _is_ds_init_called allow_all_kernels",
    PreTrainedModel._get_dtype_plan: "self dtype",
    PreTrainedModel.mark_tied_weights_as_initialized: "self loading_info",
    PreTrainedModel._move_missing_keys_from_meta_to_device: "self missing_keys device_map device_mesh hf_quantizer",
    PreTrainedModel._initialize_missing_keys: "self is_quantized",
    PreTrainedModel.tie_weights: "self missing_keys recompute_mapping",
    PreTrainedModel._adjust_missing_and_unexpected_keys: "self loading_info",
}


@pytest.mark.parametrize("name", USED, ids=lambda name: name.__qualname__)
def test_signature(name: object) -> None:
    expected = USED[name].split()
    found = list(inspect.signature(name).parameters)  # pyright: ignore[reportArgumentType]
    words = f"transformers {transformers.__version__} has changed what loader/execution/skeleton.py calls: it takes {found}, not {expected}"
    assert found[: len(expected)] == expected, words


def test_only_the_skeleton_uses_private_loading_names() -> None:
    private = {"core_model_loading", "conversion_mapping", "monkey_patching", "loading_report"}
    for path in (ROOT / "loader").rglob("*.py"):
        modules = {node.module or "" for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
        used = private & {part for module in modules if module.startswith("transformers") for part in module.split(".")}
        assert not used or path.name == "skeleton.py", f"{path.relative_to(ROOT)} imports {', '.join(used)}"
