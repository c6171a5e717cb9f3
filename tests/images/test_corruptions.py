"""Corrupted photos: the same whenever and wherever, of the same shape, and worse with every severity."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from detr_jax.errors import UserError
from detr_jax.images.corruptions import KINDS, SEVERITIES, Corruption, read_corruptions


def photo(height=96, width=128, seed=0):
    """Structure of every size, as photos have it: the finer the fainter."""
    rng, image = np.random.default_rng(seed), np.zeros((height, width, 3))
    for side in (1, 2, 4, 8, 16, 32):
        cells = rng.normal(0, 4 * side**0.7, (-(-height // side), -(-width // side), 3))
        image += cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(image + 110, 0, 255).astype(np.uint8)


def error(one, other):
    return float(((one.astype(float) - other) ** 2).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_shape_and_type_stay_and_every_severity_is_worse(kind):
    image = photo()
    before = image.copy()
    errors = []
    for severity in SEVERITIES:
        made = Corruption(kind, severity)(image, 7)
        assert made.shape == image.shape and made.dtype == np.uint8 and made.flags.c_contiguous
        errors.append(error(made, image))
    np.testing.assert_array_equal(image, before)
    assert errors[0] > 0 and errors == sorted(errors) and len(set(errors)) == 5


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_image_is_corrupted_the_same_and_others_are_not(kind):
    image = photo()
    made = [Corruption(kind, 3)(image, image_id) for image_id in (1, 1, 2, -1, 2**62)]
    np.testing.assert_array_equal(made[0], made[1])
    random = kind in ("noise", "shot")
    assert all((one != made[0]).any() == random for one in made[2:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 400), (3, 5), (641, 480)])
def test_any_size(kind, shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    assert Corruption(kind, 5)(image, 1).shape == image.shape


def test_strengths_against_other_code():
    """Each kind by another library or by hand, to one level; rounding is that of ImageNet-C, which cuts off."""
    image = photo()
    unit = image / 255
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=10)
    np.testing.assert_array_equal(Corruption("jpeg", 4)(image, 1), np.array(Image.open(file)))

    mean = np.stack([np.full(image.shape[:2], unit[..., c].mean()) for c in range(3)], axis=-1)
    close(Corruption("contrast", 2)(image, 1), (unit - mean) * 0.3 + mean)

    top = unit.max(axis=-1, keepdims=True)  # the value of HSV: all channels grow with it
    close(Corruption("bright", 3)(image, 1), unit * np.minimum(top + 0.3, 1) / np.maximum(top, 1e-9))
    close(Corruption("dark", 3)(image, 1), unit * np.maximum(top - 0.3, 0) / np.maximum(top, 1e-9))

    x, y = np.meshgrid(np.arange(-8, 9), np.arange(-8, 9))
    disk = ((x**2 + y**2) <= 9) / ((x**2 + y**2) <= 9).sum()  # softened by 0.1 pixels: not at all
    blurred = np.stack([ndimage.correlate(unit[..., c], disk, mode="mirror") for c in range(3)], axis=-1)
    close(Corruption("blur", 1)(image, 1), blurred)

    grey = np.full((400, 400, 3), 128, np.uint8)
    noise = Corruption("noise", 1)(grey, 1) / 255
    assert abs(noise.std() - 0.08) < 0.001 and abs(noise.mean() - 0.5) < 0.003
    shot = Corruption("shot", 2)(grey, 1) / 255
    assert abs(shot.var() - 128 / 255 / 25) < 0.002

    blocks = Corruption("pixelate", 5)(photo(80, 120), 1)
    np.testing.assert_array_equal(blocks[::4, ::4].repeat(4, axis=0).repeat(4, axis=1), blocks)


def close(made, unit):
    assert np.abs(made.astype(int) - np.floor(np.clip(unit, 0, 1) * 255)).max() <= 1


def test_what_is_asked_for():
    assert read_corruptions("noise,jpeg", "2") == [("noise", 2), ("jpeg", 2)]
    assert len(read_corruptions("all", "1..5")) == 5 * len(KINDS)
    assert [one.severity for one in read_corruptions("blur", "5,1..2")] == [1, 2, 5]


@pytest.mark.parametrize(
    ("kinds", "severities", "words"),
    [
        ("fog", "1", "does not know 'fog'; choose from all, noise"),
        ("", "1", "does not know ''"),
        ("noise", "0", "--severity=0"),
        ("noise", "1..9", "--severity=1..9"),
        ("noise", "1..999999999999", "--severity"),
        ("noise", "high", "--severity=high"),
        ("noise", "", "--severity="),
        ("noise", "3..1", "--severity=3..1"),
    ],
)
def test_what_cannot_be_meant(kinds, severities, words):
    with pytest.raises(UserError, match=words):
        read_corruptions(kinds, severities)
