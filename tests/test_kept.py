"""What the backward pass asks to keep of the forward pass: that is most of a training step's memory."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import detr as configs
from detr_jax.inference import detector
from detr_jax import cli
from detr_jax.benchmarks import step
from detr_jax.batches.canvases import Bucket
from detr_jax.ops import attention, convolution
from detr_jax.models import layers

CANVAS = Bucket(96, 128, 100)


def kept(words: str, batch_size: int = 2, remat: bool = False) -> list[jax.ShapeDtypeStruct]:
    config = cli.plain(configs.get_config(words))
    config["train"]["remat"] = remat
    return step.kept(detector.build_network(config, 3), (), batch_size, CANVAS)


@pytest.mark.parametrize("words", ["r50", "r50,fast", "r18_c4", "r50_dc5"])
def test_no_masks_worth_mentioning(words):
    """Those of ReLUs and of dropout were a sixth."""
    arrays = kept(words)
    masks = [array for array in arrays if array.dtype == bool]
    assert step.gigabytes(masks) < 0.001 * step.gigabytes(arrays)


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
        one, two = (step.gigabytes(kept("r18_c4", batch_size, remat)) for batch_size in (1, 2))
        return two - one

    assert 0 < of_an_image(remat=True) < 0.5 * of_an_image(remat=False)


def test_gradient_of_relu():
    x = jnp.asarray([-2.0, -0.0, 0.0, 1e-30, 3.0, np.inf, -np.inf, np.nan])
    cotangent = jnp.arange(1.0, 9.0)
    ours, theirs = (jax.vjp(relu, x) for relu in (layers.relu, nnx.relu))
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_array_equal(ours[1](cotangent)[0], theirs[1](cotangent)[0])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_relu_of_a_sum_is_relu_of_the_sum(dtype):
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(size=(2, 5000)) * 10.0 ** rng.integers(-20, 20, 5000), dtype) for _ in range(2))
    x, y = x.at[:, :100].set(-y[:, :100]).at[:, 100:200].set(0.0), y.at[:, 200:300].set(0.0)
    ours, pull = jax.vjp(layers.relu_of_sum, x, y)
    theirs, pull_theirs = jax.vjp(lambda x, y: nnx.relu(x + y), x, y)
    np.testing.assert_array_equal(ours, theirs)
    for gradient, wanted in zip(pull(x), pull_theirs(x), strict=True):
        np.testing.assert_array_equal(gradient, wanted)


def test_no_residual_block_is_computed_again_for_the_next():
    """Twice the blocks read and write twice as much; 2.8 times as much with a plain maximum."""

    def moved(blocks: int) -> float:
        def maps(x, kernels):
            for kernel in kernels:
                x = layers.relu_of_sum(x, convolution.convolve(x, kernel))
            return x

        shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 32, 48, 64), (blocks, 1, 1, 64, 64))]
        return jax.jit(maps).lower(*shapes).compile().cost_analysis()["bytes accessed"]

    assert moved(12) < 2.1 * moved(6)


def test_gradient_of_dropout_falls_on_what_was_not_dropped():
    x, key = jnp.arange(1.0, 1001.0).reshape(10, 100), jax.random.key(3, impl="rbg")
    dropped, pull = jax.vjp(lambda x: attention.dropout(x, 0.3, key), x)
    np.testing.assert_allclose(pull(x)[0], dropped)
    assert 0.6 < float(jnp.mean(dropped > 0)) < 0.8
