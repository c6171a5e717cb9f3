"""What is known of every image of a split without reading it: the batch plan needs sizes and counts of all at once."""

import os
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from detr_jax import files


class Index(NamedTuple):
    """One row an image, in ascending image id."""

    image_ids: Int64[np.ndarray, " M"]
    sizes: Int32[np.ndarray, "M 2"]  # (height, width) that the boxes refer to
    target_counts: Int32[np.ndarray, " M"]  # boxes that are trained on
    positions: Int64[np.ndarray, " M"]  # number of the image's record, counted through the shards of the split


def save_index(path: str | os.PathLike, index: Index) -> None:
    """Writes an index as npz."""
    with files.replacing(path) as partial:
        np.savez(partial, **index._asdict())


def load_index(path: str | os.PathLike) -> Index:
    """Reads what ``save_index`` wrote."""
    with np.load(path) as columns:
        return Index(**{name: columns[name] for name in Index._fields})
