"""Queries that are boxes: each decoder layer looks around its query's anchor and moves it a little.

anchors, their position embedding, refinement layer by layer    DAB-DETR (Liu et al. 2022, arXiv:2201.12329)
anchors selected among the encoder's tokens, mixed contents     DINO (Zhang et al. 2022, arXiv:2203.03605)
queries that start from noised objects                          DN-DETR (Li et al. 2022, arXiv:2203.01305)
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Float

from detr_jax.models.layers import Perceptron, linear, run
from detr_jax.models.position_encoding import sines
from detr_jax.models.transformer import Memory, Transformer, split_key
from detr_jax.structures import Array, Noised, Outputs, Predictions

MARGIN = 1e-4  # boxes are this far from 0 and 1 before their logit is taken
PROPOSED_SIDE = 0.2  # a token first proposes a square of this side around its cell
LEARNED_SIDE = 0.25
WHOLE_IMAGE = np.array([0.5, 0.5, 1.0, 1.0], np.float32)
UNSEEN = -1e9  # added to the attention logit of what must not be seen


def logit(boxes: Float[Array, "*b 4"]) -> Float[Array, "*b 4"]:
    """The inverse of the sigmoid, finite for every box."""
    boxes = jnp.clip(boxes, MARGIN, 1 - MARGIN)
    return jnp.log(boxes) - jnp.log1p(-boxes)


class Heads(NamedTuple):
    """From hidden states to logits and to what is added to the logit of a box."""

    classes: nnx.Module
    boxes: nnx.Module

    def __call__(self, hidden: Float[Array, "*b D"]) -> tuple[Float[Array, "*b C"], Float[Array, "*b 4"]]:
        """Logits of the classes and of the boxes, or of what moves an anchor; float32."""
        return self.classes(hidden).astype(jnp.float32), self.boxes(hidden).astype(jnp.float32)


class Start(NamedTuple):
    """Where the queries start."""

    contents: Float[Array, "#B N D"]
    references: Float[Array, "#B N 4"]  # anchors as logits
    proposals: Predictions | None  # of the selected tokens, as one more layer


class LearnedAnchors(nnx.Module):
    """The same anchors for every image, learned; they start spread over the image."""

    def __init__(self, num_queries: int, *, rngs: nnx.Rngs):
        centers = jax.random.uniform(rngs.params(), (num_queries, 2), minval=0.1, maxval=0.9)
        boxes = jnp.concatenate([centers, jnp.full((num_queries, 2), LEARNED_SIDE)], axis=-1)
        self.references = nnx.Param(logit(boxes))

    def __call__(self, memory: Memory) -> Start:
        references = self.references[...][None]
        return Start(jnp.zeros((1, references.shape[1], 1), memory.tokens.dtype), references, None)


def _objectness_of_softmax(logits: Float[Array, "*b C"]) -> Float[Array, "*b"]:
    """Grows with the probability of any object."""
    return jax.nn.logsumexp(logits[..., :-1], axis=-1) - logits[..., -1]


def _objectness_of_sigmoid(logits: Float[Array, "*b C"]) -> Float[Array, "*b"]:
    return jnp.max(logits, axis=-1)


OBJECTNESS = {"softmax": _objectness_of_softmax, "sigmoid": _objectness_of_sigmoid}


class SelectedAnchors(nnx.Module):
    """The boxes that the surest tokens of the encoder propose, and those tokens as a part of the contents.

    Where an image has fewer tokens than there are queries, the others start from the whole image and no content.
    """

    def __init__(self, width: int, num_queries: int, heads: Heads, class_scores: str, *, dtype, rngs: nnx.Rngs):
        self.num_queries, self.objectness = num_queries, OBJECTNESS[class_scores]
        self.class_head, self.box_head = heads
        self.content = linear(width, width, bound=math.sqrt(3 / width), zero_bias=True, dtype=dtype, rngs=rngs)

    def __call__(self, memory: Memory) -> Start:
        missing = max(self.num_queries - memory.tokens.shape[1], 0)
        tokens, centers, valid = (
            jnp.pad(values, [(0, 0), (0, missing)] + [(0, 0)] * (values.ndim - 2))
            for values in (memory.tokens, memory.grid.centers, memory.valid)
        )
        tokens = jnp.where(valid[..., None], tokens, 0)
        squares = jnp.concatenate([centers, jnp.full_like(centers, PROPOSED_SIDE)], axis=-1)
        first = jnp.where(valid[..., None], squares, WHOLE_IMAGE[None, None])
        logits, moved = Heads(self.class_head, self.box_head)(tokens)
        references = logit(first) + moved
        sureness = jnp.where(valid, self.objectness(logits), -jnp.inf)
        _, chosen = lax.top_k(lax.stop_gradient(sureness), self.num_queries)
        tokens, logits, references = (
            jnp.take_along_axis(values, chosen[..., None], axis=1) for values in (tokens, logits, references)
        )
        proposals = Predictions(logits[None], jax.nn.sigmoid(references)[None])
        return Start(self.content(lax.stop_gradient(tokens)), lax.stop_gradient(references), proposals)


def who_sees_whom(noised: Noised, num_queries: int) -> Float[Array, "B 1 Q Q"]:
    """What is added to the logits of the queries' self-attention: every group of noised objects is for itself.

    The object queries neither see them nor are seen, so training with them and inference without are the same to
    every object query; slots without an object see and are seen by nobody but themselves.
    """
    batch, groups, slots = noised.labels.shape
    group = jnp.concatenate([jnp.repeat(jnp.arange(groups), slots), jnp.full(num_queries, groups)])
    real = jnp.concatenate([jnp.tile(noised.valid, (1, groups)), jnp.ones((batch, num_queries), bool)], axis=1)
    same = (group[:, None] == group[None, :])[None] & real[:, None, :]
    itself = jnp.eye(len(group), dtype=bool)[None]
    return jnp.where(same | itself, 0.0, UNSEEN)[:, None]


class AnchorDecoder(nnx.Module):
    """Decodes with anchors.

    Args:
      source: where the anchors come from, ``LearnedAnchors`` or ``SelectedAnchors``.
      num_classes: with noised objects, the classes to embed; 0 without.
    """

    def __init__(
        self, width: int, num_queries: int, temperature: float, source: nnx.Module, num_classes: int,
        *, dtype, rngs: nnx.Rngs
    ):  # fmt: skip
        self.temperature, self.dtype = temperature, dtype
        self.source = source
        self.contents = nnx.Param(0.02 * jax.random.normal(rngs.params(), (num_queries, width)))
        self.positions = Perceptron(2 * width, width, width, dtype=dtype, rngs=rngs)
        if num_classes:
            self.labels = nnx.Param(0.5 * jax.random.normal(rngs.params(), (num_classes, width)))

    def _with_noised(self, contents, references, noised: Noised):
        """The noised objects before the object queries, and who sees whom."""
        batch, groups, slots = noised.labels.shape
        of_labels = jnp.take(self.labels[...], noised.labels.reshape(batch, -1), axis=0).astype(contents.dtype)
        bias = who_sees_whom(noised, contents.shape[1])
        boxes = logit(noised.boxes.reshape(batch, groups * slots, 4))
        return jnp.concatenate([of_labels, contents], 1), jnp.concatenate([boxes, references], 1), bias

    def __call__(
        self,
        transformer: Transformer,
        heads: list[Heads],
        memory: Memory,
        noised: Noised | None,
        dropout_key: jax.Array | None,
    ) -> tuple[Outputs, Float[Array, "B N D"]]:
        """Logits and boxes after every layer, and the last hidden states of the queries.

        ``noised`` objects are decoded beside the object queries; ``heads`` is one pair for all layers, or one for each.
        """
        contents, references, proposals = self.source(memory)
        batch, count = memory.tokens.shape[0], self.contents.shape[0]
        x = contents + self.contents[...].astype(self.dtype)[None]
        x = jnp.broadcast_to(x, (batch, *x.shape[1:]))
        references, bias = jnp.broadcast_to(references, (batch, count, 4)), None
        if noised is not None:
            x, references, bias = self._with_noised(x, references, noised)

        logits, boxes = [], []
        layers = transformer.decoder
        heads = heads * (len(layers) // len(heads))
        for layer, head, key in zip(layers, heads, split_key(dropout_key, len(layers)), strict=True):
            anchors = jax.nn.sigmoid(references)
            features = sines(anchors * (2 * jnp.pi), x.shape[-1] // 2, self.temperature)  # [B N 4 D/2]
            positions = self.positions(features.reshape(*x.shape[:2], -1).astype(self.dtype))
            x = run(layer, x, positions, memory, key, bias, anchors, remat=transformer.remat)
            hidden = transformer.decoder_norm(x)
            layer_logits, moved = head(hidden)
            moved = references + moved
            logits.append(layer_logits)
            boxes.append(jax.nn.sigmoid(moved))
            references = lax.stop_gradient(moved)

        logits, boxes = jnp.stack(logits), jnp.stack(boxes)
        first = x.shape[1] - count
        denoised = None if noised is None else Predictions(logits[:, :, :first], boxes[:, :, :first])
        return Outputs(logits[:, :, first:], boxes[:, :, first:], proposals, denoised), hidden[:, first:]
