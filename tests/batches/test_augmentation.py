"""Distribution and rounding of views against the original's rules, their pixels against a chain of Pillow calls."""

import numpy as np
import pytest
from PIL import Image

from detr_jax.batches import augmentation
from detr_jax.config import DataConfig
from detr_jax.structures import View

RECIPE = DataConfig()
SIZES = np.array([[480, 640], [640, 480], [427, 640], [500, 500], [51, 640], [1333, 800], [240, 320], [3000, 2000]])


def views_of(size, count=20_000, data=RECIPE, seed=0):
    sizes = np.tile(np.array(size), (count, 1))
    return augmentation.views(sizes, np.random.default_rng(seed).random((count, augmentation.DRAWS)), data)


def original_size(height, width, scale, max_size=None):
    """The original's get_size_with_aspect_ratio, returning (height, width)."""
    if max_size is not None:
        short, long = float(min(height, width)), float(max(height, width))
        if long / short * scale > max_size:
            scale = int(round(max_size * short / long))
    if (width <= height and width == scale) or (height <= width and height == scale):
        return height, width
    if width < height:
        return int(scale * height / width), scale
    return scale, int(scale * width / height)


@pytest.mark.parametrize("max_size", [None, 1333, 640])
def test_size_rule(max_size):
    sizes = np.concatenate([SIZES, np.random.default_rng(0).integers(40, 2000, (2000, 2))])
    scales = np.random.default_rng(1).choice(RECIPE.scales, len(sizes))
    expected = [original_size(*size, scale, max_size) for size, scale in zip(sizes, scales, strict=True)]
    np.testing.assert_array_equal(augmentation.resized_sizes(sizes, scales, max_size), expected)


def test_known_size():
    """The two cats at a short side of 800: the size that every DETR implementation quotes."""
    assert views_of((480, 640), 1, augmentation.evaluation_settings(RECIPE)).size.tolist() == [[800, 1066]]


def test_evaluation_settings_allow_one_view():
    data = augmentation.evaluation_settings(DataConfig(scales=(300, 500, 400), flip_vertical=1.0))
    found = views_of((480, 640), 100, data)
    assert not found.flip.any() and (found.resize == (480, 640)).all() and (found.size == (500, 666)).all()


