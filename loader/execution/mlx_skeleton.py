"""mlx-lm's model of a checkpoint, nothing of it evaluated yet: its names and shapes, and what its class makes of the stored tensors.

MLX computes an array when it is asked for. So a model whose weights are lazy - read, renamed, cast and quantized in the future - is the
skeleton, and evaluating its arrays one after the other is loading it. The one name that mlx-lm keeps private is used here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import torch
from mlx import nn
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_lm import __version__
from mlx_lm.utils import _get_classes, infer_quant_config, load_config, quantize_model

from ..errors import MissingDependencyError, UsageError
from ..settings import QuantizationConfig, QuantizationMethod
from ..text import printable
from .mlx_config import in_mlx_words
from .mlx_origins import Origin, find_origins
from .model_class import DROPPED, refusals

BITS: Mapping[QuantizationMethod, int] = {QuantizationMethod.MLX_INT4: 4, QuantizationMethod.MLX_INT8: 8}
# Stored forms of other makers that are MLX's own by another name; mlx-lm's classes rename what belongs to them.
_OWN_FORMS = {"mxfp4": {"group_size": 32, "bits": 4, "mode": "mxfp4"}, "mxfp8": {"group_size": 32, "bits": 8, "mode": "mxfp8"}}
_DEQUANTIZED = ("fp8",)  # by mlx-lm's classes
_CUSTOM = "model_file"  # a key that would have mlx-lm run a file of the checkpoint

Arrays = dict[str, mx.array]


@dataclass(frozen=True)
class MlxSkeleton:
    """A model whose arrays are not evaluated. `shapes` are of all its parameters before any quantizing on load.

    `made`: the parameters that the checkpoint gives, in their stored dtypes; `origins` tells of the same where they come from. `config`
    is what a saved model needs to be loaded again.
    """

    model: nn.Module
    config: dict[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    made: Arrays
    origins: Mapping[str, Origin]

    @classmethod
    def build(cls, folder: Path, shards: tuple[str, ...], config: Mapping[str, object]) -> MlxSkeleton:
        """From the checkpoint in `folder`, whose files have been checked.

        Raises UsageError for what mlx-lm has no class for or MLX no way to unpack, InvalidCheckpointError where its class refuses it.
        """
        with _refused(config):
            model_class, arguments = _classes(config)
            written = {key: value for key, value in load_config(folder).items() if key not in (*DROPPED, _CUSTOM)}
            own = in_mlx_words(written, arguments)
            form = _stored_form(own)
            stored: Arrays = {}
            for shard in shards:
                stored |= mx.load(str(folder / shard))  # pyright: ignore[reportOperatorIssue]  # a dict, of such a file
            model = model_class(arguments.from_dict(own))
            model.eval()
            made: Arrays = model.sanitize(dict(stored)) if hasattr(model, "sanitize") else stored
            origins = find_origins(made, stored)
            if form is not None:
                own |= {"quantization": form}
                _unpack(model, form, made)
        shapes = {name: array.shape for name, array in parameters(model).items()}
        return cls(model, own, shapes, made, origins)

    def filled(self, dtype: str | None, asked: QuantizationConfig | None) -> MlxSkeleton:
        """The same with the checkpoint's arrays in the model, cast to `dtype` and quantized as `asked`; still nothing is read."""
        config = self.config
        with _refused(config):
            self.model.load_weights([(name, array) for name, array in self.made.items() if name in self.shapes], strict=False)
            if dtype is not None:
                self.model.update(tree_map_with_path(_cast(self.model, getattr(mx, dtype)), self.model.parameters()))
                config = {key: value for key, value in config.items() if key != "torch_dtype"} | {"dtype": dtype}
            if asked is not None:
                config = _quantize(self.model, config, asked)
        return replace(self, config=config, made={})

    @property
    def dtype(self) -> torch.dtype:
        """Of the first parameter that is a floating-point number."""
        arrays = parameters(self.model).values()
        return next((torch_dtype(array) for array in arrays if mx.issubdtype(array.dtype, mx.floating)), torch.float32)

    def is_quantized(self, name: str) -> bool:
        """Whether it belongs to a module whose stored weights are packed."""
        return f"{name.rpartition('.')[0]}.scales" in self.shapes

    def truly_missing(self, missing: tuple[str, ...]) -> tuple[str, ...]:
        """All of them: a parameter of these classes is never tied to another."""
        return missing


