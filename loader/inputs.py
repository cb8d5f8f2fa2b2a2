"""What makes tensors of text and images: a checkpoint's tokenizer and its processor."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from .checkpoint import Checkpoint
from .errors import InvalidCheckpointError, MissingDependencyError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin


def gguf_file(checkpoint: Checkpoint) -> str | None:
    """The name of the GGUF file that the checkpoint is."""
    return checkpoint.shards[0] if checkpoint.format == "gguf" else None


def load_tokenizer(
    folder: Path, *, gguf_file: str | None = None, trust_remote_code: bool = False, options: Mapping[str, object] = MappingProxyType({})
) -> PreTrainedTokenizerBase:
    """The tokenizer in `folder`, or in a GGUF file there; `options` are for its class.

    Raises InvalidCheckpointError where there is none, or none that can be read.
    """
    from transformers import AutoTokenizer

    from .execution.model_class import refusals

    with refusals("a tokenizer", file=gguf_file or "tokenizer files", hint="copy them from where the weights came from"):
        return AutoTokenizer.from_pretrained(
            folder, **{**options, "trust_remote_code": trust_remote_code, "local_files_only": True, "gguf_file": gguf_file}
        )


def load_processor(folder: Path, *, trust_remote_code: bool = False) -> ProcessorMixin:
    """What makes tensors of images and text.

    Raises InvalidCheckpointError where `folder` has none, or none that can be read; MissingDependencyError without Pillow.
    """
    if find_spec("PIL") is None:
        raise MissingDependencyError("images need Pillow", hint='pip install "mlload[vision]"')
    from transformers import AutoProcessor

    from .execution.model_class import refusals

    hint = "copy it from where the weights came from"
    with refusals("a processor", file="preprocessor_config.json", hint=hint):
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    if not hasattr(processor, "image_processor"):  # transformers takes the tokenizer where nothing else is there
        raise InvalidCheckpointError("is missing: without it images can't be processed", file="preprocessor_config.json", hint=hint)
    return processor
