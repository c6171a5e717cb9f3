"""The transformer of DETR (section 3.2 and figure 10 of the paper): positions enter every attention, not the input.

It differs from a textbook transformer as the original does: queries and keys carry positions, values do not; one final
norm is shared by all decoder outputs; dropout also acts on attention weights and inside the feed-forward layer.
Dropout keys are arguments (None: no dropout), so the model holds no random state.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Bool, Float, Int

from detr_jax.config import ModelConfig
from detr_jax.models.focus import Focus
from detr_jax.models.layers import LayerNorm, Linear, apply_layer, apply_linears
from detr_jax.models.position_encoding import Grid
from detr_jax.models.queries import Queries
from detr_jax.ops.attention import attend, attention_weights
from detr_jax.ops.dropout import dropout, split_key
from detr_jax.ops.relu import relu
from detr_jax.structures import Array

ALIGNMENT = 8  # 16-bit GPU matmuls need dimensions divisible by 8


class Attention(nnx.Module):
    """Multi-head attention."""

    def __init__(self, config: ModelConfig, *, dtype, rngs: nnx.Rngs):
        width = config.hidden_dim
        self.heads, self.dropout_rate = config.heads, config.dropout
        # torch keeps query, key and value in one 3D x D tensor, and Xavier's bound counts all of it.
        packed, single = math.sqrt(6 / (4 * width)), math.sqrt(6 / (2 * width))
        self.query = Linear(width, width, bound=packed, zero_bias=True, dtype=dtype, rngs=rngs)
        self.key = Linear(width, width, bound=packed, zero_bias=True, dtype=dtype, rngs=rngs)
        self.value = Linear(width, width, bound=packed, zero_bias=True, dtype=dtype, rngs=rngs)
        self.out = Linear(width, width, bound=single, zero_bias=True, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        queries: Float[Array, "B Q D"],
        keys: Float[Array, "B S D"] | None,
        values: Float[Array, "B S D"],
        key_valid: Bool[Array, "B S"] | None = None,
        bias: Float[Array, "#B #A Q S"] | None = None,
        dropout_key: jax.Array | None = None,
    ) -> Float[Array, "B Q D"]:
        """Attends to the valid keys, with ``bias`` added to the logits. ``keys`` None: the queries are the keys."""
        q, k, bias = self._compare(queries, keys, key_valid, bias)
        attended = attend(q, k, self._split_heads(self.value(values)), bias, dropout_key, self.dropout_rate)
        return self.out(attended.swapaxes(1, 2).reshape(*queries.shape))

    def weights(
        self,
        queries: Float[Array, "B Q D"],
        keys: Float[Array, "B S D"],
        key_valid: Bool[Array, "B S"] | None = None,
        bias: Float[Array, "#B #A Q S"] | None = None,
    ) -> Float[Array, "B A Q S"]:
        """How much each query attends to each key; zero for keys that are not valid."""
        return attention_weights(*self._compare(queries, keys, key_valid, bias))

    def _compare(self, queries, keys, key_valid, bias):
        """Scaled queries and keys [B A n D/A], and the bias of their logits, which hides keys that are not valid."""
        if keys is None:
            q, k = apply_linears(queries, self.query, self.key)
        else:
            q, k = self.query(queries), self.key(keys)
        q, k = self._split_heads(q), self._split_heads(k)
        if key_valid is not None:  # a finite bias: a row without any valid key becomes uniform instead of NaN
            hidden = jnp.where(key_valid, 0.0, jnp.finfo(jnp.float32).min)[:, None, None, :]
            bias = hidden if bias is None else bias + hidden
        return q * (q.shape[-1] ** -0.5), k, bias

    def _split_heads(self, x: Float[Array, "B n D"]) -> Float[Array, "B A n E"]:
        return x.reshape(*x.shape[:2], self.heads, -1).swapaxes(1, 2)


class FeedForward(nnx.Module):
    """Two linear layers with a ReLU between."""

    def __init__(self, config: ModelConfig, *, dtype, rngs: nnx.Rngs):
        width, hidden = config.hidden_dim, config.feed_forward_dim
        self.dropout_rate = config.dropout
        xavier = math.sqrt(6 / (width + hidden))
        self.linear1 = Linear(width, hidden, bound=xavier, dtype=dtype, rngs=rngs)
        self.linear2 = Linear(hidden, width, bound=xavier, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B n D"], dropout_key: jax.Array | None = None) -> Float[Array, "B n D"]:
        # Dropout before ReLU is equivalent and saves one activation.
        return self.linear2(relu(dropout(self.linear1(x), self.dropout_rate, dropout_key)))


class Residual(nnx.Module):
    """x + sublayer(x), normed after the sum as in the original, or before the sublayer with ``pre_norm``."""

    def __init__(self, config: ModelConfig, *, dtype, rngs: nnx.Rngs):
        self.norm = LayerNorm(config.hidden_dim, dtype=dtype, rngs=rngs)
        self.dropout_rate, self.pre_norm = config.dropout, config.pre_norm

    def __call__(self, x: Float[Array, "B n D"], sublayer, dropout_key: jax.Array | None) -> Float[Array, "B n D"]:
        total = x + dropout(sublayer(self.enter(x)), self.dropout_rate, dropout_key)
        return total if self.pre_norm else self.norm(total)

    def enter(self, x: Float[Array, "B n D"]) -> Float[Array, "B n D"]:
        """What the sublayer sees of x."""
        return self.norm(x) if self.pre_norm else x


class EncoderLayer(nnx.Module):
    """Self-attention over the image's cells, then a feed-forward layer."""

    def __init__(self, config: ModelConfig, *, dtype, rngs: nnx.Rngs):
        self.self_attention = Attention(config, dtype=dtype, rngs=rngs)
        self.feed_forward = FeedForward(config, dtype=dtype, rngs=rngs)
        self.residuals = nnx.List([Residual(config, dtype=dtype, rngs=rngs) for _ in range(2)])

    def __call__(
        self,
        x: Float[Array, "B S D"],
        positions: Float[Array, "B S D"],
        valid: Bool[Array, "B S"],
        dropout_key: jax.Array | None = None,
    ) -> Float[Array, "B S D"]:
        """The tokens after this layer."""
        keys = split_key(dropout_key, 4)
        around_attention, around_feed_forward = self.residuals
        x = around_attention(
            x, lambda y: self.self_attention(y + positions, None, y, valid, dropout_key=keys[0]), keys[1]
        )
        return around_feed_forward(x, lambda y: self.feed_forward(y, keys[2]), keys[3])

    def look(
        self,
        x: Float[Array, "B S D"],
        positions: Float[Array, "B S D"],
        valid: Bool[Array, "B S"],
        cells: Int[Array, "B M"],
    ) -> Float[Array, "B A M S"]:
        """How much these cells attend to each cell."""
        y = self.residuals[0].enter(x) + positions
        return self.self_attention.weights(jnp.take_along_axis(y, cells[..., None], axis=1), y, valid)


