"""Tiny random checkpoints of every text model type in transformers, with the truth about each as torch sees it.

`python tests/zoo.py --out DIR` builds them all: DIR/<task>-<model_type>/ holds the checkpoint and truth.json.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import re
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from safetensors.torch import load_file
from torch import nn
from transformers import CONFIG_MAPPING, PretrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto
from zoo_blocks import activation, cache, cached_bytes, norm_type
from zoo_configs import KNOWN_FAILURES, quirks_of, tiny

TASKS: Final = {
    "causal": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "masked": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "seq2seq": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
}


@dataclass(frozen=True)
class Entry:
    """One model class that transformers registers for a task."""

    model_type: str
    task: str
    class_name: str


@dataclass(frozen=True)
class Truth:
    """What a checkpoint holds. All names are those of the tensors in its files."""

    kind: str
    stacks: tuple[tuple[str, int], ...]
    main_stack: str
    embedding: str | None
    norm: tuple[str, ...] | None
    head: str | None
    tied: bool
    num_layers: int
    hidden_size: int
    vocab_size: int
    experts: int
    parameters: int
    has_vision: bool
    has_audio: bool
    norm_type: str | None
    activation: str | None
    cache: dict[str, int | None] | None


def entries() -> tuple[Entry, ...]:
    """Return every registered (type, task) pair, in transformers' own order."""
    return tuple(
        Entry(model_type, task, name if isinstance(name, str) else name[0])
        for task, names in TASKS.items()
        for model_type, name in names.items()
    )


def tiny_config(entry: Entry) -> PretrainedConfig:
    """Return a small config of the entry's type that still has every kind of layer."""
    config = tiny(CONFIG_MAPPING[entry.model_type], quirks_of(entry.task, entry.model_type))
    wanted = getattr(transformers, entry.class_name).config_class
    if not isinstance(config, wanted):  # the class is the text part of a composite type
        parts = [getattr(config, key) for key in config.sub_configs]
        config = next((part for part in parts if isinstance(part, wanted)), config)
    if entry.task == "causal" and hasattr(config, "is_decoder"):
        config.is_decoder = True  # BERT and its kin are causal only when told so
    return config


# ---- models ----


def build(entry: Entry) -> PreTrainedModel:
    """Return the entry's model with weights that differ everywhere, so that a tensor is known by its content."""
    torch.manual_seed(0)
    model = getattr(transformers, entry.class_name)(tiny_config(entry))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            stored = name not in (model._keys_to_ignore_on_save or ())  # Marian's sinusoids are computed, not stored
            if parameter.is_floating_point() and stored:  # noise around the class's own values: norms stay near one
                parameter += torch.empty_like(parameter).uniform_(-0.2, 0.2)
    return model.eval()


def save(model: PreTrainedModel, folder: Path) -> None:
    """Write the checkpoint as transformers does, names and layouts converted by it."""
    model.save_pretrained(folder)


def _codebooks(model: PreTrainedModel, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"input_ids": ids.repeat(model.config.num_codebooks, 1)}


