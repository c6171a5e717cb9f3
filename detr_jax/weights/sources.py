"""Weights to start from: a checkpoint of this project or another framework's file, by path or by name on the hub."""

import hashlib
import os
import socket
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import huggingface_hub
import jax
import numpy as np
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import logging as hub_logging

from detr_jax import hosts
from detr_jax.config import ARCHITECTURES, Config, ModelConfig
from detr_jax.errors import UserError
from detr_jax.remote import RemoteFolder, is_remote, local_place
from detr_jax.structures import Array, Categories
from detr_jax.weights import checkpoints, finding, foreign, manifest

Shapes = dict[str, jax.ShapeDtypeStruct]
# FrozenBatchNorm divides by sqrt(var + 1e-5); for folded weights that must be 1.
FOLDED_VAR = 1.0 - 1e-5
UNIT_NORM = {"scale": 1.0, "mean": 0.0, "var": FOLDED_VAR}
HEAD = ("class_head/kernel", "class_head/bias")
LABELS = "anchor_decoder/labels"  # an embedding of every class, for denoising
BACKBONE_FLAG = "model.backbone_weights"
HUGGINGFACE_BACKBONE = "huggingface_backbone"  # in the info of a converted checkpoint


class Weights(NamedTuple):
    """Weights as they were found. Build it by keyword."""

    path: Path  # a checkpoint's folder, or a file
    title: str  # what it is, in words
    arrays: dict[str, np.ndarray]  # by name
    unused: list[str] = []  # what the file holds besides them
    model: ModelConfig | None = None  # settings of the network, complete; None when it is not a whole detector
    config: Config | None = None  # of the run, when it is a checkpoint of one
    categories: Categories | None = None  # what the rows of the class head mean, when the source tells
    huggingface_backbone: str | None = None  # the naming of the backbone in the Hugging Face file that this is or was

    @property
    def sha256(self) -> str:
        """Digest of the file, for the run's records; of a folder's list of checksums."""
        file = self.path / manifest.CHECKSUMS if self.path.is_dir() else self.path
        return hashlib.sha256(file.read_bytes()).hexdigest()


class Report(NamedTuple):
    """What became of each array: names."""

    loaded: list[str]
    partly: list[str]  # of a class head: the rows of the classes that both have
    fresh: list[str]  # of the model, not in the source: as initialised
    unused: list[str]  # of the source, without a place in the model
    unclear: list[str] = []  # classes of both, whose names several classes have; their rows are as initialised

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

        lines = [line(title, names) for title, names in rows.items() if names or title == "loaded"]
        lines += [f"  class {name} is re-initialised: several classes have this name" for name in self.unclear]
        return "\n".join(lines)


def find_source(source: str | Path, flag: str) -> Path | str:
    """The local path of ``source``: itself, or what the Hugging Face hub (or its cache) has under that name.

    Of a URL it is a copy, if that is a file; otherwise the URL itself, for a run may be there.

    Raises UserError when neither exists: the file, where it was looked for, and ``flag``, which takes a path.
    """
    if is_remote(source):
        return _copy_file(os.fspath(source))
    path = Path(source).expanduser()
    parts = str(source).split("/")
    if path.exists() or len(parts) != 2 or not all(parts) or path.suffix in (".npz", ".pth", ".safetensors"):
        return path
    verbosity = hub_logging.get_verbosity()
    hub_logging.set_verbosity_error()  # a page of retries would bury the sentence below
    try:
        for file in (foreign.HUGGINGFACE_CONFIG, foreign.HUGGINGFACE_WEIGHTS):
            found = huggingface_hub.hf_hub_download(str(source), file, local_files_only=not _is_reachable())
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        without = ", or nothing to start from random weights" if flag == BACKBONE_FLAG else ""
        page = f"{constants.ENDPOINT}/{source}/resolve/main"
        raise UserError(
            f"{source} is not a path, and {file} of that name is neither in the cache ({constants.HF_HUB_CACHE}) nor "
            f"available from the hub ({type(error).__name__}); with a network, download "
            f"{page}/{foreign.HUGGINGFACE_WEIGHTS} and pass {flag} its path{without}"
        ) from error
    finally:
        hub_logging.set_verbosity(verbosity)
    return Path(found).parent


def _is_reachable() -> bool:
    """False where there is no network at all: the hub's own client would try for half a minute, in silence."""
    if urllib.request.getproxies():
        return True
    try:
        socket.getaddrinfo(urllib.parse.urlsplit(constants.ENDPOINT).hostname, None)
    except OSError:
        return False
    return True


def _copy_file(url: str) -> Path | str:
    folder, _, name = url.rpartition("/")
    if not RemoteFolder(url).is_file():
        return url
    path = local_place("files", url) / name
    RemoteFolder(folder).download(name, path)
    return path


