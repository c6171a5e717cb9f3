"""Costs, matches and losses against transformers' copy of the original's criterion, on the same predictions."""

from unittest import mock

import jax
import numpy as np
import peer
import pytest
import torch
from transformers.loss import loss_for_object_detection as criterion

from detr_jax.config import LossConfig
from detr_jax.structures import Predictions, Targets
from detr_jax.training import losses, matcher

LAYERS, QUERIES, CLASSES = 6, 100, 91


def predictions(seed: int, images: int) -> Predictions:
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((LAYERS, images, QUERIES, CLASSES + 1))
    boxes = 1 / (1 + np.exp(-rng.standard_normal((LAYERS, images, QUERIES, 4))))
    return Predictions(logits.astype(np.float32), boxes.astype(np.float32))


def their_criterion(predicted: Predictions, wanted: Targets):
    """(total, terms by their names, costs and matches [layer][image] in the order of our layers)."""
    logits, boxes = torch.tensor(predicted.logits), torch.tensor(predicted.boxes)
    costs, solve = [], criterion.linear_sum_assignment

    def watched(cost):
        costs.append((np.array(cost), solve(cost)))
        return costs[-1][1]

    with mock.patch.object(criterion, "linear_sum_assignment", watched):
        total, terms = peer.loss(peer.Outputs(logits, boxes, None), wanted)
    images = len(costs) // LAYERS
    solved = [costs[start : start + images] for start in range(0, len(costs), images)]
    return float(total), {name: float(term) for name, term in terms.items()}, solved[1:] + solved[:1]


@pytest.mark.parametrize("counts", [[7, 0, 23], [1, 1], [60, 3]])
def test_costs_and_matches(counts, differences):
    predicted, wanted = predictions(len(counts), len(counts)), peer.targets(sum(counts), counts, CLASSES)
    _, _, solved = their_criterion(predicted, wanted)
    cost = np.asarray(jax.jit(matcher.matching_cost)(predicted, wanted))
    query_of_target = np.asarray(jax.jit(matcher.match)(predicted, wanted).query_of_target)
    for layer in range(LAYERS):
        for image, count in enumerate(counts):
            their_cost, (queries, order) = solved[layer][image]
            assert their_cost.shape == (QUERIES, count)
            if count:
                differences("cost", peer.largest(cost[layer, image, :count], their_cost.T))
                np.testing.assert_allclose(cost[layer, image, :count], their_cost.T, atol=1e-5)
            pairs = sorted(zip(order.tolist(), queries.tolist(), strict=True))
            assert list(enumerate(query_of_target[layer, image, :count].tolist())) == pairs


@pytest.mark.parametrize("counts", [[7, 0, 23], [1, 1], [60, 3]])
def test_every_term_of_every_layer_and_the_total(counts, differences):
    predicted, wanted = predictions(len(counts), len(counts)), peer.targets(sum(counts), counts, CLASSES)
    their_total, theirs, _ = their_criterion(predicted, wanted)

    @jax.jit
    def ours(predicted, wanted):
        matches = matcher.match(predicted, wanted)
        divisors = losses.make_normalizers(wanted, QUERIES, matcher.SOFTMAX)
        terms = losses.set_losses(predicted, wanted, matches.query_of_target, divisors, matcher.SOFTMAX)
        errors = losses.count_errors(predicted, wanted, matches.query_of_target, matcher.SOFTMAX)
        return losses.total_loss([terms], LossConfig()), terms._asdict(), errors.cardinality_error

    total, terms, cardinality_error = ours(predicted, wanted)
    terms["cardinality_error"] = cardinality_error
    names = {
        (name, layer): name if layer == LAYERS - 1 else f"{name}_{layer}" for name in terms for layer in range(LAYERS)
    }
    assert set(names.values()) == theirs.keys()
    for (name, layer), their_name in names.items():
        differences(name, abs(float(terms[name][layer]) - theirs[their_name]))
        np.testing.assert_allclose(float(terms[name][layer]), theirs[their_name], rtol=0, atol=1e-5)
    differences("total (relative)", abs(float(total) / their_total - 1))
    np.testing.assert_allclose(float(total), their_total, rtol=1e-5)


def test_without_any_object(differences):
    """The matcher has nothing to do, all queries should say no-object, and nothing is divided by zero."""
    predicted, wanted = predictions(0, 2), peer.targets(0, [0, 0], CLASSES)
    their_total, _, _ = their_criterion(predicted, wanted)
    matches = matcher.match(predicted, wanted)
    divisors = losses.make_normalizers(wanted, QUERIES, matcher.SOFTMAX)
    terms = losses.set_losses(predicted, wanted, matches.query_of_target, divisors, matcher.SOFTMAX)
    total = float(losses.total_loss([terms], LossConfig()))
    differences("total (relative)", abs(total / their_total - 1))
    np.testing.assert_allclose(total, their_total, rtol=1e-5)
