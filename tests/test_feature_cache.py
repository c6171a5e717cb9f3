"""Features that are kept: the same training as from pixels, and what cannot be kept."""

import io

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from test_models import fill, jit, network

from detr_jax.batches.augmentation import Augmentation, View
from detr_jax.batches.canvases import Bucket
from detr_jax.datasets.split import Record
from detr_jax.errors import UserError
from detr_jax.batches.features import FeatureCache, checked_stage

FIXED = Augmentation(scales=(64,), max_size=80, crop=0.0)
TRAINED = ["backbone/layer3/0/conv1/kernel", "class_head/kernel"]
MODEL = dict(
    backbone="resnet18", last_stage="layer3", backbone_width=8, hidden_dim=32, heads=4, encoder_layers=1,
    decoder_layers=1, feed_forward_dim=32, num_queries=5
)  # fmt: skip


class Photos:
    """Two images of different sizes."""

    name = "photos"
    sizes = np.array([[64, 80], [50, 41]])

    def __getitem__(self, index: int) -> Record:
        file = io.BytesIO()
        pixels = np.random.default_rng(index).integers(0, 256, (*self.sizes[index], 3)).astype(np.uint8)
        Image.fromarray(pixels).save(file, "PNG")
        return Record(
            file.getvalue(), index, "x.png", np.array([[4.0, 8, 20, 30]], np.float32), np.array([1], np.int32)
        )


def view(index: int, flip: int = 0) -> View:
    size = Photos.sizes[index]
    return View(np.array(flip), size, np.array([0, 0, *size]), size)


@pytest.fixture(scope="module")
def model():
    net = network(classes=3, **MODEL)
    arrays = {name: jnp.asarray(array) for name, array in fill(net).items()}
    features = jit(lambda images, sizes: net.apply(arrays, images, sizes, 2, method="features"))
    return net, arrays, features


def test_predictions_from_kept_features_equal_those_from_pixels(model):
    net, arrays, features = model
    cache = FeatureCache(features, 8, 16)
    bucket, photos = Bucket(96, 96, 4), Photos()
    pixels = np.zeros((2, 96, 96, 3), np.uint8)
    kept = np.zeros((2, *cache.shape(bucket)), cache.dtype)
    for row in range(2):
        _, boxes, labels = cache(photos, row, view(row, flip=row), bucket, kept[row])
        image = np.array(Image.open(io.BytesIO(photos[row].image)))
        image = image[:, ::-1] if row else image
        pixels[row, : image.shape[0], : image.shape[1]] = image
        assert boxes.shape == (1, 4) and labels.tolist() == [1]
    sizes = Photos.sizes.astype(np.int32)
    wanted = jit(net.apply)(arrays, pixels, sizes)
    found = jit(lambda *inputs: net.apply(arrays, *inputs, None, None, 2))(kept, sizes)
    # Rounded to float16: a part in two thousand of every feature.
    assert np.abs(found.logits - wanted.logits).max() < 0.02 * np.abs(wanted.logits).max()
    np.testing.assert_allclose(found.boxes, wanted.boxes, atol=0.01)


def test_each_view_is_computed_once(model):
    calls = []

    def features(images, sizes):
        calls.append(sizes.tolist())
        return np.zeros((1, 12, 12, 16), np.float32)

    cache, bucket, canvas = FeatureCache(features, 8, 16), Bucket(96, 96, 4), np.zeros((12, 12, 16), np.float16)
    for _ in range(3):
        for row, flip in ((0, 0), (0, 1), (0, 2), (1, 0)):
            size, boxes, _ = cache(Photos(), row, view(row, flip), bucket, canvas)
            assert size == ((8, 10) if row == 0 else (7, 6))
    assert len(calls) == 4
    left = cache(Photos(), 0, view(0, 0), bucket, canvas)[1][0]
    upside_down = cache(Photos(), 0, view(0, 2), bucket, canvas)[1][0]
    np.testing.assert_allclose(upside_down, [left[0], 1 - left[1], left[2], left[3]], atol=1e-6)


def test_what_cannot_be_kept_is_one_sentence():
    assert checked_stage("", FIXED, TRAINED) == 0 and checked_stage("layer2", FIXED, TRAINED) == 2
    with pytest.raises(UserError, match="'layer9' is no stage; choose from layer1, layer2"):
        checked_stage("layer9", FIXED, TRAINED)
    with pytest.raises(
        UserError, match=r"backbone/layer3 would be trained; set --config.freeze=\"\('backbone/layer3',\)\""
    ):
        checked_stage("layer3", FIXED, TRAINED)
    for settings in (FIXED._replace(crop=0.5), FIXED._replace(scales=(48, 64))):
        with pytest.raises(UserError, match="views that come again: set --config.data.crop=0 and one scale"):
            checked_stage("layer2", settings, TRAINED)
    with pytest.raises(UserError, match="has no use for --config.data.resize=device: leave that out"):
        checked_stage("layer2", FIXED, TRAINED, "device")
