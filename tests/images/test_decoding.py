"""Whatever people hold as an image becomes the RGB pixels that a viewer shows; Pillow is the oracle."""

import io
import random

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps

from detr_jax.errors import UserError
from detr_jax.images import decoding
from tests.fuzz import mutations

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
ORIENTATION = 0x0112


def file_of(image: Image.Image, kind: str, orientation: int = 1) -> bytes:
    exif, file = Image.Exif(), io.BytesIO()
    exif[ORIENTATION] = orientation
    image.save(file, kind, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_kind_of_input_is_upright(kind, orientation, tmp_path):
    content = file_of(Image.fromarray(RGB), kind, orientation)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))
    path = tmp_path / "photo"
    path.write_bytes(content)
    for given in (path, str(path), content, bytearray(content), memoryview(content), Image.open(path)):
        assert decoding.upright_size(given) == wanted.shape[:2]
        np.testing.assert_array_equal(decoding.to_pixels(given), wanted)
    assert wanted.shape == ((7, 5, 3) if orientation >= 5 else (5, 7, 3))


def test_a_pillow_image_is_not_changed():
    image = Image.open(io.BytesIO(file_of(Image.fromarray(RGB), "PNG", 6)))
    decoding.to_pixels(image)
    assert image.size == (7, 5) and image.getexif()[ORIENTATION] == 6


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_pillow_modes(mode):
    image = Image.fromarray(RGB).convert("RGB" if mode == "P" else "L" if mode in ("1", "LA") else "RGB")
    image = image.quantize(16) if mode == "P" else image.convert(mode)
    np.testing.assert_array_equal(decoding.to_pixels(image), np.asarray(image.convert("RGB")))


def test_transparency_is_dropped():
    alpha = np.zeros((5, 7, 1), np.uint8)
    image = Image.fromarray(np.concatenate([RGB, alpha], axis=2))
    np.testing.assert_array_equal(decoding.to_pixels(image), RGB)


def test_16_bit_grey_is_scaled():
    grey = np.array([[0, 255, 256], [0x8000, 0xFEFF, 0xFFFF]], np.uint16)
    wanted = np.repeat((grey // 256).astype(np.uint8)[:, :, None], 3, axis=2)
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "PNG")
    np.testing.assert_array_equal(decoding.to_pixels(file.getvalue()), wanted)
    np.testing.assert_array_equal(decoding.to_pixels(Image.fromarray(grey)), wanted)
    np.testing.assert_array_equal(decoding.to_pixels(Image.fromarray(grey.astype(np.int32))), wanted)
    file = io.BytesIO(b"P5 3 2 65535\n" + grey.astype(">u2").tobytes())
    np.testing.assert_array_equal(decoding.to_pixels(file.getvalue()), wanted)


def test_arrays():
    np.testing.assert_array_equal(decoding.to_pixels(RGB), RGB)
    np.testing.assert_array_equal(decoding.to_pixels(jnp.asarray(RGB)), RGB)
    np.testing.assert_array_equal(decoding.to_pixels(RGB[:, ::-1]), RGB[:, ::-1])
    grey = RGB[:, :, 0]
    np.testing.assert_array_equal(decoding.to_pixels(grey), np.stack([grey] * 3, axis=2))
    assert decoding.upright_size(RGB) == (5, 7) and decoding.upright_size(grey) == (5, 7)


@pytest.mark.parametrize("given, words", [
    (RGB / 255, r"dtype float64; .*\(255 \* image\).astype\(np.uint8\)"),
    (RGB.astype(np.int64), r"dtype int64; .*image.astype\(np.uint8\)"),
    (RGB > 3, "dtype bool"),
    (RGB.transpose(2, 0, 1), r"shape \(3, 5, 7\); .*image.transpose\(1, 2, 0\)"),
    (np.zeros((5, 7, 4), np.uint8), r"image\[:, :, :3\]"),
    (RGB[:, :, :1], r"image\[:, :, 0\]"),
    (RGB[None], r"list\(images\)"),
    (RGB[:0], r"empty \(shape \(0, 7, 3\)\)"),
    (RGB[0, 0], r"shape \(3,\); pass \(height, width, 3\)"),
    (b"", "the file is empty"),
    (b"Dear reader", "not an image .*Dear rea"),
    (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC image, which is not read; save it as JPEG or PNG"),
])  # fmt: skip
def test_what_cannot_be_used_says_what_to_do(given, words):
    for function, error in (
        (decoding.to_pixels, UserError), (decoding.decode_upright, ValueError), (decoding.upright_size, ValueError)
    ):  # fmt: skip
        if isinstance(given, Image.Image) and function is decoding.upright_size:
            continue  # its pixels are not looked at
        with pytest.raises(error, match=words) as raised:
            function(given)
        assert "\n" not in str(raised.value)


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "cut.png").write_bytes(file_of(Image.fromarray(RGB), "PNG")[:60])
    for path, words in {
        tmp_path / "nowhere.jpg": "nowhere.jpg cannot be used: it cannot be read .No such file",
        tmp_path: "it is a folder; pass the paths of its images",
        tmp_path / "cut.png": "cut.png cannot be used: it .*",
        "a\0b": "cannot be read",
    }.items():
        with pytest.raises(UserError, match=words):
            decoding.to_pixels(path)


def test_damaged_exif_is_ignored():
    content = bytearray(file_of(Image.fromarray(RGB), "JPEG", 6))
    place = content.index(b"Exif\0\0") + 6
    content[place : place + 8] = b"\xff" * 8
    assert decoding.to_pixels(bytes(content)).shape == (5, 7, 3) == (*decoding.upright_size(bytes(content)), 3)


def test_a_jpeg_may_be_cut_anywhere():
    """Every prefix of a plain and of a progressive file is refused with a reason; only the whole file is an image."""
    for options in ({}, {"progressive": True}):
        file = io.BytesIO()
        Image.fromarray(np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)).save(file, "JPEG", **options)
        whole = file.getvalue()
        assert decoding.decode(whole).shape == (16, 16, 3)
        for length in range(len(whole) - 2):  # the last two bytes say that the image ends here
            with pytest.raises(ValueError):
                decoding.decode(whole[:length])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_examining_accepts_what_can_be_decoded(kind):
    """Of JPEG few pixels are made, yet all data are read."""

    def outcome(function, image):
        try:
            return function(image)
        except ValueError as error:
            return str(error)

    accepted = 0
    for number in range(200):
        rng = random.Random(f"{kind} {number}")
        image = mutations.damage_bytes(mutations.sound_image(kind, rng), rng)
        found = outcome(lambda image: decoding.examine(image)[1], image)
        assert found == outcome(lambda image: decoding.decode(image).shape[:2], image), number
        accepted += not isinstance(found, str)
    assert 10 < accepted < 190
