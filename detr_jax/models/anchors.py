"""Queries that are boxes: each decoder layer looks around its queries' anchors and moves them a little.

anchors, their position embedding, refinement layer by layer    DAB-DETR (Liu et al. 2022, arXiv:2201.12329)
anchors selected among the encoder's tokens, mixed contents     DINO (Zhang et al. 2022, arXiv:2203.03605)
queries that start from noised objects                          DN-DETR (Li et al. 2022, arXiv:2203.01305)
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Float

from detr_jax.config import ModelConfig
from detr_jax.models.heads import OBJECTNESS, Heads, make_heads
from detr_jax.models.layers import Linear, Perceptron
from detr_jax.models.position_encoding import sines
from detr_jax.models.transformer import Memory
from detr_jax.structures import Array, Noised, Predictions

MARGIN = 1e-4  # boxes are clipped to this distance from 0 and 1 before their logit is taken
PROPOSED_SIDE = 0.2  # each token proposes a square of this side around its cell, which the box head moves
LEARNED_SIDE = 0.25
WHOLE_IMAGE = np.array([0.5, 0.5, 1.0, 1.0], np.float32)
HIDDEN = -1e9  # added to the attention logit of what a query must not see


def logit(boxes: Float[Array, "*b 4"]) -> Float[Array, "*b 4"]:
    """The inverse of the sigmoid, finite for every box."""
    boxes = jnp.clip(boxes, MARGIN, 1 - MARGIN)
    return jnp.log(boxes) - jnp.log1p(-boxes)


class Start(NamedTuple):
    """Where the object queries start."""

    contents: Float[Array, "#B N D"]
    references: Float[Array, "#B N 4"]  # logits of the anchors
    proposals: Predictions | None  # of the selected tokens, as one more layer


class LearnedAnchors(nnx.Module):
    """Learned anchors, the same for every image; they start spread over the image."""

    def __init__(self, num_queries: int, *, rngs: nnx.Rngs):
        centers = jax.random.uniform(rngs.params(), (num_queries, 2), minval=0.1, maxval=0.9)
        boxes = jnp.concatenate([centers, jnp.full((num_queries, 2), LEARNED_SIDE)], axis=-1)
        self.references = nnx.Param(logit(boxes))

    def __call__(self, memory: Memory) -> Start:
        references = self.references[...][None]
        return Start(jnp.zeros((1, references.shape[1], 1), memory.tokens.dtype), references, None)


class SelectedAnchors(nnx.Module):
    """The boxes of the best-scored tokens of the encoder; those tokens also become a part of the contents.

    Where an image has fewer tokens than there are queries, the remaining queries start from the whole image and no
    content.
    """

    def __init__(self, config: ModelConfig, num_classes: int, *, dtype, rngs: nnx.Rngs):
        width = config.hidden_dim
        self.num_queries, self.objectness = config.num_queries, OBJECTNESS[config.class_scores]
        self.class_head, self.box_head = make_heads(config, num_classes, dtype=dtype, rngs=rngs)
        self.content = Linear(width, width, bound=math.sqrt(3 / width), zero_bias=True, dtype=dtype, rngs=rngs)

    def __call__(self, memory: Memory) -> Start:
        missing = max(self.num_queries - memory.tokens.shape[1], 0)
        tokens, centers, valid = (
            jnp.pad(values, [(0, 0), (0, missing)] + [(0, 0)] * (values.ndim - 2))
            for values in (memory.tokens, memory.grid.centers, memory.valid)
        )
        tokens = jnp.where(valid[..., None], tokens, 0)
        squares = jnp.concatenate([centers, jnp.full_like(centers, PROPOSED_SIDE)], axis=-1)
        boxes = jnp.where(valid[..., None], squares, WHOLE_IMAGE[None, None])
        logits, shift = Heads(self.class_head, self.box_head)(tokens)
        references = logit(boxes) + shift
        scores = jnp.where(valid, self.objectness(logits), -jnp.inf)
        # A sort, because each device sorts its own images; for top_k the scores of all images go to every device.
        best = jnp.argsort(-lax.stop_gradient(scores), axis=-1)[:, : self.num_queries]
        tokens, logits, references = (
            jnp.take_along_axis(values, best[..., None], axis=1) for values in (tokens, logits, references)
        )
        proposals = Predictions(logits[None], jax.nn.sigmoid(references)[None])
        return Start(self.content(lax.stop_gradient(tokens)), lax.stop_gradient(references), proposals)


class MovingQueries(NamedTuple):
    """Queries with anchors on their way through the decoder; those of noised objects come before the object queries."""

    contents: Float[Array, "B Q D"]
    references: Float[Array, "B Q 4"]  # logits of the anchors
    bias: Float[Array, "B 1 Q Q"] | None  # None without noised objects
    embed: Callable  # anchors [B Q 4] -> positions [B Q D]
    heads: Heads
    start: Start
    layers: tuple[Predictions, ...] = ()  # of the layers so far: logits [B Q C], boxes [B Q 4]

    def place(self) -> tuple[Float[Array, "B Q D"], Float[Array, "B Q 4"]]:
        """The embedding of the anchors, and the anchors."""
        anchors = jax.nn.sigmoid(self.references)
        return self.embed(anchors), anchors

    def refine(self, hidden: Float[Array, "B Q D"]) -> "MovingQueries":
        """The same queries at the boxes that this layer predicts; no gradient passes through the move."""
        logits, shift = self.heads(hidden)
        references = self.references + shift
        layer = Predictions(logits, jax.nn.sigmoid(references))
        return self._replace(references=lax.stop_gradient(references), layers=(*self.layers, layer))

    def predict(self, hidden: Float[Array, "L B Q D"]) -> Predictions:
        """The predictions of all layers, those of noised objects apart."""
        logits, boxes = jnp.stack([one.logits for one in self.layers]), jnp.stack([one.boxes for one in self.layers])
        noised = logits.shape[2] - self.start.references.shape[1]
        denoised = None if self.bias is None else Predictions(logits[:, :, :noised], boxes[:, :, :noised])
        return Predictions(logits[:, :, noised:], boxes[:, :, noised:], self.start.proposals, denoised)


def isolate_groups(noised: Noised, num_queries: int) -> Float[Array, "B 1 Q Q"]:
    """A bias for the logits of the queries' self-attention: each group of noised objects sees only itself.

    Object queries neither see noised objects nor are seen by them, so to them training with noised objects and
    inference without are the same. A slot without an object is seen by nobody but itself.
    """
    batch, groups, slots = noised.labels.shape
    group = jnp.concatenate([jnp.repeat(jnp.arange(groups), slots), jnp.full(num_queries, groups)])
    real = jnp.concatenate([jnp.tile(noised.valid, (1, groups)), jnp.ones((batch, num_queries), bool)], axis=1)
    same_group = (group[:, None] == group[None, :])[None] & real[:, None, :]
    itself = jnp.eye(len(group), dtype=bool)[None]
    return jnp.where(same_group | itself, 0.0, HIDDEN)[:, None]


class AnchorQueries(nnx.Module):
    """Makes the queries of an image from its memory, and beside them those of noised objects."""

    def __init__(self, config: ModelConfig, num_classes: int, *, dtype, rngs: nnx.Rngs):
        width, count = config.hidden_dim, config.num_queries
        self.temperature, self.dtype = config.position_temperature, dtype
        self.source = (
            SelectedAnchors(config, num_classes, dtype=dtype, rngs=rngs)
            if config.queries == "selected"
            else LearnedAnchors(count, rngs=rngs)
        )
        self.contents = nnx.Param(0.02 * jax.random.normal(rngs.params(), (count, width)))
        self.positions = Perceptron(2 * width, width, width, dtype=dtype, rngs=rngs)
        if config.denoising:
            self.labels = nnx.Param(0.5 * jax.random.normal(rngs.params(), (num_classes, width)))

    def __call__(self, memory: Memory, noised: Noised | None, heads: Heads) -> MovingQueries:
        """The queries before the first layer; ``heads`` read every layer."""
        start = self.source(memory)
        batch, (count, _) = memory.tokens.shape[0], self.contents.shape
        contents = start.contents + self.contents[...].astype(self.dtype)[None]
        contents = jnp.broadcast_to(contents, (batch, *contents.shape[1:]))
        references, bias = jnp.broadcast_to(start.references, (batch, count, 4)), None
        if noised is not None:
            bias = isolate_groups(noised, count)
            labels = jnp.take(self.labels[...], noised.labels.reshape(batch, -1), axis=0).astype(contents.dtype)
            contents = jnp.concatenate([labels, contents], axis=1)
            references = jnp.concatenate([logit(noised.boxes.reshape(batch, -1, 4)), references], axis=1)
        return MovingQueries(contents, references, bias, self.embed, heads, start)

    def embed(self, anchors: Float[Array, "B Q 4"]) -> Float[Array, "B Q D"]:
        """Positions of the anchors: sines of their four numbers, then a perceptron."""
        batch, count, _ = anchors.shape
        features = sines(anchors * (2 * jnp.pi), self.contents.shape[1] // 2, self.temperature)  # [B Q 4 D/2]
        return self.positions(features.reshape(batch, count, -1).astype(self.dtype))
