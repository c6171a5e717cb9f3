"""How arrays are called in PyTorch's world and here: one declarative table per layout, read in both directions.

A row pairs a key pattern with a name pattern; ``{}`` stands for a number and means the same on both sides. The
transform says how the values differ.
"""

import re
from typing import NamedTuple

import numpy as np

# Transforms: how an array there is stored here.
SAME = "same"
CONV = "conv"  # OIHW -> HWIO


class Row(NamedTuple):
    """One line of a layout's table."""

    key: str
    name: str
    transform: str = SAME


def _norm(key: str, name: str) -> list[Row]:
    values = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    return [Row(f"{key}.{there}", f"{name}/{here}") for there, here in values.items()]


RESNET = [
    Row("conv1.weight", "backbone/conv1/kernel", CONV),
    *_norm("bn1", "backbone/norm1"),
    Row("layer{}.{}.conv{}.weight", "backbone/layer{}/{}/conv{}/kernel", CONV),
    *_norm("layer{}.{}.bn{}", "backbone/layer{}/{}/norm{}"),
    Row("layer{}.{}.downsample.0.weight", "backbone/layer{}/{}/shortcut/kernel", CONV),
    *_norm("layer{}.{}.downsample.1", "backbone/layer{}/{}/shortcut_norm"),
]

# Batch norm folded into the convolution before it: only its bias is left.
RESNET_FOLDED = [
    Row("conv1.bias", "backbone/norm1/bias"),
    Row("layer{}.{}.conv{}.bias", "backbone/layer{}/{}/norm{}/bias"),
    Row("layer{}.{}.downsample.0.bias", "backbone/layer{}/{}/shortcut_norm/bias"),
]


def translate(text: str, source: str, target: str) -> str | None:
    """``text`` rewritten from pattern ``source`` to pattern ``target``, or None when it does not match.

    >>> translate("layer1.0.conv2.weight", "layer{}.{}.conv{}.weight", "layer{}/{}/conv{}/kernel")
    'layer1/0/conv2/kernel'
    """
    match = re.fullmatch(re.escape(source).replace(r"\{\}", r"(\d+)"), text)
    return target.format(*match.groups()) if match else None


def name_of(key: str, table: list[Row]) -> tuple[str, str] | None:
    """(name here, transform) of a foreign key, or None when no row covers it."""
    for row in table:
        name = translate(key, row.key, row.name)
        if name is not None:
            return name, row.transform
    return None


def stored(values: np.ndarray, transform: str) -> np.ndarray:
    """Foreign values as they are stored here."""
    return values.transpose(2, 3, 1, 0) if transform == CONV else values
