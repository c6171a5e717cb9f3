"""Small copies of photos, within limits."""

import io

import numpy as np
from PIL import Image

from detr_jax.evaluation import thumbnails
from detr_jax.evaluation.thumbnails import make_thumbnails


def test_copies_are_small_and_of_the_same_shape(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (900, 1600, 3), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.zeros((30, 20, 3), np.uint8)).save(tmp_path / "b.jpg")
    made = make_thumbnails(tmp_path, {7: ("a.png", (900.0, 1600.0)), 9: ("b.jpg", (np.inf, np.inf))})
    sizes = {number: Image.open(io.BytesIO(picture)).size for number, picture in made.pictures.items()}
    assert sizes == {7: (640, 360), 9: (20, 30)} and made.problems == {}


def test_bytes_and_numbers_are_bounded(tmp_path, monkeypatch):
    for number in range(6):
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (90, 90, 3), np.uint8)).save(
            tmp_path / f"{number}.png"
        )
    wanted = {number: (f"{number}.png", (90.0, 90.0)) for number in range(6)}
    whole = make_thumbnails(tmp_path, wanted)
    monkeypatch.setattr(thumbnails, "MOST_BYTES", sum(len(whole.pictures[number]) for number in range(3)))
    assert list(make_thumbnails(tmp_path, wanted).pictures) == [0, 1, 2]
    monkeypatch.setattr(thumbnails, "MOST", 2)
    assert list(make_thumbnails(tmp_path, wanted).pictures) == [0, 1]


def test_a_problem_is_one_line(tmp_path):
    made = make_thumbnails(tmp_path, {1: ("a\n\tb.jpg", (9.0, 9.0))})
    assert made.problems[1].isprintable() and made.problems[1].endswith("does not exist")
