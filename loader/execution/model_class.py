"""Which of transformers' classes a checkpoint is for, and the config object that the class is built from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, PreTrainedModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from ..architecture import Kind
from ..architecture.config_view import ConfigView
from ..errors import InvalidCheckpointError, MissingDependencyError, UsageError
from ..settings import Head
from ..text import did_you_mean, printable

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# What a wrong value in a config makes transformers' classes raise, now here, now there.
_REFUSALS = (
    StrictDataclassError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
    AssertionError,
)
_AUTO_CLASSES = {
    Kind.DECODER_ONLY: transformers.MODEL_FOR_CAUSAL_LM_MAPPING,
    Kind.ENCODER_ONLY: transformers.MODEL_FOR_MASKED_LM_MAPPING,
    Kind.SEQ2SEQ: transformers.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    Kind.VISION_LANGUAGE: transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    Kind.VISION_ONLY: transformers.MODEL_MAPPING,
    None: transformers.MODEL_MAPPING,
}
_HEADS = {
    Head.MASKED_LM: (Kind.ENCODER_ONLY,),
    Head.CAUSAL_LM: (Kind.DECODER_ONLY, Kind.VISION_LANGUAGE),
    Head.SEQ2SEQ_LM: (Kind.SEQ2SEQ,),
    Head.NONE: (),
}
_FLOATS = ("Infinity", "-Infinity", "NaN")
# Keys that would make transformers run or fetch something, or that say how an earlier load went.
DROPPED = ("auto_map", "trust_remote_code", "_commit_hash")


@contextmanager
def refusals(
    what: str,
    *,
    library: str = "transformers",
    file: str = "config.json",
    hint: str = "`mlload inspect` shows where config and tensors disagree",
) -> Iterator[None]:
    """Whatever the library raises inside becomes one line about `file`: it can't build `what` from it."""
    try:
        yield
    except ImportError as error:
        raise MissingDependencyError(f"{what} wants a package that is not installed: {_first_line(error)}") from error
    except _REFUSALS as error:
        raise InvalidCheckpointError(f"{library} can't build {what} from it: {_first_line(error)}", file=file, hint=hint) from error


def model_class_and_config(
    config: Mapping[str, object], kind: Kind | None, *, folder: Path, trust_remote_code: bool
) -> tuple[type[PreTrainedModel], PretrainedConfig]:
    """The class that the checkpoint names, or the one for its kind, and its config.

    Raises UsageError for a model type that transformers does not know, InvalidCheckpointError for a config that its class refuses.
    """
    custom = config.get("auto_map")
    if trust_remote_code and isinstance(custom, dict):
        return _custom(custom, folder)
    model_type = ConfigView(config).whole.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise _unknown_type(model_type, custom=custom is not None)
    content = {key: value for key, value in config.items() if key not in DROPPED}
    with refusals(f"a config of '{model_type}'"):
        built = CONFIG_MAPPING[model_type].from_dict(_without_tags(content))
    model_class = getattr(transformers, str(ConfigView(config).class_name), None)
    if not _is_model(model_class):
        model_class = _AUTO_CLASSES[kind].get(type(built), None)
    if not _is_model(model_class):
        raise UsageError(f"transformers has no {kind.value if kind else 'known'} class for model type '{printable(model_type)}'")
    return model_class, _fitting(built, model_class, content)


def classes_with(head: Head, own: type[PreTrainedModel], config: PretrainedConfig) -> list[type[PreTrainedModel]]:
    """The classes to choose from, best first: the one with that head, the plain model, the checkpoint's own."""
    wanted = [] if head is Head.OWN else [class_with(head, config), _AUTO_CLASSES[None].get(type(config), None)]
    return list(dict.fromkeys(each for each in (*wanted, own) if _is_model(each)))


def class_with(head: Head, config: PretrainedConfig) -> type[PreTrainedModel] | None:
    """The class that has that head, None where transformers has none for such a config."""
    found = (_AUTO_CLASSES[kind].get(type(config), None) for kind in _HEADS[head])
    return next((each for each in found if _is_model(each)), None)


def _is_model(value: object) -> TypeGuard[type[PreTrainedModel]]:
    return isinstance(value, type) and issubclass(value, PreTrainedModel)


def _without_tags(value: Any) -> Any:
    """`value` with infinities as numbers: transformers writes them as {"__float__": "Infinity"}, JSON having none."""
    if isinstance(value, list):
        return [_without_tags(item) for item in value]
    if not isinstance(value, dict):
        return value
    tagged = value.get("__float__")
    if len(value) == 1 and tagged in _FLOATS:
        return float(tagged)
    return {key: _without_tags(item) for key, item in value.items()}


def _fitting(built: PretrainedConfig, model_class: type[PreTrainedModel], content: dict[str, Any]) -> PretrainedConfig:
    """The config of `model_class`: `built`, or the part of a composite one that the class stands for."""
    wanted = model_class.config_class
    registered = any(mapping.get(type(built), None) is model_class for mapping in _AUTO_CLASSES.values())
    if wanted is None or isinstance(built, wanted) or registered:
        return built
    parts = [part for key in built.sub_configs if isinstance(part := getattr(built, key, None), wanted)]
    if len(parts) == 1:
        return parts[0]
    message = f"names {model_class.__name__}, which is not for model type '{printable(content['model_type'])}'"
    raise InvalidCheckpointError(message, file="config.json")


def _custom(auto_map: Mapping[str, object], folder: Path) -> tuple[type[PreTrainedModel], PretrainedConfig]:
    """The checkpoint's own classes; the user has allowed their code."""
    with refusals("the checkpoint's own classes"):
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    reference = next((name for key, name in auto_map.items() if key.startswith("AutoModelFor")), auto_map.get("AutoModel"))
    if not isinstance(reference, str):
        raise InvalidCheckpointError("its auto_map names no model class", file="config.json")
    with refusals(reference):
        return get_class_from_dynamic_module(reference, folder), config


def _unknown_type(model_type: object, *, custom: bool) -> UsageError:
    version = transformers.__version__
    if custom:
        return UsageError("the model's code comes with the checkpoint", hint="--trust-remote-code runs it, if you trust its authors")
    if not isinstance(model_type, str):
        return UsageError("config.json names no model type, so that no class of transformers can be chosen", hint="add its model_type")
    known = did_you_mean(model_type, CONFIG_MAPPING.keys())
    return UsageError(f"transformers {version} knows no model type '{printable(model_type)}'", hint=known or "a newer one may")


def own_dtype(config: PretrainedConfig, stored: torch.dtype) -> torch.dtype:
    """The dtype that the config names, else that of the stored weights."""
    return config.dtype if isinstance(config.dtype, torch.dtype) else stored


def set_dtype(config: PretrainedConfig, dtype: torch.dtype) -> None:
    """Write `dtype` into the config and its parts, as from_pretrained does."""
    for part in (config, *(getattr(config, key) for key in config.sub_configs)):
        if part is not None:
            part.dtype = dtype


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return printable(" ".join(text.split()), limit=200)
