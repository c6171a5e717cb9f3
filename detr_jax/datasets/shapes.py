"""A synthetic dataset: coloured shapes over textured backgrounds, drawn in seconds, the same from the same seed.

Shapes of several sizes overlap up to a limit, some images are empty, and the category ids have gaps, as in real data. A
box is the full extent of its shape, clipped to the image; a mask is the part that is visible.
"""

import json
import math
import tempfile
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from pycocotools import mask as rle

from detr_jax.datasets.folders import find_splits
from detr_jax.datasets.prepare import VERSION, Provenance, prepare_dataset
from detr_jax.errors import UserError
from detr_jax.structures import Categories

SPLITS = ("train", "val")
EMPTY = 0.04  # share of images without a shape
HALF_SIZES = (0.06, 0.22)  # of a shape, as a share of the image's side
OVERLAP = 0.3  # of the smaller of two boxes; more is not placed
TRIES = 60  # to find a free place
SUPERSAMPLING = 4  # a shape's edge is the mean of 4x4 points a pixel
JPEG_QUALITY = 95


class Settings(NamedTuple):
    """What the set looks like. Equal settings give equal files."""

    train: int = 4000
    val: int = 100
    size: int = 96
    seed: int = 0
    classes: int = 3
    max_objects: int = 5


MEANING = Settings(
    train="number of training images",
    val="number of validation images",
    size="side of the square images in pixels",
    seed="another number, another set",
    classes="number of classes: circle, rectangle, triangle, star, cross, ring",
    max_objects="most shapes in an image",
)._asdict()
DEFAULT = Settings()


class Scene(NamedTuple):
    """One image of S x S pixels and the n shapes in it, back to front."""

    image: UInt8[np.ndarray, "S S 3"]
    labels: list[int]  # index in CATEGORIES
    boxes_xyxy_pixels: Float[np.ndarray, "n 4"]
    visible: Bool[np.ndarray, "n S S"]


def _polygon(radii: list[float]) -> Float[np.ndarray, "v 2"]:
    """Corners at these distances from the centre, evenly around it, stretched to fill the square from -1 to 1."""
    angles = 2 * np.pi * np.arange(len(radii)) / len(radii)
    corners = np.array(radii)[:, None] * np.stack([np.sin(angles), -np.cos(angles)], axis=1)
    low, high = corners.min(axis=0), corners.max(axis=0)
    return 2 * (corners - low) / (high - low) - 1


_CIRCLE = _polygon([1.0] * 32)
_ARM = 0.35  # half the width of a cross's arm
_CROSS = [(_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM), (_ARM, 1)]
# The ring's outline runs around outside, steps in, and returns around inside.
_RING = [*_CIRCLE, _CIRCLE[0], *(0.55 * _CIRCLE[:1]), *(0.55 * _CIRCLE[::-1])]
CATEGORIES = Categories((3, 7, 12, 20, 21, 40), ("circle", "rectangle", "triangle", "star", "cross", "ring"))
OUTLINES = [  # of each label, to be stretched and moved
    _CIRCLE,
    np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], float),
    np.array([(0, -1), (1, 1), (-1, 1)], float),
    _polygon([1.0, 0.4] * 5),
    np.array(_CROSS + [(-x, -y) for x, y in _CROSS]),
    np.array(_RING),
]


def draw_scene(settings: Settings, split: str, index: int) -> Scene:
    """The ``index``-th image of a split: a pure function of the seed, the split and the index."""
    random = np.random.default_rng([settings.seed, SPLITS.index(split), index])
    size, side = settings.size, float(settings.size)
    image = _background(random, size)
    ground = image[::4, ::4].mean(axis=(0, 1))  # every 16th pixel is enough to choose colours
    count = 0 if random.random() < EMPTY else int(random.integers(1, settings.max_objects + 1))
    labels, boxes, owner = [], [], np.full((size, size), -1)
    for _ in range(TRIES):
        if len(boxes) == count:
            break
        label = int(random.integers(settings.classes))
        half = size * math.exp(random.uniform(*map(math.log, HALF_SIZES)))
        stretch = math.exp(random.uniform(-0.25, 0.25))
        half_width, half_height = half * stretch, half / stretch
        x, y = random.uniform(0.8 * half, size - 0.8 * half, 2).tolist()
        box = (
            max(x - half_width, 0.0),
            max(y - half_height, 0.0),
            min(x + half_width, side),
            min(y + half_height, side),
        )
        if any(_overlap(box, other) > OVERLAP for other in boxes):
            continue
        x0, y0, x1, y1 = math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3])
        window = np.s_[y0:y1, x0:x1]
        corners = OUTLINES[label] * (half_width, half_height) + (x - x0, y - y0)
        coverage = _coverage(corners, y1 - y0, x1 - x0)
        texture = _grain(random, (y1 - y0, x1 - x0, 3)) * random.uniform(0, 12)
        image[window] += coverage[..., None] * (_color(random, ground) + texture - image[window])
        owner[window][coverage > 0.5] = len(boxes)
        labels.append(label)
        boxes.append(box)
    visible = owner == np.arange(len(boxes))[:, None, None]
    return Scene(image.clip(0, 255).astype(np.uint8), labels, np.array(boxes).reshape(-1, 4), visible)


