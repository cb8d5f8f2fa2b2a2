"""A model on the meta device, and what transformers knows of filling it: its loader's private names are used here, and only here."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
    revert_weight_conversion,
)
from transformers.initialization import no_init_weights
from transformers.monkey_patching import patch_output_recorders
from transformers.quantizers.auto import get_hf_quantizer
from transformers.quantizers.base import get_keys_to_not_convert
from transformers.utils.loading_report import LoadStateDictInfo

from ..errors import UsageError
from ..quantization import bitsandbytes
from ..quantization.pieces import Allocate, fresh
from .hqq_quantizer import HqqQuantizer, HqqSettings
from .quantizers import require

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel
    from transformers.quantizers.base import HfQuantizer

Read = Callable[[], Tensor]


@dataclass(frozen=True, slots=True)
class Route:
    """Where one checkpoint tensor goes: a name in the model, through the converter of `pattern` unless that is None."""

    target: str
    pattern: str | None


@dataclass(frozen=True, slots=True)
class Conversion:
    """Several checkpoint tensors that become one or more of the model's, as transformers' own operations say."""

    converter: WeightConverter
    model: PreTrainedModel
    target: str
    quantizer: HfQuantizer | None = None  # of a checkpoint that is quantized already

    @property
    def summary(self) -> str:
        """The names of its operations in their order."""
        return ", ".join(type(operation).__name__ for operation in self.converter.operations)

    @property
    def patterns(self) -> list[str]:
        """What it matches in checkpoint names, in the order in which it puts them together."""
        return self.converter.source_patterns

    @property
    def stacks_only(self) -> bool:
        """Whether it stacks tensors along a new first dimension and, at most, puts such stacks side by side in the next one."""
        operations = self.converter.operations
        stacks = bool(operations) and isinstance(operations[0], MergeModulelist) and operations[0].dim == 0
        beside = len(operations) == 1 or (len(operations) == 2 and isinstance(operations[1], Concatenate) and operations[1].dim == 1)
        return stacks and beside and len(self.converter.target_patterns) == 1

    @property
    def keeps_stored_dtype(self) -> bool:
        """Whether it puts together what a quantizer wrote, each part in a dtype of its own."""
        return any(getattr(operation, "hf_quantizer", None) for operation in self.converter.operations)

    def run(self, sources: Iterable[tuple[str, str, Read]]) -> dict[str, Tensor]:
        """The model's tensors by name. `sources` are checkpoint names, the patterns they matched, and what reads them."""
        converter = copy.deepcopy(self.converter)
        for name, pattern, read in sources:
            converter.add_tensor(self.target, name, pattern, read)  # pyright: ignore[reportArgumentType]  # its annotation leaves the callables out
        made = converter.convert(self.target, model=self.model, config=self.model.config, hf_quantizer=self.quantizer)
        return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}


