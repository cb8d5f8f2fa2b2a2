"""Checkpoints as objects: config, tokenizer or processor, generation config and model, each loaded at its first use."""

from __future__ import annotations

from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

from ..loader.checkpoint import Checkpoint
from ..loader.errors import UsageError
from ..loader.generation import check_generates
from ..loader.inputs import load_processor, load_tokenizer
from ..loader.loading import LoadedModel, load
from ..loader.settings import ModelLoadingConfig, QuantizationConfig
from ..loader.sources.download import local_folder
from .description import describe
from .state import StateDict

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import BatchEncoding, BatchFeature, GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
    from transformers.processing_utils import ProcessorMixin

Model = TypeVar("Model", bound="PreTrainedModel")


class PreTrained(Generic[Model]):
    """A checkpoint of which only the headers are read at first; generic in the class of its model, for type checkers.

    `settings` are all that can be asked of loading; `from_pretrained` takes the commonest by name. `state` gives single tensors.
    """

    def __init__(self, settings: ModelLoadingConfig) -> None:
        self.settings = settings
        self.checkpoint = Checkpoint.open(settings.model_name)
        self.loaded: LoadedModel | None = None  # the model and how it came to be, once it is there
        self.state = StateDict(self.checkpoint, mapped=settings.mmap, loaded=lambda: self.loaded)

    @classmethod
    def from_pretrained(
        cls,
        reference: str | PathLike[str],
        *,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        device: str | torch.device | None = None,
        quantization_config: QuantizationConfig | None = None,
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
    ) -> Self:
        """The checkpoint that `reference` names: a folder, a file, a registered name or a hub id with optional `@revision`.

        `dtype` (`torch_dtype` is its older name) and `device`: None for the checkpoint's own, and for the best that is there.
        Raises NotFoundError, InvalidCheckpointError or UsageError, as Checkpoint.open does.
        """
        if None not in (dtype, torch_dtype) and dtype != torch_dtype:
            raise UsageError(f"dtype is {dtype} and torch_dtype {torch_dtype}", hint="they are one setting: give dtype alone")
        settings = ModelLoadingConfig(
            reference,
            dtype=next((each for each in (dtype, torch_dtype) if each is not None), "auto"),
            device=device,
            quantization_config=quantization_config,
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
        )
        return cls(settings)

    def __repr__(self) -> str:
        return describe(type(self).__name__, self.checkpoint, self.settings, self.loaded, vars(self))

    @property
    def model(self) -> Model:
        """The model, its weights loaded."""
        if self.loaded is None:
            self.loaded = load(self.settings)
            own = vars(self).get("_generation_config")  # which may have been changed meanwhile
            if own is not None:
                self.loaded.model.generation_config = own
        return cast("Model", self.loaded.model)

    @property
    def config(self) -> PretrainedConfig:
        """The model's config, read without its weights."""
        return self._config if self.loaded is None else self.loaded.model.config

    @property
    def generation_config(self) -> GenerationConfig | None:
        """How the model generates where nothing else is asked, read without its weights."""
        return self._generation_config if self.loaded is None else self.loaded.model.generation_config

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The checkpoint's tokenizer."""
        return load_tokenizer(self._small_files, trust_remote_code=self.settings.trust_remote_code)

    def encode(self, text: str | list[str], *, add_special_tokens: bool = True) -> BatchEncoding:
        """Token ids and attention mask, with a row for each text."""
        return self.tokenizer(text, return_tensors="pt", padding=not isinstance(text, str), add_special_tokens=add_special_tokens)

    def decode(self, tokens: Tensor | list[int], *, skip_special_tokens: bool = True) -> str:
        """The text of one row of tokens."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=skip_special_tokens))

    def generate(self, inputs: Tensor | None = None, **options: Any) -> Any:
        """What the model's own `generate` gives; tensors are brought to its device, and floating-point ones to its dtype.

        Raises UsageError for a model that does not generate.
        """
        model: Any = self.model  # `generate` comes from a mixin that its type does not show
        check_generates(model, cast("LoadedModel", self.loaded).kind)
        if "max_length" in options:
            options.setdefault("max_new_tokens", None)  # else what the checkpoint says of it would overrule what is asked here
        placed = {name: _placed(value, model) for name, value in options.items()}
        return model.generate(_placed(inputs, model), **placed)

    def save_pretrained(self, folder: str | PathLike[str]) -> None:
        """Write model, tokenizer and configs as a checkpoint. Raises UsageError if `folder` exists: nothing is ever overwritten."""
        _ = self.model
        cast("LoadedModel", self.loaded).save(Path(folder), inputs=vars(self).get("processor") or vars(self).get("tokenizer"))

    @cached_property
    def _small_files(self) -> Path:
        """The folder of the checkpoint, whatever else than weights it has."""
        return local_folder(self.checkpoint, shards=())

    @cached_property
    def _config(self) -> PretrainedConfig:
        from ..loader.execution.model_class import model_class_and_config

        content, kind, folder = self.checkpoint.config or {}, self.checkpoint.architecture.kind, self._small_files
        config = model_class_and_config(content, kind, folder=folder, trust_remote_code=self.settings.trust_remote_code)[1]
        config.name_or_path = str(folder)
        return config

    @cached_property
    def _generation_config(self) -> GenerationConfig:
        from transformers import GenerationConfig

        from ..loader.execution.model_class import refusals

        with refusals("a generation config", file="generation_config.json", hint="take the file away: the model's config stands in"):
            if (self._small_files / "generation_config.json").is_file():
                return GenerationConfig.from_pretrained(self._small_files, local_files_only=True)
            return GenerationConfig.from_model_config(self.config)


class PreTrainedCausalLM(PreTrained[Model]):
    """A model that goes on from text: GPT, Llama and their kin."""


class PreTrainedVLM(PreTrained[Model]):
    """A model of images and text: LLaVA, CLIP and their kin."""

    @cached_property
    def processor(self) -> ProcessorMixin:
        """What makes tensors of images and text, as the checkpoint says."""
        return load_processor(self._small_files, trust_remote_code=self.settings.trust_remote_code)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The processor's tokenizer."""
        return getattr(self.processor, "tokenizer")  # noqa: B009  # which attributes it has, its class decides

    @property
    def image_processor(self) -> Any:
        """The processor's part for images."""
        return getattr(self.processor, "image_processor")  # noqa: B009

    def process_images_and_text(self, images: Any = None, text: str | list[str] | None = None) -> BatchFeature:
        """The model's inputs for an image (or several) and a text; for a list of texts an image, or a list of them, for each.

        Where the text does not say at which place its images stand, they stand before it: as the checkpoint's chat template puts a
        question about them, or else by the processor's image token.
        """
        processor: Any = self.processor
        token = getattr(processor, "image_token", None)
        if images is None or text is None or not isinstance(token, str):
            return processor(images=images, text=text, return_tensors="pt", padding=True)
        texts, groups = ([text], [_as_list(images)]) if isinstance(text, str) else (text, [_as_list(each) for each in images])
        if len(texts) != len(groups):
            raise UsageError(f"{len(groups)} images for {len(texts)} texts", hint="give an image, or a list of images, for each text")
        prompts = [each if token in each else self._prompt(each, len(group), token) for each, group in zip(texts, groups, strict=True)]
        return processor(images=[image for group in groups for image in group], text=prompts, return_tensors="pt", padding=True)

    def _prompt(self, text: str, images: int, token: str) -> str:
        """The text with a place for each image."""
        processor: Any = self.processor
        if not processor.chat_template:
            return f"{token}\n" * images + text
        content = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": text}]
        return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def _as_list(images: Any) -> list[Any]:
    return list(images) if isinstance(images, list | tuple) else [images]


def _placed(value: Any, model: PreTrainedModel) -> Any:
    """A tensor where the model can use it; anything else as it is."""
    import torch

    if not isinstance(value, torch.Tensor):
        return value
    return value.to(model.device, model.dtype if value.is_floating_point() else None)