class EncoderInput(NamedTuple):
    """What goes into a layer of the encoder."""

    x: Float[Array, "B S D"]
    positions: Float[Array, "B S D"]
    valid: Bool[Array, "B S"]


class Memory(NamedTuple):
    """The image as tokens, for the decoder to read."""

    tokens: Float[Array, "B S D"]
    positions: Float[Array, "B S D"]
    valid: Bool[Array, "B S"]
    grid: Grid

    def cells_at(self, points: Float[Array, "B M 2"]) -> Int[Array, "B M"]:
        """The cells of the image that these points (x, y), in units of its sides, lie in."""
        away = jnp.abs(points[:, :, None] - self.grid.centers[:, None]) / self.grid.cell[:, None, None, ::-1]
        return jnp.argmin(jnp.where(self.valid[:, None], away.max(axis=-1), jnp.inf), axis=-1)


class DecoderLayer(nnx.Module):
    """Self-attention among the queries, attention into the image, then a feed-forward layer.

    With ``config.focus`` the attention into the image looks around each query's anchor (``models/focus.py``).
    """

    def __init__(self, config: ModelConfig, *, dtype, rngs: nnx.Rngs):
        self.self_attention = Attention(config, dtype=dtype, rngs=rngs)
        self.cross_attention = Attention(config, dtype=dtype, rngs=rngs)
        self.feed_forward = FeedForward(config, dtype=dtype, rngs=rngs)
        self.residuals = nnx.List([Residual(config, dtype=dtype, rngs=rngs) for _ in range(3)])
        self.focus = Focus(config.hidden_dim, config.heads, dtype=dtype, rngs=rngs) if config.focus else None

    def __call__(
        self,
        x: Float[Array, "B N D"],
        query_positions: Float[Array, "B N D"],
        memory: Memory,
        dropout_key: jax.Array | None = None,
        self_bias: Float[Array, "B 1 N N"] | None = None,
        anchors: Float[Array, "B N 4"] | None = None,
    ) -> Float[Array, "B N D"]:
        """The queries after this layer. ``self_bias`` says which query sees which; ``anchors`` are for the focus."""
        keys = split_key(dropout_key, 6)
        _, around_cross, around_feed_forward = self.residuals

        def attend_to_image(y):
            queries, image, focus = self._compare_with_image(y, query_positions, memory, anchors)
            return self.cross_attention(queries, image, memory.tokens, memory.valid, focus, keys[2])

        x = self._attend_to_queries(x, query_positions, self_bias, keys)
        x = around_cross(x, attend_to_image, keys[3])
        return around_feed_forward(x, lambda y: self.feed_forward(y, keys[4]), keys[5])

    def look(
        self,
        x: Float[Array, "B N D"],
        query_positions: Float[Array, "B N D"],
        memory: Memory,
        self_bias: Float[Array, "B 1 N N"] | None = None,
        anchors: Float[Array, "B N 4"] | None = None,
    ) -> Float[Array, "B A N S"]:
        """How much each query attends to each cell of the image."""
        y = self.residuals[1].enter(self._attend_to_queries(x, query_positions, self_bias, (None, None)))
        queries, image, focus = self._compare_with_image(y, query_positions, memory, anchors)
        return self.cross_attention.weights(queries, image, memory.valid, focus)

    def _attend_to_queries(self, x, query_positions, self_bias, keys):
        def attend_to_all(y):
            return self.self_attention(y + query_positions, None, y, bias=self_bias, dropout_key=keys[0])

        return self.residuals[0](x, attend_to_all, keys[1])

    def _compare_with_image(self, y, query_positions, memory, anchors):
        """Queries, keys and bias of the attention into the image."""
        focus = None if self.focus is None else self.focus(y, anchors, memory.grid)
        return y + query_positions, memory.tokens + memory.positions, focus


