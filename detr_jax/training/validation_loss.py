"""The loss on the validation split, as the original logs it, and how alike the predictions are."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from detr_jax.structures import Array, Batch, Predictions
from detr_jax.training import losses
from detr_jax.training.step import Recipe, rows_with_image, score_layers


class LossSums(NamedTuple):
    """Sums over the images of a batch, which add up to those of a split."""

    terms: losses.Terms  # [L], not divided by anything
    errors: losses.Errors
    class_weight: Float[Array, ""]  # what the class term is divided by
    spread: Float[Array, ""]  # of the boxes that the queries of an image predict; see ``box_spread``


def box_spread(boxes: Float[Array, "B N 4"]) -> Float[Array, " B"]:
    """Standard deviation of the boxes' centres over the queries of an image, which is 1 wide and high.

    Centres that lie anywhere have .29 a side, so .41; queries that all say the same have 0.
    """
    return jnp.sqrt(jnp.sum(jnp.var(boxes[..., :2].astype(jnp.float32), axis=1), axis=-1))


def sum_losses(predictions: Predictions, batch: Batch, recipe: Recipe) -> LossSums:
    """The sums of a batch; empty rows have no part in them."""
    present, layers = rows_with_image(batch), losses.stack_layers(predictions, recipe.config.loss.auxiliary)
    undivided = losses.Normalizers(jnp.ones(()), jnp.ones(1))
    terms, errors, _ = score_layers(layers, batch.targets, present, undivided, recipe)
    objects = jnp.sum(batch.targets.valid, axis=-1).astype(jnp.float32)
    weight = recipe.class_loss.weight(objects, layers.logits.shape[2])
    of_images = weight, box_spread(predictions.boxes[-1])
    return LossSums(terms, errors, *(jnp.sum(jnp.where(present, values, 0.0)) for values in of_images))


def name_losses(sums: list[LossSums], recipe: Recipe) -> dict[str, float]:
    """The figures of a split from the sums of its batches, under the names of the original's log.

    ``test_loss`` is what training minimises, but for noised objects: those are made for training alone.
    """
    if not sums:
        return {}
    total = jax.tree.map(lambda *values: np.sum(values, axis=0, dtype=np.float64), *jax.device_get(sums))
    objects, images = max(total.errors.objects, 1.0), max(total.errors.images, 1.0)
    over = losses.Terms(total.class_weight or 1.0, objects, objects)
    terms = losses.Terms(*(values / divisor for values, divisor in zip(total.terms, over, strict=True)))
    named = {"test_loss": losses.total_loss([terms], recipe.config.loss)}
    named |= {f"test_{name}": values[-1] for name, values in terms._asdict().items()}
    named["test_class_error"] = 100.0 * (1.0 - total.errors.correct / objects)
    named["query_spread"] = total.spread / images
    return {name: float(value) for name, value in named.items()}
