"""A model on the meta device, and what transformers knows of filling it. Every private name of transformers' loader is used here, and only here."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
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
)
from transformers.modeling_utils import patch_output_recorders
from transformers.utils.loading_report import LoadStateDictInfo

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

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

    def run(self, sources: Iterable[tuple[str, str, Read]]) -> dict[str, Tensor]:
        """The model's tensors by name. `sources` are checkpoint names, the patterns they matched, and what reads them."""
        converter = copy.deepcopy(self.converter)
        for name, pattern, read in sources:
            converter.add_tensor(self.target, name, pattern, read)  # pyright: ignore[reportArgumentType]  # its annotation leaves the callables out
        made = converter.convert(self.target, model=self.model, config=self.model.config)
        return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}


class Skeleton:
    """A model without weights, and the routes from checkpoint names into it.

    `targets` maps every name of its state dict to a meta tensor of the right shape and dtype.
    """

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype) -> None:
        self.model = model
        self.dtype = dtype
        self.targets: dict[str, Tensor] = dict(model.state_dict())
        self._dtype_plan = {re.compile(pattern.replace("*", ".*")): value for pattern, value in model._get_dtype_plan(dtype).items()}
        rules = get_model_conversion_mapping(model)
        self._renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
        self._converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        self._rules = rules

    @classmethod
    def build(cls, model_class: type[PreTrainedModel], config: PretrainedConfig, dtype: torch.dtype) -> Skeleton:
        """The model that `config` describes, every parameter on the meta device."""
        with ExitStack() as stack:
            for context in model_class.get_init_context(dtype, False, False, None):
                stack.enter_context(context)
            model = model_class(config)
            patch_output_recorders(model)
        return cls(model, dtype)

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
        return Conversion(self._by_pattern[str(route.pattern)], self.model, route.target)

    def targets_of(self, route: Route) -> list[str]:
        """All names that the route's converter makes: it makes one or several for each first one."""
        patterns = self._by_pattern[route.pattern].target_patterns if route.pattern is not None else ()
        names = (route.target.replace(patterns[0], pattern) for pattern in patterns)
        return [name for name in names if name in self.targets] or [route.target]

    def dtype_of(self, target: str) -> torch.dtype:
        """The dtype that a tensor of the model gets: the skeleton's own, which differs from `dtype` for those that must stay exact."""
        planned = next((dtype for pattern, dtype in self._dtype_plan.items() if pattern.search(target)), None)
        return planned or self.targets[target].dtype

    def place(self, target: str, value: Tensor) -> None:
        """Make `value` the parameter or buffer `target`."""
        path, _, name = target.rpartition(".")
        module = self.model.get_submodule(path)
        if name == "_extra_state":
            module.set_extra_state(value)
            return
        if name in module._parameters:
            value = nn.Parameter(value, requires_grad=value.is_floating_point())
            module._parameters[name] = value
        else:
            module._buffers[name] = value
        value._is_hf_initialized = True  # pyright: ignore[reportAttributeAccessIssue]  # the mark by which its initialiser leaves it alone

    def finish(self, missing: set[str], device: torch.device) -> set[str]:
        """Tie what is tied, compute tables that no checkpoint holds, initialise what is missing; returns what truly is missing."""
        model, info = self.model, _loading_info(missing)
        model.mark_tied_weights_as_initialized(info)
        model._move_missing_keys_from_meta_to_device(info.missing_and_mismatched(), {"": device}, None, None)
        model._initialize_missing_keys(False)
        model.tie_weights(missing_keys=info.missing_keys, recompute_mapping=False)
        model._adjust_missing_and_unexpected_keys(info)
        model._weight_conversions = [rule for rule in self._rules if rule.was_used()]
        model.eval()
        return info.missing_keys

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


def _loading_info(missing: set[str]) -> LoadStateDictInfo:
    return LoadStateDictInfo(
        missing_keys=missing, unexpected_keys=set(), mismatched_keys=set(), error_msgs=[], conversion_errors={}, skipped_pp_keys=set()
    )


def in_loading_order(names: Iterable[str]) -> list[str]:
    """Names in the order in which transformers loads them: experts are stacked in it."""
    return sorted(names, key=dot_natural_key)
