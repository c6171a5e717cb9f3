"""Values to start from: a backbone's published weights, or what fits of another checkpoint."""

import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from detr_jax.program import UserError
from detr_jax.weights import checkpoints, torch_names

Shapes = dict[str, jax.ShapeDtypeStruct]
# FrozenBatchNorm divides by sqrt(var + 1e-5); for folded weights that must be 1.
FOLDED_VAR = 1.0 - 1e-5


class Report(NamedTuple):
    """What became of each array: names."""

    loaded: list[str]
    fresh: list[str]  # of the model, not in the source: as initialised
    unused: list[str]  # of the source, without a place in the model

    def __str__(self) -> str:
        def some(names):
            return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")

        lines = [f"  loaded          {len(self.loaded):4d} arrays"]
        if self.fresh:
            lines.append(f"  re-initialised  {len(self.fresh):4d} arrays: {some(self.fresh)}")
        if self.unused:
            lines.append(f"  unused          {len(self.unused):4d} arrays: {some(self.unused)}")
        return "\n".join(lines)


def read_backbone(path: str | Path, shapes: Shapes) -> tuple[dict[str, np.ndarray], Report]:
    """The backbone's arrays out of an ``.npz`` with torchvision's key names, also with batch norm folded in.

    Args:
      shapes: of the model's arrays by name (``Network.shapes``).

    Raises:
      UserError: no such file, not an npz, not a ResNet, or one that does not fit ``config.model``.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no file {path}; --config.model.backbone_weights takes the path of an .npz file")
    try:
        with zipfile.ZipFile(path):  # np.load would also take a .npy or a pickle
            pass
        with np.load(path) as archive:
            source = {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path} is not a readable .npz of arrays ({error}); "
            "--config.model.backbone_weights takes one with torchvision's key names"
        ) from error

    wanted = {name: shape for name, shape in shapes.items() if name.startswith("backbone/")}
    found, unused = {}, []
    folded = not any(key.endswith("running_var") for key in source)
    table = torch_names.RESNET + (torch_names.RESNET_FOLDED if folded else [])
    for key, values in source.items():
        name, transform = torch_names.name_of(key, table) or (None, None)
        if name not in wanted:
            unused.append(key)
            continue
        if np.ndim(values) != len(wanted[name].shape):
            raise UserError(
                f"{path} holds {key} with {np.ndim(values)} axes, not {len(wanted[name].shape)}; "
                "--config.model.backbone_weights takes an .npz with torchvision's key names"
            )
        found[name] = torch_names.stored(values, transform).astype(np.float32)
    if folded:
        unit = {"scale": 1.0, "mean": 0.0, "var": FOLDED_VAR}
        for name, shape in wanted.items():
            value = name.rpartition("/")[2]
            if name not in found and value in unit:
                found[name] = np.full(shape.shape, unit[value], np.float32)

    missing = sorted(wanted.keys() - found.keys())
    if missing:
        raise UserError(
            f"{path} has no values for {missing[0]} and {len(missing) - 1} other arrays of the backbone; "
            "set --config.model.backbone, last_stage and norm=frozen_batch to what the file holds"
        )
    for name, values in found.items():
        if values.shape != wanted[name].shape:
            raise UserError(
                f"{path} holds {name} with shape {values.shape} but the model needs {wanted[name].shape}; "
                "set --config.model.backbone and backbone_width to what the file holds"
            )
    return found, Report(sorted(found), [], sorted(unused))


def read_fitting(path: str | Path, shapes: Shapes) -> tuple[dict[str, np.ndarray], Report]:
    """The arrays of a checkpoint of this project that fit the model by name and shape; for ``config.init_from``.

    Raises UserError when there is no intact checkpoint at ``path``, or when nothing of it fits.
    """
    folder = checkpoints.find(path)
    item = "averaged" if (folder / "averaged").is_dir() else "model"
    held = checkpoints.shapes(folder)
    source = checkpoints.read_arrays(folder, "model", held)
    if item == "averaged":
        source.update(checkpoints.read_arrays(folder, item, checkpoints.shapes(folder, item)))
    found = {
        name: np.asarray(values)
        for name, values in source.items()
        if name in shapes and shapes[name].shape == values.shape
    }
    if not found:
        raise UserError(f"nothing in {folder} fits this model by name and shape; check --config.init_from")
    fresh = sorted(shapes.keys() - found.keys())
    return found, Report(sorted(found), fresh, sorted(source.keys() - found.keys()))
