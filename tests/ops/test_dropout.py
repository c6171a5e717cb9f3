"""Dropout against its definition, and its bits against the binomial distribution."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detr_jax.ops.dropout import draw_kept, dropout, dropout_definition, split_key
from tests.ops.definitions import assert_equals_definition, normal


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout(rate, dtype):
    key = jax.random.key(3, impl="rbg")
    functions = [lambda x, of=of: of(x, rate, key) for of in (dropout, dropout_definition)]
    assert_equals_definition(*functions, [normal(0, (4, 5, 100), dtype)], dtype)
    assert dropout(normal(0, (4, 5), dtype), rate, key).dtype == dtype


def test_gradient_falls_on_what_was_kept():
    x, key = jnp.arange(1.0, 1001.0).reshape(10, 100), jax.random.key(3, impl="rbg")
    dropped, pull = jax.vjp(lambda x: dropout(x, 0.3, key), x)
    np.testing.assert_allclose(pull(x)[0], dropped)
    np.testing.assert_array_equal(dropped > 0, draw_kept(x.shape, 0.3, key))
    assert 0.6 < float(jnp.mean(dropped > 0)) < 0.8


def test_identity_without_a_key_or_a_rate():
    x = normal(0, (3, 4))
    assert dropout(x, 0.5, None) is x and dropout(x, 0.0, jax.random.key(0)) is x


def test_keys_are_split():
    assert split_key(None, 3) == [None] * 3
    keys = jax.random.key_data(split_key(jax.random.key(0), 3))
    assert len(np.unique(np.asarray(keys), axis=0)) == 3


def test_bits_are_as_random_as_a_generator():
    """Counts of what is kept, alone and in pairs, against the binomial's own spread."""
    ones, rate = jnp.ones((64, 128, 256)), 0.1
    keys = [jax.random.fold_in(jax.random.key(7, impl="rbg"), number) for number in range(3)]
    masks = [np.asarray(dropout(ones, rate, key)) for key in keys]
    for mask in masks:
        np.testing.assert_allclose(np.unique(mask), [0, 1 / 0.9], rtol=1e-6)
    kept = [mask > 0 for mask in masks]

    def check(events, probability):
        spread = math.sqrt(probability * (1 - probability) / events.size)
        assert abs(events.mean() - probability) < 5 * spread, (events.mean(), probability)

    for mask in kept:
        check(mask, 0.9)
        for axis in range(3):  # neighbours along every axis, and everything along it
            near, far = np.split(mask, 2, axis=axis)
            check(near & far, 0.81)
            shifted = np.take(mask, range(1, mask.shape[axis]), axis), np.take(mask, range(mask.shape[axis] - 1), axis)
            check(shifted[0] & shifted[1], 0.81)
            rest = tuple(other for other in range(3) if other != axis)
            by_index, count = mask.mean(axis=rest), mask.size // mask.shape[axis]
            assert np.abs(by_index - 0.9).max() < 5.5 * math.sqrt(0.09 / count)
    check(kept[0] & kept[1], 0.81)
    check(kept[1] & kept[2], 0.81)
    # One key's bits are not another key's, shifted.
    flat = [mask.ravel() for mask in kept]
    for shift in (1, 2, 255, 256, 257, 4096):
        check(flat[0][shift:] & flat[1][:-shift], 0.81)
