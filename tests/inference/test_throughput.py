"""Where the time of a run goes."""

import re
import time

from detr_jax.inference.throughput import Throughput


def test_seconds_are_counted_by_what_they_were_spent_on():
    clock = Throughput()

    def results():
        for number in range(3):
            time.sleep(0.02)
            clock.move(0.01, before="model", after="waiting")
            with clock.spending("waiting"):
                time.sleep(0.01)
            yield number

    with clock.spending("checking"):
        time.sleep(0.05)
    for number in clock.over(results(), "model"):
        assert number in range(3)
        with clock.spending("drawing"):
            time.sleep(0.01)
    seconds = clock.seconds
    assert seconds["checking"] >= 0.05 and seconds["drawing"] >= 0.03
    assert seconds["waiting"] >= 0.06 and seconds["model"] >= 0.03
    line = clock.summary()
    assert sum(seconds.values()) <= time.perf_counter() - clock._started
    assert re.fullmatch(
        r"3 images in \d+\.\d s, [\d.]+ images/s \(checking 0\.\d s, waiting 0\.\d s, model 0\.\d s, drawing 0\.\d s\)",
        line,
    )
    total, rate = (float(number) for number in re.findall(r"in ([\d.]+) s, ([\d.]+)", line)[0])
    assert 3 / (total + 0.06) <= rate <= 3 / (total - 0.06)


def test_one_image_and_none():
    clock = Throughput()
    assert clock.summary().startswith("0 images in 0.0 s, 0 images/s")
    list(clock.over([1], "model"))
    assert clock.summary().startswith("1 image in ")