def _spectrogram(_: PreTrainedModel, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return 8 mel bands of 8 frames a token: the audio is added to the text's embeddings."""
    return {"input_features": torch.linspace(-1, 1, 64 * ids.shape[1]).view(1, 8, -1)}


# By model type: what a forward needs instead of plain token ids, or beside them.
EXTRA_INPUTS: Final[dict[str, Callable[[PreTrainedModel, torch.Tensor], dict[str, torch.Tensor]]]] = {
    "musicgen": _codebooks,
    "musicgen_melody": _codebooks,
    "voxtral_realtime": _spectrogram,
}


def inputs_of(model: PreTrainedModel, entry: Entry, ids: torch.Tensor) -> dict[str, Any]:
    accepted = inspect.signature(model.forward).parameters
    kwargs: dict[str, Any] = {"input_ids" if "input_ids" in accepted else "inputs": ids}
    if model.config.is_encoder_decoder:
        kwargs["decoder_input_ids"] = ids
    if "use_cache" in accepted:
        kwargs["use_cache"] = False
    extra = EXTRA_INPUTS.get(entry.model_type)
    return kwargs | (extra(model, ids) if extra else {})


def run(model: PreTrainedModel, entry: Entry, *, change_at: int | None = None) -> torch.Tensor:
    """Return the logits of a tiny forward over token ids, one of them another on demand."""
    ids = torch.arange(20, 28)[None]
    if change_at is not None:
        ids[0, change_at] = 60
    torch.manual_seed(0)  # hashing attentions draw random numbers
    with torch.no_grad():
        output = model(**inputs_of(model, entry, ids))
    return output.logits if "logits" in output else output[0]


# ---- the truth ----

SMALL: Final = 1e-4  # of the largest change: less than this is rounding


class Stored:
    """The tensors in a checkpoint's files, found by content."""

    def __init__(self, folder: Path) -> None:
        self.names: dict[object, list[str]] = defaultdict(list)
        for file in sorted(folder.glob("*.safetensors")):
            for name, tensor in load_file(file).items():
                self.names[self._key(tensor)].append(name)

    @staticmethod
    def _key(tensor: torch.Tensor) -> object:
        return tuple(tensor.shape), tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()

    def find(self, tensor: torch.Tensor, like: str = "") -> str | None:
        """Return the name of the stored tensor with this content, as it is or transposed; `like` decides between equals."""
        views = [tensor] + ([tensor.T] if tensor.ndim == 2 else []) + ([tensor[0]] if tensor.ndim == 3 else [])
        found = next((names for view in views if (names := self.names.get(self._key(view)))), [])
        return like if like in found else found[0] if found else None


def _is_stack(modules: nn.ModuleList) -> bool:
    """Tell a stack of layers from other lists: its children are made of parts, and every one has a matrix of its own.

    That leaves out lists of plain embeddings, norms or heads (leaves). Lists of experts, adapters and convolutions lie
    inside a layer, so that taking the outermost lists leaves them out too.
    """
    return len(modules) > 0 and all(
        any(True for _ in child.children()) and any(p.ndim >= 2 for p in child.parameters()) for child in modules
    )


def layer_stacks(model: nn.Module) -> dict[str, nn.ModuleList]:
    """Return the outermost lists of layers by their module names."""
    stacks: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in stacks)
        if isinstance(module, nn.ModuleList) and not inside and _is_stack(module):
            stacks[name] = module
    return stacks


def _file_prefix(layers: nn.ModuleList, stored: Stored) -> str:
    """Return what precedes the layer's index in the stored names: of all numbered prefixes, the one of most tensors.

    Every layer must have an index of its own there; of two prefixes that hold the same tensors the outer one counts.
    """
    owners = Counter(id(p) for layer in layers for p in set(layer.parameters()))
    indexes: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    tensors: Counter[str] = Counter()
    for position, layer in enumerate(layers):
        # A parameter that layers share is stored under one of them only, so it says nothing about the others.
        for name in filter(None, (stored.find(p) for p in layer.parameters() if owners[id(p)] == 1)):
            for number in re.finditer(r"\.(\d+)(?=\.)", name):
                prefix = name[: number.start()]
                indexes[prefix][position].add(number[1])
                tensors[prefix] += 1
    distinct = [p for p, seen in indexes.items() if len(set.union(*seen.values())) == sum(map(len, seen.values())) == len(seen)]
    return max(distinct, key=lambda prefix: (tensors[prefix], -len(prefix)), default="")


def _ended(model: PreTrainedModel, entry: Entry) -> list[str]:
    """Return the names of the modules that a forward calls, in the order in which they end."""
    ended: list[str] = []
    handles = [module.register_forward_hook(lambda *_, name=name: ended.append(name)) for name, module in model.named_modules()]
    run(model, entry)
    for handle in handles:
        handle.remove()
    return ended


def _holds(outer: str, name: str) -> bool:
    return not outer or name.startswith(f"{outer}.")


def _main_stack(model: PreTrainedModel, stacks: Mapping[str, nn.ModuleList], ended: list[str]) -> str:
    """Return the stack that makes the text: of those that ran, the decoder's (the last), else the one with most weights."""
    times = {stack: [i for i, name in enumerate(ended) if _holds(stack, name)] for stack in stacks}
    ran = {stack: when for stack, when in times.items() if when}
    if model.config.is_encoder_decoder:
        return max(ran, key=lambda stack: ran[stack][-1])
    main = max(ran, key=lambda stack: (sum(p.numel() for p in stacks[stack].parameters()), ran[stack][-1]))
    # XLM keeps attentions and feed-forwards in lists side by side: halves of the same layers, named by the first half.
    beside = [stack for stack in ran if stack.rpartition(".")[0] == main.rpartition(".")[0]]
    return next((stack for stack in beside if ran[stack][0] < ran[main][0] < ran[stack][-1]), main)