def _background(random: np.random.Generator, size: int) -> Float32[np.ndarray, "S S 3"]:
    """Blobs of colour, grain, and in every other image a grating."""
    cells = int(random.integers(2, 9))
    blobs = random.uniform(30, 226, (cells, cells, 3)).astype(np.float32)
    blobs = blobs.mean() + (blobs - blobs.mean()) * np.float32(random.uniform(0.15, 0.6))
    image = cv2.resize(blobs, (size, size), interpolation=cv2.INTER_CUBIC)
    image += _grain(random, image.shape) * random.uniform(3, 18)
    if random.random() < 0.5:
        angle, frequency, height = random.uniform((0, 0.2, 4), (np.pi, 0.9, 20))
        x, y = np.arange(size) * np.cos(angle), np.arange(size) * np.sin(angle)
        image += (height * np.sin(frequency * (x + y[:, None]))).astype(np.float32)[..., None]
    return image


def _grain(random: np.random.Generator, shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]:
    """Uniform noise of mean 0 and deviation 1; random bytes cost a tenth of normally distributed numbers."""
    levels = np.frombuffer(random.bytes(math.prod(shape)), np.uint8).reshape(shape).astype(np.float32)
    return (levels - 127.5) / 73.9


def _color(random: np.random.Generator, ground: Float[np.ndarray, " 3"]) -> Float32[np.ndarray, " 3"]:
    """A colour that stands out from the mean of the background."""
    colors = random.uniform(0, 256, (20, 3)).astype(np.float32)
    return colors[np.argmax(np.abs(colors - ground).sum(axis=1) > 120)]


def _coverage(corners: Float[np.ndarray, "v 2"], height: int, width: int) -> Float32[np.ndarray, "h w"]:
    """How much of each pixel lies inside a polygon, 0 to 1."""
    fine = np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING), np.uint8)
    sixteenths = np.round((corners * SUPERSAMPLING - 0.5) * 16).astype(np.int32)  # - 0.5: cv2 counts from pixel centres
    cv2.fillPoly(fine, [sixteenths], 255, shift=4)
    return cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection of two boxes (x0, y0, x1, y1) as a share of the smaller one."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return max(width, 0.0) * max(height, 0.0) / smaller


def write(root: str | Path, settings: Settings = DEFAULT) -> None:
    """Writes the set as a COCO folder: annotations/instances_{split}2017.json and {split}2017/000001.jpg, ...

    Raises UserError when the folder exists already, or when the settings cannot be drawn.
    """
    root = Path(root).expanduser()
    _refuse_impossible(settings)
    if root.exists():
        raise UserError(f"{root} exists already: give a new folder")
    (root / "annotations").mkdir(parents=True)
    for split in SPLITS:
        (root / f"{split}2017").mkdir()
        images, annotations = [], []
        for index in range(getattr(settings, split)):
            scene = draw_scene(settings, split, index)
            file_name = f"{index + 1:06d}.jpg"
            _, jpeg = cv2.imencode(".jpg", scene.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
            (root / f"{split}2017" / file_name).write_bytes(jpeg)
            images.append({"id": index + 1, "file_name": file_name, "height": settings.size, "width": settings.size})
            annotations += _annotations(scene, index + 1, first_id=len(annotations) + 1)
        categories = CATEGORIES.to_rows()[: settings.classes]
        text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
        (root / f"annotations/instances_{split}2017.json").write_text(text, encoding="utf-8")


def _annotations(scene: Scene, image_id: int, first_id: int) -> list[dict]:
    rows = []
    for label, (x0, y0, x1, y1), visible in zip(scene.labels, scene.boxes_xyxy_pixels, scene.visible, strict=True):
        segmentation = rle.encode(np.asfortranarray(visible, np.uint8))
        rows.append(
            {
                "id": first_id + len(rows),
                "image_id": image_id,
                "category_id": CATEGORIES.ids[label],
                "bbox": [round(float(number), 2) for number in (x0, y0, x1 - x0, y1 - y0)],
                "area": int(visible.sum()),
                "iscrowd": 0,
                "segmentation": segmentation | {"counts": segmentation["counts"].decode()},
            }
        )
    return rows


def _refuse_impossible(settings: Settings) -> None:
    limits = {"train": (1, None), "val": (1, None), "size": (32, 4096), "seed": (0, None)}
    limits |= {"classes": (1, len(OUTLINES)), "max_objects": (1, 100)}
    for name, (low, high) in limits.items():
        value = getattr(settings, name)
        if value < low or (high and value > high):
            allowed = f"from {low} to {high}" if high else f"{low} or more"
            raise UserError(f"--{name}={value} cannot be drawn: choose {allowed}")


def prepare(data_dir: str | Path, name: str = "shapes", settings: Settings = DEFAULT) -> None:
    """Draws the set and prepares it as DATA_DIR/NAME, unless it is there already.

    Raises UserError when a dataset of this name was made with other settings.
    """
    settings_text = ", ".join(f"{key}={value}" for key, value in settings._asdict().items())
    description = f"Synthetic shapes: {settings_text}."
    version = Path(data_dir).expanduser() / name / VERSION
    if version.exists():
        found = json.loads((version / "dataset_info.json").read_text(encoding="utf-8"))["description"]
        if found != description:
            raise UserError(
                f"{version} holds something else ({found}) than {settings_text}: choose another name for it"
            )
        return
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "coco", settings)
        settings_flags = " ".join(f"--{key}={value}" for key, value in settings._asdict().items())
        again = (
            f"rm -r {version} && python -m detr_jax.dataset shapes --name={name} --data_dir={data_dir} {settings_flags}"
        )
        splits = find_splits(Path(folder) / "coco")
        prepare_dataset(splits, data_dir, name, quick=True, provenance=Provenance(description, again))
