"""mlload: know, load and run Hugging Face checkpoints that may be larger than the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .layers.collector import LlmLayerCollector
    from .layers.compute import compute_embedding, compute_head, compute_layer
    from .layers.layered import LayeredModel
    from .layers.lens import logit_lens
    from .layers.partial import partial_forward
    from .layers.state import ForwardState
    from .loader.architecture import (
        ArchitectureConfig,
        ModelArchitecture,
        RopeScaling,
        detect_architecture,
        detect_architecture_from_tensors,
    )
    from .loader.bench.bench import bench_load
    from .loader.bench.grid import BenchGrid
    from .loader.bench.report import BenchReport
    from .loader.checkpoint import Checkpoint
    from .loader.diff import DiffReport, diff
    from .loader.dynamic import DynamicModel, InferenceState
    from .loader.errors import (
        AccessDeniedError,
        DoesNotFitError,
        InvalidCheckpointError,
        MissingDependencyError,
        MlloadError,
        NetworkError,
        NotFoundError,
        ThresholdExceededError,
        UsageError,
    )
    from .loader.inspection import InspectReport, inspect
    from .loader.loaders import (
        CPUModelLoader,
        CUDAModelLoader,
        MLXModelLoader,
        ModelLoader,
        ModelLoaderFactory,
        MPSModelLoader,
        QuantizedModelLoader,
        StandardModelLoader,
        load_model_and_tokenizer,
    )
    from .loader.plan import (
        LoadPlan,
    )
    from .loader.recommend.recommendation import Recommendation, get_recommended_loader_config, recommend
    from .loader.registry import ModelSpec
    from .loader.settings import (
        Backend,
        LoadingStrategy,
        ModelLoadingConfig,
        QuantizationConfig,
        QuantizationMethod,
    )
    from .runners.base import BaseModelRunner
    from .runners.decoder_only import DecoderModelRunner
    from .runners.encoder_only import EncoderModelRunner
    from .runners.models import list_available_models, load_model
    from .runners.outputs import ModelOutputs
    from .runners.placement import coerce_device, resolve_dtype
    from .runners.pretrained import PreTrainedCausalLM, PreTrainedVLM
    from .runners.probing.probe import probe_layers
    from .runners.probing.reader import open_probe
    from .runners.seq2seq import Seq2SeqModelRunner
    from .runners.state import StateDict

# Public names and the modules that hold them: imported at first use, so that `import mlload` costs nothing.
_MODULES = {
    "LlmLayerCollector": ".layers.collector",
    "compute_embedding": ".layers.compute",
    "compute_head": ".layers.compute",
    "compute_layer": ".layers.compute",
    "LayeredModel": ".layers.layered",
    "logit_lens": ".layers.lens",
    "partial_forward": ".layers.partial",
    "ForwardState": ".layers.state",
    "ArchitectureConfig": ".loader.architecture",
    "ModelArchitecture": ".loader.architecture",
    "RopeScaling": ".loader.architecture",
    "detect_architecture": ".loader.architecture",
    "detect_architecture_from_tensors": ".loader.architecture",
    "bench_load": ".loader.bench.bench",
    "BenchGrid": ".loader.bench.grid",
    "BenchReport": ".loader.bench.report",
    "Checkpoint": ".loader.checkpoint",
    "DiffReport": ".loader.diff",
    "diff": ".loader.diff",
    "DynamicModel": ".loader.dynamic",
    "InferenceState": ".loader.dynamic",
    "AccessDeniedError": ".loader.errors",
    "DoesNotFitError": ".loader.errors",
    "InvalidCheckpointError": ".loader.errors",
    "MissingDependencyError": ".loader.errors",
    "MlloadError": ".loader.errors",
    "NetworkError": ".loader.errors",
    "NotFoundError": ".loader.errors",
    "ThresholdExceededError": ".loader.errors",
    "UsageError": ".loader.errors",
    "InspectReport": ".loader.inspection",
    "inspect": ".loader.inspection",
    "CPUModelLoader": ".loader.loaders",
    "CUDAModelLoader": ".loader.loaders",
    "MLXModelLoader": ".loader.loaders",
    "MPSModelLoader": ".loader.loaders",
    "ModelLoader": ".loader.loaders",
    "ModelLoaderFactory": ".loader.loaders",
    "QuantizedModelLoader": ".loader.loaders",
    "StandardModelLoader": ".loader.loaders",
    "load_model_and_tokenizer": ".loader.loaders",
    "LoadPlan": ".loader.plan",
    "Backend": ".loader.settings",
    "LoadingStrategy": ".loader.settings",
    "ModelLoadingConfig": ".loader.settings",
    "QuantizationConfig": ".loader.settings",
    "QuantizationMethod": ".loader.settings",
    "ModelSpec": ".loader.registry",
    "Recommendation": ".loader.recommend.recommendation",
    "get_recommended_loader_config": ".loader.recommend.recommendation",
    "recommend": ".loader.recommend.recommendation",
    "load_model": ".runners.models",
    "list_available_models": ".runners.models",
    "ModelOutputs": ".runners.outputs",
    "BaseModelRunner": ".runners.base",
    "EncoderModelRunner": ".runners.encoder_only",
    "DecoderModelRunner": ".runners.decoder_only",
    "Seq2SeqModelRunner": ".runners.seq2seq",
    "open_probe": ".runners.probing.reader",
    "probe_layers": ".runners.probing.probe",
    "resolve_dtype": ".runners.placement",
    "coerce_device": ".runners.placement",
    "PreTrainedCausalLM": ".runners.pretrained",
    "PreTrainedVLM": ".runners.pretrained",
    "StateDict": ".runners.state",
}

__all__ = [
    "AccessDeniedError",
    "ArchitectureConfig",
    "Backend",
    "BaseModelRunner",
    "BenchGrid",
    "BenchReport",
    "CPUModelLoader",
    "CUDAModelLoader",
    "Checkpoint",
    "DecoderModelRunner",
    "DiffReport",
    "DoesNotFitError",
    "DynamicModel",
    "EncoderModelRunner",
    "ForwardState",
    "InferenceState",
    "InspectReport",
    "InvalidCheckpointError",
    "LayeredModel",
    "LlmLayerCollector",
    "LoadPlan",
    "LoadingStrategy",
    "MLXModelLoader",
    "MPSModelLoader",
    "MissingDependencyError",
    "MlloadError",
    "ModelArchitecture",
    "ModelLoader",
    "ModelLoaderFactory",
    "ModelLoadingConfig",
    "ModelOutputs",
    "ModelSpec",
    "NetworkError",
    "NotFoundError",
    "PreTrainedCausalLM",
    "PreTrainedVLM",
    "QuantizationConfig",
    "QuantizationMethod",
    "QuantizedModelLoader",
    "Recommendation",
    "RopeScaling",
    "Seq2SeqModelRunner",
    "StandardModelLoader",
    "StateDict",
    "ThresholdExceededError",
    "UsageError",
    "__version__",
    "bench_load",
    "coerce_device",
    "compute_embedding",
    "compute_head",
    "compute_layer",
    "detect_architecture",
    "detect_architecture_from_tensors",
    "diff",
    "get_recommended_loader_config",
    "inspect",
    "list_available_models",
    "load_model",
    "load_model_and_tokenizer",
    "logit_lens",
    "open_probe",
    "partial_forward",
    "probe_layers",
    "recommend",
    "resolve_dtype",
]

if not TYPE_CHECKING:  # hidden from the type checker, which would otherwise take every misspelt name for one of these

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module 'mlload' has no attribute '{name}'")
        from importlib import import_module

        value = getattr(import_module(_MODULES[name], __name__), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted(__all__)