class Skeleton:
    """A model without weights, and the routes from checkpoint names into it.

    `targets` maps every name that a checkpoint fills to a meta tensor of the right shape and dtype: those of the model's state dict, or,
    where it is quantized while it is loaded, those that the state dict would have without.
    """

    def __init__(
        self, model: PreTrainedModel, dtype: torch.dtype, targets: dict[str, Tensor], quantizer: HfQuantizer | None = None
    ) -> None:
        self.model = model
        self.dtype = dtype
        self._quantizer = quantizer
        self.targets = targets
        self._count = sum(tensor.numel() for name, tensor in targets.items() if name not in model.all_tied_weights_keys)
        self._dtype_plan = {re.compile(pattern.replace("*", ".*")): value for pattern, value in model._get_dtype_plan(dtype).items()}
        rules = get_model_conversion_mapping(model, None, quantizer)
        self._renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
        self._converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        self._rules = rules

    @classmethod
    def build(
        cls,
        model_class: type[PreTrainedModel],
        config: PretrainedConfig,
        dtype: torch.dtype,
        *,
        device: torch.device,
        quantizer: HfQuantizer | None = None,
    ) -> Skeleton:
        """The model that `config` describes, every parameter on the meta device; linear layers replaced by the quantizer's own."""
        with ExitStack() as stack:
            for context in model_class.get_init_context(dtype, quantizer is not None, False, None):
                stack.enter_context(context)
            model = model_class(config)
            patch_output_recorders(model)
            targets = model.state_dict()
            if quantizer is not None:
                _keep_head(quantizer, model)
                with no_init_weights():  # new layers on the meta device have none, but would take their time
                    quantizer.preprocess_model(model=model, dtype=dtype, device_map={"": device}, checkpoint_files=None, use_kernels=False)
                targets = model.state_dict() if quantizer.pre_quantized else targets
        return cls(model, dtype, dict(targets), quantizer)

    def route(self, name: str) -> Route | None:
        """Where the checkpoint's tensor `name` goes; None for one that the model has no place for."""
        if not self._rules and name in self.targets:
            return Route(name, None)
        prefix = self.model.base_model_prefix
        target, pattern = rename_source_key(name, self._renamings, self._converters, prefix, self.targets)
        if target not in self.targets and name in self.targets:
            target, pattern = rename_source_key(name, [], [], prefix, self.targets)
        return Route(target, pattern) if target in self.targets else None

    def conversion(self, route: Route) -> Conversion:
        """The converter that the route goes through."""
        return Conversion(self._by_pattern[str(route.pattern)], self.model, route.target, self._quantizer)

    def targets_of(self, route: Route) -> list[str]:
        """All names that the route's converter makes: it makes one or several for each first one."""
        if route.pattern is None:
            return [route.target]
        first, *others = self._by_pattern[route.pattern].target_patterns
        names = (route.target.replace(first, pattern) for pattern in (first, *others))
        return [name for name in names if name in self.targets]

    def dtype_of(self, target: str) -> torch.dtype:
        """The dtype that a tensor is read in: the skeleton's own, which differs from `dtype` for those that must stay exact."""
        planned = next((dtype for pattern, dtype in self._dtype_plan.items() if pattern.search(target)), None)
        return planned or (self.dtype if self.is_quantized_on_load(target) else self.targets[target].dtype)

    def is_quantized_on_load(self, target: str) -> bool:
        """Whether the tensor is to be quantized once it is read."""
        return self._quantizer is not None and not self._quantizer.pre_quantized and self.is_quantized(target)

    def is_quantized(self, target: str) -> bool:
        """Whether the tensor is quantized, be it by the checkpoint or once it is read."""
        return self._quantizer is not None and self._quantizer.param_needs_quantization(self.model, target)

    def quantized_bytes(self, target: str) -> int:
        """What a tensor that is quantized on load will take in the model, scales and all."""
        module = self.model.get_submodule(target.rpartition(".")[0])
        if bitsandbytes.is_quantized(module):
            return bitsandbytes.quantized_bytes(module)
        return sum(tensor.nbytes for name, tensor in module.state_dict().items() if name != "bias")

    def quantizing_bytes(self, target: str) -> int:
        """What quantizing a tensor takes beside it and the result, as far as its quantizer tells."""
        tell: Callable[[PreTrainedModel, str], int] | None = getattr(self._quantizer, "quantizing_bytes", None)
        return 0 if tell is None else tell(self.model, target)

    def prepare_quantizing(self, target: str) -> None:
        """Have ready what quantizes a tensor, and all others, on the CPU."""
        module = self.model.get_submodule(target.rpartition(".")[0])
        if bitsandbytes.is_quantized(module):
            bitsandbytes.compile_loop(module, self.dtype_of(target), count=self._count)

    def quantize(self, target: str, value: Tensor, allocate: Allocate = fresh) -> dict[str, Tensor]:
        """The tensor as transformers' quantizer makes it, by name; bitsandbytes' on the CPU with kernels of our own, to the same bits.

        `allocate` may give the memory for what is left of it.
        """
        module = self.model.get_submodule(target.rpartition(".")[0])
        if value.device.type == "cpu" and bitsandbytes.is_quantized(module):
            module._is_hf_initialized = True  # pyright: ignore[reportArgumentType]  # see `place`
            return {target: bitsandbytes.quantized_weight(module, value, count=self._count, threads=1, allocate=allocate)}
        assert self._quantizer is not None
        made = self._quantizer.get_quantize_ops().convert({target: [value]}, full_layer_name=target, model=self.model, missing_keys=set())
        return {name: part[0] if isinstance(part, list) else part for name, part in made.items()}

    def to_parts(self, value: Tensor) -> dict[str, Tensor]:
        """Plain tensors, by name, from which `from_parts` makes a tensor again that `quantize` gave."""
        return bitsandbytes.to_parts(value)

    @cached_property
    def computes_packed(self) -> bool:
        """Whether layers on this CPU put their quantized weights in another order when they first compute."""
        return any(bitsandbytes.computes_packed(module) for module in self.model.modules())

    def to_computed_parts(self, value: Tensor) -> dict[str, Tensor]:
        """As `to_parts`, of the tensor in the form in which this machine computes with it."""
        is_packed = self.computes_packed and value.device.type == "cpu"
        return bitsandbytes.packed_parts(value) if is_packed else bitsandbytes.to_parts(value)

    def from_parts(self, target: str, parts: Mapping[str, Tensor], *, empty: Tensor | None = None) -> Tensor:
        """What `quantize` gave under the name `target`, without quantizing anything and without a copy.

        `empty` is what the skeleton held under that name, where it holds something else by now.
        """
        module = self.model.get_submodule(target.rpartition(".")[0])
        module._is_hf_initialized = True  # pyright: ignore[reportArgumentType]  # see `place`
        return bitsandbytes.from_parts(self.model.get_parameter_or_buffer(target) if empty is None else empty, parts)

    def forget_quantized(self, target: str) -> None:
        """Let the layer of a quantized weight hold nothing of it but the parameter `target` itself."""
        bitsandbytes.forget(self.model.get_submodule(target.rpartition(".")[0]))

    def place(self, target: str, value: Tensor) -> None:
        """Make `value` the parameter or buffer `target`."""
        path, _, name = target.rpartition(".")
        module = self.model.get_submodule(path)
        if name == "_extra_state":
            module.set_extra_state(value)
            return
        if name in module._parameters:
            if not isinstance(value, nn.Parameter):
                value = nn.Parameter(value, requires_grad=value.is_floating_point())
            module._parameters[name] = value
        else:
            module._buffers[name] = value
        value._is_hf_initialized = True  # pyright: ignore[reportAttributeAccessIssue]  # the mark by which its initialiser leaves it alone

    def finish(self, missing: set[str], device: torch.device, units: Mapping[str, torch.device] | None = None) -> set[str]:
        """Tie what is tied, compute tables that no checkpoint holds, initialise what is missing; returns what truly is missing.

        All that is on `device`, but for what `units` place elsewhere.
        """
        model: Any = self.model
        info = _loading_info(missing)
        model.mark_tied_weights_as_initialized(info)
        model._move_missing_keys_from_meta_to_device(info.missing_keys, {"": device, **(units or {})}, None, self._quantizer)
        model._initialize_missing_keys(self._quantizer is not None)
        model.tie_weights(missing_keys=info.missing_keys, recompute_mapping=False)
        model._adjust_missing_and_unexpected_keys(info)
        model._weight_conversions = [rule for rule in self._rules if rule.was_used()]
        model.eval()
        if self._quantizer is not None:
            model.hf_quantizer = self._quantizer
            self._quantizer.postprocess_model(model)
            for module in self.model.modules():
                bitsandbytes.pack_at_first_forward(module)
        return info.missing_keys

    def finish_empty(self, device: torch.device) -> None:
        """Leave every weight on the meta device, to be sent by another rank; tables that no checkpoint holds are computed."""
        model: Any = self.model
        for tensor in model.state_dict(keep_vars=True).values():
            tensor._is_hf_initialized = True
        model._move_missing_keys_from_meta_to_device(set(), {"": device}, None, self._quantizer)
        model._initialize_missing_keys(self._quantizer is not None)
        model.tie_weights()
        model.eval()

    def truly_missing(self, names: Iterable[str]) -> set[str]:
        """Of the names that no checkpoint tensor fills, those that neither a tie fills nor the model's class does without."""
        lacking = set(names)
        tied = {name for pair in self.ties.items() if not lacking.issuperset(pair) for name in pair}
        info = _loading_info(lacking - tied)
        self.model._adjust_missing_and_unexpected_keys(info)
        return info.missing_keys

    def read_generation_config(self, folder: Path) -> None:
        """Take generation_config.json of `folder`, or what the model's config says of generating."""
        model: Any = self.model
        is_there = any((folder / name).is_file() for name in ("generation_config.json", "config.json"))  # one of them is read
        if is_there and model.can_generate() and hasattr(model, "adjust_generation_fn"):
            place = dict.fromkeys(("cache_dir", "proxies", "token", "revision"))
            model.adjust_generation_fn(
                None, False, None, str(folder), **place, force_download=False, local_files_only=True, subfolder="", trust_remote_code=False
            )

    def set_use_cache(self, use_cache: bool) -> None:
        """Whether the model keeps keys and values of earlier tokens, in a forward and while it generates."""
        self.model.config.get_text_config().use_cache = use_cache
        if self.model.generation_config is not None:
            self.model.generation_config.use_cache = use_cache

    def without_ignored(self, names: Iterable[str]) -> set[str]:
        """Of the checkpoint's names that have no place in the model, those that the model's class does not expect to find."""
        info = _loading_info(set())
        info.unexpected_keys.update(names)
        self.model._adjust_missing_and_unexpected_keys(info)
        return info.unexpected_keys

    @cached_property
    def ties(self) -> Mapping[str, str]:
        """Parameters that are another one under a second name: each name's partner."""
        return dict(self.model.all_tied_weights_keys)

    @cached_property
    def _by_pattern(self) -> dict[str | None, WeightConverter]:
        return {pattern: converter for converter in self._converters for pattern in converter.source_patterns}


