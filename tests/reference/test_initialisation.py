"""A fresh R50 against reference figures: torch's defaults, torchvision's and the original's own rules."""

import math
import re

import jax
import numpy as np
import peer
import pytest

WIDTH, HIDDEN, CLASSES, FEATURES = 256, 2048, 91, 2048
NORMAL, UNIFORM, CONSTANT = "normal", "uniform", "constant"


def default(fan_in):
    """torch's Linear and Conv: uniform in +-1/sqrt(fan_in), weight and bias."""
    return UNIFORM, 1 / math.sqrt(fan_in)


def xavier(fan_in, fan_out):
    return UNIFORM, math.sqrt(6 / (fan_in + fan_out))


# name -> (distribution, its deviation, bound or value). torch holds an attention's query, key and value as one tensor
# of 768 x 256, and xavier's bound counts all of it.
RULES = {
    r"backbone/.*(norm\d?)/(scale|var)": (CONSTANT, 1),
    r"backbone/.*(norm\d?)/(bias|mean)": (CONSTANT, 0),
    r"input_projection/(kernel|bias)": default(FEATURES),
    r"query_positions": (NORMAL, 1),
    r".*attention/(query|key|value)/kernel": xavier(WIDTH, 3 * WIDTH),
    r".*attention/out/kernel": xavier(WIDTH, WIDTH),
    r".*attention/(query|key|value|out)/bias": (CONSTANT, 0),
    r".*feed_forward/linear\d/kernel": xavier(WIDTH, HIDDEN),
    r".*feed_forward/linear1/bias": default(WIDTH),
    r".*feed_forward/linear2/bias": default(HIDDEN),
    r"transformer/.*norm/scale": (CONSTANT, 1),
    r"transformer/.*norm/bias": (CONSTANT, 0),
    r"(class_head|box_head/layers/\d)/(kernel|bias)": default(WIDTH),
}


@pytest.fixture(scope="module")
def fresh():
    network = peer.network_of(peer.PUBLISHED)
    return jax.jit(network.init)(jax.random.key(0))


def rule(name: str, shape: tuple[int, ...]):
    if re.fullmatch(r"backbone/.*(conv\d|shortcut)/kernel", name):  # torchvision: He's normal over the fan out
        return NORMAL, math.sqrt(2 / (shape[0] * shape[1] * shape[3]))
    (found,) = [figures for pattern, figures in RULES.items() if re.fullmatch(pattern, name)]
    return found


def test_every_array(fresh, differences):
    """Mean, deviation and bounds, each within five standard errors of what its distribution says."""
    for name, values in fresh.items():
        array = np.asarray(values, np.float64)
        kind, figure = rule(name, array.shape)
        if kind == CONSTANT:
            assert (array == figure).all(), name
            continue
        deviation = figure if kind == NORMAL else figure / math.sqrt(3)
        kurtosis = 3 if kind == NORMAL else 1.8
        count = array.size
        assert abs(array.mean()) < 5 * deviation / math.sqrt(count), name
        spread = deviation * math.sqrt((kurtosis - 1) / (4 * count))  # standard error of a deviation
        assert abs(array.std() - deviation) < 5 * spread + 1e-7, name
        if kind == UNIFORM:
            assert figure * (1 - 12 / count) <= np.abs(array).max() <= figure * (1 + 1e-6), name
        elif count > 1000:  # not truncated: the largest of so many normal numbers lies near sqrt(2 log count)
            assert 0.8 < np.abs(array).max() / (deviation * math.sqrt(2 * math.log(count))) < 1.4, name
        if count > 10_000:
            differences("deviation (relative)", abs(array.std() / deviation - 1))


def test_published_bounds(fresh):
    """The figures of the reference: query, key and value 0.0765, output 0.108, feed-forward 0.0510."""
    largest = {name: np.abs(array).max() for name, array in fresh.items()}
    encoder = "transformer/encoder/0"
    np.testing.assert_allclose(largest[f"{encoder}/self_attention/query/kernel"], 0.0765, atol=5e-5)
    np.testing.assert_allclose(largest[f"{encoder}/self_attention/out/kernel"], 0.1083, atol=5e-5)
    np.testing.assert_allclose(largest[f"{encoder}/feed_forward/linear1/kernel"], 0.0510, atol=5e-5)


def test_parameter_counts(fresh):
    """41,302,368 trained, 41,524,768 with the frozen convolutions, 41,631,008 with batch norm's values."""
    network = peer.network_of(peer.PUBLISHED)
    trained, frozen = network.partition(fresh)
    assert sum(array.size for array in trained.values()) == 41_302_368
    convolutions = sum(array.size for name, array in frozen.items() if name.endswith("kernel"))
    assert 41_302_368 + convolutions == 41_524_768
    assert sum(array.size for array in fresh.values()) == 41_631_008
