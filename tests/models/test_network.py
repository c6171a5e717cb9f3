"""The arrays of a network: published parameter counts, what is frozen, and initial values."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from detr_jax.models.network import Keys, make_network
from tests.models.networks import jit, make


def count(net, start: str = "", frozen: bool = False, suffix: str = "") -> int:
    return sum(
        math.prod(shape.shape)
        for name, shape in net.shapes.items()
        if name.startswith(start) and name.endswith(suffix) and (name in net.frozen) == frozen
    )


@pytest.mark.parametrize(
    "words, trained",
    [
        ("r50", 41_302_368),  # the original's log.txt says so
        pytest.param("r50_dc5", 41_302_368, marks=pytest.mark.slow),
        ("r101", 60_242_272),
        pytest.param("r101_dc5", 60_242_272, marks=pytest.mark.slow),
        # Convolutions of layer2 and layer3 + projection + 3 encoder layers + 3 decoder layers and a norm + queries +
        # class head + box head, written out:
        ("r18_c4", 2_621_440 + 32_896 + 3 * 198_272 + 3 * 264_576 + 256 + 12_800 + 11_868 + 33_540),
        # All convolutions and group norms of a ResNet-10 + the same with one and two layers of width 32.
        ("debug", 308_016 + 1_440 + 4_128 + 8_544 + 2 * 12_832 + 64 + 3_200 + 3_036 + 2_244),
    ],
)
def test_trained_parameters(words, trained):
    assert count(make(words)) == trained


def test_parts_of_the_r50():
    net = make()
    assert count(net) + count(net, frozen=True, suffix="/kernel") == 41_524_768
    assert count(net, "backbone/", frozen=True) - count(net, "backbone/", frozen=True, suffix="/kernel") == 4 * 26_560
    assert count(net, "transformer/encoder") == 7_890_432
    assert count(net, "transformer/decoder") == 9_473_024
    assert count(make(classes=250)) == 41_302_368 + 40_863
    assert all(shape.dtype == jnp.float32 for shape in net.shapes.values())


def test_frozen_is_batch_norm_and_all_below_layer2():
    net = make()
    for name in net.shapes:
        frozen = re.match(r"backbone/(conv1|norm1|layer1)/", name) or ("backbone/" in name and "norm" in name)
        assert (name in net.frozen) == bool(frozen), name
    assert not make("debug").frozen  # group norm: everything is trained


def test_partition():
    net = make()
    trained, frozen = net.partition(net.shapes, ("transformer/encoder", "class_head"))
    assert trained.keys() | frozen.keys() == net.shapes.keys() and not trained.keys() & frozen.keys()
    for name in net.shapes:
        held = name in net.frozen or name.startswith(("transformer/encoder", "class_head"))
        assert (name in frozen) == held, name


def test_apply_calls_the_method_that_is_named():
    class Affine(nnx.Module):
        def __init__(self, rngs):
            self.scale = nnx.Param(jax.random.normal(rngs.params(), (3,)))

        def __call__(self, x):
            return x * self.scale[...]

        def double(self, x):
            return 2 * self(x)

    net, x = make_network(Affine), jnp.arange(3.0)
    arrays = net.init(jax.random.key(0))
    np.testing.assert_array_equal(net.apply(arrays, x), x * arrays["scale"])
    np.testing.assert_array_equal(net.apply(arrays, x, method="double"), 2 * x * arrays["scale"])


# --- Initial values ---

XAVIER = {"packed": math.sqrt(6 / (4 * 128)), "out": math.sqrt(6 / (2 * 128)), "ffn": math.sqrt(6 / (128 + 512))}
UNIFORM = [  # (name, bound): uniform in +-bound
    (r"transformer/.*_attention/(query|key|value)/kernel", XAVIER["packed"]),
    (r"transformer/.*_attention/out/kernel", XAVIER["out"]),
    (r"transformer/.*/linear[12]/kernel", XAVIER["ffn"]),
    (r"transformer/.*/linear1/bias", 128**-0.5),
    (r"transformer/.*/linear2/bias", 512**-0.5),
    (r"input_projection/.*", 256**-0.5),
    (r"(class_head|box_head/.*)/(kernel|bias)", 128**-0.5),
]
CONSTANT = [
    (r"transformer/.*_attention/.*/bias", 0.0),
    (r".*norm/scale", 1.0),
    (r".*norm/bias", 0.0),
    (r"backbone/.*norm\d?/(scale|var)", 1.0),
    (r"backbone/.*norm\d?/(bias|mean)", 0.0),
]


def test_keys_are_those_of_nnx():
    ours, theirs = Keys(jax.random.key(5)), nnx.Rngs(params=jax.random.key(5))
    for _ in range(3):
        np.testing.assert_array_equal(jax.random.key_data(ours.params()), jax.random.key_data(theirs.params()))


def test_initialisation_of_every_array():
    net = make("r18_c4", backbone="resnet10", encoder_layers=2, decoder_layers=1, position_embedding="learned")
    init = jit(net.init)
    arrays = {name: np.asarray(values) for name, values in init(jax.random.key(0, impl="rbg")).items()}  # compiles fast
    assert arrays.keys() == net.shapes.keys()
    for name, values in arrays.items():
        assert values.shape == net.shapes[name].shape and values.dtype == np.float32, name
        constants = [value for pattern, value in CONSTANT if re.fullmatch(pattern, name)]
        bounds = [bound for pattern, bound in UNIFORM if re.fullmatch(pattern, name)]
        if constants:
            np.testing.assert_array_equal(values, constants[0], err_msg=name)
        elif bounds:
            assert np.abs(values).max() <= bounds[0], name
            if values.size > 100:
                assert np.abs(values).max() > 0.9 * bounds[0], name
                np.testing.assert_allclose(values.std(), bounds[0] / math.sqrt(3), rtol=0.15, err_msg=name)
        elif name.startswith("positions/"):
            assert values.min() >= 0 and values.max() < 1 and abs(values.mean() - 0.5) < 0.03, name
        elif name == "query_positions":
            np.testing.assert_allclose([values.mean(), values.std()], [0, 1], atol=0.03)
        else:  # He et al. 2015 over the fan out, normal
            size, _, _, channels = values.shape
            assert re.fullmatch(r"backbone/.*(conv\d|shortcut)/kernel", name), name
            np.testing.assert_allclose(values.std(), math.sqrt(2 / (size * size * channels)), rtol=0.05, err_msg=name)
            assert abs(values.mean()) < 0.1 * values.std()
    kernels = [values for name, values in arrays.items() if re.search(r"encoder/\d/feed_forward/linear1/kernel", name)]
    assert not np.array_equal(kernels[0], kernels[1])  # each array draws for itself
    other = init(jax.random.key(1, impl="rbg"))
    assert not np.array_equal(other["class_head/kernel"], arrays["class_head/kernel"])
