"""Too little memory: what is said, and which settings help."""

import contextlib
from collections.abc import Iterator

import jax

from detr_jax.errors import UserError


@contextlib.contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Turns an out-of-memory failure of the device into one sentence with the settings that help."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "out of memory" not in str(error).lower():
            raise
        raise UserError(
            f"the device is out of memory ({str(error).splitlines()[0][:160]}); try, in this order, "
            "dtype=bfloat16, train.accum_steps=2 (or 4, 8), train.remat=True, a smaller train.batch_size, smaller "
            "data.buckets with smaller data.scales"
        ) from error
