"""A trained model as a function from images to detections; what evaluate, predict and the training loop share."""

import glob
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from detr_jax import drawing, devices
from detr_jax.batches import augmentation, canvases as buckets
from detr_jax.datasets.coco import COCO_CATEGORIES, COCO_STUFF
from detr_jax.datasets.decode import decode, image_size
from detr_jax.batches.pipeline import Pipeline, to_device
from detr_jax.batches.plan import EvalPlan
from detr_jax.datasets.split import Record, Split
from detr_jax.inference import postprocess
from detr_jax.models import detr
from detr_jax.models.network import Arrays, Network
from detr_jax.errors import UserError
from detr_jax.structures import Categories, Detections
from detr_jax.weights import sources

DTYPES = ("float32", "bfloat16", "float16")
# Rows of the published class heads, and the tables whose ids number them (80: in order).
COCO_ROWS = {80: [COCO_CATEGORIES], 91: [COCO_CATEGORIES], 250: [COCO_CATEGORIES, COCO_STUFF]}
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


class ImageFiles:
    """Image files as a split without targets, so that they take the same way to the model as a dataset.

    Args:
      paths: every file must decode; see ``readable``.
    """

    name = "the input"
    categories = Categories((), ())

    def __init__(self, paths: list[Path]):
        self.paths = paths
        self.image_ids = np.arange(len(paths))
        self.sizes = np.array([image_size(path.read_bytes()) for path in paths], np.int32).reshape(-1, 2)
        self.target_counts = np.zeros(len(paths), np.int32)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Record:
        path = self.paths[index]
        return Record(path.read_bytes(), index, path.name, np.zeros((0, 4), np.float32), np.zeros(0, np.int32))


def find_images(inputs: list[str]) -> list[Path]:
    """The image files that paths, folders (searched through) and glob patterns name, in order, each once.

    Raises UserError for an input that names nothing.
    """
    found: dict[Path, None] = {}
    for entry in inputs:
        path = Path(entry).expanduser()
        if path.is_dir():
            matches = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        elif path.is_file():
            matches = [path]
        else:
            matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True) if Path(match).is_file())
        if not matches:
            raise UserError(f"--input={entry} names no image: pass a file, a folder that holds images, or a pattern")
        found.update(dict.fromkeys(matches))
    return list(found)


def readable(paths: Iterable[Path]) -> tuple[list[Path], dict[Path, str]]:
    """The files that decode, and the others with the reason."""
    good, bad = [], {}
    for path in paths:
        try:
            decode(path.read_bytes())
            good.append(path)
        except (ValueError, OSError) as error:
            bad[path] = str(error)
    return good, bad


def draw(image: np.ndarray, detections: Detections) -> np.ndarray:
    """The image with every detection's box, name and score on it."""
    texts = [f"{name} {score:.2f}" for name, score in zip(detections.names, detections.scores, strict=True)]
    return drawing.draw_boxes(image, detections.boxes_xyxy, texts, detections.labels.tolist())


def evaluation_plan(config: dict, images: Split | ImageFiles, batch_size: int, mesh: jax.sharding.Mesh) -> EvalPlan:
    """Batches of all images: short side as the largest training scale, nothing else done to them.

    The batch is rounded up to a multiple of the devices.
    """
    data = config["data"]
    return EvalPlan(
        images.image_ids,
        images.sizes,
        images.target_counts,
        augmentation.evaluation(max(data["scales"]), data["max_size"]),
        buckets.of_rows(data["buckets"]),
        -(-batch_size // mesh.size) * mesh.size,
    )


Detect = Callable[[Arrays, jax.Array, jax.Array], tuple[jax.Array, jax.Array, jax.Array]]


def detect_function(network: Network, class_scores: str, mesh: jax.sharding.Mesh) -> Detect:
    """The jitted (arrays, images, sizes) -> (scores, labels, boxes_xyxy in [0, 1]) of the last decoder layer.

    Results are small and come back whole on every host.
    """

    def detect(arrays, images, sizes):
        predictions = network.apply(arrays, images, sizes, None)
        return postprocess.SELECT[class_scores](predictions.logits[-1], predictions.boxes[-1])

    return jax.jit(detect, out_shardings=devices.replicated(mesh))


def detect_split(
    detect: Detect,
    arrays: Arrays,
    split: Split | ImageFiles,
    plan: EvalPlan,
    categories: Categories,
    mesh: jax.sharding.Mesh,
    threads: int,
) -> Iterator[tuple[int, Detections]]:
    """(row of the split, its detections) for every image, on every host.

    The next batch is handed to the device before the last one's results are fetched.
    """

    def finish(planned, results):
        scores, labels, boxes_xyxy = jax.device_get(results)
        for place, row in enumerate(planned.rows):
            if row >= 0:
                size = tuple(int(side) for side in split.sizes[row])
                yield (
                    int(row),
                    postprocess.detections(scores[place], labels[place], boxes_xyxy[place], size, categories),
                )

    pending = None
    with Pipeline(split, plan, host=jax.process_index(), hosts=jax.process_count(), threads=threads) as batches:
        for step, (batch, _) in enumerate(to_device(batches, devices.batch_sharding(mesh))):
            results = detect(arrays, batch.images, batch.sizes)
            if pending is not None:
                yield from finish(*pending)
            pending = plan[step], results
    if pending is not None:
        yield from finish(*pending)


class Detector(NamedTuple):
    """A model with its weights, its classes, and the image sizes it was trained for."""

    path: Path  # where the weights were found: a checkpoint's folder, or a file
    network: Network
    arrays: Arrays
    categories: Categories
    config: dict  # of the run, as plain values
    mesh: jax.sharding.Mesh
    detect: Detect

    def over(self, images: Split | ImageFiles, batch_size: int) -> Iterator[tuple[int, Detections]]:
        """(row, detections) for every image of a split or of ``ImageFiles``."""
        plan = evaluation_plan(self.config, images, batch_size, self.mesh)
        return detect_split(
            self.detect, self.arrays, images, plan, self.categories, self.mesh, self.config["data"]["threads"]
        )

    def __call__(self, paths: str | Path | list[str | Path], batch_size: int = 1) -> list[Detections]:
        """Detections for image files, in their order. Raises UserError naming a file that is not an image."""
        paths = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
        _, bad = readable(paths)
        for path, reason in bad.items():
            raise UserError(f"{path} cannot be used: {reason}")
        found = dict(self.over(ImageFiles(paths), batch_size))
        return [found[row] for row in range(len(paths))]


def build_network(config: dict, num_classes: int, whose: str = "--config.model") -> Network:
    """The network of a run's settings, which ``whose`` names in errors.

    Raises UserError when the ``model`` group asks for something that does not exist or does not go together.
    """
    if config["dtype"] not in DTYPES:
        raise UserError(f"--config.dtype={config['dtype']} does not exist; choose from {', '.join(DTYPES)}")
    settings = {key: value for key, value in config["model"].items() if key != "backbone_weights"}
    try:
        return detr.network(num_classes=num_classes, dtype=config["dtype"], remat=config["train"]["remat"], **settings)
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"{whose}: {error}") from error


