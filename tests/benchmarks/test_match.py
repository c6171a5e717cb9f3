"""The benchmark of the matching: its problems, and what it counts."""

import numpy as np
import pytest

from detr_jax.benchmarks import match


@pytest.mark.parametrize("kind", ["initial", "trained", "crowded"])
def test_problems_repeat_and_fit(kind):
    cost, counts = match.make_costs(kind, images=3, layers=2, slots=8, queries=20, seed=5)
    assert cost.shape == (6, 8, 20) and cost.dtype == np.float32 and np.isfinite(cost).all()
    assert (counts[:3] == counts[3:]).all() and counts.max() <= 8
    again, _ = match.make_costs(kind, images=3, layers=2, slots=8, queries=20, seed=5)
    np.testing.assert_array_equal(cost, again)


def test_a_trained_model_needs_no_search_and_a_fresh_one_does():
    trained, fresh = match.measure(images=4, layers=2, repeats=1, cases=(("trained", 64), ("initial", 64)))
    assert trained["turns"] <= 2 < fresh["turns"]
    for row in (trained, fresh):
        assert row["solver"] == "loop" and row["gap"] < 1e-5 and row["scipy_us"] > 0
        assert row["spread"][0] <= row["us_per_image_layer"] <= row["spread"][1]


def test_unknown_costs_name_the_choices():
    with pytest.raises(ValueError, match="'typical'.*initial, trained, crowded"):
        match.make_costs("typical", 1, 1, 8, 20, 0)
