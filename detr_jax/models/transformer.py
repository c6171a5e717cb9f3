"""The transformer of DETR (section 3.2 and figure 10 of the paper): positions enter every attention, not the input.

Differences to a textbook transformer, all of the original: queries and keys carry positions, values do not; one final
norm is shared by all decoder outputs; dropout also falls on attention weights and inside the feed-forward layer.
Dropout keys are passed in (None: no dropout), so the model holds no random state.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Bool, Float

from detr_jax.ops.attention import Attention, dropout, split_key
from detr_jax.models.focus import Focus, everywhere
from detr_jax.models.layers import layer_norm, linear, relu, run
from detr_jax.models.position_encoding import Grid
from detr_jax.structures import Array

# A GPU's products of 16 bits want sides of this multiple; XLA would pad every matrix of attention weights for them.
ALIGNMENT = 8


class FeedForward(nnx.Module):
    """Two linear layers with a ReLU between."""

    def __init__(self, width: int, hidden: int, dropout_rate: float, *, dtype, rngs: nnx.Rngs):
        self.dropout_rate = dropout_rate
        xavier = math.sqrt(6 / (width + hidden))
        self.linear1 = linear(width, hidden, bound=xavier, dtype=dtype, rngs=rngs)
        self.linear2 = linear(hidden, width, bound=xavier, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B n D"], dropout_key: jax.Array | None = None) -> Float[Array, "B n D"]:
        # Dropout of what the ReLU gives would be the same, but then both would be kept for the backward pass.
        return self.linear2(relu(dropout(self.linear1(x), self.dropout_rate, dropout_key)))


class Residual(nnx.Module):
    """x + sublayer(x), normed after the sum as in the original, or before the sublayer with ``pre_norm``."""

    def __init__(self, width: int, dropout_rate: float, pre_norm: bool, *, dtype, rngs: nnx.Rngs):
        self.norm = layer_norm(width, dtype=dtype, rngs=rngs)
        self.dropout_rate, self.pre_norm = dropout_rate, pre_norm

    def __call__(self, x: Float[Array, "B n D"], sublayer, dropout_key: jax.Array | None) -> Float[Array, "B n D"]:
        if self.pre_norm:
            return x + dropout(sublayer(self.norm(x)), self.dropout_rate, dropout_key)
        return self.norm(x + dropout(sublayer(x), self.dropout_rate, dropout_key))


class EncoderLayer(nnx.Module):
    """Self-attention over the image's cells, then a feed-forward layer."""

    def __init__(self, width, heads, hidden, dropout_rate, pre_norm, *, dtype, rngs: nnx.Rngs):
        self.self_attention = Attention(width, heads, dropout_rate, dtype=dtype, rngs=rngs)
        self.feed_forward = FeedForward(width, hidden, dropout_rate, dtype=dtype, rngs=rngs)
        self.residuals = nnx.List([Residual(width, dropout_rate, pre_norm, dtype=dtype, rngs=rngs) for _ in range(2)])

    def __call__(
        self,
        x: Float[Array, "B S D"],
        positions: Float[Array, "B S D"],
        valid: Bool[Array, "B S"],
        dropout_key: jax.Array | None = None,
    ) -> Float[Array, "B S D"]:
        keys = split_key(dropout_key, 4)
        around_attention, around_feed_forward = self.residuals
        x = around_attention(
            x, lambda y: self.self_attention(y + positions, None, y, valid, dropout_key=keys[0]), keys[1]
        )
        return around_feed_forward(x, lambda y: self.feed_forward(y, keys[2]), keys[3])


class Memory(NamedTuple):
    """What the decoder reads: the image as tokens."""

    tokens: Float[Array, "B S D"]
    positions: Float[Array, "B S D"]
    valid: Bool[Array, "B S"]
    grid: Grid


