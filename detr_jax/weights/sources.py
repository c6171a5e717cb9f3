"""Values to start from: a checkpoint of this project or another framework's file, by path or by name on the hub."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import jax
import numpy as np
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import logging as hub_logging

from detr_jax.errors import UserError
from detr_jax.structures import Categories
from detr_jax.weights import checkpoints, foreign

Shapes = dict[str, jax.ShapeDtypeStruct]
# FrozenBatchNorm divides by sqrt(var + 1e-5); for folded weights that must be 1.
FOLDED_VAR = 1.0 - 1e-5
UNIT_NORM = {"scale": 1.0, "mean": 0.0, "var": FOLDED_VAR}
HEAD = ("class_head/kernel", "class_head/bias")
LABELS = "anchor_decoder/labels"  # an embedding of every class, for denoising
HUGGINGFACE_BACKBONE = "huggingface_backbone"  # in the info of a converted checkpoint


class Source(NamedTuple):
    """Weights as they were found."""

    path: Path
    title: str  # what it is, in words
    arrays: dict[str, np.ndarray]  # by name
    unused: list[str]  # what the file holds beside them
    known: dict[str, Any]  # model settings that the shapes do not tell
    config: dict | None  # of the run, if it is a checkpoint of this project
    categories: Categories | None  # rows of the class head, if the source says
    is_detector: bool
    huggingface_backbone: str | None = None  # whose names the Hugging Face file had that this is, or was made from

    @property
    def sha256(self) -> str:
        """Digest of the file, for the run's records; of a folder's list of checksums."""
        file = self.path / checkpoints.CHECKSUMS if self.path.is_dir() else self.path
        return hashlib.sha256(file.read_bytes()).hexdigest()


class Report(NamedTuple):
    """What became of each array: names."""

    loaded: list[str]
    partly: list[str]  # of a class head: the rows of the classes that both have
    fresh: list[str]  # of the model, not in the source: as initialised
    unused: list[str]  # of the source, without a place in the model

    def __str__(self) -> str:
        rows = {
            "loaded": self.loaded, "rows by class": self.partly, "re-initialised": self.fresh, "unused": self.unused
        }  # fmt: skip

        def line(title, names):
            # By part of the model, so that a mask head shows beside a backbone of hundreds of arrays.
            parts = Counter("/".join(name.split("/")[: 2 if name.startswith("backbone/") else 1]) for name in names)
            some = [f"{part} ({count})" if count > 1 else part for part, count in parts.items()]
            some = ", ".join(some[:9]) + (", ..." if len(some) > 9 else "")
            return f"  {title:15} {len(names):4d} arrays" + (f": {some}" if title != "loaded" else "")

        return "\n".join(line(title, names) for title, names in rows.items() if names or title == "loaded")


def find(source: str | Path, flag: str) -> Path:
    """The local path of ``source``: itself, or what the Hugging Face hub (or its cache) has under that name.

    Raises UserError when neither is there: the file, where it was looked for, and ``flag``, which takes a path.
    """
    path = Path(source).expanduser()
    parts = str(source).split("/")
    if path.exists() or len(parts) != 2 or not all(parts) or path.suffix in (".npz", ".pth", ".safetensors"):
        return path
    hub_logging.set_verbosity_error()  # a page of retries would bury the sentence below
    try:
        for file in (foreign.HUGGINGFACE_CONFIG, foreign.HUGGINGFACE_WEIGHTS):
            found = huggingface_hub.hf_hub_download(str(source), file)
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(
            f"{source} is no path here, and {file} of that name is neither in the cache "
            f"({constants.HF_HUB_CACHE}) nor to be had from the hub ({type(error).__name__}); "
            f"pass {flag} the path of a file or folder instead"
        ) from error
    return Path(found).parent


def read(source: str | Path, flag: str = "--checkpoint") -> Source:
    """Weights of a workdir or checkpoint of this project, of a file of another framework, or of a name on the hub.

    Raises UserError when there is nothing, or nothing that can be used.
    """
    path = find(source, flag)
    if path.is_dir() and not (path / foreign.HUGGINGFACE_WEIGHTS).is_file():
        return _read_own(checkpoints.find(path))
    found = foreign.read(path)
    categories = None
    if found.classes is not None:
        rows = sorted(found.classes)
        categories = Categories(tuple(rows), tuple(found.classes[row] for row in rows))
    return Source(
        path / foreign.HUGGINGFACE_WEIGHTS if path.is_dir() else path,
        found.layout.title,
        {name: np.asarray(array, np.float32) for name, array in found.arrays.items()},
        found.unused,
        found.known,
        None,
        categories,
        found.layout.is_detector,
        found.layout.huggingface_backbone,
    )


def _read_own(folder: Path) -> Source:
    info = checkpoints.read_info(folder)
    arrays = checkpoints.read_arrays(folder, "model", checkpoints.shapes(folder))
    if (folder / "averaged").is_dir():
        arrays |= checkpoints.read_arrays(folder, "averaged", checkpoints.shapes(folder, "averaged"))
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    categories = Categories(*(tuple(column) for column in info["categories"].values()))
    backbone = info.get(HUGGINGFACE_BACKBONE)
    return Source(folder, "a checkpoint of detr_jax", arrays, [], {}, info["config"], categories, True, backbone)


def fit_backbone(source: Source, shapes: Shapes) -> tuple[dict[str, np.ndarray], Report]:
    """The backbone of a source, complete, for a model with these ``shapes`` (``Network.shapes``).

    Batch norm that was folded into the convolutions comes back as a unit scale.
    Raises UserError when an array of the backbone is missing or has another shape.
    """
    wanted = {name: shape for name, shape in shapes.items() if name.startswith("backbone/")}
    found = {name: array for name, array in source.arrays.items() if name in wanted}
    if not any(name.endswith("/var") for name in wanted):
        raise UserError(
            f"{source.path} holds batch norm, which this model does not have; set --config.model.norm=frozen_batch"
        )
    if not any(name.endswith("/var") for name in found):
        for name, shape in wanted.items():
            value = UNIT_NORM.get(name.rpartition("/")[2])
            if name not in found and value is not None:
                found[name] = np.full(shape.shape, value, np.float32)
    missing = sorted(wanted.keys() - found.keys())
    if missing:
        raise UserError(
            f"{source.path} ({source.title}) has no values for {missing[0]} and {len(missing) - 1} other arrays of the "
            "backbone; set --config.model.backbone, last_stage and norm=frozen_batch to what the file holds"
        )
    for name, values in found.items():
        if values.shape != wanted[name].shape:
            raise UserError(
                f"{source.path} holds {name} with shape {values.shape} but the model needs {wanted[name].shape}; "
                "set --config.model.backbone and backbone_width to what the file holds"
            )
    unused = [*source.unused, *sorted(source.arrays.keys() - wanted.keys())]
    return found, Report(sorted(found), [], [], unused)


def class_rows(names: Iterable[str]) -> list[str]:
    """Those of these names whose arrays have a row for every class: the first axis of ``LABELS``, else the last."""
    others = {name for name in names if re.search(r"/class_head/|^earlier_heads/\d+/0/", name) or name == LABELS}
    return [*(name for name in HEAD if name in names), *sorted(others)]


def _rows_by_class(fresh: np.ndarray, old: np.ndarray, new_classes: Categories, old_classes: Categories, name: str):
    """``fresh`` with the rows of the classes that both have, and of no object; None where the rows mean other things.

    Heads with a softmax have one row more than classes, the last: no object. Heads with sigmoids have none.
    """
    axis = 0 if name == LABELS else -1
    fresh, old = np.moveaxis(fresh, axis, 0), np.moveaxis(old, axis, 0)
    more, old_more = len(fresh) - len(new_classes.ids), len(old) - len(old_classes.ids)
    if fresh.shape[1:] != old.shape[1:] or more != old_more:
        return None
    row_of_name = {name: row for row, name in enumerate(old_classes.names)}
    for row, class_name in enumerate(new_classes.names):
        if class_name in row_of_name:
            fresh[row] = old[row_of_name[class_name]]
    if more:
        fresh[-1] = old[-1]
    return np.moveaxis(fresh, 0, axis)


def fit(source: Source, shapes: Shapes, fresh: dict, categories: Categories) -> tuple[dict[str, np.ndarray], Report]:
    """What of a source fits a model by name and shape; a class head of other classes gives the rows of equal names.

    Args:
      shapes: of the model's arrays.
      fresh: initial values of the ``class_rows``, for the classes that the source does not have.
      categories: the model's classes.

    Raises UserError when nothing fits.
    """
    found = {
        name: array for name, array in source.arrays.items() if name in shapes and shapes[name].shape == array.shape
    }
    partly = []
    if source.categories is not None and source.categories.names != categories.names:
        for name in class_rows(source.arrays.keys() & shapes.keys()):
            found.pop(name, None)
            merged = _rows_by_class(np.array(fresh[name]), source.arrays[name], categories, source.categories, name)
            if merged is not None:
                found[name] = merged
                partly.append(name)
    if not found:
        raise UserError(f"nothing in {source.path} ({source.title}) fits this model by name and shape")
    return found, Report(
        sorted(found.keys() - set(partly)),
        partly,
        sorted(shapes.keys() - found.keys()),
        [*source.unused, *sorted(source.arrays.keys() - found.keys())],
    )
