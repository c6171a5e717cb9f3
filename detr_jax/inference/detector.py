"""A detector: a network with its weights and classes. Images in, ``Detections`` out."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax

from detr_jax import devices
from detr_jax.batches.inputs import Change, PixelReader
from detr_jax.batches.pipeline import Pipeline, to_device
from detr_jax.batches.plan import PlannedBatch, make_evaluation_plan
from detr_jax.config import Config, DataConfig, ModelConfig
from detr_jax.datasets.split import Split
from detr_jax.errors import UserError
from detr_jax.images.decoding import ACCEPTED, ImageLike, Limits
from detr_jax.inference import postprocess
from detr_jax.inference.attention import WATCHED, Attended, make_attention
from detr_jax.inference.coco_heads import classes_of_rows
from detr_jax.inference.image_files import ImageFiles, UprightReader
from detr_jax.models import detr
from detr_jax.models.network import Arrays, Network
from detr_jax.structures import AttentionWeights, Batch, Categories, Detections, Predictions
from detr_jax.weights.sources import Weights, load_weights, model_config_of

Found = tuple[jax.Array, jax.Array, jax.Array, jax.Array]
Detect = Callable[[Arrays, Batch], tuple[Found, Any]]
Watch = Callable[[Arrays, Batch], tuple[Found, AttentionWeights, AttentionWeights | None]]
OnWait = Callable[[float], None]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Detector:
    """Finds objects: in what people pass when it is called, in a whole split by ``over``.

    Attributes:
      arrays: the values of ``network``, on the devices of ``mesh``.
      categories: the classes that the labels count.
      data: gives the size that images are resized to, the canvases and the number of reading threads.
      detect: jitted (arrays, batch) -> (scores, labels, boxes_xyxy in [0, 1]) of the last decoder layer, and which
        rows hold an image; then what ``make_detector`` was asked to measure. Whole on every host.
      watch: jitted (arrays, batch) -> the same four, and the attention of the decoder and the encoder for the
        ``WATCHED`` best detections of each image.
      path: where the weights were found: a checkpoint's folder, or a file.
      config: of the run that trained the weights, when it is known.
    """

    network: Network
    arrays: Arrays
    categories: Categories
    data: DataConfig
    mesh: jax.sharding.Mesh
    detect: Detect
    watch: Watch
    path: Path | None = None
    config: Config | None = None

    def __repr__(self) -> str:
        return f"Detector of {len(self.categories.ids)} classes from {self.path or 'memory'}"

    def with_arrays(self, arrays: Arrays) -> "Detector":
        """The same detector with other weights; nothing is compiled again."""
        return dataclasses.replace(self, arrays=arrays)

    def __call__(self, given: ImageLike | Iterable[Any], batch_size: int = 1) -> Detections | list[Detections]:
        """The ``Detections`` of one image, or a list of them for several, in their order.

        Args:
          given: a path, the bytes of an image file, a Pillow image or a uint8 array ([H W 3] in RGB order, or grey
            [H W]); or a list, tuple or iterator of any of these. Images are seen upright, as a viewer shows them:
            their EXIF rotation is applied, and boxes are in pixels of that upright image. Transparency is dropped.
          batch_size: images at a time; more is faster and takes more memory.

        Raises UserError, which names the image, when one cannot be used.
        """
        if isinstance(given, ImageLike):
            return self([given], batch_size)[0]
        if isinstance(given, dict) or not isinstance(given, Iterable):
            raise UserError(f"{type(given).__name__} is no image; pass {ACCEPTED}, or a list of them")
        source = ImageFiles(list(given), Limits(*self.data.image_limits))
        found = dict(self.over(source, batch_size)) if len(source) else {}
        return [found[row] for row in range(len(source))]

    def over(
        self,
        images: Split | ImageFiles,
        batch_size: int,
        change: Change | None = None,
        on_wait: OnWait | None = None,
        on_measured: Callable[[Any], None] | None = None,
    ) -> Iterator[tuple[int, Detections]]:
        """(row, its detections) for every image, on every host, in the order of their canvases.

        An image of a split that cannot be decoded has no detection at all; any other has some, however unlikely.
        ``batch_size`` is rounded up to a multiple of the devices. The next batch is handed to the devices before the
        results of the last one are fetched. ``change`` is done to each image of a split: see ``PixelReader``.
        ``on_wait`` is told of each batch how many seconds it was waited for, ``on_measured`` what was measured of it.
        """
        for planned, (found, measured) in self._compute(self.detect, images, batch_size, change, on_wait):
            if on_measured is not None:
                on_measured(measured)
            for _, row, detections in self._finish(images, planned, found):
                yield row, detections

    def attention_over(
        self, images: ImageFiles, batch_size: int, on_wait: OnWait | None = None
    ) -> Iterator[tuple[int, Detections, Attended]]:
        """(row, its detections, where the model looks for the best of them) for every image, as ``over`` does it."""
        for planned, (found, decoder, encoder) in self._compute(self.watch, images, batch_size, None, on_wait):
            for place, row, detections in self._finish(images, planned, found):
                yield row, detections, make_attention(detections, decoder, encoder, place)

    def _compute(
        self,
        function: Detect | Watch,
        images: Split | ImageFiles,
        batch_size: int,
        change: Change | None,
        on_wait: OnWait | None,
    ) -> Iterator[tuple[PlannedBatch, Any]]:
        """Every planned batch with what a jitted function makes of it."""
        plan = make_evaluation_plan(self.data, images, -(-batch_size // self.mesh.size) * self.mesh.size)
        limits = Limits(*self.data.image_limits)
        reader = UprightReader() if isinstance(images, ImageFiles) else PixelReader(limits=limits, change=change)
        pipeline = Pipeline(
            images, plan, part=(jax.process_index(), jax.process_count()), threads=self.data.threads, reader=reader
        )
        pending = None
        with pipeline as batches:
            for step, (batch, waited) in enumerate(to_device(batches, devices.batch_sharding(self.mesh))):
                if on_wait is not None:
                    on_wait(waited)
                results = function(self.arrays, batch)
                if pending is not None:
                    yield pending[0], jax.device_get(pending[1])
                pending = plan[step], results
        if pending is not None:
            yield pending[0], jax.device_get(pending[1])

    def _finish(
        self, images: Split | ImageFiles, planned: PlannedBatch, found: tuple
    ) -> Iterator[tuple[int, int, Detections]]:
        """(place in its batch, row, its detections) for every image of a batch, from what ``detect`` gave for it."""
        scores, labels, boxes_xyxy, present = found
        for place, row in enumerate(planned.rows.tolist()):
            if row >= 0:
                height, width = images.sizes[row].tolist()
                one = scores[place], labels[place], boxes_xyxy[place]
                detections = postprocess.make_detections(*one, (height, width), self.categories)
                yield place, row, detections if present[place] else detections.best(0)


def make_detector(
    network: Network,
    arrays: Arrays,
    categories: Categories,
    model: ModelConfig,
    data: DataConfig,
    mesh: jax.sharding.Mesh,
    measure: Callable[[Predictions, Batch], Any] = lambda predictions, batch: None,
) -> Detector:
    """A detector of values that are on the devices already (or given later: ``with_arrays``).

    ``measure`` is compiled with it; ``over`` hands on what it returns of each batch.
    """
    select, queries_of = postprocess.SELECT[model.class_scores], postprocess.QUERIES[model.class_scores]

    def find(predictions, inputs):
        return *select(predictions.logits[-1], predictions.boxes[-1]), inputs.sizes[:, 0] > 0

    def choose(predictions):
        return queries_of(predictions.logits[-1], WATCHED)

    def detect(arrays, batch):
        predictions = network.apply(arrays, batch.inputs)
        return find(predictions, batch.inputs), measure(predictions, batch)

    def watch(arrays, batch):
        predictions, *attention = network.apply(arrays, batch.inputs, choose, method="with_attention")
        return find(predictions, batch.inputs), *attention

    detect, watch = (jax.jit(function, out_shardings=devices.replicated(mesh)) for function in (detect, watch))
    return Detector(network, arrays, categories, data, mesh, detect, watch)


def rebuild_network(weights: Weights, **changes: Any) -> tuple[Network, ModelConfig, Categories]:
    """The network of a detector's weights, its settings (``changes`` win over what the source tells) and its classes.

    Raises UserError when the weights are not those of a whole detector.
    """
    model, categories = weights.model, weights.categories
    found = {name: array.shape for name, array in weights.arrays.items()}
    source = f"{weights.path} ({weights.title})"
    if model is None:
        try:
            model, _ = model_config_of(found)
        except ValueError as error:
            raise UserError(f"{source} is not a detector: {error}; it can be model.backbone_weights") from error
    rows = found.get("class_head/kernel", (0, 0))[1] - (model.class_scores == "softmax")
    categories = categories or classes_of_rows(rows)
    if len(categories.ids) != rows:
        raise UserError(
            f"{source} names {len(categories.ids)} classes but its class head has {rows}; correct id2label in "
            "config.json, or remove that file"
        )
    model = dataclasses.replace(model, **changes)
    dtype = weights.config.dtype if weights.config else "float32"
    try:
        network = detr.network(model, len(categories.ids), dtype=dtype)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    for name, wanted in network.shapes.items():
        if found.get(name) != wanted.shape:
            state = f"has shape {found[name]}" if name in found else "is missing"
            raise UserError(f"{source}: {name} {state}; the model needs {wanted.shape}")
    return network, model, categories


def load(checkpoint: str | Path, mesh: jax.sharding.Mesh | None = None) -> Detector:
    """The detector of a workdir (its best checkpoint, else its last), of one checkpoint's folder, of a file of another
    framework (``.pth``, ``.safetensors``), or of a name on the Hugging Face hub.

    Args:
      mesh: the devices to run on; None is the first one. On several hosts it holds those of all, and every host calls.

    Raises UserError when there is none, or when it is damaged or incomplete.
    """
    weights = load_weights(checkpoint)
    network, model, categories = rebuild_network(weights)
    mesh = devices.as_auto(mesh or jax.make_mesh((1,), ("data",), devices=jax.devices()[:1]))
    arrays = devices.replicate({name: weights.arrays[name] for name in network.shapes}, mesh)
    data = weights.config.data if weights.config else DataConfig()
    detector = make_detector(network, arrays, categories, model, data, mesh)
    return dataclasses.replace(detector, path=weights.path, config=weights.config)
