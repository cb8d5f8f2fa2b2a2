"""What a user asks of loading: the model, the backend, the strategy, the precision. Data only; nothing here imports torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from os import PathLike
from typing import TYPE_CHECKING, TypeVar

from .errors import UsageError
from .text import did_you_mean, printable

if TYPE_CHECKING:
    import torch

_SIZE = re.compile(r"(?P<number>\d{1,15}(\.\d{1,6})?)\s*(?P<prefix>[kmgtKMGT]?)(?P<binary>i?)[bB]?")
_DEVICE = re.compile(r"(?P<other>cpu|mps)|cuda|(cuda:)?(?P<number>\d{1,3})")
_WORDS = {"LoadingStrategy": "strategy", "CacheMode": "cache mode", "QuantizationMethod": "quantization method"}
Choice = TypeVar("Choice", bound=Enum)


class Backend(Enum):
    """What computes."""

    CUDA = "cuda"
    MPS = "mps"
    MLX = "mlx"
    CPU = "cpu"


class LoadingStrategy(Enum):
    """When weights are read, and where they stay.

    FULL: all at once, to the device; on a CPU the files' own pages where nothing has to change. LOW_MEMORY: one unit after the other,
    each step alone; with several ranks, rank 0 loads to the CPU and the others get a model on the meta device. UNIFIED_MEMORY: as FULL,
    where device and host share memory. STREAMING: a unit at its first access, within `resident` bytes.
    """

    FULL = "full"
    LOW_MEMORY = "low_memory"
    UNIFIED_MEMORY = "unified_memory"
    STREAMING = "streaming"


class QuantizationMethod(Enum):
    """How weights are made smaller; AUTO leaves that, and whether they are, to what fits in memory."""

    BNB_NF4 = "nf4"
    BNB_FP4 = "fp4"
    BNB_INT8 = "int8"
    HQQ = "hqq"
    MLX_INT4 = "mlx_int4"
    MLX_INT8 = "mlx_int8"
    AUTO = "auto"  # the best precision that fits

    @property
    def is_for_mlx(self) -> bool:
        """Whether it is MLX's own."""
        return self in (QuantizationMethod.MLX_INT4, QuantizationMethod.MLX_INT8)


class CacheMode(Enum):
    """What becomes of weights that are quantized while loading: kept for the next load and taken from there, neither, or only taken."""

    ON = "on"
    OFF = "off"
    ONLY = "only"


class Head(Enum):
    """What the model has on top: OWN is what the checkpoint's own class has, NONE the plain model.

    A head that the checkpoint does not hold is never made up: without it the plain model is taken, or the checkpoint's own class.
    """

    OWN = "own"
    NONE = "none"
    MASKED_LM = "masked-lm"
    CAUSAL_LM = "causal-lm"
    SEQ2SEQ_LM = "seq2seq-lm"


@dataclass(frozen=True)
class QuantizationConfig:
    """A method and its parameters; what is None takes the method's own default.

    `group_size`: weights that share one scale (64). `axis`: HQQ's, along which groups lie: 0 or 1. `compute_dtype`: of the arithmetic on
    dequantized weights. `quant_storage`: dtype that packed 4-bit weights are kept in. `double_quant`: scales quantized too.
    `skip_modules`: left as they are.
    """

    method: QuantizationMethod
    bits: int | None = None
    group_size: int | None = None
    axis: int = 1
    compute_dtype: torch.dtype | str | None = None
    quant_storage: torch.dtype | str | None = None
    double_quant: bool = False
    skip_modules: tuple[str, ...] = ()


