"""Published figures: each with its source, and never mistaken for measured ones."""

import re

from detr_jax.evaluation.published import STANDING, caveat, nearest, read_published


def test_every_row_has_a_source_and_says_what_is_known_of_its_training():
    rows = read_published()
    assert len(rows) > 40 and rows == sorted(rows, key=lambda row: row.AP)
    for row in rows:
        assert row.source and row.pretraining and row.split and 20 < row.AP < 70, row.name
        for other in (row.AP50, row.AP75, row.AP_small, row.AP_medium, row.AP_large):
            assert other is None or 5 < other < 85
        assert row.AP50 is None or row.AP50 > row.AP
        assert row.parameters is None or 1e6 < row.parameters < 1e9
    assert len({(row.name, row.epochs) for row in rows}) == len(rows)


def test_the_sentence_about_plain_detr_follows_from_the_rows():
    by_name = {(row.name, row.epochs): row.AP for row in read_published()}
    plain = by_name["DETR R50", 500]
    assert f"{plain} AP" in STANDING
    for name, value in re.findall(r"(RT-DETR R50|D-FINE L|RF-DETR L) (\d+\.\d)", STANDING):
        assert by_name[name, None] == float(value) and 10 <= float(value) - plain <= 15


def test_the_nearest_rows_have_plain_detr_among_them():
    rows = read_published()
    few = nearest(rows, [0.55, 0.56], 5)
    assert len(few) == 5 and "DETR R50" in [row.name for row in few] and few == sorted(few, key=lambda row: row.AP)
    assert min(row.AP for row in few if row.name != "DETR R50") > 50


def test_other_images_are_said_to_be_others():
    assert "another dataset" in caveat(False, 5000) and "other images" in caveat(True, 128) and not caveat(True, 5000)
