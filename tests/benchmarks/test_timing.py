"""Times in turns: what is measured, in which order."""

import time

from detr_jax.benchmarks import timing


def test_in_turns_measures_seconds():
    order = []

    def sleeper(name, seconds):
        def call():
            order.append(name)
            time.sleep(seconds)

        return call

    taken = timing.time_in_turns({"a": sleeper("a", 0.02), "b": sleeper("b", 0.05)}, rounds=3, warm_up=1)
    assert order == ["a", "b"] * 4
    assert 0.02 <= taken["a"].least <= taken["a"].median <= taken["a"].most
    assert taken["b"].median > 1.5 * taken["a"].median


def test_a_timing_as_text():
    assert str(timing.summarize([0.5, 0.25, 1.0])) == "500.00 ms (250.00 to 1000.00)"
    assert str(timing.summarize([12.0, 11.0])) == "11.50 s (11.00 to 12.00)"
