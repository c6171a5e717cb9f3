import threading
import warnings

import numpy as np
import pytest
from PIL import Image

from detr_jax import names
from detr_jax.evaluation import coco_eval, plots


def metrics_of(classes, objects=5):
    rows = [coco_eval.ClassMetrics(k, f"class {k}", 0.5, 0.6, 0.5, 0.6, objects, objects) for k in range(classes)]
    precision = np.full((10, 101, classes), 0.5 if objects else -1.0)
    return coco_eval.CocoMetrics(*[0.5] * 12, mean_iou=0.8, classes=rows, precision=precision, iou_type="bbox")


def size_and_ink(path):
    """Size of the picture, and whether anything but one colour is on it."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    return pixels.shape[1::-1], bool((pixels != pixels[0, 0]).any())


@pytest.mark.parametrize("classes, objects", [(1, 5), (3, 5), (12, 5), (80, 5), (3, 0)])
def test_pr_curve_for_any_number_of_classes(classes, objects, tmp_path):
    plots.pr_curve(metrics_of(classes, objects), tmp_path / "pr.png")
    (width, height), ink = size_and_ink(tmp_path / "pr.png")
    assert ink and height == 500 and width == (1200 if 1 < classes <= 12 and objects else 650)


def test_class_names_are_no_markup(tmp_path, monkeypatch):
    """Dollars, braces, a leading underscore, every script: each class has its line in the legend, as it is named."""
    legends, save = [], plots.save_figure

    def keep_legend(figure, path):
        legends.append(figure.axes[1].get_legend())
        save(figure, path)

    monkeypatch.setattr(plots, "save_figure", keep_legend)
    odd = ["Ba$$in", "$5_{ bill$", "_background_", "^\\frac{", "قطة", "猫", "a\nb", "\ud800", "x" * 5000, "", "a$_$b"]
    metrics = metrics_of(len(odd))
    for row, name in enumerate(odd):
        metrics.classes[row] = metrics.classes[row]._replace(name=name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.pr_curve(metrics, tmp_path / "pr.png")
    texts = [text.get_text() for text in legends[0].get_texts()]
    assert texts == [f"{names.legible(name)}   AP50 0.600" for name in odd]
    assert size_and_ink(tmp_path / "pr.png") == ((1200, 500), True)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"step": 1, "loss": 3.0}],
        [{"step": 1, "loss": float("nan"), "lr": None}, {"step": 2, "loss": float("inf")}],
        [{"step": 1, "loss": -1.0, "lr": 0.0}, {"step": 1, "coco_eval_bbox": [-1.0] * 12}],
        [{"step": s, "loss": 1 / s, "grad_norm": s % 7, "class_error": 0.0} for s in range(1, 500)],
    ],
    ids=["empty", "one row", "not finite", "not positive", "many rows"],
)
def test_training_curves_of_any_rows(rows, tmp_path):
    plots.training_curves(rows, tmp_path / "curves.png")
    assert size_and_ink(tmp_path / "curves.png") == ((1500, 800), True)


def test_pictures_may_be_drawn_in_threads(tmp_path):
    rows = [{"step": s, "loss": 1.0 / s} for s in range(1, 20)]
    threads = [
        threading.Thread(target=plots.training_curves, args=(rows, tmp_path / f"{i}" / "a.png")) for i in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pictures = [np.asarray(Image.open(tmp_path / f"{i}" / "a.png")) for i in range(3)]
    assert (pictures[0] == pictures[1]).all() and (pictures[0] == pictures[2]).all()
