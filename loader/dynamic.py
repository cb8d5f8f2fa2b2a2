"""A model of any architecture behind one interface, run token by token."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .architecture import ModelArchitecture
from .checkpoint import Checkpoint
from .errors import UsageError
from .generation import check_generates
from .loading import plan_load
from .planned import LoadedModel
from .settings import LoadingStrategy, ModelLoadingConfig, choice

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Model = str | PathLike[str] | ModelLoadingConfig

# What models call the memory of earlier tokens, given back by a forward and taken by the next one.
_CACHES = ("past_key_values", "cache_params", "state")
_MODEL_TYPES = {ModelArchitecture.QWEN: "qwen2"}  # where the family's name is no model type of transformers


@dataclass
class InferenceState:
    """How far a model of this config has come: the tokens so far, its cache of them, and what it says of the next one.

    `logits`, of shape (vocabulary,), are of the last forward, and so are `hidden_states` (what enters each layer, for the tokens of that
    forward), which there are after one with `debug`.
    """

    config: PretrainedConfig
    tokens: list[int] = field(default_factory=list)
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] = ()
    cache: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def position(self) -> int:
        """The position of the token that comes next."""
        return len(self.tokens)


class DynamicModel:
    """A loaded model that goes on from texts, and its tokenizer. `loaded` is the same as transformers knows it."""

    def __init__(self, loaded: LoadedModel, architecture: ModelArchitecture) -> None:
        check_generates(loaded.model, loaded.kind)
        if loaded.model.config.is_encoder_decoder:
            raise UsageError(f"{type(loaded.model).__name__} reads a text before it writes one", hint="load_model_and_tokenizer loads it")
        self.loaded = loaded
        self.architecture = architecture

    @classmethod
    def load_auto(cls, model: Model, *, lazy: bool = False) -> DynamicModel:
        """Load a model; its config, else its tensors, tell the architecture. A `lazy` one has its weights mapped, and read when used.

        Raises what `loading.load` raises, and UsageError for a model that does not go on from a text.
        """
        settings = _settings(model, lazy=lazy)
        return cls._loaded(settings, Checkpoint.open(settings.model_name))

    @classmethod
    def load_as(cls, model: Model, architecture: ModelArchitecture | str, *, lazy: bool = False) -> DynamicModel:
        """Load a model as one of `architecture`, whatever its config says. Raises InvalidCheckpointError where the tensors are not so."""
        settings, wanted = _settings(model, lazy=lazy), choice(ModelArchitecture, str(architecture))
        checkpoint = Checkpoint.open(settings.model_name)
        if checkpoint.architecture.architecture is not wanted:
            if wanted is ModelArchitecture.OTHER:
                raise UsageError("'other' is no architecture that a model can be loaded as", hint="load_auto takes what the config says")
            named = {"model_type": _MODEL_TYPES.get(wanted, wanted.value), "architectures": None}
            checkpoint = replace(checkpoint, config={**(checkpoint.config or {}), **named})
        return cls._loaded(settings, checkpoint)

    @classmethod
    def _loaded(cls, settings: ModelLoadingConfig, checkpoint: Checkpoint) -> DynamicModel:
        if settings.is_for_mlx:
            raise UsageError("models are run token by token by torch, not by MLX", hint="mps uses Apple's GPU")
        planned = plan_load(settings, is_carried_out=True, checkpoint=checkpoint)
        return cls(planned.execute(), checkpoint.architecture.architecture)

    @property
    def config(self) -> PretrainedConfig:
        """The model's config, of which an InferenceState is made."""
        return self.loaded.model.config

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, with those that the tokenizer puts around it."""
        return list(self.loaded.tokenizer(text)["input_ids"])

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        return str(self.loaded.tokenizer.decode(list(tokens)))

    def forward(self, state: InferenceState, token: int, debug: bool = False) -> Tensor:
        """Logits of what follows `token`, of shape (vocabulary,); `state` comes one token further, and holds them too.

        With `debug` it also holds the hidden states. Raises UsageError for a token outside the vocabulary, and a state of another model.
        """
        return self._go_on(state, [token], debug=debug)

    def fast_forward(self, state: InferenceState, tokens: int | Sequence[int], debug: bool = False) -> Tensor:
        """As `forward`, for one token or for several in one pass over the weights; logits are made of the last one alone."""
        return self._go_on(state, [tokens] if isinstance(tokens, int) else list(tokens), debug=debug)

    @torch.no_grad()
    def _go_on(self, state: InferenceState, tokens: list[int], *, debug: bool) -> Tensor:
        self._check(state, tokens)
        model = self.loaded.model
        accepted = inspect.signature(model.forward).parameters
        given = tokens if state.cache else [*state.tokens, *tokens]  # a model without a cache goes over all of them again
        options = {"use_cache": True, "logits_to_keep": 1, **state.cache}
        output: Any = model(
            torch.tensor([given], device=model.device),
            output_hidden_states=debug,
            **{name: value for name, value in options.items() if name in accepted},
        )
        state.tokens += tokens
        state.cache = {name: output[name] for name in _CACHES if output.get(name) is not None}
        state.hidden_states = tuple(output.hidden_states) if debug else ()
        state.logits = logits = output.logits[0, -1]
        return logits

    def _check(self, state: InferenceState, tokens: Sequence[int]) -> None:
        if state.config.model_type != self.config.model_type:
            raise UsageError(f"the state is of a model of type {state.config.model_type}, this one is of {self.config.model_type}")
        size = self.config.get_text_config().vocab_size
        wrong = next((token for token in tokens if not 0 <= token < size), None)
        if wrong is not None or not tokens:
            what = "there is no token" if wrong is None else f"token {wrong} is outside the model's vocabulary of {size:,}"
            raise UsageError(what, hint="`encode` gives a text's tokens")


def _settings(model: Model, *, lazy: bool) -> ModelLoadingConfig:
    settings = model if isinstance(model, ModelLoadingConfig) else ModelLoadingConfig(model)
    return replace(settings, loading_strategy=LoadingStrategy.STREAMING) if lazy else settings
