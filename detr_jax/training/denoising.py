"""Noised objects for the decoder to repair: DN-DETR (Li et al. 2022, arXiv:2203.01305), section 4.

Matching is unstable early in training. A noised object's target is known without matching.
"""

import jax
import jax.numpy as jnp

from detr_jax.structures import Noised, Targets

BOX_NOISE = 0.4  # of a side: a centre moves by up to half of this, a length changes by up to all of it
LABEL_NOISE = 0.2  # probability of a random label


def add_noise(targets: Targets, groups: int, num_classes: int, key: jax.Array) -> Noised:
    """``groups`` copies of every object, each with its own noise."""
    batch, slots, _ = targets.boxes.shape
    box_key, flip_key, label_key = jax.random.split(key, 3)
    boxes = jnp.broadcast_to(targets.boxes[:, None], (batch, groups, slots, 4))
    room = jnp.concatenate([0.5 * boxes[..., 2:], boxes[..., 2:]], axis=-1)
    boxes = boxes + BOX_NOISE * room * jax.random.uniform(box_key, boxes.shape, minval=-1.0, maxval=1.0)
    labels = jnp.broadcast_to(targets.labels[:, None], (batch, groups, slots))
    flipped = jax.random.bernoulli(flip_key, LABEL_NOISE, labels.shape)
    labels = jnp.where(flipped, jax.random.randint(label_key, labels.shape, 0, num_classes), labels)
    return Noised(jnp.clip(boxes, 0.0, 1.0), labels, targets.valid)
