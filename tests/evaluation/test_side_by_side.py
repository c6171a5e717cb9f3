import json

import numpy as np
from PIL import Image

from detr_jax.evaluation.side_by_side import BAND, BLUE, GREEN, ORANGE, RED, SIDE, draw_differences
from tests.evaluation.random_results import random_set
from tests.evaluation.test_compare import compare_all, jitter


def has(picture: np.ndarray, rgb: tuple) -> bool:
    return (picture == np.array(rgb)).all(axis=-1).any()


def test_real_photos_are_drawn_with_the_truth_and_both_detectors(real_data, tmp_path):
    ground_truth = json.loads((real_data / "coco128/annotations/instances_train2017.json").read_text())
    results = json.loads((real_data / "evaluator/yolox_nano/dets_coco128_train.json").read_text())
    found = compare_all(ground_truth, draws=50, **{"yolox": results, "a/b": jitter(results, 0, 0.3)})
    drawn, failed = draw_differences(found, found.differences[0], real_data / "coco128/images/train2017", tmp_path)
    assert failed == [] and drawn == len(list(tmp_path.rglob("*.png"))) > 8
    assert {path.name for path in tmp_path.iterdir()} == {"yolox_better_than_a_b", "a_b_better_than_yolox"}
    (first,) = (tmp_path / "yolox_better_than_a_b").glob("01_*.png")
    picture = np.array(Image.open(first))
    panel = (picture.shape[1] + 6) // 3
    assert picture.shape[0] <= SIDE + BAND
    assert has(picture[:, :panel], GREEN) and not has(picture[BAND:, :panel], RED)
    assert has(picture[:, panel:], RED) and has(picture[:, panel:], BLUE) and has(picture[:, panel:], ORANGE)


def test_images_that_are_missing_or_broken_are_named(tmp_path):
    ground_truth, results = random_set(1)
    found = compare_all(ground_truth, a=results, b=jitter(results, 1, 0.1))
    for image in ground_truth["images"][::2]:
        (tmp_path / image["file_name"]).write_bytes(b"no image")
    drawn, failed = draw_differences(found, found.differences[0], tmp_path, tmp_path / "out")
    assert drawn == 0 and len(failed) > 4 and all(str(tmp_path) in line for line in failed)
    assert not (tmp_path / "out").exists()
