"""Any name can be shown: it is visible, on one line, and differs where names differ."""

import numpy as np
import pytest

from detr_jax import drawing, names

ODD = ["Ba$$in", "$5_{ bill$", "_background_", "^{\\frac", "a\nb\t\0", "\ud800", "ab\u202ecd", "", " ", "x" * 5000,
       "قطة", "חתול", "猫", "犬", "кот", "한국어", "👨\u200d👩", "e\u0301"]  # fmt: skip


def test_what_cannot_be_drawn_is_written_as_its_code():
    wanted = {"cat 0.98": "cat 0.98", "Ba$$in": "Ba$$in", "a\nb\0": "a\\nb\\x00", "猫": "<732B>",
              "ab\u202ecd": "ab\\u202ecd", "קטן": "קטן", "кот": "кот", "a\xa0b": "a b"}  # fmt: skip
    assert {name: names.legible(name) for name in wanted} == wanted
    assert names.legible("x" * 5000 + " 0.98").endswith("xxx 0.98") and len(names.legible("x" * 5000)) < 60
    assert len({names.legible(name) for name in ODD}) == len(ODD)


@pytest.mark.parametrize("name", ODD, ids=range(len(ODD)))
def test_every_name_is_drawn_on_one_line(name):
    grey = np.full((480, 640, 3), 128, np.uint8)
    drawn = drawing.draw_boxes(grey, np.array([[100.0, 100.0, 300.0, 200.0]]), [f"{name} 0.98"], [0])
    changed = np.nonzero((drawn != grey).any(axis=(1, 2)))[0]
    assert 85 <= changed[0] < 90 and changed[-1] == 199  # a line of text above the frame
    other = drawing.draw_boxes(grey, np.array([[100.0, 100.0, 300.0, 200.0]]), ["other 0.98"], [0])
    assert (drawn != other).any()
