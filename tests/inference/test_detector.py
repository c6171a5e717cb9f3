"""The detector as Python code uses it: it takes what people have, and gives the same whichever way it comes."""

import io
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps

import detr_jax
from detr_jax.config import Config, DataConfig, ModelConfig
from detr_jax.config_forms import to_dict
from detr_jax.devices import as_auto
from detr_jax.errors import UserError
from detr_jax.inference.detector import Detector, make_detector
from detr_jax.inference.image_files import ImageFiles
from detr_jax.models import detr
from detr_jax.structures import Bucket, Categories, Detections
from detr_jax.weights.checkpoints import Checkpoints, Stored

MODEL = ModelConfig(
    backbone="resnet10", backbone_width=8, norm="group", last_stage="layer3", hidden_dim=32, heads=4, encoder_layers=1,
    decoder_layers=1, feed_forward_dim=32, num_queries=6,
)  # fmt: skip
DATA = DataConfig(scales=(64,), max_size=96, buckets=(Bucket(64, 96, 1), Bucket(96, 64, 1)), threads=1)
CATEGORIES = Categories((3, 7), ("cat", "dog"))
NOISE = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)


@pytest.fixture(scope="module")
def detector() -> Detector:
    network = detr.network(MODEL, 2)
    mesh = as_auto(jax.make_mesh((1,), ("data",), devices=jax.devices()[:1]))
    arrays = jax.jit(network.init)(jax.random.key(0))
    return make_detector(network, arrays, CATEGORIES, MODEL, DATA, mesh)


@pytest.fixture(scope="module")
def checkpoint(detector, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("run")
    info = {"config": to_dict(Config(model=MODEL, data=DATA)), "categories": CATEGORIES.to_rows()}
    with Checkpoints(workdir / "checkpoints", keep=1) as saved:
        saved.save(5, Stored(detector.arrays, {}, {"step": jnp.int32(5)}, info))
    return workdir


def file_of(pixels: np.ndarray, orientation: int = 1, kind: str = "PNG") -> bytes:
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(file, kind, exif=exif)
    return file.getvalue()


def assert_alike(found: Detections, wanted: Detections) -> None:
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-5)
    np.testing.assert_array_equal(found.labels, wanted.labels)
    np.testing.assert_allclose(found.boxes_xyxy, wanted.boxes_xyxy, atol=2e-3)


