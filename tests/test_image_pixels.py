"""Pixels are Pillow's, whatever the file; what is broken is said."""

import io

import numpy as np
import pytest
from PIL import Image

from detr_jax.images import decode, image_size

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)


def encoded(format, mode="RGB", **options):
    file = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(file, format, **options)
    return file.getvalue()


def pillow(image):
    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))


@pytest.mark.parametrize(
    "image",
    [
        encoded("JPEG"),
        encoded("JPEG", subsampling=0, quality=30),
        encoded("JPEG", progressive=True),
        encoded("JPEG", "L"),
        encoded("JPEG", "CMYK"),
        encoded("JPEG", keep_rgb=True),
        encoded("PNG"),  # whatever the file is called: only the bytes count
        encoded("PNG", "P"),
        encoded("PNG", "LA"),
        encoded("PNG", "1"),
        encoded("WEBP"),
        encoded("GIF", "P"),
    ],
    ids=["jpeg", "444", "progressive", "grey", "cmyk", "rgb", "png", "palette", "alpha", "bits", "webp", "gif"],
)
def test_same_pixels_as_pillow(image):
    np.testing.assert_array_equal(decode(image), pillow(image))
    assert image_size(image) == (24, 40)


@pytest.mark.parametrize("height, width, fits", [(24, 40, True), (32, 40, True), (24, 48, False), (16, 40, False)])
def test_pixels_lie_on_a_canvas_that_is_as_wide(height, width, fits):
    canvas = np.full((height, width, 3), 7, np.uint8)
    found = decode(encoded("JPEG"), (24, 40), canvas)
    np.testing.assert_array_equal(found, pillow(encoded("JPEG")))
    assert np.may_share_memory(found, canvas) == fits
    if fits:
        np.testing.assert_array_equal(canvas[:24], found)
    assert (canvas[24 if fits else 0 :] == 7).all()


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled(format):
    deep = np.arange(0, 65536, 64, np.uint16).reshape(16, 64)
    file = io.BytesIO()
    Image.fromarray(deep).save(file, format)
    np.testing.assert_array_equal(decode(file.getvalue()), np.repeat(deep[..., None] // 256, 3, axis=2))


def test_upright_unless_only_the_stored_image_has_the_stated_size():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    image = encoded("PNG", exif=exif)
    np.testing.assert_array_equal(decode(image), np.rot90(PIXELS, -1))
    np.testing.assert_array_equal(decode(image, size=(24, 40)), PIXELS)
    np.testing.assert_array_equal(decode(image, size=(40, 24)), np.rot90(PIXELS, -1))
    assert image_size(image) == image_size(image, (40, 24)) == (40, 24) and image_size(image, (24, 40)) == (24, 40)


@pytest.mark.parametrize(
    "image, words",
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html></html>", "not an image .*<!DOCTYP"),
        (encoded("JPEG")[:300], "truncated or damaged: it holds no pixels"),
        (encoded("JPEG")[:-400], "truncated"),
        (encoded("PNG")[:500], "truncated"),
    ],
    ids=["empty", "html", "header", "half a jpeg", "half a png"],
)
def test_broken_files_are_described(image, words):
    with pytest.raises(ValueError, match=words):
        decode(image)


def test_other_size_than_annotated():
    with pytest.raises(ValueError, match="40x24 pixels, its annotations say 30x20"):
        decode(encoded("JPEG"), size=(20, 30))


def test_real_photos_equal_pillow(real_data):
    for path in sorted(real_data.glob("coco128/**/*.jpg"))[::8]:
        image = path.read_bytes()
        np.testing.assert_array_equal(decode(image), pillow(image), err_msg=path.name)
