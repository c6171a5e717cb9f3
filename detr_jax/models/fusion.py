"""The encoder's memory at half its stride, for the decoder: small objects need cells of their size.

The encoder stays on the coarse cells, where attention is cheap; each coarse token is laid on its four fine cells and
joined by the backbone's features there, as a feature pyramid does (Lin et al. 2017, arXiv:1612.03144).
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float, Int

from detr_jax.ops.convolution import Conv
from detr_jax.models.layers import layer_norm, linear, relu
from detr_jax.models.resnet import keep
from detr_jax.structures import Array


class FinerMemory(nnx.Module):
    """Tokens of the next finer stage out of the encoder's tokens and that stage's ``channels`` features."""

    def __init__(self, width: int, channels: int, *, dtype, rngs: nnx.Rngs):
        self.lateral = linear(channels, width, dtype=dtype, rngs=rngs)
        self.lateral_norm = layer_norm(width, dtype=dtype, rngs=rngs)
        self.mix = Conv(width, width, 3, rngs=rngs)
        self.out = linear(width, width, dtype=dtype, rngs=rngs)
        self.out_norm = layer_norm(width, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        tokens: Float[Array, "B h w D"],
        features: Float[Array, "B h2 w2 C"],
        area: Int[Array, "B 2"],
    ) -> Float[Array, "B h2 w2 D"]:
        """``area`` is the real area in the finer features."""
        _, h, w, _ = features.shape
        laid = jnp.repeat(jnp.repeat(tokens, 2, axis=1), 2, axis=2)[:, :h, :w]
        x = self.lateral_norm(laid + self.lateral(features))
        return self.out_norm(x + self.out(relu(self.mix(keep(x, area)))))
