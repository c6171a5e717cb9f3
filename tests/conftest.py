"""Settings that every test shares: two CPU devices, strict ranks, the real photos when they are at hand."""

import os
from pathlib import Path

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real photos, annotations and weights; says plainly when it is missing."""
    folder = os.environ.get("DETR_JAX_REAL_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("real photos missing: set DETR_JAX_REAL_DATA to the folder that holds coco128, bccd, ...")
    return Path(folder).resolve()