def load_weights(source: str | Path, flag: str = "--checkpoint", say: Callable[[str], None] = print) -> Weights:
    """Weights of a workdir or checkpoint of this project, of a file of another framework, or of a name on the hub.

    Every host reads them for itself. Which checkpoint of a workdir it is, the first one decides for all, for a run may
    be writing there; ``say`` is told when the best one is damaged and another takes its place.

    Raises UserError when there are none, or none that can be used; ``flag`` is what the message names.
    """
    path = find_source(source, flag)
    if is_remote(path) or path.is_dir() and not (path / foreign.HUGGINGFACE_WEIGHTS).is_file():
        found = hosts.from_first_host(lambda: finding.find_checkpoint(path, say))
        return _load_checkpoint(finding.local_copy(found))
    found = foreign.read_foreign(path)
    try:
        model, _ = model_config_of({name: array.shape for name, array in found.arrays.items()})
        model = replace(model, **found.settings)
    except ValueError:  # a backbone, or a part of a detector
        model = None
    categories = None
    if found.classes is not None:
        rows = sorted(found.classes)
        categories = Categories(tuple(rows), tuple(found.classes[row] for row in rows))
    return Weights(
        path=path / foreign.HUGGINGFACE_WEIGHTS if path.is_dir() else path,
        title=found.layout.title,
        arrays={name: np.asarray(array, np.float32) for name, array in found.arrays.items()},
        unused=found.unused,
        model=model,
        categories=categories,
        huggingface_backbone=found.layout.huggingface_backbone,
    )


def _load_checkpoint(folder: Path) -> Weights:
    contents = checkpoints.read_contents(folder)
    arrays = checkpoints.read_numpy(folder, "model")
    if (folder / "averaged").is_dir():
        arrays |= checkpoints.read_numpy(folder, "averaged")
    return Weights(
        path=folder,
        title="a checkpoint of detr_jax",
        arrays=arrays,
        model=contents.model,
        config=contents.config,
        categories=contents.categories,
        huggingface_backbone=checkpoints.read_info(folder).get(HUGGINGFACE_BACKBONE),
    )