def test_every_kind_of_input_gives_the_same(detector, tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(file_of(NOISE))
    wanted = detector(NOISE)
    assert isinstance(wanted, Detections) and len(wanted) == MODEL.num_queries
    assert wanted.categories == CATEGORIES and set(wanted.names) <= {"cat", "dog"}
    kinds = [str(path), path, path.read_bytes(), bytearray(path.read_bytes()), Image.open(path), Image.fromarray(NOISE),
             jnp.asarray(NOISE)]  # fmt: skip
    for given in kinds:
        assert detector(given) == wanted
    for several in (kinds, tuple(kinds), iter(kinds), (one for one in kinds)):
        found = detector(several, batch_size=3)
        assert isinstance(found, list) and len(found) == len(kinds)
        for one in found:
            assert_alike(one, wanted)
    assert detector([path]) == [wanted] and detector([]) == []


def test_images_of_other_sizes_keep_their_order(detector):
    several = [NOISE, NOISE.transpose(1, 0, 2), NOISE[:20], NOISE[:, :20], NOISE]
    for size in (1, 3):
        for found, given in zip(detector(several, batch_size=size), several, strict=True):
            assert_alike(found, detector(given))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_seen_as_a_viewer_shows_them(detector, orientation, tmp_path):
    content = file_of(NOISE, orientation)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    (tmp_path / "photo.png").write_bytes(content)
    wanted = detector(upright)
    for given in (content, tmp_path / "photo.png", Image.open(io.BytesIO(content))):
        assert detector(given) == wanted
    assert np.asarray(wanted.draw(content)).shape == np.asarray(wanted.draw(upright)).shape


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16"])
def test_pillow_modes(detector, mode):
    if mode == "I;16":
        image = Image.fromarray(NOISE[:, :, 0].astype(np.uint16) * 257)
        assert detector(image) == detector(NOISE[:, :, 0])
        return
    image = Image.fromarray(NOISE)
    image = image.quantize(16) if mode == "P" else image.convert(mode)
    assert detector(image) == detector(np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("given, words", [
    ({"image": NOISE}, "dict is no image; pass a path"),
    (NOISE / 255, r"dtype float64; .*\(255 \* image\)"),
    (NOISE.transpose(2, 0, 1), "transpose"),
    (np.concatenate([NOISE, NOISE[:, :, :1]], axis=2), r"image\[:, :, :3\]"),
    (NOISE[None], r"list\(images\)"),
    (NOISE[:0], "empty"),
    ("nowhere.jpg", "^nowhere.jpg cannot be used: it cannot be read"),
    ([NOISE, b"Dear reader"], r"^image 1 \(the image\) cannot be used: it is not an image"),
    ([NOISE, 7], "^image 1 is of type int"),
])  # fmt: skip
def test_mistakes_are_one_sentence(detector, given, words):
    with pytest.raises(UserError, match=words) as raised:
        detector(given)
    assert "\n" not in str(raised.value)


def test_other_arrays_are_not_compiled_again(detector):
    before = detector(NOISE)
    compiled = detector.detect._cache_size()
    other = detector.with_arrays(jax.tree.map(lambda array: array * 1.1, detector.arrays))
    assert other(NOISE) != before and detector(NOISE) == before
    assert detector.detect._cache_size() == compiled
    assert dict(other.over(ImageFiles([NOISE]), 1))[0] == other(NOISE)


def test_real_photos(detector, real_data):
    paths = sorted((real_data / "cats").glob("*.png")) + sorted((real_data / "coco128").rglob("*.jpg"))[:4]
    found = detector(paths, batch_size=3)
    for path, one in zip(paths, found, strict=True):
        assert_alike(detector(Image.open(path)), one)
        assert_alike(detector(np.asarray(Image.open(path).convert("RGB"))), one)
        width, height = Image.open(path).size
        limits = np.array([width, height] * 2)
        assert (one.boxes_xyxy >= -limits).all() and (one.boxes_xyxy <= 2 * limits).all()
        assert one.best(3).draw(path).size == (width, height)


def test_load(detector, checkpoint):
    loaded = detr_jax.load(checkpoint)
    assert loaded.path == checkpoint / "checkpoints" / "5" and loaded.config == Config(model=MODEL, data=DATA)
    assert loaded.data == DATA and loaded.categories == CATEGORIES
    assert repr(loaded) == f"Detector of 2 classes from {loaded.path}"
    assert loaded(NOISE) == detector(NOISE)
    with pytest.raises(detr_jax.UserError, match="does not exist"):
        detr_jax.load(checkpoint / "nowhere")


HOST = """
import os, sys
from absl import app, flags
flags.DEFINE_bool("debug", False, "Of the host.")
flags.DEFINE_string("output", None, "Of the host.")
flags.DEFINE_string("workdir", None, "Of the host.")
import cv2, grain, huggingface_hub, jax, logging, matplotlib, orbax.checkpoint, tensorflow_datasets
def state():
    environment = {name: value for name, value in os.environ.items() if name != "CRC32C_SW_MODE"}  # tensorboardX's
    return dict(jax.config.values), cv2.getNumThreads(), environment, logging.root.level
before, flags_before = state(), set(flags.FLAGS)
import detr_jax
from detr_jax import UserError, load
import detr_jax.train, detr_jax.evaluate, detr_jax.predict, detr_jax.convert
imported = state()
ours = {"debug", "output", "workdir", "config", "checkpoint", "input", "source", "threshold", "to"}
def main(argv):
    assert imported == before
    assert not (set(flags.FLAGS) - flags_before) & ours
    detector = load(argv[1])
    print(len(detector(argv[2])), flags.FLAGS.debug)
app.run(main)
"""


def test_a_host_program_keeps_its_own_flags_and_settings(checkpoint, tmp_path):
    (tmp_path / "photo.png").write_bytes(file_of(NOISE))
    command = [sys.executable, "-c", HOST, "--debug", str(checkpoint), str(tmp_path / "photo.png")]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.split() == [str(MODEL.num_queries), "True"], done.stderr