def test_settings_of_crops_mean_nothing_without_crops():
    odd = views_of((480, 640), 100, DataConfig(crop=0.0, crop_scales=(), crop_min=900))
    for one, other in zip(odd, views_of((480, 640), 100, DataConfig(crop=0.0)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("size", SIZES.tolist())
def test_views_stay_in_the_recipe(size):
    views = views_of(size, 3000)
    assert (views.crop[:, :2] >= 0).all() and (views.crop[:, 2:] > 0).all()
    assert (views.crop[:, :2] + views.crop[:, 2:] <= views.resize).all()
    assert views.size.max() <= 1333 + 1  # the original's rounding gives 1334 at times
    for row in range(0, 3000, 100):
        crop = tuple(views.crop[row, 2:].tolist())
        assert tuple(views.size[row].tolist()) in {original_size(*crop, scale, 1333) for scale in RECIPE.scales}
        resized = {tuple(size)} | {original_size(*size, scale) for scale in RECIPE.crop_scales}
        assert tuple(views.resize[row].tolist()) in resized


def test_distribution():
    views = views_of((480, 640), 40_000)
    cropped = (views.resize != (480, 640)).any(axis=1)
    assert abs(views.flip.mean() - 0.5) < 0.01 and abs(cropped.mean() - 0.5) < 0.01

    shares = np.unique(views.size[~cropped].min(axis=1), return_counts=True)
    assert shares[0].tolist() == list(RECIPE.scales)
    np.testing.assert_allclose(shares[1] / shares[1].sum(), 1 / 11, atol=0.01)

    shares = np.unique(views.resize[cropped].min(axis=1), return_counts=True)
    assert shares[0].tolist() == list(RECIPE.crop_scales)
    np.testing.assert_allclose(shares[1] / shares[1].sum(), 1 / 3, atol=0.01)

    at_400 = (views.resize == (400, 533)).all(axis=1)
    top, left, height, width = views.crop[at_400].T
    assert (height.min(), height.max(), width.min(), width.max()) == (384, 400, 384, 533)  # both ends inclusive
    assert left.min() == 0 and (left + width).max() == 533 and (top + height).max() == 400
    assert abs(np.corrcoef(height, width)[0, 1]) < 0.03


def test_elongated_images_are_not_cropped():
    assert (views_of((30, 5000), 100).resize == (30, 5000)).all()


def test_a_view_depends_on_its_own_numbers_only():
    uniforms = np.random.default_rng(3).random((len(SIZES), augmentation.DRAWS))
    together = augmentation.views(SIZES, uniforms, RECIPE)
    for row in range(len(SIZES)):
        alone = augmentation.views(SIZES[row : row + 1], uniforms[row : row + 1], RECIPE)
        for a, b in zip(alone.take(0), together.take(row), strict=True):
            np.testing.assert_array_equal(a, b)


def pillow_chain(image, view):
    """The original's order of operations, one Pillow call each."""
    (rh, rw), (top, left, height, width), (fh, fw) = view.resize.tolist(), view.crop.tolist(), view.size.tolist()
    picture = Image.fromarray(image)
    if view.flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture = picture.resize((rw, rh), Image.Resampling.BILINEAR)
    picture = picture.crop((left, top, left + width, top + height))
    return np.asarray(picture.resize((fw, fh), Image.Resampling.BILINEAR))


SMALL = DataConfig(scales=(48, 64, 80), max_size=133, crop_scales=(40, 50, 60), crop_min=38, crop_max=60)


def test_pixels_are_pillows():
    image = np.random.default_rng(0).integers(0, 256, (70, 96, 3), np.uint8)
    views = views_of((70, 96), 40, SMALL)
    for row in range(40):
        pixels, _, _ = augmentation.apply(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int32), views.take(row))
        np.testing.assert_array_equal(pixels, pillow_chain(image, views.take(row)))


@pytest.mark.parametrize("size", [(300, 400), (400, 300)])
def test_boxes_follow_the_pixels(size):
    """A rectangle is painted, the view applied to both, and the box compared with where the paint is."""
    rng = np.random.default_rng(0)
    views = views_of(size, 60, DataConfig(scales=(200, 300), max_size=500, crop_scales=(250, 350), crop_min=150))
    found = 0
    for row in range(60):
        corner, extent = rng.integers(0, 150, 2), rng.integers(80, 140, 2)
        (x0, y0), (x1, y1) = corner, corner + extent
        image = np.zeros((*size, 3), np.uint8)
        image[y0:y1, x0:x1] = 255
        box = np.array([[x0, y0, x1, y1]], np.float32)
        pixels, boxes, labels = augmentation.apply(image, box, np.array([7], np.int32), views.take(row))
        assert boxes.dtype == np.float32 and (boxes >= 0).all() and (boxes <= 1).all()
        painted = np.argwhere(pixels[..., 0] > 127)
        if len(painted) == 0:
            continue  # nothing, or less than a pixel, is left in the crop
        assert labels.tolist() == [7]
        (cx, cy, w, h), (height, width) = boxes[0], pixels.shape[:2]
        from_box = [(cy - h / 2) * height, (cx - w / 2) * width, (cy + h / 2) * height, (cx + w / 2) * width]
        np.testing.assert_allclose(from_box, [*painted.min(axis=0), *painted.max(axis=0) + 1], atol=1.0)
        found += 1
    assert found > 50


def test_flip_is_its_own_inverse():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    boxes = np.array([[3, 4, 10, 19], [0, 0, 30, 20]], np.float32)
    whole = View(np.array(True), np.array([20, 30]), np.array([0, 0, 20, 30]), np.array([20, 30]))
    pixels, flipped, labels = augmentation.apply(image, boxes, np.arange(2), whole)
    np.testing.assert_array_equal(pixels, image[:, ::-1])
    np.testing.assert_allclose(flipped[0], [1 - 6.5 / 30, 11.5 / 20, 7 / 30, 15 / 20], atol=1e-6)
    np.testing.assert_allclose(flipped[1], [0.5, 0.5, 1, 1])
    assert labels.tolist() == [0, 1]


def test_objects_outside_the_crop_are_dropped_and_the_others_cut():
    view = View(np.array(False), np.array([100, 100]), np.array([50, 50, 50, 50]), np.array([80, 80]))
    boxes = np.array([[0, 0, 50, 99], [40, 40, 60, 60], [60, 70, 80, 90], [99.5, 99.5, 100, 100]], np.float32)
    _, kept, labels = augmentation.apply(np.zeros((100, 100, 3), np.uint8), boxes, np.arange(4), view)
    assert labels.tolist() == [1, 2, 3]  # half a pixel is still an object, as in the original
    np.testing.assert_allclose(kept[0], [0.1, 0.1, 0.2, 0.2])
    np.testing.assert_allclose(kept[1], [0.4, 0.6, 0.4, 0.4], atol=1e-6)
