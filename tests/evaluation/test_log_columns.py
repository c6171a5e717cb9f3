import pytest

from detr_jax.evaluation.log_columns import column_name, known_columns

NAMES = {
    "loss": ["loss", "train_loss", "train/loss", "total_loss", " Loss "],
    "test_loss": ["val/loss", "eval_loss", "Val_Loss", "test_loss", "validation/loss"],
    "AP": ["AP", "mAP", "val/mAP", "bbox/AP", "metrics/mAP50-95(B)", "metrics/mAP_0.5:0.95", "coco_eval_bbox/AP",
           "eval_map", "coco/bbox_mAP"],
    "AP50": ["AP50", "metrics/mAP50(B)", "metrics/mAP_0.5", "coco/bbox_mAP_50", "map@50"],
    "AP75": ["bbox/AP75", "coco/bbox_mAP_75", "eval_map_75"],
    "lr": ["lr", "learning_rate", "lr/pg0", "train_lr"],
    "step": ["step", "Step", "iteration", "global_step"],
    "loss_ce": ["loss_ce", "train_loss_ce"],
    "box_loss": ["train/box_loss"],
    None: ["loss_ce_0", "loss_ce_enc", "train_loss_ce_unscaled", "val/box_loss", "bbox/AP-person", "segm/AP", "APs",
           "coco_eval_bbox/AP_small", "metrics/mAP50(M)", "lr/pg1", "data_time", ""],
}  # fmt: skip


@pytest.mark.parametrize("name, column", [(name, column) for name, columns in NAMES.items() for column in columns])
def test_names_of_many_programs(name, column):
    assert column_name(column) == name


def test_a_row_has_numbers_only():
    logged = {"step": 3, "loss": float("nan"), "lr": None, "loss_ce": "0.5", "note": "x", "class_error": "", "AP": True}
    assert known_columns(logged) == {"step": 3, "loss": None, "lr": None, "loss_ce": 0.5}


def test_coco_lists_and_unscaled_terms():
    logged = {"epoch": 0, "train_loss_bbox": 5.0, "train_loss_bbox_unscaled": 1.0,
              "test_coco_eval_bbox": [0.1, 0.2, -1.0, 0.3], "coco_eval_masks": [0.9] * 12}  # fmt: skip
    assert known_columns(logged) == {"epoch": 0, "loss_bbox": 1.0, "AP": 0.1, "AP50": 0.2}