def of_source(source: sources.Source, **settings) -> tuple[Network, Categories, dict]:
    """Network, classes and plain settings of a detector's weights; ``settings`` overrule what the source tells.

    Raises UserError when the weights are no detector, or not all there.
    """
    if not source.is_detector:
        raise UserError(f"{source.path} is {source.title}, not a detector; it can be --config.model.backbone_weights")
    config, categories = source.config, source.categories
    if config is not None:
        config = config | {"model": detr.LATER | config["model"] | settings}
    else:
        try:
            model = detr.settings_of({name: array.shape for name, array in source.arrays.items()})
        except ValueError as error:
            raise UserError(f"{source.path} ({source.title}) is not complete: {error}") from error
        known = {key: value for key, value in source.known.items() if key in model}
        model |= known | settings
        rows = model.pop("num_classes")
        categories = categories or classes_of_rows(rows)
        if len(categories.ids) != rows:
            raise UserError(
                f"config.json beside {source.path} names {len(categories.ids)} classes (id2label) but the class head "
                f"has {rows}; correct it, or remove it"
            )
        data = {"scales": [800], "max_size": 1333, "buckets": [list(bucket) for bucket in buckets.COCO], "threads": 8}
        config = {"model": model, "dtype": "float32", "train": {"remat": False}, "data": data}
    network = build_network(config, len(categories.ids), f"{source.path} ({source.title})")
    for name, shape in network.shapes.items():
        if name not in source.arrays or source.arrays[name].shape != shape.shape:
            seen = f"has shape {source.arrays[name].shape}" if name in source.arrays else "is missing"
            raise UserError(f"{source.path} ({source.title}): {name} {seen}; the model needs {shape.shape}")
    return network, categories, config


def classes_of_rows(rows: int) -> Categories:
    """The classes that the rows of a published class head stand for, by their number.

    91 rows (boxes) and 250 (panoptic) are indexed by COCO's own ids, of which those never used have no name, 80 by its
    classes in order; others are only numbered.
    """
    if rows == len(COCO_CATEGORIES.ids):
        return COCO_CATEGORIES
    names = {row: name for table in COCO_ROWS.get(rows, []) for row, name in zip(*table, strict=True)}
    return Categories(tuple(range(rows)), tuple(names.get(row, f"class {row}") for row in range(rows)))


def known_classes(source: sources.Source) -> Categories | None:
    """The classes of a source: as it says, or as the number of its rows says when that is a published head's."""
    head = source.arrays.get(sources.HEAD[1], np.zeros(1))
    rows = head.size - 1  # the last one is no object
    return source.categories or (classes_of_rows(rows) if rows in COCO_ROWS else None)


def load(checkpoint: str | Path, mesh: jax.sharding.Mesh | None = None) -> Detector:
    """The detector of a workdir (its best checkpoint, else its last), of one checkpoint's folder, of a file of another
    framework (``.pth``, ``.safetensors``), or of a name on the Hugging Face hub.

    Raises UserError when there is none, or when it is damaged or incomplete.
    """
    source = sources.read(checkpoint)
    network, categories, config = of_source(source)
    mesh = devices.automatic(mesh or jax.make_mesh((1,), ("data",), devices=jax.devices()[:1]))
    arrays = {name: source.arrays[name] for name in network.shapes}
    arrays = jax.device_put(arrays, devices.replicated(mesh))
    detect = detect_function(network, config["model"]["class_scores"], mesh)
    return Detector(source.path, network, arrays, categories, config, mesh, detect)
