"""Meta's original checkpoints: parts of which each holds a slice of every tensor, and params.json in place of config.json.

The table configs/meta.json says along which axis a module's matrix is cut (`axes`: 0 where each part gives some of the outputs, 1
where it takes some of the inputs) and which key of params.json each key of config.json comes from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..configs import table
from .problems import Problem, first_few
from .tensors import FileHeader, Sliced, TensorEntry

_WHOLE = ("norm", "rope")  # words in the names of the vectors that every part holds whole


def join_parts(headers: Sequence[FileHeader]) -> tuple[dict[str, TensorEntry], list[Problem]]:
    """The whole tensors whose slices the headers hold, each with its parts as its arrangement, and what does not fit together.

    The rows of `wq` and `wk` stay in Meta's order, in which the two numbers that rotary embedding turns together are neighbours.
    """
    slices: dict[str, list[TensorEntry]] = {}
    for header in headers:
        for tensor in header.tensors:
            slices.setdefault(tensor.name, []).append(tensor)
    norm = slices.get("norm.weight", [None])[0]
    hidden_size = norm.shape[0] if norm is not None and norm.shape else None
    tensors: dict[str, TensorEntry] = {}
    missing: list[Problem] = []
    odd: list[Problem] = []
    for name, parts in slices.items():
        first, axis = parts[0], _axis(parts[0], hidden_size)
        tensors[name] = first if axis is None or not _fit(parts, axis) else _joined(parts, axis)
        if len(parts) < len(headers):
            message = f"only {len(parts)} of the {len(headers)} parts hold a slice of it"
            missing.append(Problem("error", "missing-tensor", message, file=first.file, tensor=name))
        if axis is None and not any(word in name for word in _WHOLE):
            message = "how its slices fit together is not known: the first is shown"
            odd.append(Problem("warning", "unknown-slices", message, file=first.file, tensor=name))
        elif not _fit(parts, axis):
            odd.append(Problem("error", "slices", "its slices differ in dtype or shape: the first is shown", file=first.file, tensor=name))
    return tensors, [*first_few(missing), *first_few(odd)]


def _axis(tensor: TensorEntry, hidden_size: int | None) -> int | None:
    """Along which axis a tensor is cut; None for vectors, which each part holds whole, and for modules that are not known."""
    module = tensor.name.removesuffix(".weight").rpartition(".")[2]
    if len(tensor.shape) != 2:
        return None
    if module == "tok_embeddings":  # by columns up to Llama 2, by rows since Llama 3
        return 0 if tensor.shape[1] == hidden_size else 1
    return table("meta")["axes"].get(module)


def _fit(parts: Sequence[TensorEntry], axis: int | None) -> bool:
    """Whether the parts are of one dtype, and of one shape but for their size along the axis."""
    alike = {(part.dtype, tuple(size for number, size in enumerate(part.shape) if number != axis), len(part.shape)) for part in parts}
    return len(alike) == 1


def _joined(parts: Sequence[TensorEntry], axis: int) -> TensorEntry:
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    nbytes = sum(part.nbytes for part in parts)
    return parts[0]._replace(shape=tuple(shape), nbytes=nbytes, arrangement=Sliced(axis, tuple(parts)))


def config_from_params(params: Mapping[str, object], tensors: Mapping[str, TensorEntry]) -> dict[str, object]:
    """What params.json says under the keys of config.json; the sizes that it leaves out or to the tokenizer (-1) are the tensors'."""
    # Mistral gives the feed-forward's width, Meta only what it is a multiple of.
    model_type = "llama" if "hidden_dim" not in params else "mixtral" if "moe" in params else "mistral"
    config: dict[str, object] = {"model_type": params.get("model_type", model_type)}
    for name, key in table("meta")["config"].items():
        if params.get(key) not in (None, -1):
            config[name] = params[key]
    for name, tensor in {"intermediate_size": "layers.0.feed_forward.w1.weight", "vocab_size": "output.weight"}.items():
        if tensor in tensors and tensors[tensor].shape:
            config.setdefault(name, tensors[tensor].shape[0])
    if params.get("use_scaled_rope") is True:
        config["rope_scaling"] = table("meta")["scaled_rope"] | {"factor": params.get("rope_scaling_factor") or 8.0}
    return config | {"tie_word_embeddings": "output.weight" not in tensors}
