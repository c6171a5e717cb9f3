"""Features that are kept: those of the pixels, computed once for each view."""

import io

import numpy as np
import pytest
from PIL import Image

from detr_jax.batches.features import FeatureReader
from detr_jax.config import Config, DataConfig, TrainConfig
from detr_jax.config_check import check
from detr_jax.datasets.split import Record
from detr_jax.errors import UserError
from detr_jax.structures import Bucket, View

BUCKET = Bucket(96, 96, 4)


class Photographs:
    """Two images of different sizes."""

    name = "photographs"
    sizes = np.array([[64, 80], [50, 41]])

    def __getitem__(self, index: int) -> Record:
        file = io.BytesIO()
        pixels = np.random.default_rng(index).integers(0, 256, (*self.sizes[index], 3)).astype(np.uint8)
        Image.fromarray(pixels).save(file, "PNG")
        return Record(
            file.getvalue(), index, "x.png", np.array([[4.0, 8, 20, 30]], np.float32), np.array([1], np.int32)
        )


def view(index: int, flip: int = 0) -> View:
    size = Photographs.sizes[index]
    return View(np.array(flip), size, np.array([0, 0, *size]), size)


def means(pixels, sizes):
    """A backbone's stand-in: the mean of each cell of 8x8 pixels, which is not 0 on the margins beside an image."""
    return pixels.reshape(1, 12, 8, 12, 8, 3).mean(axis=(2, 4)) + 1.0


def test_kept_features_are_those_of_the_pixels():
    reader, photographs = FeatureReader(means, stage=2, stride=8, channels=3), Photographs()
    inputs = reader.empty(BUCKET, 2)
    assert inputs.stage == 2 and inputs.features.shape == (2, 12, 12, 3) and inputs.features.dtype == np.float16
    inputs.features[:] = 7  # what a row holds before it is filled does not matter
    for row in range(2):
        boxes, labels = reader.read(photographs, row, view(row, flip=row), BUCKET, inputs, row)
        assert boxes.shape == (1, 4) and labels.tolist() == [1]
        image = np.array(Image.open(io.BytesIO(photographs[row].image)))
        image = image[:, ::-1] if row else image
        pixels = np.zeros((1, 96, 96, 3), np.uint8)
        pixels[0, : image.shape[0], : image.shape[1]] = image
        wanted = means(pixels, None)[0]
        h, w = -(-image.shape[0] // 8), -(-image.shape[1] // 8)
        wanted[h:], wanted[:, w:] = 0, 0
        np.testing.assert_array_equal(inputs.features[row], wanted.astype(np.float16))
    np.testing.assert_array_equal(inputs.sizes, Photographs.sizes)


def test_each_view_is_computed_once():
    calls = []

    def compute(pixels, sizes):
        calls.append(sizes.tolist())
        return np.ones((1, 12, 12, 16), np.float32)

    reader = FeatureReader(compute, stage=2, stride=8, channels=16)
    inputs = reader.empty(BUCKET, 1)
    for _ in range(3):
        for index, flip in ((0, 0), (0, 1), (0, 2), (1, 0)):
            reader.read(Photographs(), index, view(index, flip), BUCKET, inputs, 0)
            filled = inputs.features[0].all(axis=-1)
            h, w = (8, 10) if index == 0 else (7, 6)
            assert filled[:h, :w].all() and filled.sum() == h * w
    assert len(calls) == 4
    left = reader.read(Photographs(), 0, view(0, 0), BUCKET, inputs, 0)[0][0]
    upside_down = reader.read(Photographs(), 0, view(0, 2), BUCKET, inputs, 0)[0][0]
    np.testing.assert_allclose(upside_down, [left[0], 1 - left[1], left[2], left[3]], atol=1e-6)


def run(stage: str, freeze=(), **data) -> Config:
    settings = {"scales": (800,), "crop": 0.0} | data
    return Config(freeze=freeze, data=DataConfig(**settings), train=TrainConfig(cache_features=stage))


def test_what_cannot_be_kept_is_one_sentence():
    frozen = ("backbone/layer2",)  # the stem and layer1 are not trained anyway
    check(run("", freeze=frozen))
    check(run("layer2", freeze=frozen))
    with pytest.raises(UserError, match="train.cache_features=layer9 does not exist; choose from layer1, layer2"):
        check(run("layer9", freeze=frozen))
    with pytest.raises(UserError, match=r"backbone/layer3 would be trained; set freeze=\"\('backbone/layer3',\)\""):
        check(run("layer3", freeze=frozen))
    for changes in ({"crop": 0.5}, {"scales": (800, 640)}):
        with pytest.raises(UserError, match="views that come again; set data.crop=0 and one scale"):
            check(run("layer2", freeze=frozen, **changes))
    with pytest.raises(UserError, match="as evaluation does; leave data.resize=device out"):
        check(run("layer2", freeze=frozen, resize="device"))
