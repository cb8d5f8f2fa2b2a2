"""What all runners do: tokenize texts, run the model, hand out hidden states by layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ..loader.errors import UsageError
from ..loader.execution.model_class import class_with
from ..loader.inputs import load_tokenizer
from ..loader.planned import LoadedModel
from ..loader.registry import ModelSpec
from ..loader.settings import Head, ModelLoadingConfig
from .conventions import find_convention
from .outputs import ModelOutputs
from .pooling import Groups

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

_ENDLESS = 1 << 24  # more tokens than any model reads: tokenizers say "no limit" with a number beyond


class BaseModelRunner(ABC):
    """A model and its tokenizer, run the same way whatever the architecture. Subclasses say how the model is loaded.

    `attentions`: whether attention maps come with every forward, which takes the slower attention that computes them.
    """

    head: ClassVar[Head]  # what its architecture has on top of the layers

    def __init__(self, spec: ModelSpec, settings: ModelLoadingConfig, *, attentions: bool = True) -> None:
        self.spec = spec
        self.settings = settings
        self.attentions = attentions
        self.loaded = self._load_model()
        self.model: PreTrainedModel = self.loaded.model
        self.model.config.output_hidden_states = True
        self.tokenizer = self._load_tokenizer()

    @abstractmethod
    def _load_model(self) -> LoadedModel:
        """The model, with what it has on top. Raises what `loading.load` raises."""

    @property
    def has_head(self) -> bool:
        """Whether the model gives logits over its vocabulary: the checkpoint has the head for it, and nobody left it out."""
        return self.settings.head is not Head.NONE and type(self.model) is class_with(self.head, self.model.config)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in."""
        return self.model.dtype

    @cached_property
    def max_length(self) -> int | None:
        """How many tokens of a text the model reads; None where nothing limits them."""
        own = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        tables = [module for name, module in self.model.named_modules() if name.endswith("position_embeddings")]
        limits = [self.tokenizer.model_max_length, own, find_convention(self.loaded.folder).max_length]
        # RoBERTa and its kin count positions from behind the padding token's.
        limits += [
            table.num_embeddings - table.padding_idx - 1
            for table in tables
            if isinstance(table, nn.Embedding) and table.padding_idx is not None
        ]
        found = [limit for limit in limits if isinstance(limit, int) and 0 < limit < _ENDLESS]
        return min(found, default=None)

    @property
    def pooling(self) -> str | None:
        """How the model's makers get one vector of a text: what the registry says, or the checkpoint's own files."""
        return self.spec.pooling or find_convention(self.loaded.folder).pooling

    def tokenize(self, texts: str | Sequence[str], *, max_length: int | None = None) -> BatchEncoding:
        """Ids and mask, a row for each text, padded on the right; texts longer than `max_length` or the model allow are cut.

        Raises UsageError where there is no token at all.
        """
        batch = self.encode([texts] if isinstance(texts, str) else list(texts), max_length=max_length)
        if not any(batch["input_ids"]):
            raise UsageError("the texts hold no token", hint="give at least one that does")
        return self.tokenizer.pad(batch, return_tensors="pt", padding_side="right").to(self.device)

    def encode(self, texts: Sequence[str], *, max_length: int | None = None) -> BatchEncoding:
        """Lists of ids and masks, cut but not padded."""
        limit = min((limit for limit in (max_length, self.max_length) if limit is not None), default=None)
        return self.tokenizer(list(texts), truncation=limit is not None, max_length=limit)

    @torch.no_grad()
    def forward(
        self,
        batch: Mapping[str, Tensor],
        *,
        layers: Sequence[int] | None = None,
        logits: bool = True,
        attentions: bool | None = None,
        stack: str | None = None,
    ) -> ModelOutputs:
        """Run the model over what `tokenize` gave.

        `layers`: the hidden states to keep, None for all. `logits`: False leaves the head out. `attentions`: None for what the runner was
        made for. `stack`: of a seq2seq model, "encoder" runs nothing else.
        """
        inputs = {name: value.to(self.device) for name, value in batch.items()}
        wanted: dict[str, Any] = {
            "output_hidden_states": True if layers is None else list(layers),
            "output_attentions": self.attentions if attentions is None else attentions,
        }
        return self._run(inputs, stack=stack, logits=logits and self.has_head, **wanted)

    def embed(self, texts: str | Sequence[str], *, normalize: bool = True) -> Tensor:
        """One vector for each text [texts, width], in float32: its last states, averaged unless `pooling` says otherwise.

        They are of length 1 unless `normalize` is False. A seq2seq model's are its encoder's.
        """
        batch = self.tokenize(texts)
        outputs = self.forward(batch, layers=[-1], logits=False, attentions=False, stack="encoder")
        pooled = outputs.extra.get("pooler_output")
        if self.pooling != "pooler" or pooled is None:
            last = outputs.hidden_states[-1]
            how = "cls" if self.pooling == "pooler" else self.pooling or "mean"
            pooled = Groups.of_texts(batch["attention_mask"].sum(dim=1).tolist(), last.shape[1]).pooled(last, how)
        return nn.functional.normalize(pooled.float(), dim=1) if normalize else pooled.float()

    @abstractmethod
    def _run(self, inputs: dict[str, Tensor], *, stack: str | None, logits: bool, **wanted: Any) -> ModelOutputs:
        """One forward; `wanted` are transformers' own switches."""

    def _load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The checkpoint's tokenizer, one that can pad."""
        tokenizer = load_tokenizer(
            self.loaded.folder,
            gguf_file=self.loaded.gguf_file,
            trust_remote_code=self.settings.trust_remote_code,
            options=self.spec.tokenizer_kwargs or {},
        )
        if tokenizer.pad_token_id is None:  # any token does: the mask hides it
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
        return tokenizer


def given(outputs: Any, name: str) -> tuple[Tensor, ...] | None:
    """What the model gave under `name`, None where that is nothing."""
    return tuple(getattr(outputs, name, None) or ()) or None


def beside(**extra: Any) -> dict[str, Any]:
    """Those that are there."""
    return {name: value for name, value in extra.items() if value is not None}