class DecoderInput(NamedTuple):
    """What goes into a layer of the decoder."""

    x: Float[Array, "B N D"]
    query_positions: Float[Array, "B N D"]
    memory: Memory
    self_bias: Float[Array, "B 1 N N"] | None
    anchors: Float[Array, "B N 4"] | None


class Transformer(nnx.Module):
    """Encoder and decoder. With ``remat`` the backward pass recomputes each layer's activations."""

    def __init__(self, config: ModelConfig, *, dtype, remat: bool = False, rngs: nnx.Rngs):
        self.encoder = nnx.List([EncoderLayer(config, dtype=dtype, rngs=rngs) for _ in range(config.encoder_layers)])
        self.decoder = nnx.List([DecoderLayer(config, dtype=dtype, rngs=rngs) for _ in range(config.decoder_layers)])
        self.encoder_norm = LayerNorm(config.hidden_dim, dtype=dtype, rngs=rngs) if config.pre_norm else None
        self.decoder_norm = LayerNorm(config.hidden_dim, dtype=dtype, rngs=rngs)
        self.remat = remat

    def encode(
        self,
        x: Float[Array, "B S D"],
        positions: Float[Array, "B S D"],
        valid: Bool[Array, "B S"],
        dropout_key: jax.Array | None = None,
    ) -> tuple[Float[Array, "B S D"], EncoderInput | None]:
        """The tokens after all encoder layers, and what went into the last layer, if there is one."""
        cells = x.shape[1]

        def align(tokens):  # [B S ...] -> [B S8 ...]; else XLA would pad the attention weights of every layer
            return jnp.pad(tokens, [(0, 0), (0, -cells % ALIGNMENT)] + [(0, 0)] * (tokens.ndim - 2))

        x, positions, valid, entered = align(x), align(positions), align(valid), None
        for layer, key in zip(self.encoder, split_key(dropout_key, len(self.encoder)), strict=True):
            entered = EncoderInput(x, positions, valid)
            x = apply_layer(layer, x, positions, valid, key, remat=self.remat)
        x = x[:, :cells]
        return x if self.encoder_norm is None else self.encoder_norm(x), entered

    def decode(
        self, queries: Queries, memory: Memory, dropout_key: jax.Array | None = None
    ) -> tuple[Queries, Float[Array, "L B N D"], DecoderInput]:
        """The queries as the last layer leaves them, the normed output of every layer, and what the last one got."""
        x, outputs = queries.contents, []
        for layer, key in zip(self.decoder, split_key(dropout_key, len(self.decoder)), strict=True):
            positions, anchors = queries.place()
            entered = DecoderInput(x, positions, memory, queries.bias, anchors)
            x = apply_layer(layer, x, positions, memory, key, queries.bias, anchors, remat=self.remat)
            outputs.append(self.decoder_norm(x))
            queries = queries.refine(outputs[-1])
        return queries, jnp.stack(outputs), entered