def _is_norm(module: nn.Module) -> bool:
    leaf = not any(True for _ in module.children())
    return leaf and "norm" in type(module).__name__.lower() and any(True for _ in module.parameters())


def _final_norm(model: PreTrainedModel, main: str, ended: list[str]) -> str | None:
    """Return the last norm that ran after the stack and stands beside it, in the innermost model around the stack.

    Beside it: the module that holds the norm holds the stack too, so it is no layer's and of no part that follows. The
    innermost PreTrainedModel (BertModel, T5Stack) leaves out the head's transform.
    """
    modules = dict(model.named_modules())
    around = max((n for n, m in modules.items() if isinstance(m, PreTrainedModel) and _holds(n, main)), key=len)
    start = max(i for i, name in enumerate(ended) if _holds(main, name))
    norms = [name for name in ended[start:] if _is_norm(modules[name]) and _holds(around, name)]
    return next((name for name in reversed(norms) if _holds(name.rpartition(".")[0], main)), None)


def _table(module: nn.Module | None) -> torch.Tensor | None:
    """Return the weight of an embedding or head, whatever it is wrapped in."""
    if module is None:
        return None
    weight = getattr(module, "weight", None)
    matrices = [p for p in module.parameters() if p.ndim == 2]
    return weight if isinstance(weight, torch.Tensor) else max(matrices, key=torch.numel, default=None)


def _tables(model: nn.Module) -> list[torch.Tensor]:
    return [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]


def _state_name(model: nn.Module, tensor: torch.Tensor | None) -> str:
    return next((n for n, p in model.named_parameters(remove_duplicate=False) if p is tensor), "")


def _embedding(model: PreTrainedModel) -> torch.Tensor:
    """Return the table of the tokens: the model's own answer, or the first embedding if it has none (Perceiver)."""
    own = model.get_input_embeddings()
    return _table(own) if isinstance(own, nn.Module) else _tables(model)[0]


def _head(model: PreTrainedModel, ended: list[str]) -> nn.Module | None:
    """Return the head: the model's own answer, unless that is an embedding while a Linear with a weight of its own ran last (FSMT)."""
    own = model.get_output_embeddings()
    if not isinstance(own, nn.Embedding):
        return own
    modules = dict(model.named_modules())
    linears = [modules[name] for name in ended if isinstance(modules[name], nn.Linear) and modules[name].out_features == own.num_embeddings]
    return linears[-1] if linears else own


def _experts(layers: nn.Module) -> int:
    """Return the number of routed experts that have all their weights: listed, stacked, or said by the module itself."""
    counts = [0]
    for name, module in layers.named_modules():
        if not re.search("expert", f"{name.rpartition('.')[2]} {type(module).__name__}", re.IGNORECASE):
            continue
        if isinstance(module, nn.ModuleList | nn.ModuleDict):
            counts.append(sum(any(True for _ in child.parameters()) for child in module.children()))
        stacked = [p.shape[0] for p in module.parameters(recurse=False) if p.ndim == 3]
        counts.append(min(stacked, default=getattr(module, "moe_num_experts", 0)))
    return max(counts)


def _first_width(layers: nn.Module) -> int:
    """Return the length of the stack's first vector, for the types whose config names no single hidden size."""
    return next(p.numel() for p in layers.parameters() if p.ndim == 1)


def _accepts(model: PreTrainedModel, pattern: str) -> bool:
    return any(re.search(pattern, name) for name in inspect.signature(model.forward).parameters)


def _change(model: PreTrainedModel, entry: Entry, position: int) -> torch.Tensor:
    """Return how much the logits of each position change with the token at one position."""
    change = (run(model, entry) - run(model, entry, change_at=position)).abs()
    return change.movedim(-2, 0).flatten(1).amax(1)


def _kind(model: PreTrainedModel, entry: Entry, has_vision: bool) -> str:
    if model.config.is_encoder_decoder:
        return "seq2seq"
    if has_vision:
        return "vision-language"
    forward, backward = _change(model, entry, 0), _change(model, entry, -1)
    if forward[1:].max() < SMALL * forward.max():  # MRA attends with a CUDA kernel, and to nothing without it
        return "encoder-only" if entry.task == "masked" else "decoder-only"
    return "encoder-only" if backward[:-1].max() > SMALL * backward.max() else "decoder-only"


