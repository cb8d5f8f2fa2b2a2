"""What a checkpoint's object says of itself: its parts, from headers and small files, with no weight read and no torch imported."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..loader.dtypes import TORCH_NAMES
from ..loader.errors import DoesNotFitError, InvalidCheckpointError, UsageError
from ..loader.inspection import InspectReport, inspect
from ..loader.strict_json import parse_object
from ..loader.tensors import TensorEntry
from ..loader.text import printable

if TYPE_CHECKING:
    from ..loader.checkpoint import Checkpoint
    from ..loader.loading import LoadedModel
    from ..loader.settings import ModelLoadingConfig

_MAX_VOCABULARY_BYTES = 64 << 20
_ACCELERATORS = ("nvidia*", "nvhost*", "kfd", "dxg")  # what drivers put into /dev: NVIDIA's, Jetson's, AMD's, that of WSL
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")


def describe(
    name: str, checkpoint: Checkpoint, settings: ModelLoadingConfig, loaded: LoadedModel | None, parts: Mapping[str, object]
) -> str:
    """One line for each part, in the form of torch's modules. `parts` are those that have been used already, by attribute."""
    description = _Description(checkpoint, settings, loaded, parts)
    content = {
        "model": description.model,
        "processor": description.processor,
        "tokenizer": description.tokenizer,
        "config": description.config,
        "generation_config": description.generation_config,
        "parameters": f"{description.parameters:,}",
        "device": description.device,
        "dtype": f"torch.{description.dtype}",
    }
    lines = (f"  ({part}): {printable(line)}" for part, line in content.items() if line is not None)
    return "\n".join((f"{name}(", *lines, ")"))


class _Description:
    """The lines' content. A part that is loaded speaks for itself, for any other the checkpoint does."""

    def __init__(self, checkpoint: Checkpoint, settings: ModelLoadingConfig, loaded: LoadedModel | None, parts: Mapping[str, Any]) -> None:
        self._checkpoint = checkpoint
        self._settings = settings
        self._loaded = loaded
        self._parts = parts

    @cached_property
    def _report(self) -> InspectReport:
        return inspect(self._checkpoint)

    @property
    def model(self) -> str:
        """The class, and the size of the text model."""
        report = self._report
        name = report.class_name if self._loaded is None else type(self._loaded.model).__name__
        return f"{name or report.family} [layers={report.num_layers}, hidden_size={report.hidden_size}]"

    @property
    def processor(self) -> str | None:
        """The class that the checkpoint names; None where it has no processor."""
        if "processor" in self._parts:
            return type(self._parts["processor"]).__name__
        file = next((name for name in _PROCESSOR_FILES if name in self._checkpoint.files), None)
        return file and str(self._json(file).get("processor_class", file))

    @property
    def tokenizer(self) -> str:
        """The class, and how many tokens there are without those added later."""
        if "tokenizer" in self._parts:
            tokenizer = self._parts["tokenizer"]
            return f"{type(tokenizer).__name__} [vocab_size={tokenizer.vocab_size}]"
        found = self._report.tokenizer
        if found is None:
            return "none"
        name, size = found.tokenizer_class or found.file, self._vocab_size(found.file)
        return name if size is None else f"{name} [vocab_size={size}]"

    @property
    def config(self) -> str:
        """The class that transformers has for the model type."""
        config = self._parts.get("_config") if self._loaded is None else self._loaded.model.config
        name = _config_class(self._report.family) if config is None else type(config).__name__
        return f"{name} [model_type={self._report.family}]"

    @property
    def generation_config(self) -> str:
        """Whether the checkpoint brings one."""
        stored = "generation_config.json" in self._checkpoint.files
        return f"GenerationConfig [{'loaded' if stored or '_generation_config' in self._parts else 'from config'}]"

    @property
    def parameters(self) -> int:
        """The model's parameters: those of a tied head once, stored masks and tables never."""
        if self._loaded is not None:
            return self._loaded.model.num_parameters()
        report, tensors = self._report, self._checkpoint.tensors
        count = self._checkpoint.parameters.of
        buffers = sum(count(tensor) for name, tensor in tensors.items() if name not in self._checkpoint.shared and _is_buffer(tensor))
        head = tensors.get(report.head or "")
        return report.parameters - buffers - (count(head) if head is not None and report.ties_stored_head else 0)

    @cached_property
    def _placement(self) -> tuple[str, str]:
        """Device and dtype, as they are or as they will be; torch is asked only where there may be an accelerator."""
        if self._loaded is not None:
            return str(self._loaded.model.device), _plain(self._loaded.model.dtype)
        backend, dtype = self._settings.backend, self._asked_dtype
        asked = self._settings.device or (backend and backend.value)
        if str(asked) == "cpu" or (asked is None and not _may_have_accelerator()):
            return "cpu", dtype
        import torch

        from ..loader.execution import backends

        try:
            rules, device = backends.choose_backend(hardware := backends.probe(), backend, self._settings.device)
        except (DoesNotFitError, UsageError):  # loading will say so
            return str(asked), dtype
        return str(device), _plain(rules.dtype(hardware, getattr(torch, dtype)))

    @property
    def device(self) -> str:
        """Where the weights are, or will be."""
        return self._placement[0]

    @property
    def dtype(self) -> str:
        """What the weights are in, or will be."""
        return self._placement[1]

    @property
    def _asked_dtype(self) -> str:
        """What is asked, else what the config says, else that of the first floating-point tensor."""
        config = self._checkpoint.config or {}
        for named in (self._settings.dtype, config.get("dtype"), config.get("torch_dtype")):
            if _plain(named) in TORCH_NAMES:
                return _plain(named)
        names = {ours: theirs for theirs, ours in reversed(TORCH_NAMES.items())}
        stored = (tensor.dtype for tensor in self._checkpoint.tensors.values())
        return next((names[dtype] for dtype in stored if dtype.startswith(("F", "BF")) and dtype in names), "float32")

    def _vocab_size(self, file: str) -> int | None:
        """How many tokens a vocabulary in JSON has; None for other forms of it."""
        content = self._json(file) if file.endswith(".json") else {}
        model = content.get("model", content)
        vocabulary = model.get("vocab", model) if isinstance(model, dict) else {}
        return len(vocabulary) or None

    def _json(self, file: str) -> Mapping[str, Any]:
        """A file beside the weights; empty where it can't be read, or would have to be downloaded."""
        path = Path(self._checkpoint.location) / file
        if self._checkpoint.source == "hub" or not path.is_file() or path.stat().st_size > _MAX_VOCABULARY_BYTES:
            return {}
        try:
            return parse_object(path.read_bytes(), file=file)
        except InvalidCheckpointError:  # a line about the checkpoint is no place to refuse it
            return {}


def _config_class(model_type: str | None) -> str:
    """The name of transformers' config class for a model type; a table of names that imports no torch."""
    from transformers.models.auto.auto_mappings import CONFIG_MAPPING_NAMES

    return CONFIG_MAPPING_NAMES.get(model_type or "", "PreTrainedConfig")


def _is_buffer(tensor: TensorEntry) -> bool:
    """Whether older versions of transformers stored this beside the parameters: masks, their fill value, positions, rotary tables."""
    leaf = tensor.name.rpartition(".")[2]
    return (leaf == "bias" and len(tensor.shape) == 4) or leaf in ("masked_bias", "position_ids", "inv_freq")


def _may_have_accelerator() -> bool:
    return sys.platform != "linux" or any(next(Path("/dev").glob(pattern), None) for pattern in _ACCELERATORS)


def _plain(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")
