"""Pixels are Pillow's, whatever the file; what is broken is said."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from detr_jax.images import pixels
from detr_jax.images.decoding import Limits, decode, decode_upright, examine, image_size, probe

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


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}, {"mode": "CMYK"},
                                     {"mode": "L"}, {"subsampling": 0}], ids=str)  # fmt: skip
def test_a_jpeg_that_ends_early_is_truncated_even_with_an_end_marker(options):
    image = encoded("JPEG", **options)
    decode(image)
    start = image.index(b"\xff\xda") + 20
    for end in range(start, len(image) - 12, max(1, (len(image) - start) // 40)):
        for tail in (b"", b"\xff\xd9", b"\xff\xd9 what follows an image"):
            with pytest.raises(ValueError, match="truncated|damaged"):
                decode(image[:end] + tail)


def test_sound_jpegs_are_no_false_alarm():
    thumbnail = encoded("JPEG", quality=5)
    exif = Image.Exif()
    exif[0x0112] = 1
    exif_block = exif.tobytes() + thumbnail
    padded = encoded("JPEG")[:-2] + bytes(10) + b"\xff\xd9"
    for image in (encoded("JPEG") + b"trailing", padded, encoded("JPEG", exif=exif_block), encoded("JPEG") + thumbnail,
                  encoded("MPO", save_all=True, append_images=[Image.fromarray(PIXELS[::-1])]),
                  encoded("JPEG", restart_marker_blocks=1), b"\xff\xd8" + b"\xff" * 9 + encoded("JPEG")[2:],
                  encoded("JPEG", comment=b"\xff\xd9\xff\xda")):  # fmt: skip
        np.testing.assert_array_equal(decode(image), pillow(image))
        assert probe(image).frames == 1


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"mode": "CMYK"}], ids=str)
def test_strays_before_the_pixels_are_no_damage(options):
    """libjpeg warns of them; other programs show the picture."""
    image = encoded("JPEG", **options)
    profile = b"\xff\xe2\0\x10ICC_PROFILE\0\0\0"
    for marker in (b"\xff\xdb", b"\xff\xc4", b"\xff\xda"):
        place = image.index(marker)
        for stray in (b"12345", b"\xff\0\0", profile, b"\xff\xfe\0\4hi" + b"1"):
            found = image[:place] + stray + image[place:]
            np.testing.assert_array_equal(decode(found), pillow(image))
            examine(found)
            with pytest.raises(ValueError, match="truncated|damaged"):
                decode(found[:-200] + b"\xff\xd9")


@pytest.mark.parametrize("factors", [(0x21, 0x12, 0x11), (0x11, 0x22, 0x22)])
def test_jpegs_of_unusual_sampling(factors):
    """Pillow decodes them alone; what is missing shows all the same."""
    image = bytearray(encoded("JPEG", subsampling=0))
    for component, factor in enumerate(factors):
        image[image.index(b"\xff\xc0") + 11 + 3 * component] = factor
    try:  # data of another sampling: there is as much too much of it, or too little
        np.testing.assert_array_equal(decode(bytes(image)), pillow(bytes(image)))
    except ValueError as error:
        assert "truncated" in str(error)
    with pytest.raises(ValueError, match="truncated"):
        decode(bytes(image[: len(image) // 2]) + b"\xff\xd9")


def test_a_progressive_jpeg_without_its_last_scans():
    image = encoded("JPEG", progressive=True)
    scans = [place for place in range(len(image)) if image[place : place + 2] == b"\xff\xda"]
    for scan in scans[1:]:
        with pytest.raises(ValueError, match="truncated"):
            decode(image[:scan] + b"\xff\xd9")


@pytest.mark.parametrize("format", ["PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_other_formats_that_end_early_are_truncated(format):
    image = encoded(format)
    for end in (len(image) // 2, len(image) - len(image) // 8):
        with pytest.raises(ValueError, match="truncated|damaged|opened"):
            decode(image[:end])


def scaled(values):
    file = io.BytesIO()
    Image.fromarray(values).save(file, "TIFF")
    image = file.getvalue()
    if values.dtype == np.uint32:  # Pillow writes the SampleFormat of signed integers
        image = image.replace(b"\x53\x01\x03\0\x01\0\0\0\x02", b"\x53\x01\x03\0\x01\0\0\0\x01")
    pixels = decode(image)
    np.testing.assert_array_equal(pixels, decode_upright(Image.open(io.BytesIO(image))))
    assert (pixels == pixels[:, :, :1]).all()
    return pixels[:, :, 0]


RAMP = np.linspace(0, 1, 64, dtype=np.float64)[None].repeat(3, axis=0)


def test_32_bit_pixels_are_scaled_by_the_stated_rule():
    np.testing.assert_array_equal(scaled(RAMP.astype(np.float32)), np.round(RAMP * 255))
    np.testing.assert_array_equal(scaled((RAMP * 255).astype(np.float32)), np.round(RAMP * 255))
    for kind in (np.float32, np.int32):
        np.testing.assert_array_equal(scaled((RAMP * 65535).astype(kind)), (RAMP * 65535).astype(kind) // 256)
    np.testing.assert_array_equal(scaled((RAMP * 255).astype(np.int32)), (RAMP * 255).astype(np.int32))
    for own_range in ((RAMP * 1e9 - 5e8).astype(np.int32), (RAMP * 1e30).astype("f4"),
                      (RAMP - 0.5).astype(np.float32), (RAMP * 1000 - 500).astype(np.int16)):  # fmt: skip
        found = scaled(own_range).astype(int)
        assert np.abs(found - np.floor(RAMP * 255)).max() <= 1 and found.min() == 0 and found.max() == 255
    np.testing.assert_allclose(scaled((RAMP * 4e9).astype(np.uint32)), RAMP * 255, atol=1)
    holes = RAMP.astype(np.float32)
    holes[0, :3] = np.nan, np.inf, -np.inf
    assert scaled(holes)[0, :3].tolist() == [0, 255, 0] and (scaled(holes)[1:] == np.round(RAMP[1:] * 255)).all()
    signalling = np.full((2, 3), 0x7FA00000, np.uint32).view(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not scaled(signalling).any()
    assert not scaled(np.full((2, 3), np.nan, np.float32)).any() and not scaled(np.full((2, 3), 1e9, np.float32)).any()


def test_large_images_are_converted_in_strips(monkeypatch):
    images = [encoded("PNG", "P"), encoded("PNG", "LA"), encoded("JPEG", "CMYK"), encoded("TIFF", "F")]
    expected = [decode(image) for image in images]
    monkeypatch.setattr(pixels, "STRIP", 100)
    for image, wanted in zip(images, expected, strict=True):
        np.testing.assert_array_equal(decode(image), wanted)


def test_limits_are_asked_before_anything_is_decoded():
    for format in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"):
        image = encoded(format)
        for function in (decode, image_size, probe):
            with pytest.raises(ValueError, match="it has 40x24 pixels, more than the limit of 959 .image_limits."):
                function(image, limits=Limits(pixels=959))
            with pytest.raises(ValueError, match="bytes, more than the limit of 99"):
                function(image, limits=Limits(bytes=99))
            function(image, limits=Limits(960, len(image)))


def test_other_size_than_annotated():
    with pytest.raises(ValueError, match="40x24 pixels, its annotations say 30x20"):
        decode(encoded("JPEG"), size=(20, 30))


def test_real_photos_equal_pillow(real_data):
    for path in sorted(real_data.glob("coco128/**/*.jpg"))[::8]:
        image = path.read_bytes()
        np.testing.assert_array_equal(decode(image), pillow(image), err_msg=path.name)
