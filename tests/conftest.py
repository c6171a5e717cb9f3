"""Settings that every test shares: two CPU devices, strict ranks, the real photos when they are at hand."""

import os
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure():
    """Nearly all tests compile more than they compute; ``programs.OPTIMISED`` is for the others."""
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real photos, annotations and weights; says plainly when it is missing."""
    folder = os.environ.get("DETR_JAX_REAL_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("real photos missing: set DETR_JAX_REAL_DATA to the folder that holds coco128, bccd, ...")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    """The ``Programs`` of this session."""
    from tests.programs import Programs  # not above: types of what is imported before the session are not checked

    return Programs(tmp_path_factory.getbasetemp() / "programs")


@pytest.fixture
def leaves_nothing_running(programs):
    """Kills what a test that failed has left running."""
    yield
    programs.end()


@pytest.fixture(scope="module")
def compile_once(tmp_path_factory):
    """For this module: what was compiled in this process or by a program is loaded from then on."""
    ours = {
        "jax_compilation_cache_dir": str(tmp_path_factory.getbasetemp() / "programs" / "cache"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in ours}

    def use(values: dict) -> None:
        compilation_cache.reset_cache()
        for name, value in values.items():
            jax.config.update(name, value)

    use(ours)
    yield
    use(before)
