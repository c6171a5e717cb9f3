"""Too little memory: one sentence with the settings that help."""

import jax
import pytest

from detr_jax.errors import UserError
from detr_jax.training.memory import explain_out_of_memory


def test_too_little_memory_is_one_sentence():
    advice = "out of memory .*try, in this order, dtype=bfloat16, train.accum_steps=2"
    with pytest.raises(UserError, match=advice) as caught, explain_out_of_memory():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes\nmore")
    assert "\n" not in str(caught.value)


def test_another_failure_of_the_device_stays_what_it_is():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), explain_out_of_memory():
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")