def judge(entry: Entry, model: PreTrainedModel, folder: Path) -> Truth:
    """Return the truth about a saved model: by running it, and by finding its parameters in the files by content."""
    stored, stacks = Stored(folder), layer_stacks(model)
    ended = _ended(model, entry)
    main = _main_stack(model, stacks, ended)
    layers = stacks[main]
    norm = _final_norm(model, main, ended)
    embedding, head = _embedding(model), _table(_head(model, ended))
    # Without a head's module the embedding itself must have made the logits (Perceiver).
    tied = head is None or any(head is table for table in (embedding, *_tables(model)))
    has_vision = _accepts(model, "pixel_values|image_patches")
    return Truth(
        kind=_kind(model, entry, has_vision),
        stacks=tuple((_file_prefix(layers, stored), len(layers)) for layers in stacks.values()),
        main_stack=_file_prefix(layers, stored),
        embedding=stored.find(embedding, _state_name(model, embedding)),
        norm=(stored.find(next(model.get_submodule(norm).parameters())),) if norm else None,
        head=None if tied else stored.find(head, _state_name(model, head)),
        tied=tied,
        num_layers=len(layers),
        hidden_size=getattr(model.config.get_text_config(decoder=True), "hidden_size", None) or _first_width(layers),
        vocab_size=run(model, entry).shape[-1],
        experts=_experts(layers),
        parameters=sum(p.numel() for p in model.parameters()),
        has_vision=has_vision,
        has_audio=_accepts(model, "input_features|input_values"),
        norm_type=norm_type(model, main, lambda: run(model, entry)),
        activation=activation(model, main, lambda: run(model, entry)),
        cache=_cache(model, entry),
    )


def _cache(model: PreTrainedModel, entry: Entry) -> dict[str, int | None] | None:
    """Return what the cache of a causal model keeps, for the types that transformers caches for."""
    if entry.task != "causal" or entry.model_type == "blt":  # whose cache wants a config that it lacks
        return None

    def bytes_at(length: int) -> int:
        with torch.no_grad():
            return cached_bytes(model(**inputs_of(model, entry, torch.arange(20, 20 + length)[None]) | {"use_cache": True}))

    return cache(bytes_at)


# ---- building all of them ----


def make(entry: Entry, out: Path) -> Iterator[str]:
    """Build, run, save and judge one entry below `out`; yield each step's name before it is taken."""
    folder = out / f"{entry.task}-{entry.model_type}"
    yield "instantiate"
    model = build(entry)
    yield "run"
    run(model, entry)
    yield "save"
    save(model, folder)
    yield "judge"
    truth = judge(entry, model, folder)
    (folder / "truth.json").write_text(json.dumps(asdict(entry) | asdict(truth), indent=1))


def _child(entry: Entry, out: Path, write: int, seconds: int) -> None:
    """Make the entry in this process, report the step that failed, and leave."""
    signal.alarm(seconds)
    step = ""
    try:
        for step in make(entry, out):  # noqa: B007 - the last step begun is what the report names
            pass
    except BaseException as error:  # noqa: BLE001 - whatever befalls one type is a line of the report
        os.write(write, f"cannot {step}: {type(error).__name__}: {' '.join(str(error).split())[:300]}".encode())
    os._exit(0)  # no clean-up of what the parent shares


def make_isolated(entry: Entry, out: Path, seconds: int = 60) -> str:
    """Make one entry in a forked process, so that nothing it does touches the next; return why it failed, or nothing."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(entry, out, write, seconds)
    os.close(write)
    with open(read, "rb") as pipe:
        message = pipe.read().decode()
    status = os.waitpid(pid, 0)[1]
    return message or (f"died of signal {status}" if status else "")


def main() -> int:
    """Build the zoo; return 1 if a type failed that is not known to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[], help="model types, or task-type")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    wanted = [e for e in entries() if not options.only or {e.model_type, f"{e.task}-{e.model_type}"} & set(options.only)]
    failed = {entry: reason for entry in wanted if (reason := make_isolated(entry, options.out))}
    lines = [f"{e.task}-{e.model_type}: {reason} [{KNOWN_FAILURES.get(e.model_type, 'NEW')}]" for e, reason in failed.items()]
    absent = sum(reason.startswith("cannot instantiate") for reason in failed.values())
    lines.append(f"{len(wanted) - absent} of {len(wanted)} instantiated, {len(wanted) - len(failed)} judged")
    sys.stdout.write("\n".join(lines) + "\n")
    return int(any(entry.model_type not in KNOWN_FAILURES for entry in failed))


if __name__ == "__main__":
    sys.exit(main())
