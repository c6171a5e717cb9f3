"""Small networks for the tests, and values for every array of them."""

import dataclasses
import functools
import math

import jax
import numpy as np
from flax import nnx

from configs import detr as configs
from detr_jax.config_forms import from_config_dict
from detr_jax.models import detr
from detr_jax.models.network import Network
from detr_jax.structures import Pixels

SMALL = dict(
    backbone_width=8, hidden_dim=32, heads=4, encoder_layers=1, decoder_layers=2, feed_forward_dim=64, num_queries=7
)
# Half the time to compile; the numbers are the same.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})


@functools.cache
def make(words: str = "r50", classes: int = 91, dtype: str = "float32", remat: bool = False, **model) -> Network:
    """The network that the words describe, with changes to its settings."""
    config = from_config_dict(configs.get_config(words)).model
    return detr.network(dataclasses.replace(config, **model), classes, dtype=dtype, remat=remat)


def fill(net: Network, seed: int = 0) -> dict[str, np.ndarray]:
    """Values for every array, none of them 0 or 1, so that nothing passes because a norm does nothing."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, shape in net.shapes.items():
        if name.endswith(("/var", "/scale")):
            # Small in the backbone: or 16 residual blocks make numbers, and their rounding errors, 100 times larger.
            values = rng.uniform(0.5, 1.5, shape.shape) * (0.5 if "/scale" in name and "backbone" in name else 1)
        elif name.endswith(("/mean", "/bias")):
            values = rng.normal(0, 0.3, shape.shape)
        elif name.endswith("/kernel"):
            values = rng.normal(0, math.sqrt(1.5 / np.prod(shape.shape[:-1])), shape.shape)
        else:
            values = rng.normal(0, 1, shape.shape)
        arrays[name] = values.astype(np.float32)
    return arrays


def place(image: np.ndarray, canvas: tuple[int, int], garbage: np.random.Generator) -> np.ndarray:
    """The image in the top left corner of a canvas of noise."""
    full = garbage.integers(0, 256, (*canvas, 3), np.uint8)
    full[: image.shape[0], : image.shape[1]] = image
    return full


def pixels(images, *sizes) -> Pixels:
    """Images on one canvas, and the (height, width) of each."""
    return Pixels(images, np.array(sizes, np.int32))


def randomise(module: nnx.Module, seed: int = 0) -> dict[str, np.ndarray]:
    """Gives every array of a module random values; returns them in float64."""
    rng, arrays = np.random.default_rng(seed), {}
    for path, leaf in nnx.to_flat_state(nnx.state(module)):
        values = rng.normal(0, 0.3, leaf.shape).astype(np.float32) + (path[-1] == "scale")
        leaf[...] = jax.numpy.asarray(values, jax.numpy.float32)
        arrays["/".join(map(str, path))] = np.asarray(leaf[...], np.float64)
    return arrays
