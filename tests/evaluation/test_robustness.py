"""The table of what corruption costs."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from detr_jax.evaluation.plots import save_figure
from detr_jax.evaluation.robustness import Robustness, draw_examples, format_table, write_robustness
from detr_jax.images.corruptions import Corruption, read_corruptions
from tests.evaluation.test_plots import metrics_of


def measured(*scores, clean=0.5):
    found = Robustness(metrics_of(2)._replace(AP=clean), [])
    for kind, severity, AP in scores:
        found = found.add(Corruption(kind, severity), metrics_of(2)._replace(AP=AP))
    return found


def test_the_mean_is_that_of_the_kinds(tmp_path):
    found = measured(("noise", 1, 0.4), ("noise", 5, 0.2), ("jpeg", 3, 0.5))
    assert found.mean_AP == pytest.approx((0.3 + 0.5) / 2)
    table = format_table(found).splitlines()
    assert table[0].split() == ["AP,", "by", "severity", "1", "3", "5", "mean", "loss"]
    assert table[2].split() == ["Gaussian", "noise", "0.400", "0.200", "0.300", "40%"]
    assert table[-1].split() == ["mean", "0.400", "20%"]
    assert len({len(line) for line in table}) == 2  # the clean one has no loss
    write_robustness(found, tmp_path)
    written = json.loads((tmp_path / "robustness.json").read_text())
    assert written["clean"]["AP"] == 0.5 and written["relative_AP"] == pytest.approx(0.8)
    with (tmp_path / "robustness.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["kind"], row["severity"], float(row["AP"])) for row in rows] == [
        ("noise", "1", 0.4), ("noise", "5", 0.2), ("jpeg", "3", 0.5),
    ]  # fmt: skip
    assert float(rows[1]["relative_loss"]) == pytest.approx(0.6)
    assert Image.open(tmp_path / "robustness.png").size == (800, 500)


@pytest.mark.parametrize("clean", [0.0, -1.0])
def test_nothing_can_be_lost_where_nothing_is_found(clean, tmp_path):
    found = measured(("blur", 2, clean), clean=clean)
    write_robustness(found, tmp_path)
    assert json.loads((tmp_path / "robustness.json").read_text())["relative_AP"] is None
    assert format_table(found).splitlines()[-1].endswith("0%")


def test_examples(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    save_figure(draw_examples(image, 1, read_corruptions("noise,jpeg", "1,5")), tmp_path / "a.png")
    width, height = Image.open(tmp_path / "a.png").size
    assert width == 660 and 300 < height < 400
