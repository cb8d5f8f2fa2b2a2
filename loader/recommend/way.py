"""A way to load: where to, in which precision, by which strategy. What `mlload load` can do, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..settings import Backend, LoadingStrategy, ModelLoadingConfig, QuantizationConfig


@dataclass(frozen=True, slots=True)
class Way:
    """`devices`: one, or several that share the model. `resident`: bytes of weights that streaming keeps. `offload`: weights stay on
    the host.

    `loss`: the error of its weights against the stored ones, relative to their size.
    """

    backend: Backend
    devices: tuple[str, ...]
    dtype: str
    strategy: LoadingStrategy
    quantization: QuantizationConfig | None = None
    resident: int | None = None
    offload: bool = False
    loss: float = 0.0

    @property
    def on_device(self) -> bool:
        """Whether the weights leave the host's memory."""
        return self.backend is not Backend.CPU

    @property
    def is_streamed(self) -> bool:
        """Whether weights are read again for every token, as far as they are not kept."""
        return self.strategy is LoadingStrategy.STREAMING

    @property
    def precision(self) -> str:
        """As people say it: `bfloat16`, `nf4`, `hqq with 3 bits`."""
        if self.quantization is None:
            return self.dtype
        bits = self.quantization.bits
        return self.quantization.method.value + ("" if bits is None else f" with {bits} bits")

    @property
    def manner(self) -> str:
        """The strategy as `--strategy` takes it, or `offload`."""
        return "offload" if self.offload else self.strategy.value.replace("_", "-")

    @property
    def label(self) -> str:
        """Precision, place and manner."""
        return f"{self.precision} on {'+'.join(self.devices)}, {self.manner}"

    def settings(self, reference: str, *, attention: str | None = None, rooms: Mapping[str, int] | None = None) -> ModelLoadingConfig:
        """What `mlload load` is to be asked for. `rooms`: bytes of weights for each of several devices."""
        over_devices = len(self.devices) > 1
        return ModelLoadingConfig(
            reference,
            backend=self.backend,
            device=None if over_devices else self.devices[0],
            dtype=self.dtype,
            loading_strategy=None if over_devices or self.offload else self.strategy,
            quantization_config=self.quantization,
            resident=None if self.offload else self.resident,
            offload_to_cpu=self.offload,
            max_memory={name: room for name, room in rooms.items()} if over_devices and rooms else None,
            attn_implementation=attention,
            trim=not self.on_device,  # as the forward's memory is predicted
        )
