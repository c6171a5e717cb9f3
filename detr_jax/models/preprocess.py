"""From the pixels of a photo to the numbers a backbone was trained on; runs on the device, inside the jitted step."""

import jax.numpy as jnp
from jaxtyping import Float, Int, UInt8

from detr_jax.models.resnet import keep
from detr_jax.structures import Array

# ImageNet's mean and standard deviation per colour, as in torchvision.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalize(images: UInt8[Array, "B H W 3"], sizes: Int[Array, "B 2"], dtype) -> Float[Array, "B H W 3"]:
    """Images with ImageNet's mean 0 and deviation 1, zero outside the real image."""
    scale = jnp.asarray([1 / (255 * deviation) for deviation in STD], jnp.float32)
    shift = jnp.asarray([-mean / deviation for mean, deviation in zip(MEAN, STD, strict=True)], jnp.float32)
    normal = images.astype(jnp.float32) * scale[None, None, None] + shift[None, None, None]
    return keep(normal, sizes).astype(dtype)
