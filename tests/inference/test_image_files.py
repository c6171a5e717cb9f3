"""Images without annotations, read for a batch."""

import io

import numpy as np
import pytest
from PIL import Image

from detr_jax.batches import augmentation
from detr_jax.batches.inputs import ImageSource, Reader
from detr_jax.config import DataConfig
from detr_jax.errors import UserError
from detr_jax.images.decoding import Limits
from detr_jax.inference.image_files import ImageFiles, UprightReader
from detr_jax.structures import Bucket


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jpg", "a.PNG"):
        Image.fromarray(noise(20, 30)).save(tmp_path / name)
    return tmp_path


def test_it_is_a_source_of_upright_images(folder):
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.fromarray(noise(20, 30)).save(file, "PNG", exif=exif)
    pixels = noise(8, 9)
    given = ImageFiles([folder / "a.PNG", str(folder / "b.jpg"), file.getvalue(), pixels, Image.fromarray(pixels)])
    assert isinstance(given, ImageSource) and len(given) == 5
    assert given.sizes.tolist() == [[20, 30], [20, 30], [30, 20], [8, 9], [8, 9]]
    assert given.image_ids.tolist() == [0, 1, 2, 3, 4] and not given.target_counts.any()
    for row in range(5):
        assert given[row].shape == (*given.sizes[row], 3)
    np.testing.assert_array_equal(given[2], np.rot90(noise(20, 30), -1))
    np.testing.assert_array_equal(given[4], pixels)


def test_the_reader_fills_a_row_completely():
    given, reader = ImageFiles([noise(8, 9)]), UprightReader()
    assert isinstance(reader, Reader)
    bucket = Bucket(40, 50, 2)
    inputs = reader.empty(bucket, 3)
    inputs.pixels[:], inputs.sizes[:] = 77, 77
    settings = augmentation.evaluation_settings(DataConfig(scales=(32,), max_size=50))
    view = augmentation.views(given.sizes, np.zeros((1, augmentation.DRAWS)), settings).take(0)
    boxes, labels = reader.read(given, 0, view, bucket, inputs, 1)
    assert boxes.shape == (0, 4) and labels.shape == (0,)
    assert inputs.sizes.tolist() == [[77, 77], [32, 36], [77, 77]]
    wanted = Image.fromarray(noise(8, 9)).resize((36, 32), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(inputs.pixels[1, :32, :36], np.asarray(wanted))
    assert not inputs.pixels[1, 32:].any() and not inputs.pixels[1, :, 36:].any()
    assert (inputs.pixels[[0, 2]] == 77).all()


@pytest.mark.parametrize("given, words", [
    (["nowhere.jpg"], "^nowhere.jpg cannot be used"),
    ([noise(4, 4), noise(4, 4) / 255], r"^image 1 \(the array\) cannot be used: it has dtype float64"),
    ([noise(4, 4) / 255], "^the array cannot be used"),
    ([noise(4, 4), None], "^image 1 is of type NoneType; pass a path, the bytes"),
    ([b"text", b"text"], r"^image 0 \(the image\) cannot be used: it is not an image"),
])  # fmt: skip
def test_mistakes_name_the_image(given, words):
    with pytest.raises(UserError, match=words):
        ImageFiles(given)


def test_limits_hold_for_every_kind_of_input(folder):
    for image in (folder / "b.jpg", (folder / "a.PNG").read_bytes(), Image.open(folder / "b.jpg")):
        with pytest.raises(UserError, match=r"cannot be used: it has 30x20 pixels, more than the limit of 599"):
            ImageFiles([image], Limits(pixels=599))
    with pytest.raises(UserError, match=r"b.jpg cannot be used: it has [\d,]+ bytes, more than the limit of 100 "):
        ImageFiles([folder / "b.jpg"], Limits(bytes=100))
