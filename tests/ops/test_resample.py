"""Photos resampled on the device: the host's pixels (Pillow's), whatever the canvas, and zeros outside the image."""

import jax
import numpy as np
import pytest

from detr_jax.batches import augmentation
from detr_jax.batches.canvases import fit_buckets
from detr_jax.config import COCO_BUCKETS, DataConfig
from detr_jax.images.decoding import decode
from detr_jax.ops.resample import resample
from detr_jax.structures import Photos, Pixels, View

SMALL = DataConfig(
    scales=(25, 48, 64, 80), max_size=133, crop_scales=(30, 50, 70), crop_min=20, crop_max=60, flip_vertical=0.5
)
SIZES = np.array([[64, 96], [96, 41], [50, 50], [7, 90], [33, 1], [1, 1], [2, 3]], np.int32)
compiled = jax.jit(resample)


def pixels_of(images, sizes, views: View, canvas: tuple[int, int], crop_max: int) -> np.ndarray:
    """What the compiled function makes of the images, whose sizes it must take from the views."""
    found = compiled(Photos(images, sizes, views, canvas, crop_max))
    assert isinstance(found, Pixels) and found.pixels.shape == (len(images), *canvas, 3)
    np.testing.assert_array_equal(found.sizes, views.size)
    return np.asarray(found.pixels)


def noise(size) -> np.ndarray:
    return np.random.default_rng(int(size[0])).integers(0, 256, (*size, 3)).astype(np.uint8)


def on_canvas(images, side: int) -> np.ndarray:
    """Each image in the corner of a canvas whose rest is white: what is read there would show."""
    canvas = np.full((len(images), side, side, 3), 255, np.uint8)
    for row, image in enumerate(images):
        canvas[row, : image.shape[0], : image.shape[1]] = image
    return canvas


def whole(sizes, results, flips) -> View:
    """Views that flip and resize."""
    box = np.concatenate([np.zeros_like(sizes), sizes], axis=1)
    return View(np.array(flips, np.int32), sizes, box, np.array(results, np.int32))


def levels(found: np.ndarray, images, views: View) -> list[np.ndarray]:
    """Differences from the host's pixels, image by image; checks that the rest of the canvas is zero."""
    differences = []
    for row, image in enumerate(images):
        h, w = views.size[row]
        wanted = np.empty((h, w, 3), np.uint8)
        augmentation.apply_to_pixels(image, views.take(row), wanted)
        assert not found[row, h:].any() and not found[row, :, w:].any()
        differences.append(np.abs(found[row, :h, :w].astype(int) - wanted))
    return differences


def test_a_resize_is_pillows_within_a_level():
    results = [[128, 120], [40, 41], [50, 50], [128, 128], [17, 1], [9, 5], [1, 1]]  # up, down, equal, one of each
    sizes, results = np.tile(SIZES, (4, 1)), np.tile(results, (4, 1))
    views = whole(sizes, results, np.repeat(np.arange(4), len(SIZES)))
    images = [noise(size) for size in sizes]
    found = pixels_of(on_canvas(images, 96), sizes, views, (128, 128), 60)
    differences = levels(found, images, views)
    assert max(difference.max() for difference in differences) <= 1
    assert all(difference.max() == 0 for difference in differences[2::7])  # nothing to do


def test_the_whole_recipe_on_noise():
    """Three roundings less than Pillow's: two levels."""
    sizes = np.tile(SIZES[:4], (40, 1))
    views = augmentation.views(sizes, np.random.default_rng(0).random((len(sizes), augmentation.DRAWS)), SMALL)
    assert set(views.flip) == {0, 1, 2, 3} and (views.resize != sizes).any(axis=1).mean() > 0.3
    images = [noise(size) for size in sizes]
    found = pixels_of(on_canvas(images, 96), sizes, views, (144, 144), 60)
    differences = levels(found, images, views)
    assert max(difference.max() for difference in differences) <= 2
    assert np.mean([difference.mean() for difference in differences]) < 0.3


def test_the_canvases_do_not_matter():
    views = augmentation.views(SIZES, np.random.default_rng(1).random((len(SIZES), augmentation.DRAWS)), SMALL)
    images = [noise(size) for size in SIZES]
    one = pixels_of(on_canvas(images, 96), SIZES, views, (144, 144), 60).astype(int)
    other = pixels_of(on_canvas(images, 160), SIZES, views, (200, 170), 90).astype(int)
    difference = np.abs(one - other[:, :144, :144])
    assert difference.max() <= 1 and difference.mean() < 1e-3  # a sum in another order, at the edge of rounding


def test_by_hand():
    """Twice as wide: each pixel lies a quarter on either side of a new centre."""
    image = np.array([[[0, 0, 0], [100, 100, 100]]], np.uint8)
    view = whole(np.array([[1, 2]], np.int32), [[1, 4]], [0])
    found = pixels_of(on_canvas([image], 3), np.array([[1, 2]], np.int32), view, (2, 5), 0)
    assert found[0, 0, :, 0].tolist() == [0, 25, 75, 100, 0] and not found[0, 1].any()
    mirrored = pixels_of(
        on_canvas([image], 3), np.array([[1, 2]], np.int32), view._replace(flip=np.array([1])), (2, 5), 0
    )
    assert mirrored[0, 0, :, 0].tolist() == [100, 75, 25, 0, 0]


@pytest.mark.slow
def test_photos(real_data):
    """The published recipe on photos: a level for a resize, two with a crop, and few pixels of them."""
    paths = sorted((real_data / "coco128" / "images" / "train2017").glob("*.jpg"))[:24]
    images = [decode(path.read_bytes()) for path in paths]
    sizes = np.array([image.shape[:2] for image in images], np.int32)
    uniforms = np.random.default_rng(0).random((len(sizes), augmentation.DRAWS))
    views = augmentation.views(sizes, uniforms, DataConfig())
    bucket_of, _ = fit_buckets(views.size[:, None], np.ones((len(sizes), 1), np.int32), COCO_BUCKETS)
    cropped = (views.resize != sizes).any(axis=1)
    for row, image in enumerate(images):
        one, view, bucket = slice(row, row + 1), views.take(slice(row, row + 1)), COCO_BUCKETS[bucket_of[row]]
        found = pixels_of(on_canvas([image], 640), sizes[one], view, (bucket.height, bucket.width), 600)
        (difference,) = levels(found, [image], view)
        assert difference.max() <= 1 + cropped[row] and difference.mean() < 0.35 and (difference > 1).mean() < 1e-3
