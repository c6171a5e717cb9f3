import numpy as np
import pytest
from PIL import Image

from detr_jax.evaluation import overlay
from detr_jax.evaluation.curves import compare_runs
from detr_jax.evaluation.run_logs import RunLog, read_run


def drawn(runs, monkeypatch, path):
    """The figure, which is written as well."""
    figures, save = [], overlay.save_figure
    monkeypatch.setattr(overlay, "save_figure", lambda figure, path: (figures.append(figure), save(figure, path)))
    overlay.draw_runs(compare_runs(runs), path)
    assert np.asarray(Image.open(path).convert("L")).std() > 1
    return figures[0]


def run_of(name, points):
    rows = [{"step": float(i), "loss": 1.0 / i, "AP": i / 1000, "odd_loss": -1.0} for i in range(1, points + 1)]
    return RunLog(name, name, rows, {}, None, [])


@pytest.mark.parametrize("count, points", [(1, 1), (2, 400), (11, 3), (40, 2)])
def test_any_number_of_runs(count, points, monkeypatch, tmp_path):
    figure = drawn([run_of(f"run {i}", points) for i in range(count)], monkeypatch, tmp_path / "a.png")
    titles = [panel.get_title() for panel in figure.axes if panel.get_title()]
    assert titles == ["loss", "box AP", "odd_loss"]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(texts) == min(count, overlay.MOST_NAMES + 1) and texts[0] == f"run 0   best AP {points / 1000:.3f}"


def test_names_are_no_markup(monkeypatch, tmp_path):
    names = ["_a", "$x", "cells, 猫", "a\nb"]
    figure = drawn([run_of(name, 3) for name in names], monkeypatch, tmp_path / "a.png")
    texts = [text.get_text().partition("   ")[0] for text in figure.legends[0].get_texts()]
    assert texts == ["_a", "$x", "cells, <732B>", "a\\nb"]


def test_the_curve_of_the_original_is_what_its_log_says(real_data, monkeypatch, tmp_path):
    run = read_run(str(real_data / "logs" / "detr_r50_finetune_300ep_log.txt"), "original")
    figure = drawn([run], monkeypatch, tmp_path / "a.png")
    panels = {panel.get_title(): panel for panel in figure.axes}
    assert len(panels) == 9
    (line, star) = panels["box AP"].lines
    assert (run.points("epoch", "AP") == np.array(line.get_xydata()).T).all()
    assert star.get_xdata()[0] == run.points("epoch", "AP")[1].argmax() + 1
    assert len(panels["loss"].lines) == 2 and panels["loss"].get_yscale() == "log"
