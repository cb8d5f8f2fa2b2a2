"""Loaders as objects, one class a backend: thin fronts over `loading`, to be called or extended by code that wants a class.

ModelLoader
├── StandardModelLoader      unquantized
└── QuantizedModelLoader     quantized while loading
    ├── CUDAModelLoader, MPSModelLoader, MLXModelLoader, CPUModelLoader
"""

from __future__ import annotations

import os
from dataclasses import fields, replace
from typing import TYPE_CHECKING, ClassVar, overload

from .inputs import gguf_file, load_tokenizer
from .loading import LoadedModel, load, plan_load, plan_loads
from .settings import Backend, ModelLoadingConfig, choice
from .settings_mapping import check_known

if TYPE_CHECKING:
    from mlx_lm.tokenizer_utils import TokenizerWrapper
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from .architecture import ModelArchitecture
    from .dynamic import DynamicModel

Loaded = tuple["PreTrainedModel", "PreTrainedTokenizerBase"]


class ModelLoader:
    """Loads the model that a config asks for, and its tokenizer."""

    backend: ClassVar[Backend | None] = None

    def __init__(self, config: ModelLoadingConfig) -> None:
        self.config = config if self.backend is None else replace(config, backend=self.backend)

    def load_model(self) -> PreTrainedModel:
        """The model, as transformers knows it. Raises what `loading.load` raises."""
        return load(self.config).model

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer; no weights are read. Raises NotFoundError, InvalidCheckpointError."""
        from .checkpoint import Checkpoint
        from .sources.download import local_folder

        checkpoint = Checkpoint.open(self.config.model_name)
        file = gguf_file(checkpoint)
        return load_tokenizer(local_folder(checkpoint, shards=() if file is None else (file,)), gguf_file=file)

    @staticmethod
    def load_auto(model: str | os.PathLike[str] | ModelLoadingConfig, *, lazy: bool = False) -> DynamicModel:
        """The model as `DynamicModel.load_auto` gives it: of whatever architecture the checkpoint is."""
        from .dynamic import DynamicModel

        return DynamicModel.load_auto(model, lazy=lazy)

    @staticmethod
    def load_as(
        model: str | os.PathLike[str] | ModelLoadingConfig, architecture: ModelArchitecture | str, *, lazy: bool = False
    ) -> DynamicModel:
        """The model as `DynamicModel.load_as` gives it: of the architecture that is named, whatever the checkpoint's config says."""
        from .dynamic import DynamicModel

        return DynamicModel.load_as(model, architecture, lazy=lazy)

    def _create_empty_model(self) -> PreTrainedModel:
        """The model on the meta device: its structure without weights."""
        return plan_load(self.config).skeleton.model


class StandardModelLoader(ModelLoader):
    """Loads weights as they are, or in another floating-point dtype."""


class QuantizedModelLoader(ModelLoader):
    """Quantizes weights while it loads them, one unit at a time."""


class CUDAModelLoader(QuantizedModelLoader):
    """Loads to an NVIDIA or AMD device."""

    backend = Backend.CUDA


class MPSModelLoader(QuantizedModelLoader):
    """Loads to Apple's GPU, in unified memory."""

    backend = Backend.MPS


class MLXModelLoader(QuantizedModelLoader):
    """Loads mlx-lm's models for MLX, on Apple machines and on CPUs."""

    backend = Backend.MLX

    def load_tokenizer(self) -> TokenizerWrapper:  # pyright: ignore[reportIncompatibleMethodOverride]  # it hands on to one of transformers
        """mlx-lm's tokenizer; no weights are read. Raises NotFoundError, InvalidCheckpointError, MissingDependencyError."""
        from .mlx_loading import tokenizer_alone

        return tokenizer_alone(self.config)


class CPUModelLoader(QuantizedModelLoader):
    """Loads to the CPU."""

    backend = Backend.CPU


_QUANTIZED = {loader.backend: loader for loader in (CUDAModelLoader, MPSModelLoader, MLXModelLoader, CPUModelLoader)}


class ModelLoaderFactory:
    """Chooses the loader class for a config."""

    @staticmethod
    def create_loader(config: ModelLoadingConfig) -> ModelLoader:
        """The loader of the config's backend if it quantizes or is MLX, else the standard one."""
        if config.is_for_mlx:
            return MLXModelLoader(config)
        if config.quantization_config is None:
            return StandardModelLoader(config)
        return _QUANTIZED.get(config.backend, QuantizedModelLoader)(config)


@overload
def load_model_and_tokenizer(model_name: str | os.PathLike[str], backend: Backend | str | None = None, **settings: object) -> Loaded: ...


@overload
def load_model_and_tokenizer(
    model_name: list[str | os.PathLike[str]], backend: Backend | str | None = None, **settings: object
) -> list[Loaded]: ...


def load_model_and_tokenizer(
    model_name: str | os.PathLike[str] | list[str | os.PathLike[str]], backend: Backend | str | None = None, **settings: object
) -> Loaded | list[Loaded]:
    """A model and its tokenizer, or those of several models that share one memory budget.

    `settings` are fields of ModelLoadingConfig by name; `memory` is what all models together may take. Raises UsageError for one that it
    does not have, DoesNotFitError where the models don't fit.
    """
    check_known(settings, [field.name for field in fields(ModelLoadingConfig)])
    named = choice(Backend, backend) if isinstance(backend, str) else backend
    if isinstance(model_name, str | os.PathLike):
        return _pair(load(ModelLoadingConfig(model_name, named, **settings)))  # pyright: ignore[reportArgumentType]  # checked by name above
    asked = [ModelLoadingConfig(name, named, **settings) for name in model_name]  # pyright: ignore[reportArgumentType]
    return [_pair(planned.execute()) for planned in plan_loads(asked, are_carried_out=True)]


def _pair(loaded: LoadedModel) -> Loaded:
    return loaded.model, loaded.tokenizer