def parameters(model: nn.Module) -> Arrays:
    """The model's arrays by name, in its own order."""
    return dict(tree_flatten(model.parameters()))


def torch_dtype(array: mx.array) -> torch.dtype:
    """The dtype of the same name."""
    return getattr(torch, str(array.dtype).removeprefix("mlx.core."))


def _classes(config: Mapping[str, object]) -> tuple[Callable[[Any], Any], Any]:
    """mlx-lm's classes of the model and of its settings. Raises UsageError where it has none."""
    model_type = config.get("model_type")
    try:
        if isinstance(model_type, str):
            return _get_classes(dict(config))
    except (ValueError, AttributeError):  # no such module, or one without a model
        pass
    except SystemExit:  # how a module of mlx-lm ends that lacks another package
        raise MissingDependencyError(f"mlx-lm's {printable(model_type)} wants a package that is not installed") from None
    named = f"'{printable(model_type)}'" if isinstance(model_type, str) else "that config.json does not name"
    raise UsageError(f"mlx-lm {__version__} has no model type {named}", hint="another --device loads it with torch")


def _stored_form(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """How MLX unpacks the stored weights, None where they are plain. Raises UsageError for a form that it has not."""
    if isinstance(own := config.get("quantization"), dict):
        return own
    declared = config.get("quantization_config") or (config.get("text_config") or {}).get("quantization_config")
    method = declared.get("quant_method") if isinstance(declared, dict) else None
    if declared is None or method in _DEQUANTIZED:
        return None
    if not isinstance(method, str) or method not in _OWN_FORMS:
        named = printable(method) if isinstance(method, str) else "a method without a name"
        raise UsageError(f"weights quantized by {named} are not loaded for MLX", hint="another --device loads them with torch")
    return _OWN_FORMS[method]


def _unpack(model: nn.Module, form: dict[str, Any], made: Arrays) -> None:
    """Put quantized modules where `made` has packed weights."""

    def packed(path: str, module: nn.Module) -> bool | dict[str, Any]:
        if path in form:
            return form[path]
        if not hasattr(module, "to_quantized") or f"{path}.scales" not in made:
            return False
        return infer_quant_config(path, module, made)

    nn.quantize(model, form["group_size"], form["bits"], mode=form.get("mode", "affine"), class_predicate=packed)


def _cast(model: nn.Module, dtype: mx.Dtype) -> Callable[[str, mx.array], mx.array]:
    """As mlx-lm's own conversion does it: floating-point arrays, but for those that the class keeps."""
    wants: Callable[[str], bool] = getattr(model, "cast_predicate", lambda _: True)
    return lambda name, array: array.astype(dtype) if mx.issubdtype(array.dtype, mx.floating) and wants(name) else array


def _quantize(model: nn.Module, config: dict[str, Any], asked: QuantizationConfig) -> dict[str, Any]:
    """Have mlx-lm quantize the model, lazily; returns the config that tells so."""
    own: Callable[[str, nn.Module], bool | dict[str, Any]] = getattr(model, "quant_predicate", None) or (lambda path, module: True)

    def wanted(path: str, module: nn.Module) -> bool | dict[str, Any]:
        skipped = any(f".{name}." in f".{path}." for name in asked.skip_modules)
        return False if skipped else own(path, module)

    return quantize_model(model, config, asked.group_size or 64, BITS[asked.method], quant_predicate=wanted)[1]


@contextmanager
def _silence() -> Iterator[None]:
    """Without what mlx-lm prints: stdout is for answers."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield


@contextmanager
def _refused(config: Mapping[str, object]) -> Iterator[None]:
    """Whatever mlx-lm or MLX raises becomes one line."""
    with _silence(), refusals(f"a {printable(config.get('model_type'))}", library="mlx-lm"):
        yield