def find_quantizer(config: PretrainedConfig, asked: object, device: torch.device) -> HfQuantizer | None:
    """The quantizer for what the config says of its weights, or for the quantization that is asked; None without either.

    Raises UsageError where HQQ meets another quantization, MissingDependencyError where hqq is not installed.
    """
    stored = getattr(config, "quantization_config", None)
    settings = stored if isinstance(stored, dict) else {}
    is_hqq = settings.get("quant_method") == "hqq"
    if stored is not None and (isinstance(asked, HqqSettings) or (is_hqq and asked is not None)):
        raise UsageError("the checkpoint is quantized already", hint="it loads as it is without --quantize")
    if isinstance(asked, HqqSettings):
        return HqqQuantizer(asked, pre_quantized=False)
    if is_hqq:
        require("hqq", "hqq")
        return HqqQuantizer(HqqSettings.from_dict(settings), pre_quantized=True)
    return get_hf_quantizer(config, asked, {"": device}, True, {})[0]


def _keep_head(quantizer: HfQuantizer, model: PreTrainedModel) -> None:
    """Modules that are skipped come on top of what transformers leaves as it is; it takes them instead."""
    settings: Any = quantizer.quantization_config
    skipped = getattr(settings, "llm_int8_skip_modules", None)
    if skipped is not None and not quantizer.pre_quantized:
        settings.llm_int8_skip_modules = sorted({*skipped, *get_keys_to_not_convert(model)})


def _loading_info(missing: set[str]) -> LoadStateDictInfo:
    return LoadStateDictInfo(
        missing_keys=missing, unexpected_keys=set(), mismatched_keys=set(), error_msgs=[], conversion_errors={}, skipped_pp_keys=set()
    )


def in_loading_order(names: Iterable[str]) -> list[str]:
    """Names in the order in which transformers loads them: experts are stacked in it."""
    return sorted(names, key=dot_natural_key)


def as_stored(model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a loaded model under the names and in the form of its checkpoint: what loading put together is taken apart."""
    return dict(revert_weight_conversion(model, dict(tensors)))
