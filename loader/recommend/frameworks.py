"""What Python, torch, transformers and quantizers take themselves: measured here, or where the figures that are shipped come from."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ...configs import table
from ..cache_folder import cache_folder
from ..memory import Memory
from ..settings import Backend, QuantizationMethod
from ..writing import write_whole
from .sketch import PlanSketch
from .way import Way

_PACKAGES = ("torch", "transformers", "bitsandbytes", "hqq", "numba")
_SHIPPED = "configs/frameworks.json: measured on another machine; --verify measures this one"
# Weights from which on a quantizing loop is compiled, which takes numba.
_COMPILED_FROM = {
    QuantizationMethod.BNB_NF4: 100_000_000,
    QuantizationMethod.BNB_FP4: 100_000_000,
    QuantizationMethod.BNB_INT8: 300_000_000,
    QuantizationMethod.HQQ: 5_000_000,
}


@dataclass(frozen=True)
class Frameworks:
    """Bytes by what takes them."""

    sizes: Mapping[str, Mapping[str, object]]
    source: str

    def bytes_of(self, name: str) -> Memory:
        """What `name` takes."""
        found = self.sizes[name]
        return Memory(*(int(str(found.get(kind, 0))) for kind in ("anonymous", "mapped", "device")))

    def what(self, name: str) -> str:
        """In words."""
        return str(self.sizes[name].get("what", name))

    def source_of(self, names: Collection[str]) -> str:
        """Where the figures of `names` come from; what CUDA takes of the device itself is always as shipped."""
        return self.source + ("; cuda's own on the device as shipped" if "cuda" in names and self.source != _SHIPPED else "")

    def needed(self, way: Way, plan: PlanSketch) -> list[str]:
        """What is there while a model is loaded that way; `forward` comes later.

        Whether a loop is compiled, HQQ's goes by the weights that are quantized, the others by all of the model.
        """
        names = ["import"]
        if way.quantization is not None:
            method = way.quantization.method
            names.append("nf4" if method is QuantizationMethod.BNB_FP4 else method.value)
            weights = plan.quantized_weights if method is QuantizationMethod.HQQ else plan.weights
            if not way.on_device and weights >= _COMPILED_FROM.get(method, 1 << 62):
                names.append("numba")
        return names + (["cuda"] if way.backend is Backend.CUDA else [])


def known_frameworks() -> Frameworks:
    """As measured with these versions on this machine, else as shipped."""
    shipped, kept = table("frameworks"), kept_sizes()
    if not kept:
        return Frameworks(shipped, _SHIPPED)
    return Frameworks({name: {**line, **kept.get(name, {})} for name, line in shipped.items()}, f"measured on this machine, {_path()}")


def kept_sizes() -> dict[str, dict[str, int]]:
    """What was measured with these versions; nothing where that was never done, or what was written can't be read."""
    path = _path()
    if path is None or not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["versions"] != versions():
            return {}
        return {str(name): {kind: int(nbytes) for kind, nbytes in line.items()} for name, line in found["sizes"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def keep(sizes: Mapping[str, Mapping[str, int]]) -> None:
    """Remember what was measured, where there is a cache folder."""
    path = _path()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps({"versions": versions(), "sizes": sizes}, indent=2).encode() + b"\n")


@cache
def versions() -> dict[str, str | None]:
    """Of what was measured."""
    return {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _path() -> Path | None:
    folder = cache_folder("frameworks")
    return None if folder is None else folder / "frameworks.json"
