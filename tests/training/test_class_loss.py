"""The focal loss against its formula, and both kinds of class scores in the matching and in the losses."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detr_jax.config import Config, LossConfig, ModelConfig
from detr_jax.structures import Predictions, Targets
from detr_jax.training import losses, matcher
from detr_jax.training.class_loss import Focal, Softmax, make_class_loss

LOGITS = np.random.default_rng(0).normal(0, 3, (2, 5, 4)).astype(np.float32)


def slow_focal(logit: float, present: bool) -> float:
    probability = 1 / (1 + math.exp(-logit))
    if present:
        return -0.25 * (1 - probability) ** 2 * math.log(probability)
    return -0.75 * probability**2 * math.log(1 - probability)


def test_focal_loss_equals_its_formula():
    wanted = np.array([[0, 3, 4, 1, 4], [2, 4, 4, 0, 1]])  # 4 is none of the four
    found = Focal().loss(LOGITS, wanted)
    for image, query in np.ndindex(2, 5):
        terms = [slow_focal(float(LOGITS[image, query, k]), k == wanted[image, query]) for k in range(4)]
        assert float(found[image, query]) == pytest.approx(sum(terms), rel=1e-4)


def test_focal_cost_is_what_the_class_changes_in_the_loss():
    cost = Focal().cost(LOGITS)
    for label in range(4):
        with_it = Focal().loss(LOGITS, np.full((2, 5), label))
        without = Focal().loss(LOGITS, np.full((2, 5), Focal().no_object(4)))
        np.testing.assert_allclose(cost[..., label], with_it - without, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("extreme", [-200.0, 200.0])
def test_extreme_logits_are_finite(extreme):
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(Focal().loss(x, jnp.array([0, 2]))))(
        jnp.full((2, 2), extreme)
    )
    assert np.isfinite(value) and np.isfinite(gradient).all()


def example(counts, logits):
    rng = np.random.default_rng(1)
    slots = 4
    valid = np.arange(slots)[None] < np.array(counts)[:, None]
    targets = Targets(
        rng.uniform(0.2, 0.5, (2, slots, 4)).astype(np.float32), rng.integers(0, 4, (2, slots)).astype(np.int32), valid
    )
    boxes = rng.uniform(0.2, 0.6, (3, 2, 5, 4)).astype(np.float32)
    return Predictions(np.stack([logits] * 3), boxes), targets


@pytest.mark.parametrize("class_loss", [Focal(), Softmax(0.1)], ids=["focal", "softmax"])
def test_without_any_object_everything_is_finite(class_loss):
    predictions, targets = example(
        [0, 0], LOGITS if class_loss == Focal() else np.pad(LOGITS, [(0, 0), (0, 0), (0, 1)])
    )
    targets = targets._replace(boxes=np.full_like(targets.boxes, np.nan))

    def total(predictions):
        matches = matcher.match(predictions, targets, class_loss=class_loss)
        divisors = losses.make_normalizers(targets, 5, class_loss)
        terms = losses.set_losses(predictions, targets, matches.query_of_target, divisors, class_loss)
        four = Predictions(predictions.logits[:, :, :4], predictions.boxes[:, :, :4])
        denoising = losses.denoising_losses(four, targets, jnp.float32(1), class_loss)
        return losses.total_loss([terms, denoising], LossConfig())

    value, gradient = jax.jit(jax.value_and_grad(total))(jax.tree.map(jnp.asarray, predictions))
    assert np.isfinite(value) and all(np.isfinite(leaf).all() for leaf in (gradient.logits, gradient.boxes))


def test_focal_terms_are_divided_by_objects():
    predictions, targets = example([3, 1], LOGITS)
    matches = matcher.match(predictions, targets, class_loss=Focal())
    divisors = losses.make_normalizers(targets, 5, Focal())
    terms = losses.set_losses(predictions, targets, matches.query_of_target, divisors, Focal())
    for layer in range(3):
        total = 0.0
        for image, query in np.ndindex(2, 5):
            slot = np.flatnonzero(np.asarray(matches.query_of_target)[layer, image] == query)
            label = int(targets.labels[image, slot[0]]) if len(slot) and targets.valid[image, slot[0]] else None
            total += sum(slow_focal(float(LOGITS[image, query, k]), k == label) for k in range(4))
        assert float(terms.loss_ce[layer]) == pytest.approx(total / 4, rel=1e-4)


def test_denoising_terms_are_the_mean_over_groups_of_the_objects_own_queries():
    rng = np.random.default_rng(2)
    _, targets = example([3, 1], LOGITS)
    logits = rng.normal(size=(2, 2, 8, 4)).astype(np.float32)
    boxes = rng.uniform(0.2, 0.6, (2, 2, 8, 4)).astype(np.float32)
    terms = losses.denoising_losses(Predictions(logits, boxes), targets, jnp.float32(4), Focal())
    for layer in range(2):
        classes = distance = 0.0
        for image, group, slot in np.ndindex(2, 2, 4):
            if not targets.valid[image, slot]:
                continue
            query, label = group * 4 + slot, int(targets.labels[image, slot])
            classes += sum(slow_focal(float(logits[layer, image, query, k]), k == label) for k in range(4))
            distance += float(np.abs(boxes[layer, image, query] - targets.boxes[image, slot]).sum())
        assert float(terms.loss_ce[layer]) == pytest.approx(classes / 4 / 2, rel=1e-4)
        assert float(terms.loss_bbox[layer]) == pytest.approx(distance / 4 / 2, rel=1e-4)
    last = losses.keep_layers(Predictions(logits, boxes), auxiliary=False)
    for name, values in losses.denoising_losses(last, targets, jnp.float32(4), Focal())._asdict().items():
        np.testing.assert_allclose(values, getattr(terms, name)[-1:], rtol=1e-6)


def test_claims():
    assert Focal().claims(np.array([[-1.0, 0.1], [-2.0, -0.1]])).tolist() == [True, False]
    assert Softmax().claims(np.array([[3.0, 0.1], [-2.0, -0.1]])).tolist() == [True, False]


def test_the_settings_choose():
    assert make_class_loss(Config(loss=LossConfig(no_object_weight=0.3))) == Softmax(0.3)
    assert make_class_loss(Config(model=ModelConfig(class_scores="sigmoid"))) == Focal(0.25, 2.0)
