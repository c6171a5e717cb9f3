"""The whole model: padding that does not matter, every form of inputs, dropout, dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detr_jax.config import ModelConfig
from detr_jax.errors import UserError
from detr_jax.models import detr
from detr_jax.ops.resample import resample
from detr_jax.structures import Features, Photos, Pixels, View
from tests.models.networks import SMALL, fill, jit, make, pixels, place

INERT = {
    "r50": dict(),
    "r50_dc5": dict(dilation=True),
    "r18_c4": dict(backbone="resnet18", last_stage="layer3"),
    "group norm, Caffe strides": dict(norm="group", backbone_weights=None, stride_in_1x1=True, last_stage="layer3"),
}


@pytest.mark.parametrize("name", INERT)
def test_an_image_alone_and_in_a_larger_batch_and_canvas(name):
    net = make(**SMALL, **INERT[name])
    arrays, apply = fill(net), jit(net.apply)
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (61, 87, 3), np.uint8)
    alone = apply(arrays, pixels(image[None], (61, 87)))
    assert np.ptp(alone.boxes) > 0.05  # not a constant
    others = [rng.integers(0, 256, size, np.uint8) for size in ((96, 33, 3), (5, 128, 3))]
    for position in (0, 2):
        images = [*others[:position], image, *others[position:]]
        batch = np.stack([place(one, (96, 128), rng) for one in images])
        together = apply(arrays, pixels(batch, *(one.shape[:2] for one in images)))
        np.testing.assert_allclose(together.logits[:, position], alone.logits[:, 0], atol=1e-5)
        np.testing.assert_allclose(together.boxes[:, position], alone.boxes[:, 0], atol=1e-5)


INPUTS = pixels(np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), np.uint8), (30, 41), (32, 48))


@pytest.fixture(scope="module")
def small():
    net = make(backbone="resnet10", last_stage="layer3", **SMALL)
    return net, fill(net), jit(net.apply)


def test_an_empty_row_is_finite_and_changes_nothing(small):
    net, arrays, apply = small
    full = apply(arrays, INPUTS)
    half = apply(arrays, pixels(INPUTS.pixels, INPUTS.sizes[0], (0, 0)))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(half))
    np.testing.assert_allclose(half.logits[:, 0], full.logits[:, 0], atol=1e-5)


def test_shapes_and_ranges(small):
    net, arrays, apply = small
    found = apply(arrays, INPUTS)
    assert found.logits.shape == (2, 2, 7, 92) and found.boxes.shape == (2, 2, 7, 4)
    assert found.boxes.min() > 0 and found.boxes.max() < 1


def test_dropout_only_with_a_key_and_the_same_with_the_same_key(small):
    net, arrays, apply = small
    without = apply(arrays, INPUTS)
    first, again, second = (apply(arrays, INPUTS, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.logits, again.logits)
    assert np.abs(first.logits - second.logits).max() > 1e-3
    assert np.abs(first.logits - without.logits).max() > 1e-3
    np.testing.assert_array_equal(apply(arrays, INPUTS).logits, without.logits)
    assert np.ptp(first.logits[0, 0], axis=0).max() > 1e-3  # each query has its own mask


def test_bfloat16_computes_coarsely_and_answers_in_float32(small):
    _, arrays, apply = small
    net = make(backbone="resnet10", last_stage="layer3", dtype="bfloat16", **SMALL)
    found, exact = jit(net.apply)(arrays, INPUTS), apply(arrays, INPUTS)
    assert found.logits.dtype == found.boxes.dtype == jnp.float32
    difference = np.abs(found.logits - exact.logits).max()
    assert 1e-4 < difference < 0.3
    assert all(shape.dtype == jnp.float32 for shape in net.shapes.values())


def test_rematerialisation_changes_no_gradient():
    changes = SMALL | dict(backbone="resnet10", last_stage="layer2", decoder_layers=1)
    nets = [make(remat=remat, **changes) for remat in (False, True)]
    arrays = {key: jnp.asarray(array) for key, array in fill(nets[0]).items()}
    name = "backbone/layer2/0/conv1/kernel"
    gradients = []
    for net in nets:

        def sum_logits(kernel, net=net):
            return jnp.sum(net.apply(arrays | {name: kernel}, INPUTS, jax.random.key(0)).logits)

        gradients.append(jit(jax.grad(sum_logits))(arrays[name]))
    plain, recomputed = gradients
    np.testing.assert_allclose(recomputed, plain, atol=1e-5 * np.abs(plain).max())


def test_photos_are_seen_as_their_views_show_them(small):
    net, arrays, apply = small
    rng = np.random.default_rng(3)
    sizes = np.array([[20, 50], [40, 31]], np.int32)
    views = View(np.array([1, 0], np.int32), sizes, np.array([[0, 0, 20, 50], [4, 3, 30, 20]], np.int32), INPUTS.sizes)
    photos = Photos(rng.integers(0, 256, (2, 48, 64, 3), np.uint8), sizes, views, (32, 48), 30)
    seen = jax.jit(resample)(photos)
    assert isinstance(seen, Pixels)
    found, wanted = apply(arrays, photos), apply(arrays, seen)
    np.testing.assert_allclose(found.logits, wanted.logits, atol=1e-5)
    np.testing.assert_allclose(found.boxes, wanted.boxes, atol=1e-6)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_features_of_a_stage_are_as_good_as_pixels(small, stage):
    net, arrays, apply = small
    features = jit(lambda arrays, inputs: net.apply(arrays, inputs, stage, method="features"))(arrays, INPUTS)
    wanted, found = apply(arrays, INPUTS), apply(arrays, Features(features, INPUTS.sizes, stage))
    np.testing.assert_allclose(found.logits, wanted.logits, atol=1e-5)
    np.testing.assert_allclose(found.boxes, wanted.boxes, atol=1e-6)
    # As they are kept, rounded to float16: a part in two thousand of every feature.
    found = apply(arrays, Features(features.astype(np.float16), INPUTS.sizes, stage))
    assert np.abs(found.logits - wanted.logits).max() < 0.02 * np.abs(wanted.logits).max()
    np.testing.assert_allclose(found.boxes, wanted.boxes, atol=0.01)


IMPOSSIBLE = {
    "queries": (dict(queries="selected"), "model.queries=selected works on anchor boxes; set model.anchors=True"),
    "focus": (dict(focus=True), "model.focus=True works on anchor boxes; set model.anchors=True"),
    "denoising": (dict(denoising=1), "model.denoising=1 works on anchor boxes; set model.anchors=True"),
    "no such queries": (dict(queries="chosen"), "queries=chosen does not exist; choose from learned, selected"),
    "no such scores": (dict(class_scores="focal"), "class_scores=focal does not exist; choose from softmax, sigmoid"),
    "fewer than no groups": (dict(anchors=True, denoising=-1), "denoising=-1"),
    "nothing finer": (dict(finer_memory=True, last_stage="layer1"), "last_stage"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_model_that_cannot_be_is_refused(name):
    changes, message = IMPOSSIBLE[name]
    with pytest.raises(UserError, match=message):
        detr.network(ModelConfig(**changes), 3)


def test_a_model_without_classes_is_refused():
    with pytest.raises(UserError, match="0 classes"):
        detr.network(ModelConfig(), 0)