@dataclass
class ModelLoadingConfig:
    """Everything that can be asked of loading a model.

    `model_name`: a folder, a file, a registry name or a hub id with optional `@revision`. `backend`: None takes the best that is there.
    `loading_strategy`: None lets the plan and the machine decide. `quantized_cache`: whether weights that are quantized while loading are
    kept on disk, for the next load. `dtype`: a torch dtype, its name, or "auto" for the checkpoint's own. `resident`: bytes of weights
    that streaming may keep in memory. `memory`: bytes (or "6GiB") that weights may take where the model computes, those of several models
    that are loaded together in sum; None for what is free. `max_memory`: the same for each device (0 or "cuda:0") and "cpu".
    `offload_to_cpu`: with a GPU, weights stay on the host, and each unit goes to the device to compute. `loading_workers`: how many tensors
    are read and converted at once, -1 for what suits the backend. `use_safetensors`: False takes the PyTorch files that lie beside, if any
    do. `attn_implementation` and `use_cache`: None leaves the model's own. `mmap`: False reads files instead of mapping them. `trim`:
    whether freed memory goes back to the kernel at once, from loading on and in all of the process: a forward holds no more than its
    tensors take, and computes somewhat longer. `head`: what the model is to have on top. `rank`, `world_size`: of this process in
    distributed training. `llama_pro_path`: a folder of an expanded model, `blk_exp-32-40` in its name.
    """

    model_name: str | PathLike[str]
    backend: Backend | None = None
    loading_strategy: LoadingStrategy | None = None
    quantization_config: QuantizationConfig | None = None
    quantized_cache: CacheMode = CacheMode.ON
    dtype: torch.dtype | str = "auto"
    device: str | torch.device | None = None
    low_memory: bool = False
    offload_to_cpu: bool = False
    max_memory: Mapping[int | str, int | str] | None = None
    memory: int | None = None
    resident: int | None = None
    loading_workers: int = -1
    use_safetensors: bool = True
    use_cache: bool | None = None
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    allow_missing: bool = False
    mmap: bool = True
    trim: bool = False
    head: Head = Head.OWN
    rank: int = 0
    world_size: int = 1
    llama_pro_path: str | PathLike[str] | None = None
    verbose: bool = False

    def __post_init__(self) -> None:
        """Names and sizes as people write them, which are taken too, become what they stand for. Raises UsageError for what is none."""
        if isinstance(self.backend, str):
            self.backend = choice(Backend, self.backend)
        if isinstance(self.loading_strategy, str):
            self.loading_strategy = choice(LoadingStrategy, self.loading_strategy.replace("-", "_"))
        if isinstance(self.head, str):
            self.head = choice(Head, self.head)
        if isinstance(self.quantized_cache, str):
            self.quantized_cache = choice(CacheMode, self.quantized_cache)
        if self.max_memory is not None:
            self.max_memory = {_device_name(name): _bytes(size) for name, size in self.max_memory.items()}
        if isinstance(self.memory, str):
            self.memory = parse_bytes(self.memory)
        if isinstance(self.resident, str):
            self.resident = parse_bytes(self.resident)
        if self.loading_strategy is None and self.low_memory:
            self.loading_strategy = LoadingStrategy.LOW_MEMORY
        if self.loading_strategy is None and self.backend in (Backend.MPS, Backend.MLX):
            self.loading_strategy = LoadingStrategy.UNIFIED_MEMORY

    @property
    def is_for_mlx(self) -> bool:
        """Whether MLX loads the model: as the backend or device that is named, or for its quantization where no other than Apple's is."""
        if self.backend is Backend.MLX or self.device == "mlx":
            return True
        quantized = self.quantization_config is not None and self.quantization_config.method.is_for_mlx
        return quantized and self.backend in (None, Backend.MPS) and str(self.device) in ("None", "mps")

    @property
    def budgeted_device(self) -> str | None:
        """The first device that `max_memory` names, the CPU where it names nothing else."""
        if self.max_memory is None or self.backend is not None:
            return None
        return next((name for name in map(str, self.max_memory) if name != "cpu"), "cpu")

    @property
    def is_left_to_another_rank(self) -> bool:
        """Whether this process is to get a model without weights, which rank 0 will send."""
        return self.rank > 0 and self.loading_strategy is LoadingStrategy.LOW_MEMORY


def _device_name(name: int | str) -> str:
    """`cuda:0` for 0 and for cuda. Raises UsageError for what names no device."""
    found = _DEVICE.fullmatch(str(name))
    if found is None:
        raise UsageError(f"unknown device '{printable(name, limit=40)}'", hint="max_memory takes cuda:0 (or 0), mps and cpu")
    return found["other"] or f"cuda:{int(found['number'] or 0)}"


def _bytes(size: int | str) -> int:
    return parse_bytes(size) if isinstance(size, str) else size


def parse_bytes(text: str) -> int:
    """Bytes from a size as people write it: `2GiB`, `1.5 GB`, `500MB`, `1000000`. Raises UsageError for anything else."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"'{printable(text, limit=40)}' is no size", hint="write 2GiB, 1.5GB or a number of bytes")
    power = " kmgt".index(found["prefix"].lower() or " ")
    return int(float(found["number"]) * (1024 if found["binary"] else 1000) ** power)


def choice(kind: type[Choice], name: str) -> Choice:
    """The member of `kind` whose value is `name`. Raises UsageError for an unknown one, naming the nearest."""
    values = [str(member.value) for member in kind]
    if name not in values:
        word = _WORDS.get(kind.__name__, kind.__name__.lower())
        raise UsageError(f"unknown {word} '{name}'", hint=did_you_mean(name, values) or f"known: {', '.join(values)}")
    return kind(name)
