"""What spans files: the index against the shards, the config against the tensors, the declared against the found."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .architecture import Stack
from .architecture.config_view import ConfigView
from .checkpoint import Checkpoint
from .config_sizes import size_problems
from .layout import is_numbered, is_read_in_series
from .problems import Problem, first_few

_MOST_NAMED = 5  # missing layers, before the rest are only hinted at
_BLOCK = re.compile(r"attn|attention|mlp")  # what a layer is made of, numbered or not


def find_problems(checkpoint: Checkpoint) -> tuple[Problem, ...]:
    """Everything that is wrong or odd in a checkpoint whose files are whole each by itself."""
    return (*checkpoint.reading_problems, *_spanning_problems(checkpoint))


def _spanning_problems(checkpoint: Checkpoint) -> Iterator[Problem]:
    if checkpoint.index is not None:
        yield from _index_problems(checkpoint)
        yield from _total_size_problem(checkpoint)
    elif len(checkpoint.shards) > 1 and not is_read_in_series(checkpoint.shards[0]):
        yield Problem("warning", "no-index", f"{len(checkpoint.shards)} shards without an index: all of them were read")
    yield from _split_problem(checkpoint)
    yield from _count_problem(checkpoint)
    if checkpoint.config is None and checkpoint.adapter is None:
        yield Problem("warning", "no-config", "there is no config.json: the architecture was told from tensor names")
    elif checkpoint.config is not None:
        yield from _config_problems(checkpoint, ConfigView(checkpoint.config))
    yield from _quantization_problem(checkpoint)


def _index_problems(checkpoint: Checkpoint) -> Iterator[Problem]:
    """Every name of the index in the shard it names, and no tensor that the index does not know."""
    present, weight_map = set(checkpoint.shards), checkpoint.weight_map
    tensors = checkpoint.tensors
    message = "the index puts it in this shard, which does not hold it"
    missing = ((name, shard) for name, shard in weight_map.items() if shard in present and name not in tensors)
    yield from first_few(Problem("error", "missing-tensor", message, file=shard, tensor=name) for name, shard in missing)
    message = "the index puts it in this shard, but it stands in another"
    moved = ((name, shard) for name, shard in weight_map.items() if name in tensors and tensors[name].file != shard)
    yield from first_few(Problem("error", "wrong-shard", message, file=shard, tensor=name) for name, shard in moved)
    message = "the shard holds it, but the index does not list it"
    unlisted = (tensor for name, tensor in tensors.items() if name not in weight_map)
    yield from first_few(Problem("warning", "unlisted-tensor", message, file=tensor.file, tensor=tensor.name) for tensor in unlisted)


def _total_size_problem(checkpoint: Checkpoint) -> Iterator[Problem]:
    # Ties stored once may be counted twice by the writer, so a file's own sum is compared with and without them.
    total_size = checkpoint.total_size
    everything = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    once = everything - sum(checkpoint.tensors[name].nbytes for name in checkpoint.shared)
    if total_size is None or total_size in (everything, once):
        return
    if isinstance(total_size, float) and total_size in (float(everything), float(once)):
        return
    said = total_size if isinstance(total_size, int | float | str) else f"a {type(total_size).__name__} for the"
    yield Problem("warning", "total-size", f"the index says {said} bytes in all, the shards hold {everything:,}", file=checkpoint.index)


def _split_problem(checkpoint: Checkpoint) -> Iterator[Problem]:
    """Parts of a GGUF file that its metadata tells of, where its name does not."""
    count, present = checkpoint.metadata.get("split.count"), len(checkpoint.shards)
    if type(count) is int and count > present and not any(problem.code == "missing-shard" for problem in checkpoint.reading_problems):
        message = f"it is one of {count:,} parts by its split.count, but {present} {'is' if present == 1 else 'are'} there"
        yield Problem("error", "missing-shard", message, file=checkpoint.shards[0])


def _count_problem(checkpoint: Checkpoint) -> Iterator[Problem]:
    if not checkpoint.tensors:
        yield Problem("error", "no-tensors", "the weights hold no tensor at all", file=checkpoint.shards[0])


def _config_problems(checkpoint: Checkpoint, view: ConfigView) -> Iterator[Problem]:
    """Layer count and sizes of the config against the tensors."""
    structure = checkpoint.architecture.structure
    declared = view.integer("num_hidden_layers")
    alone = [stack for stack in structure.stacks if stack.modality == "text" and not stack.side] == [structure.main]
    # The one layer of an EAGLE draft has a name instead of a number.
    named = not structure.stacks and any(_BLOCK.search(name) for name in checkpoint.tensors)
    if declared and not structure.stacks and checkpoint.tensors and not named:
        yield Problem("error", "layer-count", f"no layers are stored, but the config's num_hidden_layers is {declared:,}")
    # With several stacks, or layers that are used again and again, num_hidden_layers counts something else.
    whole = checkpoint.index is not None or not is_numbered(checkpoint.shards[0]) or len(checkpoint.shards) > 1
    if structure.main is not None and declared is not None and alone and whole and view.get("num_hidden_groups") is None:
        yield from _layer_problems(structure.main, declared, view.integer("num_nextn_predict_layers") or 0)
    yield from size_problems(checkpoint, view)


def _layer_problems(stack: Stack, declared: int, predicting: int) -> Iterator[Problem]:
    """Gaps in the numbering and fewer layers than declared are errors; more are odd unless they predict further tokens."""
    prefix, indexes = stack.prefix, list(stack.layers)
    stored = set(indexes)
    if predicting and min(indexes) >= declared:  # the layers that predict further tokens, stored for themselves
        return
    # Of the numbers one more than are stored must hold a gap if there is any: a layer numbered 999,999,999 costs nothing.
    missing = [number for number in range(min(declared, max(indexes) + 1, len(stored) + _MOST_NAMED + 1)) if number not in stored]
    if missing:
        numbers = ", ".join(map(str, missing[:_MOST_NAMED])) + (" ..." if len(missing) > _MOST_NAMED else "")
        yield Problem("error", "missing-layers", f"{prefix}: layers {numbers} are not stored")
    if max(indexes) + 1 < declared:
        yield Problem(
            "error", "layer-count", f"{prefix}: the last layer stored is {max(indexes)}, but the config's num_hidden_layers is {declared:,}"
        )
    elif max(indexes) + 1 > declared + predicting:
        yield Problem(
            "warning",
            "extra-layers",
            f"{prefix}: the last layer stored is {max(indexes)}, but the config's num_hidden_layers is {declared:,}",
        )


def _quantization_problem(checkpoint: Checkpoint) -> Iterator[Problem]:
    found = checkpoint.quantization
    if found is not None and found.declared is not None and not found.quantized_tensors and not checkpoint.parameters.at_load:
        message = f"the config declares {found.declared} quantization, but no tensor is stored that way"
        yield Problem("warning", "quantization-not-found", message, file="config.json")
