"""What the layers of a zoo model are made of and what its cache keeps, as seen while it runs: the names of its parts decide nothing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers.activations import ACT2CLS

Tensors = Mapping[str, Any]

# What each function makes of 1 and 2, and what a block with it is called: plain, gated.
FUNCTIONS: Final = {
    (0.7311, 1.7616): ("SiLU", "SwiGLU"),
    (0.8413, 1.9545): ("GELU", "GeGLU"),
    (0.8412, 1.9546): ("GELUTanh", "GeGLU"),
    (0.8458, 1.9357): ("GELU", "GeGLU"),  # the quick one
    (1.0, 2.0): ("ReLU", "ReGLU"),
    (1.0, 4.0): ("ReLU2", "other"),
}
_CLASSES: Final = tuple({entry[0] if isinstance(entry, tuple) else entry for entry in ACT2CLS.values()})
_PRODUCTS: Final = (torch.mul, torch.Tensor.mul, torch.Tensor.mul_, torch.Tensor.__mul__, torch.Tensor.__rmul__)
_SAME: Final = (torch.Tensor.to, torch.Tensor.contiguous, functional.dropout)
_MIXERS: Final = re.compile(r"attention\b|self_attn|linear_attn|mixer|mamba|conv|indexer|compressor|laurel|per_layer")


def norm_type(model: nn.Module, main: str, forward: Callable[[], object]) -> str | None:
    """LayerNorm if the norms of the residual stream don't see a constant added to all they are given, RMSNorm if they do."""
    seen: dict[str, tuple[int, str]] = {}

    def watch(name: str, module: nn.Module) -> Any:
        def hook(_: nn.Module, args: tuple[torch.Tensor, ...], kwargs: Tensors, output: torch.Tensor) -> None:
            given = args[0] if args else next(iter(kwargs.values()))
            if len(args) < 2 and name not in seen:
                moved = module.forward(given + 3, **(kwargs if args else {}))
                seen[name] = (given.shape[-1], "LayerNorm" if torch.allclose(moved, output, atol=1e-3) else "RMSNorm")

        return module.register_forward_hook(hook, with_kwargs=True)

    norms = {name: module for name, module in model.named_modules() if name.startswith(f"{main}.") and _is_norm(name, module)}
    handles = [watch(name, module) for name, module in norms.items()]
    with torch.no_grad():
        forward()
    for handle in handles:
        handle.remove()
    widest = max((width for width, _ in seen.values()), default=0)
    return next(iter(Counter(kind for width, kind in seen.values() if width == widest)), None)


def _is_norm(name: str, module: nn.Module) -> bool:
    own = type(module).__name__.lower()
    return "norm" in own and own != "nonorm" and not any(True for _ in module.children()) and not re.search(r"indexer|hyper|\bhc", name)


class _Watch(TorchFunctionMode):
    """Remembers which activations were called, by module, and whether what they gave was multiplied with something like it."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = [""]
        self.activations: set[str] = set()  # modules, which tell more than the functions that they call
        self.came_from: dict[int, tuple[str, str, str]] = {}
        self.gated: dict[tuple[str, str, str], bool] = {}
        self._kept: list[object] = []  # so that no id is given twice

    def leave(self) -> None:
        self.inside.pop()

    def mark(self, output: object, name: str, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        at = function(torch.tensor([1.0, 2.0])).tolist()
        words = next(
            (words for values, words in FUNCTIONS.items() if all(abs(a - b) < 6e-5 for a, b in zip(at, values, strict=True))), None
        )
        if words is not None and id(output) not in self.came_from:
            self.came_from[id(output)] = (name, *words)
            self.gated.setdefault((name, *words), False)
            self._kept.append(output)

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in _PRODUCTS:
            for one, other in (args[:2], args[1::-1]):
                tensor = isinstance(other, torch.Tensor) and not isinstance(other, nn.Parameter)
                if id(one) in self.came_from and tensor and other.shape == one.shape:
                    self.gated[self.came_from[id(one)]] = True
        elif func in _SAME and id(args[0]) in self.came_from:
            self.came_from[id(output)] = self.came_from[id(args[0])]
            self._kept.append(output)
        elif func in (functional.silu, functional.gelu, functional.relu) and self.inside[-1] not in self.activations:
            with torch._C.DisableTorchFunction():
                self.mark(output, self.inside[-1], lambda x: func(x, **{k: v for k, v in (kwargs or {}).items() if k == "approximate"}))
        return output


def activation(model: nn.Module, main: str, forward: Callable[[], object]) -> str | None:
    """The feed-forward block's activation, None where it is written out in the model's own code."""
    watch, handles = _Watch(), []
    for name, module in model.named_modules():
        if not name.startswith(f"{main}.") or "gate_act" in name:
            continue
        if isinstance(module, _CLASSES) and not any(True for _ in module.parameters()):
            watch.activations.add(name)
            handles.append(module.register_forward_hook(lambda m, _, output, name=name: watch.mark(output, name, m.forward)))
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: watch.inside.append(name)))
        handles.append(module.register_forward_hook(lambda *_: watch.leave()))
    with torch.no_grad(), watch:
        forward()
    for handle in handles:
        handle.remove()
    found = {key: gated for key, gated in watch.gated.items() if not _MIXERS.search(key[0])}
    return next((key[2] if gated else key[1] for key, gated in sorted(found.items(), key=lambda item: not item[1])), None)


def cache(bytes_at: Callable[[int], int]) -> dict[str, int | None] | None:
    """Bytes a token while no window is full, bytes a token for ever, and the window; None for a model without such a cache."""
    if not bytes_at(7):
        return None
    each, full = bytes_at(7) - bytes_at(6), bytes_at(41) - bytes_at(40)
    # The window counts the token at hand, which needs no room in the cache.
    return {"each": each, "full": full, "window": (bytes_at(40) - 40 * full) // (each - full) + 1 if each > full else None}


def cached_bytes(output: Any) -> int:
    """Bytes of keys and values, an indexer's too, in what a forward gave back."""
    past = getattr(output, "past_key_values", None)
    layers = getattr(getattr(past, "self_attention_cache", past), "layers", ())
    kept = [getattr(layer, part, None) for layer in layers for part in ("keys", "values", "indexer_keys")]
    return sum(tensor.numel() * tensor.element_size() for tensor in kept if isinstance(tensor, torch.Tensor))
