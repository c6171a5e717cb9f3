"""The two heads: from the hidden state of a query to the logits of its class and of its box."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float

from detr_jax.config import ModelConfig
from detr_jax.models.layers import Linear, Perceptron
from detr_jax.structures import Array

PRIOR = -math.log(9)  # initial bias of sigmoid scores: every class starts at a probability of 0.1


class Heads(NamedTuple):
    """A class head and a box head."""

    classes: nnx.Module
    boxes: nnx.Module

    def __call__(self, hidden: Float[Array, "*b D"]) -> tuple[Float[Array, "*b C"], Float[Array, "*b 4"]]:
        """Class logits, and logits of the boxes or of what is added to an anchor's; float32."""
        return self.classes(hidden).astype(jnp.float32), self.boxes(hidden).astype(jnp.float32)


def make_heads(config: ModelConfig, num_classes: int, *, dtype, rngs: nnx.Rngs) -> Heads:
    """A linear layer for the classes and a perceptron of three layers for the boxes.

    Softmax scores have a logit more, that of no object. With anchors the boxes start where the anchors are.
    """
    outputs = num_classes + (config.class_scores == "softmax")
    classes = Linear(config.hidden_dim, outputs, dtype=dtype, rngs=rngs)
    if config.class_scores == "sigmoid":
        classes.bias[...] = jnp.full(outputs, PRIOR)
    widths = [config.hidden_dim] * 3 + [4]
    return Heads(classes, Perceptron(*widths, zero_output=config.anchors, dtype=dtype, rngs=rngs))


def _objectness_of_softmax(logits: Float[Array, "*b C"]) -> Float[Array, "*b"]:
    return jax.nn.logsumexp(logits[..., :-1], axis=-1) - logits[..., -1]


def _objectness_of_sigmoid(logits: Float[Array, "*b C"]) -> Float[Array, "*b"]:
    return jnp.max(logits, axis=-1)


# class_scores -> a function of class logits that grows with the probability of any object
OBJECTNESS = {"softmax": _objectness_of_softmax, "sigmoid": _objectness_of_sigmoid}
