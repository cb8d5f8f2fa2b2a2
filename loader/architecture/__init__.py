"""What model a checkpoint holds, read from its config and its tensor names alone."""

from .blocks import ActivationType, NormType
from .families import (
    ArchitectureConfig,
    ModelArchitecture,
    Rope,
    RopeScaling,
    TensorNamePattern,
    detect_architecture,
    detect_architecture_from_tensors,
)
from .kind import Kind
from .structure import Stack, Structure, find_structure

__all__ = [
    "ActivationType",
    "ArchitectureConfig",
    "Kind",
    "ModelArchitecture",
    "NormType",
    "Rope",
    "RopeScaling",
    "Stack",
    "Structure",
    "TensorNamePattern",
    "detect_architecture",
    "detect_architecture_from_tensors",
    "find_structure",
]
