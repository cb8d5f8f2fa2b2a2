"""Single parts of any checkpoint as ordinary modules: the embedding, layers, the final norm, the head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..loader.checkpoint import Checkpoint, HeaderReading
from ..loader.errors import UsageError
from ..loader.loading import plan_load
from ..loader.settings import LoadingStrategy, ModelLoadingConfig, QuantizationConfig
from .layered import LayeredModel
from .modules import Modules
from .origins import Origin, remember
from .shard_cache import ShardCache
from .stacks import LayerStack, choose_stack, find_stacks

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class LlmLayerCollector:
    """Loads parts of the model in `model_dir` (or of a registered name, or a hub id), each without reading the others.

    `cache_file` keeps the headers of shards, and is written anew where they have changed. What is named is taken, and what is not is
    found by the model's structure: `shard_pattern`, a regular expression that finds something in the names of the weight files;
    `layer_prefix` of the stack ("model.layers.", or "encoder", "vision"), and the names of the tensors of embedding, norm and head.
    `dtype` is a torch dtype, its name, or "auto" for the checkpoint's own. With `quantization_config` layers are quantized when loaded.
    """

    def __init__(
        self,
        model_dir: str | PathLike[str],
        cache_file: str | PathLike[str],
        *,
        shard_pattern: str | None = None,
        layer_prefix: str | None = None,
        input_embedding_layer_name: str | None = None,
        norm_layer_name: str | None = None,
        lm_head_name: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | str = torch.float16,
        quantization_config: QuantizationConfig | None = None,
    ) -> None:
        self._settings = ModelLoadingConfig(
            model_dir,
            device=device,
            dtype=dtype,
            quantization_config=quantization_config,
            loading_strategy=LoadingStrategy.LOW_MEMORY,
        )
        cache = ShardCache(Path(cache_file))
        self._checkpoint = Checkpoint.open(model_dir, reading=HeaderReading(cache.read_header, shard_pattern))
        cache.save()
        planned = plan_load(self._settings, checkpoint=self._checkpoint)
        self._structure, self._plan = planned.checkpoint.architecture.structure, planned.plan
        self._modules = Modules(planned)
        self._stacks = find_stacks(self._modules.model)
        self._layer_names = {name: [self._modules.name_of(layer) for layer in stack.layers] for name, stack in self._stacks.items()}
        self._stack = self._chosen(layer_prefix)
        self._named = {"embedding": input_embedding_layer_name, "norm": norm_layer_name, "head": lm_head_name}

    @property
    def config(self) -> PretrainedConfig:
        """The model's config."""
        return self._modules.model.config

    @property
    def num_layers(self) -> int:
        """How many layers the stack has."""
        return len(self._stack.layers)

    @property
    def stacks(self) -> dict[str, int]:
        """How many layers each stack of the model has, by its name."""
        return {name: len(stack.layers) for name, stack in self._stacks.items()}

    def load_input_embedding(self) -> nn.Module:
        """The embedding of tokens."""
        return self._part("embedding", self._modules.model.get_input_embeddings)

    def load_norm(self) -> nn.Module:
        """The norm after the last layer. Raises UsageError for a model that has none."""
        return self._part("norm", lambda: None)

    def load_head(self) -> nn.Module:
        """What makes logits of hidden states; where it is tied to the embedding, with weights of its own that are equal."""
        return self._part("head", self._modules.model.get_output_embeddings)

    def load_layer(self, number: int, *, stack: str | None = None) -> nn.Module:
        """One layer of the stack, or of another one by its name or as `encoder`, `decoder`, `vision`, `audio`."""
        chosen = self._stack if stack is None else self._chosen(stack)
        names = self._layer_names[chosen.name]
        if not 0 <= number < len(names):
            raise UsageError(f"there is no layer {number}: {chosen.name} has {len(names)}", hint="layers are counted from 0")
        return self._loaded(names[number], stack=chosen.name, number=number)

    def load_layer_set(self, start_layer: int, end_layer: int, *, stack: str | None = None) -> list[nn.Module]:
        """Layers `start_layer` to `end_layer`, both included."""
        return [self.load_layer(number, stack=stack) for number in range(start_layer, end_layer + 1)]

    def _chosen(self, asked: str | None) -> LayerStack:
        """The stack of that name, in the model or in the checkpoint, or of that role; the main one for None."""
        return choose_stack(None if asked is None else asked.rstrip("."), self._stacks, self._structure, self._plan)

    def _part(self, what: str, own: Callable[[], nn.Module | None]) -> nn.Module:
        """The module that is named for this part, else the one that the model says it is, else the one that its structure shows."""
        named = self._named[what]
        module = None if named is not None else _asked(own)
        if module is not None:
            return self._loaded(self._modules.name_of(module), stack=self._stack.name)
        found = getattr(self._structure, what)
        tensor = named if named is not None or found is None else found.name
        if tensor is None:
            raise UsageError(f"the model has no {what} that could be found", hint="name its tensor, if it has one")
        return self._loaded(self._modules.holder_of(tensor), stack=self._stack.name)

    def _loaded(self, name: str, *, stack: str, number: int | None = None) -> nn.Module:
        return remember(self._modules.load(name), Origin(lambda: self._whole, name, stack, number))

    @cached_property
    def _whole(self) -> LayeredModel:
        """The model around the parts: nothing of it is read but what computing needs beside them."""
        settings = replace(self._settings, loading_strategy=LoadingStrategy.STREAMING, quantization_config=None)
        return LayeredModel(settings, opened=self._checkpoint)


def _asked(own: Callable[[], nn.Module | None]) -> nn.Module | None:
    try:
        module = own()
    except NotImplementedError:  # some classes of transformers can't say
        return None
    return module if isinstance(module, nn.Module) else None
