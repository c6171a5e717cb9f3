"""The heads: how they start, and what makes a token likely to be an object."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from detr_jax.config import ModelConfig
from detr_jax.models.heads import OBJECTNESS, make_heads


def test_sigmoid_scores_start_at_a_tenth_and_boxes_of_anchors_at_zero():
    config = ModelConfig(hidden_dim=8, class_scores="sigmoid", anchors=True)
    logits, boxes = make_heads(config, 3, dtype=jnp.float32, rngs=nnx.Rngs(0))(jnp.zeros((2, 8)))
    np.testing.assert_allclose(jax.nn.sigmoid(logits), np.full((2, 3), 0.1), rtol=1e-5)
    np.testing.assert_array_equal(boxes, np.zeros((2, 4)))


def test_softmax_scores_have_a_logit_for_no_object():
    heads = make_heads(ModelConfig(hidden_dim=8), 3, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    logits, boxes = heads(jnp.ones((2, 8), jnp.bfloat16))
    assert logits.shape == (2, 4) and boxes.shape == (2, 4) and logits.dtype == boxes.dtype == jnp.float32
    assert np.any(boxes)


def test_objectness_grows_with_the_probability_of_any_object():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(50, 4)), jnp.float32)
    for name, probability in (("softmax", 1 - jax.nn.softmax(logits)[:, -1]), ("sigmoid", logits.max(axis=-1))):
        np.testing.assert_array_equal(np.argsort(OBJECTNESS[name](logits)), np.argsort(probability))
