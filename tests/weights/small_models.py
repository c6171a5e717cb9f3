"""Small detectors with random values, and files of them."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from detr_jax.config import ModelConfig
from detr_jax.models import detr
from detr_jax.weights import torch_names

LAYOUTS = {
    "ORIGINAL": torch_names.ORIGINAL,
    "DETECTRON2": torch_names.DETECTRON2,
    "HUGGINGFACE": torch_names.HUGGINGFACE,
    "HUGGINGFACE_TIMM": torch_names.HUGGINGFACE_TIMM,
}
PANOPTIC = {
    "ORIGINAL": torch_names.panoptic(torch_names.ORIGINAL),
    "DETECTRON2": torch_names.DETECTRON2_PANOPTIC,
    "HUGGINGFACE": torch_names.panoptic(torch_names.HUGGINGFACE),
    "HUGGINGFACE_TIMM": torch_names.panoptic(torch_names.HUGGINGFACE_TIMM),
}
SMALL = {
    "backbone_width": 8, "hidden_dim": 32, "heads": 1, "encoder_layers": 2, "decoder_layers": 2, "feed_forward_dim": 48,
    "num_queries": 7,
}  # fmt: skip


def small_model(**changes) -> ModelConfig:
    """A narrow DETR with a ResNet-50."""
    return dataclasses.replace(ModelConfig(), **SMALL | changes)


@functools.cache
def shapes_of(model: ModelConfig, classes: int) -> dict:
    """Names and shapes of a model's arrays, traced once."""
    return detr.network(model, classes).shapes


def random_arrays(model: ModelConfig, classes: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Values for every array of a model."""
    random = np.random.default_rng(seed)
    return {
        name: random.normal(size=shape.shape).astype(np.float32) for name, shape in shapes_of(model, classes).items()
    }


def write(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    """A safetensors file, whose writer wants contiguous arrays and says nothing when they are not."""
    save_file({key: np.ascontiguousarray(tensor) for key, tensor in tensors.items()}, path)
    return path


def assert_equal(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    """The same names, and every array equal to the last bit."""
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
