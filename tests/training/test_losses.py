"""The losses against the original's rules, one image, layer and query at a time in Python floats."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detr_jax.config import LossConfig
from detr_jax.structures import Predictions, Targets
from detr_jax.training import losses, matcher
from detr_jax.training.class_loss import Softmax

LAYERS, IMAGES, QUERIES, SLOTS, CLASSES = 3, 4, 10, 5, 6
NO_OBJECT_WEIGHT = 0.1
SOFTMAX = Softmax(NO_OBJECT_WEIGHT)
COUNTS = (2, 0, 5, 1)


def example(counts=COUNTS, seed=0) -> tuple[Predictions, Targets]:
    rng = np.random.default_rng(seed)
    valid = np.arange(SLOTS)[None] < np.array(counts)[:, None]
    boxes = np.where(valid[..., None], rng.uniform(0.2, 0.6, (len(counts), SLOTS, 4)), 0)
    labels = np.where(valid, rng.integers(0, CLASSES, (len(counts), SLOTS)), 0)
    logits = 2 * rng.normal(size=(LAYERS, len(counts), QUERIES, CLASSES + 1))
    predicted = rng.uniform(0.1, 0.9, (LAYERS, len(counts), QUERIES, 4))
    return (
        Predictions(jnp.asarray(logits, jnp.float32), jnp.asarray(predicted, jnp.float32)),
        Targets(jnp.asarray(boxes, jnp.float32), jnp.asarray(labels, jnp.int32), jnp.asarray(valid)),
    )


match = jax.jit(matcher.match)


@partial(jax.jit, static_argnames="groups")
def value_and_gradient(predictions, targets, query, groups):
    def loss(predictions):
        divisors = losses.make_normalizers(targets, predictions.logits.shape[2], SOFTMAX, groups)
        terms = losses.set_losses(predictions, targets, query, divisors, SOFTMAX)
        return losses.total_loss([terms], LossConfig()), (
            terms,
            losses.count_errors(predictions, targets, query, SOFTMAX),
        )

    return jax.value_and_grad(loss, has_aux=True)(predictions)


class Result(NamedTuple):
    query: jax.Array
    total: jax.Array
    gradient: Predictions
    terms: losses.Terms
    errors: losses.Errors


def criterion(predictions, targets, groups=1) -> Result:
    """Matching, losses and errors, as a training step calls them."""
    query = match(predictions, targets).query_of_target
    (total, (terms, errors)), gradient = value_and_gradient(predictions, targets, query, groups)
    return Result(query, total, gradient, terms, errors)


def slow_giou(a, b) -> float:
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = [
        (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2) for cx, cy, w, h in (map(float, a), map(float, b))
    ]
    inter = max(min(ax1, bx1) - max(ax0, bx0), 0) * max(min(ay1, by1) - max(ay0, by0), 0)
    union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - inter
    hull = (max(ax1, bx1) - min(ax0, bx0)) * (max(ay1, by1) - min(ay0, by0))
    return inter / union - (hull - union) / hull


def slow_losses(predictions, targets, query, ranks: int = 1) -> dict[str, list[float]]:
    """SetCriterion of the original with the batch spread over ``ranks`` processes, whose losses DDP averages."""
    logits, boxes = (np.asarray(x, np.float64) for x in (predictions.logits, predictions.boxes))
    target_boxes, labels, valid = (np.asarray(x) for x in targets)
    query, images = np.asarray(query), logits.shape[1]
    objects = max(int(valid.sum()), 1)
    found = {"loss_ce": [], "loss_bbox": [], "loss_giou": []}
    for layer in range(logits.shape[0]):
        of_rank, bbox, giou = [], 0.0, 0.0
        for rank in range(ranks):
            surprise, weights = 0.0, 0.0
            for image in range(rank * images // ranks, (rank + 1) * images // ranks):
                wanted = dict.fromkeys(range(QUERIES), CLASSES)
                for slot in range(valid.shape[1]):
                    if valid[image, slot]:
                        wanted[query[layer, image, slot]] = labels[image, slot]
                        pair = boxes[layer, image, query[layer, image, slot]], target_boxes[image, slot]
                        bbox += sum(abs(float(p) - float(t)) for p, t in zip(*pair, strict=True))
                        giou += 1 - slow_giou(*pair)
                for one in range(QUERIES):
                    scores = logits[layer, image, one]
                    weight = NO_OBJECT_WEIGHT if wanted[one] == CLASSES else 1.0
                    surprise += weight * (math.log(sum(math.exp(s) for s in scores)) - scores[wanted[one]])
                    weights += weight
            of_rank.append(surprise / weights)
        found["loss_ce"].append(sum(of_rank) / ranks)
        found["loss_bbox"].append(bbox / objects)
        found["loss_giou"].append(giou / objects)
    return found


@pytest.mark.parametrize("ranks", [1, 2])
def test_equal_slow_loops(ranks):  # 1 is 'global', 2 is 'per_device'
    predictions, targets = example()
    found = criterion(predictions, targets, groups=ranks)
    for name, wanted in slow_losses(predictions, targets, found.query, ranks).items():
        np.testing.assert_allclose(getattr(found.terms, name), wanted, rtol=1e-5, err_msg=name)


def test_normalizers_by_hand():
    _, targets = example(counts=(2, 0, 5, 1))
    whole = losses.make_normalizers(targets, 10, SOFTMAX)
    assert float(whole.objects) == 8
    # 8 queries with an object weigh 1, the other 32 weigh 0.1.
    np.testing.assert_allclose(whole.class_weight, [8 + 3.2], rtol=1e-6)
    halves = losses.make_normalizers(targets, 10, SOFTMAX, groups=2)
    assert float(halves.objects) == 8
    np.testing.assert_allclose(halves.class_weight, [2 + 1.8, 6 + 1.4], rtol=1e-6)


def test_total_is_weighted_over_all_layers():
    terms = losses.Terms(jnp.array([1.0, 2.0]), jnp.array([0.5, 0.25]), jnp.array([1.0, 0.0]))
    assert float(losses.total_loss([terms], LossConfig())) == pytest.approx(3 + 5 * 0.75 + 2 * 1)
    more = losses.Terms(jnp.array([1.0]), jnp.array([0.0]), jnp.array([3.0]))  # such as the encoder's proposals
    weights = LossConfig(class_weight=2.0, bbox_weight=4.0, giou_weight=1.0)
    assert float(losses.total_loss([terms, more], weights)) == pytest.approx(2 * (3 + 1) + 4 * 0.75 + (1 + 3))


def filled(targets: Targets, garbage: float, label: int) -> Targets:
    """The same targets with something else in the slots that are not valid."""
    boxes = jnp.where(targets.valid[..., None], targets.boxes, garbage)
    return Targets(boxes, jnp.where(targets.valid, targets.labels, label), targets.valid)


@pytest.mark.parametrize("garbage, label", [(0.5, 3), (1e9, 0), (-1.0, CLASSES), (np.inf, -1), (np.nan, 100)])
def test_padded_slots_are_inert(garbage, label):
    predictions, targets = example()
    found, other = criterion(predictions, targets), criterion(predictions, filled(targets, garbage, label))
    assert other.total == found.total
    jax.tree.map(np.testing.assert_array_equal, other.errors, found.errors)
    jax.tree.map(np.testing.assert_array_equal, other.gradient, found.gradient)


def test_number_of_slots_does_not_matter():
    predictions, targets = example()
    longer = Targets(*(jnp.concatenate([x, jnp.zeros_like(x)], axis=1) for x in targets))
    np.testing.assert_allclose(criterion(predictions, longer).total, criterion(predictions, targets).total, rtol=1e-6)


def test_order_of_targets_does_not_matter():
    predictions, targets = example()
    backwards = [list(reversed(range(count))) + list(range(count, SLOTS)) for count in COUNTS]
    image = np.arange(IMAGES)[:, None]
    found = criterion(predictions, targets)
    other = criterion(predictions, Targets(*(x[image, np.array(backwards)] for x in targets)))
    np.testing.assert_allclose(other.total, found.total, rtol=1e-6)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), other.gradient, found.gradient)


@pytest.mark.parametrize("counts", [(0, 3, 0, 1), (0, 0, 0, 0)])
def test_images_without_objects(counts):
    found = criterion(*example(counts))
    assert np.isfinite(found.total) and found.total > 0
    assert all(np.isfinite(x).all() for x in (found.gradient.logits, found.gradient.boxes))
    empty = np.flatnonzero(np.array(counts) == 0)
    assert np.abs(found.gradient.logits[:, empty]).max() > 0  # they teach "no object" ...
    assert not np.any(found.gradient.boxes[:, empty])  # ... and nothing about boxes
    if not any(counts):
        assert not np.any(found.terms.loss_bbox) and not np.any(found.terms.loss_giou)


def test_unmatched_queries_get_no_box_gradient():
    found = criterion(*example())
    for layer, image, query in np.ndindex(LAYERS, IMAGES, QUERIES):
        matched = query in np.asarray(found.query)[layer, image, : COUNTS[image]]
        assert np.any(found.gradient.boxes[layer, image, query]) == matched


def test_errors_as_the_original_counts_them():
    # One layer, two images; labels 0..2, 3 is no-object. The matched queries are 1 and 0 in image 0, 2 in image 1.
    ranked_first = np.array([[0, 2, 3, 3], [0, 1, 1, 3]])
    logits = jnp.asarray(10.0 * np.eye(4)[ranked_first][None], jnp.float32)
    predictions = Predictions(logits, jnp.full((1, 2, 4, 4), 0.5))
    targets = Targets(
        jnp.full((2, 2, 4), 0.5), jnp.array([[2, 1], [1, 0]]), jnp.array([[True, True], [True, False]])
    )  # fmt: skip
    query = jnp.array([[[1, 0], [2, 4]]])
    errors = losses.count_errors(predictions, targets, query, SOFTMAX)
    # Right: query 1 says 2, query 2 says 1. Wrong: query 0 says 0 and should say 1.
    assert float(errors.class_error) == pytest.approx(100 / 3)
    # Image 0 claims two objects and has two; image 1 claims three and has one.
    np.testing.assert_allclose(errors.cardinality_error, [(0 + 2) / 2])


def test_errors_look_at_the_last_layer_and_add_up():
    predictions, targets = example()
    found = criterion(predictions, targets)
    last = jax.tree.map(lambda x: x[-1:], predictions)
    only_last = losses.count_errors(last, targets, found.query[-1:], SOFTMAX)
    assert only_last.correct == found.errors.correct and only_last.miscounted[0] == found.errors.miscounted[-1]
    halves = [
        losses.count_errors(
            Predictions(predictions.logits[:, part], predictions.boxes[:, part]),
            Targets(*(x[part] for x in targets)),
            found.query[:, part],
            SOFTMAX,
        )
        for part in (slice(0, 2), slice(2, 4))
    ]
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(jnp.add, *halves), found.errors)


def test_class_error_is_100_without_objects():
    assert float(criterion(*example((0, 0, 0, 0))).errors.class_error) == 100.0


def test_bfloat16_predictions_give_float32_losses():
    predictions, targets = example()
    found = criterion(jax.tree.map(lambda x: x.astype(jnp.bfloat16), predictions), targets)
    for name, values in found.terms._asdict().items():
        assert values.dtype == jnp.float32 and np.isfinite(values).all(), name


def test_proposals_are_matched_as_one_more_layer():
    predictions, _ = example()
    proposals = Predictions(predictions.logits[:1] * 0.5, predictions.boxes[:1] * 0.5)
    with_proposals = predictions._replace(proposals=proposals)
    layers = losses.stack_layers(with_proposals, auxiliary=True)
    assert layers.logits.shape[0] == LAYERS + 1 and layers.proposals is None
    np.testing.assert_array_equal(layers.boxes[0], proposals.boxes[0])
    np.testing.assert_array_equal(layers.logits[1:], predictions.logits)
    only_last = losses.stack_layers(with_proposals, auxiliary=False)
    assert only_last.logits.shape[0] == 2
    np.testing.assert_array_equal(only_last.logits[1], predictions.logits[-1])
    jax.tree.map(np.testing.assert_array_equal, losses.stack_layers(predictions, auxiliary=True), predictions)