def model_config_of(shapes: Mapping[str, tuple[int, ...]]) -> tuple[ModelConfig, int]:
    """(settings, number of classes) of a published DETR whose arrays have these shapes.

    What shapes do not tell has the original's value: no dilation, 32 features a head, dropout 0.1.

    Raises ValueError, which names an array that is missing or odd, when they are not all of a DETR.
    """

    def count(start: str) -> int:
        """How many different numbers follow this beginning of a name."""
        return len({name[len(start) :].split("/")[0] for name in shapes if name.startswith(start)})

    try:
        stages = count("backbone/layer")
        depths = tuple(count(f"backbone/layer{stage}/") for stage in range(1, stages + 1))
        built = depths, "backbone/layer1/0/conv3/kernel" in shapes, "backbone/conv0/kernel" in shapes
        names = [
            name
            for name, (depths, bottleneck, small_stem) in ARCHITECTURES.items()
            if (depths[:stages], bottleneck, small_stem) == built
        ]
        if len(names) != 1:
            raise ValueError(f"the backbone, with {depths} blocks, is none of {', '.join(ARCHITECTURES)}")
        num_queries, hidden_dim = shapes["query_positions"]
        masks = "mask_head/conv1/kernel" in shapes  # its input: the features, and a map of each head
        model = ModelConfig(
            backbone=names[0],
            backbone_width=shapes["backbone/conv1/kernel"][-1],
            last_stage=f"layer{stages}",
            norm="frozen_batch" if "backbone/norm1/mean" in shapes else "group",
            position_embedding="learned" if "positions/rows" in shapes else "sine",
            hidden_dim=hidden_dim,
            heads=shapes["mask_head/conv1/kernel"][2] - hidden_dim if masks else max(hidden_dim // 32, 1),
            encoder_layers=count("transformer/encoder/"),
            decoder_layers=count("transformer/decoder/"),
            feed_forward_dim=shapes["transformer/decoder/0/feed_forward/linear1/kernel"][1],
            num_queries=num_queries,
            pre_norm="transformer/encoder_norm/scale" in shapes,
            masks=masks,
        )
        return model, shapes["class_head/kernel"][1] - 1
    except KeyError as error:
        raise ValueError(f"{error.args[0]} is missing") from error
    except IndexError as error:
        raise ValueError("an array has too few axes") from error


def fit_backbone(weights: Weights, shapes: Shapes) -> tuple[dict[str, np.ndarray], Report]:
    """The backbone of a source, complete, for a model with these ``shapes`` (``Network.shapes``).

    Batch norm that was folded into the convolutions comes back as a unit scale.
    Raises UserError when an array of the backbone is missing or has another shape.
    """
    wanted = {name: shape for name, shape in shapes.items() if name.startswith("backbone/")}
    found = {name: array for name, array in weights.arrays.items() if name in wanted}
    if not any(name.endswith("/var") for name in wanted):
        raise UserError(f"{weights.path} holds batch norm, which this model does not have; set model.norm=frozen_batch")
    if not any(name.endswith("/var") for name in found):
        for name, shape in wanted.items():
            value = UNIT_NORM.get(name.rpartition("/")[2])
            if name not in found and value is not None:
                found[name] = np.full(shape.shape, value, np.float32)
    missing = sorted(wanted.keys() - found.keys())
    if missing:
        raise UserError(
            f"{weights.path} ({weights.title}) has no values for {missing[0]} and {len(missing) - 1} other arrays "
            "of the backbone; set model.backbone, model.last_stage and model.norm to what the file holds"
        )
    for name, values in found.items():
        if values.shape != wanted[name].shape:
            raise UserError(
                f"{weights.path} holds {name} with shape {values.shape} but the model needs {wanted[name].shape}; "
                "set model.backbone and model.backbone_width to what the file holds"
            )
    unused = [*weights.unused, *sorted(weights.arrays.keys() - wanted.keys())]
    return found, Report(sorted(found), [], [], unused)


def class_rows(names: Iterable[str]) -> list[str]:
    """Those of these names whose arrays have a row for every class: the first axis of ``LABELS``, else the last."""
    others = {name for name in names if "/class_head/" in name or name == LABELS}
    return [*(name for name in HEAD if name in names), *sorted(others)]


def _match_classes(new_classes: Categories, old_classes: Categories) -> list[int | None]:
    """Of each new class the row of the old class that it is, by name; None where there is none or it is not clear.

    Where a name belongs to several classes, their ids must be the same in both tables.
    """
    row_of_id = {category_id: row for row, category_id in enumerate(old_classes.ids)}
    rows: list[int | None] = []
    for category_id, name in zip(new_classes.ids, new_classes.names, strict=True):
        new_ids, old_ids = new_classes.ids_of_name(name), old_classes.ids_of_name(name)
        if len(new_ids) == len(old_ids) == 1:
            rows.append(row_of_id[old_ids[0]])
        else:
            rows.append(row_of_id[category_id] if new_ids == old_ids else None)
    return rows


def _unclear_classes(new_classes: Categories, old_classes: Categories) -> list[str]:
    """Names, with their ids, that both tables have and that ``_match_classes`` cannot match."""
    unclear = []
    for name in dict.fromkeys(new_classes.names):
        new_ids, old_ids = new_classes.ids_of_name(name), old_classes.ids_of_name(name)
        if old_ids and new_ids != old_ids and max(len(new_ids), len(old_ids)) > 1:
            unclear.append(f"{name!r} (ids {', '.join(map(str, old_ids))} there, {', '.join(map(str, new_ids))} here)")
    return unclear


def _rows_by_class(fresh: np.ndarray, old: np.ndarray, new_classes: Categories, old_classes: Categories, name: str):
    """``fresh`` with the rows of the classes that both have, and of no object; None where the rows mean other things.

    Heads with a softmax have one row more than classes, the last: no object. Heads with sigmoids have none.
    """
    axis = 0 if name == LABELS else -1
    fresh, old = np.moveaxis(fresh, axis, 0), np.moveaxis(old, axis, 0)
    more, old_more = len(fresh) - len(new_classes.ids), len(old) - len(old_classes.ids)
    if fresh.shape[1:] != old.shape[1:] or more != old_more:
        return None
    for row, old_row in enumerate(_match_classes(new_classes, old_classes)):
        if old_row is not None:
            fresh[row] = old[old_row]
    if more:
        fresh[-1] = old[-1]
    return np.moveaxis(fresh, 0, axis)


def fit_detector(
    weights: Weights, shapes: Shapes, fresh: Mapping[str, Array], categories: Categories
) -> tuple[dict[str, np.ndarray], Report]:
    """What of a source fits a model by name and shape; a class head of other classes gives the rows of equal names.

    Args:
      shapes: of the model's arrays.
      fresh: initial values of the ``class_rows``, for the classes that the source does not have.
      categories: the model's classes.

    Raises UserError when nothing fits.
    """
    found = {
        name: array for name, array in weights.arrays.items() if name in shapes and shapes[name].shape == array.shape
    }
    partly, unclear = [], []
    old_classes = weights.categories
    if old_classes is not None:
        unclear = _unclear_classes(categories, old_classes)
    if old_classes is not None and (old_classes.names != categories.names or unclear):
        for name in class_rows(weights.arrays.keys() & shapes.keys()):
            found.pop(name, None)
            merged = _rows_by_class(np.array(fresh[name]), weights.arrays[name], categories, old_classes, name)
            if merged is not None:
                found[name] = merged
                partly.append(name)
    if not found:
        raise UserError(f"nothing in {weights.path} ({weights.title}) fits this model by name and shape")
    return found, Report(
        sorted(found.keys() - set(partly)),
        partly,
        sorted(shapes.keys() - found.keys()),
        [*weights.unused, *sorted(weights.arrays.keys() - found.keys())],
        unclear,
    )
