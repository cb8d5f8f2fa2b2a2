"""Models of images, and what is no model at all: nothing is said of them that nobody knows."""

from __future__ import annotations

import pytest

from mlload.loader.architecture import ArchitectureConfig, Kind
from mlload.loader.tensors import TensorEntry

Shapes = dict[str, tuple[int, ...]]


def layers(prefix: str, layer: Shapes) -> Shapes:
    return {f"{prefix}.{index}.{name}": shape for index in range(2) for name, shape in layer.items()}


VIT_LAYER: Shapes = {
    "norm1.weight": (8,),
    "norm1.bias": (8,),
    "attention.query.weight": (8, 8),
    "norm2.weight": (8,),
    "norm2.bias": (8,),
    "mlp.fc1.weight": (32, 8),
    "mlp.fc2.weight": (8, 32),
}
CLASSIFIER: Shapes = {"classifier.weight": (1000, 8), "classifier.bias": (1000,)}
RESNET_LAYER: Shapes = {"0.conv.weight": (8, 8, 3, 3), "0.bn.weight": (8,), "0.bn.bias": (8,), "0.bn.running_mean": (8,)}
IMAGES: dict[str, Shapes] = {
    "dinov2": {"embeddings.patch_embeddings.projection.weight": (8, 3, 14, 14), **layers("encoder.layer", VIT_LAYER)},
    "vit": {"vit.embeddings.patch_embeddings.projection.weight": (8, 3, 16, 16), **layers("vit.encoder.layer", VIT_LAYER), **CLASSIFIER},
    "timm": {"patch_embed.proj.weight": (8, 3, 16, 16), **layers("blocks", VIT_LAYER), "head.weight": (1000, 8)},
    "resnet": {"embedder.convolution.weight": (8, 3, 7, 7), **layers("encoder.stages", RESNET_LAYER), "classifier.1.weight": (1000, 8)},
}
NO_MODELS: dict[str, Shapes] = {
    "denoiser": {
        "conv_in.weight": (8, 4, 3, 3),
        "time_embedding.linear_1.weight": (32, 8),
        **layers("down_blocks", {"resnets.0.norm1.weight": (8,), "resnets.0.norm1.bias": (8,), "resnets.0.conv1.weight": (8, 8, 3, 3)}),
    },
    "adapter": layers(
        "base_model.model.model.layers", {"self_attn.q_proj.lora_A.weight": (4, 8), "self_attn.q_proj.lora_B.weight": (8, 4)}
    ),
    "numbers": {"a": (3,), "linear.weight": (20, 3), "net.0.weight": (30, 4), "net.0.bias": (30,)},
}


def described(shapes: Shapes, config: dict[str, object] | None = None) -> ArchitectureConfig:
    tensors = {name: TensorEntry(name, "F32", shape, "model.safetensors", 0, 4) for name, shape in shapes.items()}
    return ArchitectureConfig.from_tensors(config, tensors)


@pytest.mark.parametrize("config", [None, {"model_type": "some", "hidden_act": "gelu", "layer_norm_eps": 1e-6}], ids=["names", "config"])
@pytest.mark.parametrize("name", IMAGES)
def test_image_models_read_no_text(name: str, config: dict[str, object] | None) -> None:
    found = described(IMAGES[name], config)
    assert found.kind is Kind.VISION_ONLY
    assert (found.tensor_names.embedding, found.tie_embeddings) == (None, False)


@pytest.mark.parametrize("name", NO_MODELS)
def test_of_what_is_no_model_nothing_is_said(name: str) -> None:
    found = described(NO_MODELS[name])
    assert (found.kind, found.norm_type, found.activation, found.tensor_names.embedding) == (None, None, None, None)


def test_batch_norm_is_no_layer_norm() -> None:
    assert described(IMAGES["resnet"]).norm_type is None
