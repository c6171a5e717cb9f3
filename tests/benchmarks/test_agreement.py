"""Two devices compared: what counts as a difference."""

import numpy as np

from configs import detr
from detr_jax.benchmarks import agreement
from detr_jax.config_forms import from_config_dict


def test_a_difference_is_relative_to_all_arrays_together():
    wanted = {"a": np.array([3.0, 0.0]), "b": np.array([[4.0]])}
    found = {"a": np.array([3.0, 0.3]), "b": np.array([[4.4]])}
    assert agreement.relative_difference(wanted, wanted) == 0.0
    np.testing.assert_allclose(agreement.relative_difference(found, wanted), 0.1)


def test_nothing_random_and_no_schedule_is_left():
    recipe = agreement.make_recipe_without_dropout(from_config_dict(detr.get_config("debug")), "bfloat16")
    assert recipe.config.model.dropout == 0.0 and recipe.config.dtype == "bfloat16"
    assert recipe.config.optim.schedule == "constant" and recipe.mesh is None
