"""What the backward pass asks to keep of the forward pass: most of a training step's memory."""

from collections import Counter

import jax
import pytest

from detr_jax.benchmarks.step import list_kept, sum_gigabytes
from detr_jax.structures import Bucket
from tests.models.networks import make

pytestmark = pytest.mark.budget
CANVAS = Bucket(96, 128, 100)


def kept(words: str, batch_size: int = 2, remat: bool = False) -> list[jax.ShapeDtypeStruct]:
    return list_kept(make(words, 3, remat=remat), (), batch_size, CANVAS)


@pytest.mark.parametrize("words", ["r50", "r50,fast", "r18_c4", "r50_dc5"])
def test_no_masks_worth_mentioning(words):
    """Masks of ReLUs and of dropout would be a sixth."""
    arrays = kept(words)
    masks = [array for array in arrays if array.dtype == bool]
    assert sum_gigabytes(masks) < 0.001 * sum_gigabytes(arrays)


def test_of_a_bottleneck_what_enters_its_convolutions():
    maps = Counter(array.shape[1:] for array in kept("r50") if array.ndim == 4 and array.shape[0] == 2)
    blocks = {2: 4, 3: 6, 4: 3}
    for stage, count in blocks.items():
        h, w, width = 48 >> stage, 64 >> stage, 32 << stage
        # Before its stride the first block's 3x3 convolution sees the map twice as large.
        assert maps[h, w, width] == 2 * count - 1 and maps[2 * h, 2 * w, width] == 1
        assert maps[h, w, 4 * width] == count  # into the next block, stage, or projection


def test_the_encoder_sees_tokens_in_eights():
    """12 cells are 16 tokens."""
    weights = [array.shape for array in kept("r50") if array.ndim == 4 and array.shape[2] == array.shape[3] == 16]
    assert weights == [(2, 8, 16, 16)] * 6


def test_rematerialisation_keeps_less_of_an_image():
    def of_an_image(remat: bool) -> float:
        one, two = (sum_gigabytes(kept("r18_c4", batch_size, remat)) for batch_size in (1, 2))
        return two - one

    assert 0 < of_an_image(remat=True) < 0.5 * of_an_image(remat=False)
