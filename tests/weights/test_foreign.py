"""Files of other frameworks are recognised by their content, whatever their prefix, precision or name."""

import sys

import numpy as np
import pytest

from detr_jax.errors import UserError
from detr_jax.weights import torch_names
from detr_jax.weights.sources import load_weights
from tests.weights.small_models import LAYOUTS, assert_equal, random_arrays, small_model, write


@pytest.fixture(scope="module")
def arrays():
    return random_arrays(small_model(), 91)


@pytest.mark.parametrize(
    "prefix, layout", [("", "ORIGINAL"), ("detr.", "ORIGINAL"), ("", "DETECTRON2"), ("", "HUGGINGFACE"),
                       ("detr.", "HUGGINGFACE"), ("", "HUGGINGFACE_TIMM"), ("module.", "ORIGINAL")]
)  # fmt: skip
def test_layouts_are_recognised_by_content(arrays, prefix, layout, tmp_path):
    there = {prefix + key: x for key, x in torch_names.to_there(arrays, LAYOUTS[layout]).items()}
    there |= {f"{prefix}criterion.empty_weight": np.zeros(3, np.float32)}
    there |= {key.replace("running_var", "num_batches_tracked"): np.zeros((), int) for key in there if "var" in key}
    weights = load_weights(write(tmp_path / "anything.bin", there))
    assert weights.model is not None and weights.unused == [f"{prefix.removeprefix('module.')}criterion.empty_weight"]
    assert_equal(weights.arrays, arrays)
    assert len(weights.sha256) == 64


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_is_stored_as_float32(arrays, precision, tmp_path):
    rounded = {name: array.astype(precision) for name, array in arrays.items()}
    weights = load_weights(write(tmp_path / "half", torch_names.to_there(rounded, torch_names.ORIGINAL)))
    assert {array.dtype for array in weights.arrays.values()} == {np.dtype(np.float32)}
    assert_equal(weights.arrays, {name: array.astype(np.float32) for name, array in rounded.items()})


def test_pth_needs_torch(arrays, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "old.pth").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(UserError, match="pip install torch"):
        load_weights(tmp_path / "old.pth")
