"""What libtiff prints is heard: nothing of it is shown, and what it could not decode is refused."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from detr_jax.images.decoding import decode, decode_upright, examine

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)


def fax(kind="group4", mode="1"):
    file = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(file, "TIFF", compression=kind)
    return file.getvalue()


def damaged(image):
    """With other bytes amid its pixels, which stand before the directory."""
    middle = len(image) // 2
    return image[:middle] + b"U" * 40 + image[middle + 40 :]


@pytest.mark.parametrize(
    "kind, mode",
    [("group4", "1"), ("tiff_ccitt", "1"), ("tiff_adobe_deflate", "YCbCr"), ("tiff_adobe_deflate", "RGB")],
)
def test_what_libtiff_cannot_decode_is_refused_without_a_line_of_its_own(kind, mode, capfd):
    image = fax(kind, mode)
    wanted = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))
    np.testing.assert_array_equal(decode(image), wanted)
    for function in (decode, examine, lambda file: decode_upright(Image.open(io.BytesIO(file)))):
        with pytest.raises(ValueError, match="damaged"):
            function(damaged(image))
    assert capfd.readouterr() == ("", "")


def test_samples_that_pillow_would_complain_of(capfd):
    image = bytearray(fax("tiff_lzw", "RGB"))
    tag = image.index(TiffImagePlugin.SAMPLESPERPIXEL.to_bytes(2, "little") + b"\3\0\1\0\0\0")
    for count, samples in ((1, 8), (2, 3), (200, 3)):
        image[tag + 4 : tag + 12] = count.to_bytes(4, "little") + samples.to_bytes(4, "little")
        with pytest.raises(ValueError, match="more than 6 samples a pixel"):
            decode(bytes(image))
    assert capfd.readouterr() == ("", "")


def test_others_hear_libtiff_as_before(capfd):
    decode(fax())
    Image.open(io.BytesIO(damaged(fax()))).load()
    assert "Fax4Decode" in capfd.readouterr().err


def test_each_thread_hears_its_own_errors():
    images = [damaged(fax()), fax()] * 20

    def is_sound(image):
        try:
            return decode(image).shape == (64, 80, 3)
        except ValueError:
            return False

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(is_sound, images)) == [False, True] * 20