class DecoderLayer(nnx.Module):
    """Self-attention among the queries, attention into the image, then a feed-forward layer.

    With ``focused`` the attention into the image looks around each query's anchor (``models/focus.py``).
    """

    def __init__(self, width, heads, hidden, dropout_rate, pre_norm, *, focused=False, dtype, rngs: nnx.Rngs):
        self.self_attention = Attention(width, heads, dropout_rate, dtype=dtype, rngs=rngs)
        self.cross_attention = Attention(width, heads, dropout_rate, dtype=dtype, rngs=rngs)
        self.feed_forward = FeedForward(width, hidden, dropout_rate, dtype=dtype, rngs=rngs)
        self.residuals = nnx.List([Residual(width, dropout_rate, pre_norm, dtype=dtype, rngs=rngs) for _ in range(3)])
        self.focus = Focus(width, heads, dtype=dtype, rngs=rngs) if focused else everywhere

    def __call__(
        self,
        x: Float[Array, "B N D"],
        query_positions: Float[Array, "B N D"],
        memory: Memory,
        dropout_key: jax.Array | None = None,
        self_bias: Float[Array, "B 1 N N"] | None = None,
        anchors: Float[Array, "B N 4"] | None = None,
    ) -> Float[Array, "B N D"]:
        """The queries one layer on. ``self_bias`` says who sees whom; ``anchors`` are for the focus."""
        keys = split_key(dropout_key, 6)
        around_self, around_cross, around_feed_forward = self.residuals
        x = around_self(
            x,
            lambda y: self.self_attention(y + query_positions, None, y, bias=self_bias, dropout_key=keys[0]),
            keys[1],
        )
        x = around_cross(
            x,
            lambda y: self.cross_attention(
                y + query_positions,
                memory.tokens + memory.positions,
                memory.tokens,
                memory.valid,
                self.focus(y, anchors, memory.grid),
                keys[2],
            ),
            keys[3],
        )
        return around_feed_forward(x, lambda y: self.feed_forward(y, keys[4]), keys[5])


class Transformer(nnx.Module):
    """Encoder and decoder.

    Args:
      width, heads, hidden: D, A and F of the legend.
      encoder_layers, decoder_layers: how many of each.
      pre_norm: norm before each sublayer; the encoder then has a final norm of its own.
      focused: attention into the image looks around each query's anchor.
      remat: recompute each layer in the backward pass instead of keeping its activations.
    """

    def __init__(
        self, width: int, heads: int, hidden: int, encoder_layers: int, decoder_layers: int, *, dropout_rate: float,
        pre_norm: bool = False, focused: bool = False, remat: bool = False, dtype=jnp.float32, rngs: nnx.Rngs
    ):  # fmt: skip
        sizes = (width, heads, hidden, dropout_rate, pre_norm)
        self.encoder = nnx.List([EncoderLayer(*sizes, dtype=dtype, rngs=rngs) for _ in range(encoder_layers)])
        self.decoder = nnx.List(
            [DecoderLayer(*sizes, focused=focused, dtype=dtype, rngs=rngs) for _ in range(decoder_layers)]
        )
        self.encoder_norm = layer_norm(width, dtype=dtype, rngs=rngs) if pre_norm else None
        self.decoder_norm = layer_norm(width, dtype=dtype, rngs=rngs)
        self.remat = remat

    def encode(
        self,
        x: Float[Array, "B S D"],
        positions: Float[Array, "B S D"],
        valid: Bool[Array, "B S"],
        dropout_key: jax.Array | None = None,
    ) -> Float[Array, "B S D"]:
        """The encoder's memory of the image."""
        cells = x.shape[1]

        def aligned(tokens):  # [B S ...] -> [B S8 ...]
            return jnp.pad(tokens, [(0, 0), (0, -cells % ALIGNMENT)] + [(0, 0)] * (tokens.ndim - 2))

        x, positions, valid = aligned(x), aligned(positions), aligned(valid)
        for layer, key in zip(self.encoder, split_key(dropout_key, len(self.encoder)), strict=True):
            x = run(layer, x, positions, valid, key, remat=self.remat)
        x = x[:, :cells]
        return x if self.encoder_norm is None else self.encoder_norm(x)

    def decode(
        self,
        x: Float[Array, "B N D"],
        query_positions: Float[Array, "B N D"],
        memory: Memory,
        dropout_key: jax.Array | None = None,
    ) -> Float[Array, "L B N D"]:
        """The queries after every decoder layer, normed."""
        outputs = []
        for layer, key in zip(self.decoder, split_key(dropout_key, len(self.decoder)), strict=True):
            x = run(layer, x, query_positions, memory, key, remat=self.remat)
            outputs.append(self.decoder_norm(x))
        return jnp.stack(outputs)
