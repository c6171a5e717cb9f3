"""The encoder's memory at half its stride, for the decoder: small objects need cells of their size.

The encoder works on the coarse cells, where attention is cheap. Each of its tokens is copied to the four fine cells it
covers and added to the backbone's features there, as in a feature pyramid (Lin et al. 2017, arXiv:1612.03144).
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float, Int

from detr_jax.models.layers import Conv, LayerNorm, Linear
from detr_jax.models.padding import clear_padding
from detr_jax.ops.relu import relu
from detr_jax.structures import Array


class FinerMemory(nnx.Module):
    """Tokens at the stride of the next finer stage, from the encoder's tokens and the features of that stage."""

    def __init__(self, width: int, channels: int, *, dtype, rngs: nnx.Rngs):
        self.lateral = Linear(channels, width, dtype=dtype, rngs=rngs)
        self.lateral_norm = LayerNorm(width, dtype=dtype, rngs=rngs)
        self.mix = Conv(width, width, 3, rngs=rngs)
        self.out = Linear(width, width, dtype=dtype, rngs=rngs)
        self.out_norm = LayerNorm(width, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        tokens: Float[Array, "B h w D"],
        features: Float[Array, "B h2 w2 C"],
        extent: Int[Array, "B 2"],
    ) -> Float[Array, "B h2 w2 D"]:
        """``extent`` is that of the finer features."""
        _, h, w, _ = features.shape
        copies = jnp.repeat(jnp.repeat(tokens, 2, axis=1), 2, axis=2)[:, :h, :w]
        x = self.lateral_norm(copies + self.lateral(features))
        return self.out_norm(x + self.out(relu(self.mix(clear_padding(x, extent)))))
