"""Anchors and what builds on them: each part against a slow loop, isolation of noised objects, gradients, padding."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from detr_jax.config import ModelConfig
from detr_jax.models import anchors, detr, heads
from detr_jax.models.position_encoding import make_grid
from detr_jax.structures import Noised
from tests.models.networks import fill, jit, pixels

CLASSES, QUERIES = 3, 6
EVERYTHING = dict(
    queries="selected", anchors=True, focus=True, finer_memory=True, denoising=2, class_scores="sigmoid"
)  # fmt: skip
OPTIONS = {  # each alone, with what it needs
    "plain": {},
    "sigmoid": dict(class_scores="sigmoid"),
    "finer_memory": dict(finer_memory=True),
    "anchors": dict(anchors=True),
    "selected": dict(anchors=True, queries="selected"),
    "focus": dict(anchors=True, focus=True),
    "denoising": dict(anchors=True, denoising=2),
    "everything": EVERYTHING,
}


@functools.cache
def network(**options):
    settings = dict(
        backbone="resnet10_small", backbone_width=8, last_stage="layer2", dilation=False,
        stride_in_1x1=False, norm="group", position_embedding="sine", position_temperature=20.0, hidden_dim=16,
        heads=4, encoder_layers=1, decoder_layers=2, feed_forward_dim=24, dropout=0.0, num_queries=QUERIES,
        pre_norm=False,
    )  # fmt: skip
    return detr.network(ModelConfig(**settings | options), CLASSES)


def filled(net) -> dict:
    return {name: jnp.asarray(array) for name, array in fill(net).items()}


@functools.cache
def everything():
    net = network(**EVERYTHING)
    return net, filled(net), jit(net.apply)


IMAGES = np.random.default_rng(0).integers(0, 256, (2, 40, 48, 3)).astype(np.uint8)
INPUTS = pixels(IMAGES, (40, 48), (29, 35))
VALID = np.array([[True, True, True, False], [True, False, False, False]])
NOISE = Noised(
    np.random.default_rng(1).uniform(0.1, 0.5, (2, 2, 4, 4)).astype(np.float32),
    np.random.default_rng(2).integers(0, CLASSES, (2, 2, 4)).astype(np.int32),
    VALID,
)


# --- Isolation ---


def test_nobody_sees_a_noised_object_but_its_group():
    """Whatever changes in one group or in an empty slot, every other output stays, bit for bit."""
    _, arrays, apply = everything()
    slots, found = 4, apply(arrays, INPUTS, None, NOISE)
    boxes, labels = NOISE.boxes.copy(), NOISE.labels.copy()
    boxes[:, 1], labels[:, 1] = boxes[:, 1, ::-1] * 0.7, (labels[:, 1] + 1) % CLASSES
    other = apply(arrays, INPUTS, None, NOISE._replace(boxes=boxes, labels=labels))
    np.testing.assert_array_equal(found.logits, other.logits)
    np.testing.assert_array_equal(found.boxes, other.boxes)
    np.testing.assert_array_equal(found.denoised.logits[:, :, :slots], other.denoised.logits[:, :, :slots])
    assert np.abs(found.denoised.logits[:, :, slots:] - other.denoised.logits[:, :, slots:]).max() > 1e-3

    real = np.tile(VALID, (1, 2))
    boxes = np.where(VALID[:, None, :, None], NOISE.boxes, 0.9)
    other = apply(arrays, INPUTS, None, NOISE._replace(boxes=boxes.astype(np.float32)))
    np.testing.assert_array_equal(found.denoised.boxes[:, real], other.denoised.boxes[:, real])
    np.testing.assert_array_equal(found.logits, other.logits)


def test_noised_objects_do_not_see_the_queries():
    _, arrays, apply = everything()
    found = apply(arrays, INPUTS, None, NOISE)
    changed = arrays | {"anchor_decoder/contents": arrays["anchor_decoder/contents"] + 1}
    other = apply(changed, INPUTS, None, NOISE)
    np.testing.assert_array_equal(found.denoised.logits, other.denoised.logits)
    assert np.abs(found.logits - other.logits).max() > 1e-3


def test_queries_are_the_same_with_and_without_noised_objects():
    _, arrays, apply = everything()
    found, alone = apply(arrays, INPUTS, None, NOISE), apply(arrays, INPUTS)
    assert alone.denoised is None
    np.testing.assert_allclose(found.logits, alone.logits, atol=1e-5)
    np.testing.assert_allclose(found.boxes, alone.boxes, atol=1e-6)


def test_isolated_groups_by_hand():
    valid = np.array([[True, False]])
    group = Noised(np.zeros((1, 2, 2, 4), np.float32), np.zeros((1, 2, 2), np.int32), valid)
    seen = np.asarray(anchors.isolate_groups(group, 2))[0, 0] == 0
    # Slots of group 0 (a real one, an empty one), of group 1, then two queries.
    wanted = ["100000", "110000", "001000", "001100", "000011", "000011"]
    assert ["".join("01"[bool(cell)] for cell in row) for row in seen] == wanted


# --- Padding ---


@pytest.mark.parametrize("size", [(29, 35), (8, 8)], ids=["enough tokens", "fewer tokens than queries"])
def test_padding_is_inert_with_every_option(size):
    _, arrays, apply = everything()
    alone = apply(arrays, pixels(IMAGES[:1, : size[0], : size[1]], size))
    canvas = np.random.default_rng(5).integers(0, 256, (1, 64, 72, 3)).astype(np.uint8)
    canvas[:, : size[0], : size[1]] = IMAGES[:1, : size[0], : size[1]]
    padded = apply(arrays, pixels(canvas, size))
    for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(padded), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_an_empty_row_is_finite():
    _, arrays, apply = everything()
    found = apply(arrays, pixels(IMAGES, (40, 48), (0, 0)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


# --- Gradients ---


@pytest.mark.parametrize("name", OPTIONS)
def test_gradients_equal_finite_differences(name):
    """Of the decoder and the heads in every direction at once, where no gradient is stopped on purpose: one layer."""
    options = OPTIONS[name]
    net = network(**options | {"decoder_layers": 1})
    arrays = filled(net)
    noise = NOISE if options.get("denoising") else None
    free = [
        key for key in arrays if key.startswith(("transformer/decoder", "class_head", "box_head", "anchor_decoder"))
    ]
    if options.get("queries") == "selected":  # the selection itself jumps, and its boxes are detached
        free = [key for key in free if "source" not in key]
    rng = np.random.default_rng(3)
    outputs = jax.eval_shape(net.apply, arrays, INPUTS, None, noise)
    weights = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), outputs)

    def value(changed):
        found = net.apply(arrays | changed, INPUTS, None, noise)
        return sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(weights), strict=True))

    here = {key: jnp.asarray(arrays[key]) for key in free}
    at, gradient = jit(value), jit(jax.grad(value))(here)
    assert all(np.isfinite(leaf).all() for leaf in gradient.values())
    for seed in range(3):
        rng = np.random.default_rng(seed)
        direction = {key: rng.normal(size=array.shape).astype(np.float32) for key, array in here.items()}
        step = 1e-4
        there = [at({key: here[key] + sign * step * direction[key] for key in free}) for sign in (1, -1)]
        slope = sum(float(jnp.vdot(gradient[key], direction[key])) for key in free)
        scale = math.sqrt(sum(float(jnp.vdot(leaf, leaf)) for leaf in gradient.values()))
        assert abs(float(there[0] - there[1]) / (2 * step) - slope) < 0.03 * scale, (seed, slope)


def test_no_gradient_passes_from_layer_to_layer_through_the_anchors():
    """A layer's boxes start from those of the layer before as from constants; so do the first from the tokens'."""
    net, arrays, _ = everything()
    head = "anchor_decoder/source/box_head/layers/2/bias"

    def last_boxes(bias):
        return jnp.sum(net.apply(arrays | {head: bias}, INPUTS).boxes)

    assert not np.any(jit(jax.grad(last_boxes))(jnp.asarray(arrays[head])))

    def proposed(bias):
        return jnp.sum(net.apply(arrays | {head: bias}, INPUTS).proposals.boxes)

    assert np.all(jit(jax.grad(proposed))(jnp.asarray(arrays[head])))


# --- Parts ---


def test_the_surest_tokens_are_selected():
    """Against a sort in Python of what the heads say of every token."""
    rng = np.random.default_rng(0)
    for scores in ("softmax", "sigmoid"):
        config = ModelConfig(
            hidden_dim=8, heads=2, num_queries=5, anchors=True, queries="selected", class_scores=scores
        )
        select = anchors.SelectedAnchors(config, CLASSES, dtype=jnp.float32, rngs=nnx.Rngs(0))
        last = select.box_head.layers[-1]  # which starts at zero
        last.kernel[...] = jnp.asarray(rng.normal(size=last.kernel.shape), jnp.float32)
        pair = heads.Heads(select.class_head, select.box_head)
        tokens = rng.normal(size=(1, 12, 8)).astype(np.float32)
        valid = rng.random((1, 12)) < 0.8
        grid = make_grid(np.array([[24, 32]], np.int32), 3, 4, 8)
        found = select(anchors.Memory(tokens, tokens, valid, grid))
        logits = np.asarray(pair.classes(tokens))[0]
        no_object = np.asarray(jax.nn.softmax(logits))[:, -1]
        likely = 1 - no_object if scores == "softmax" else logits.max(axis=-1)
        order = sorted(np.flatnonzero(valid[0]), key=lambda token: -likely[token])[:5]
        np.testing.assert_allclose(found.proposals.logits[0, 0], logits[order], atol=1e-5)
        row, column = np.divmod(order, 4)
        first = np.stack([(column + 0.5) / 4, (row + 0.5) / 3, *[np.full(5, anchors.PROPOSED_SIDE)] * 2], axis=-1)
        moved = np.log(first / (1 - first)) + np.asarray(pair.boxes(tokens))[0, order]
        np.testing.assert_allclose(found.references[0], moved, atol=1e-4)
        np.testing.assert_allclose(found.proposals.boxes[0, 0], 1 / (1 + np.exp(-moved)), atol=1e-5)


def test_logit_is_the_inverse_of_the_sigmoid():
    boxes = np.random.default_rng(0).uniform(0.01, 0.99, (5, 4)).astype(np.float32)
    np.testing.assert_allclose(jax.nn.sigmoid(anchors.logit(boxes)), boxes, atol=1e-6)
    assert np.isfinite(anchors.logit(np.array([[0.0, 1.0, -3.0, 2.0]]))).all()


@pytest.mark.parametrize("name", OPTIONS)
def test_plain_arrays_stay_what_they_are(name):
    """No option renames an array of the plain model, but for the learned queries that anchors replace."""
    plain, other = network().shapes, network(**OPTIONS[name]).shapes
    gone = plain.keys() - other.keys()
    assert gone == ({"query_positions"} if OPTIONS[name].get("anchors") else set())
