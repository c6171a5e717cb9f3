"""What the options of the rules mean, and that no figure of other rules passes for one of COCO's."""

import numpy as np
import pytest
from pycocotools.cocoeval import Params

from detr_jax.errors import UserError
from detr_jax.evaluation.coco_eval import NAMES
from detr_jax.evaluation.protocol import COCO, format_figures, list_figures, read_protocol


def names(**options):
    return [figure.name for figure in list_figures(read_protocol(**options))]


def test_nothing_asked_is_coco():
    assert read_protocol() == COCO and names() == list(NAMES)
    np.testing.assert_array_equal(COCO.ious, Params("bbox").iouThrs)
    for iou in ("0.5:0.95", "0.5:0.95:0.05", ".50:.95"):
        assert read_protocol(iou=iou, max_dets="1,10,100", areas="small:0:32^2,medium:32^2:96^2,large:96^2:") == COCO


def test_thresholds():
    assert read_protocol(iou="0.5").ious == (0.5,)
    assert read_protocol(iou="1").ious == (1.0,)
    np.testing.assert_allclose(read_protocol(iou="0.3:0.95").ious, np.arange(30, 96, 5) / 100, rtol=0, atol=1e-12)
    np.testing.assert_allclose(read_protocol(iou="0.1:0.5:0.1").ious, np.arange(1, 6) / 10, rtol=0, atol=1e-12)
    assert read_protocol(iou="0.1:0.5:0.1").iou_range == "0.10:0.50:0.10"
    assert read_protocol(iou="0.3:0.95").iou_range == "0.30:0.95"
    assert read_protocol(iou="0.125").iou_range == "0.125"


def test_limits():
    assert read_protocol(max_dets="300").limits == (1, 10, 300)
    assert read_protocol(max_dets="5").limits == (1, 5)
    assert read_protocol(max_dets="100,1").limits == (1, 100)


def test_names_say_what_differs():
    assert names(iou="0.3:0.95")[:3] == ["AP[IoU=0.30:0.95]", "AP50", "AP75"]
    assert names(iou="0.3:0.95")[6] == "AR1[IoU=0.30:0.95]"
    assert names(iou="0.55:0.95")[:2] == ["AP[IoU=0.55:0.95]", "AP75"]
    assert names(iou="0.5")[:2] == ["AP[IoU=0.50]", "AP_small[IoU=0.50]"]
    assert names(max_dets="300")[:2] == ["AP[maxDets=300]", "AP50[maxDets=300]"]
    assert names(max_dets="300")[6:9] == ["AR1", "AR10", "AR300"]
    areas = names(areas="tiny:0:256,medium:32^2:96^2")
    assert areas[:5] == ["AP", "AP50", "AP75", "AP_tiny[area=0:256]", "AP_medium"]
    assert areas[8:] == ["AR_tiny[area=0:256]", "AR_medium"]
    assert names(areas="small:0:256")[3] == "AP_small[area=0:256]"


def test_lines_have_the_ranges():
    rules = read_protocol("0.3:0.5", "300", "tiny:0:16^2")
    text = format_figures(rules, [0.5] * len(list_figures(rules)))
    assert " Average Precision  (AP) @[ IoU=0.30:0.50 | area=   all | maxDets=300 ] = 0.500" in text
    assert "area tiny: 0:256 pixels" in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"iou": "high"}, "--iou=high"),
        ({"iou": "0.9:0.5"}, "FROM:TO"),
        ({"iou": "0:0.5"}, "above 0"),
        ({"iou": "nan"}, "--iou=nan"),
        ({"iou": "0.5:1.5"}, "at most 1"),
        ({"iou": "0.5:0.9:0"}, "FROM:TO"),
        ({"iou": "0.5:0.9:0.15"}, "do not reach 0.9"),
        ({"iou": "0.01:0.99:0.01"}, "99 thresholds"),
        ({"iou": "0.1:0.2:0.3:0.4"}, "FROM:TO"),
        ({"iou": ""}, "--iou="),
        ({"max_dets": "0"}, "--max_dets=0"),
        ({"max_dets": "many"}, "--max_dets=many"),
        ({"areas": "small"}, "'small' is not understood"),
        ({"areas": "small:9:3"}, "NAME:FROM:TO"),
        ({"areas": "small:0:nan"}, "NAME:FROM:TO"),
        ({"areas": "a:0:1,a:1:2"}, "'a' twice"),
        ({"areas": "all:0:1"}, "all objects count anyway"),
        ({"areas": "s:0:32^3"}, "not understood"),
    ],
)
def test_what_is_not_understood_is_one_sentence(options, words):
    with pytest.raises(UserError, match=words.replace("^", r"\^")):
        read_protocol(**options)
