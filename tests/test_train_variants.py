"""Runs of other kinds: of a mask model's boxes, in half precision, on few images by heart."""

import numpy as np
import pytest

from tests.programs import OPTIMISED, arrays, evaluations, rows

LAYER4 = ("--config.model.last_stage=layer4", "--config.model.heads=8")  # what a mask head stands on


@pytest.mark.slow
def test_boxes_of_a_mask_model_are_trained_from_a_box_checkpoint(programs, tmp_path):
    freeze = "--config.freeze=('mask_head',)"
    masks = (*LAYER4, "--config.model.masks=True", freeze, f"--config.init_from={programs.trained}")
    done = programs.run("train", *programs.training(tmp_path / "run", *masks))
    assert done.returncode == 0, done.stderr
    assert "mask_head (32)" in done.stdout, done.stdout
    first, last = (arrays(tmp_path / "run" / "checkpoints" / str(step)) for step in (3, 6))
    changed = {name for name, array in first.items() if array.tobytes() != last[name].tobytes()}
    assert not [name for name in changed if "mask_head" in name] and len(changed) > 100


@pytest.mark.slow
def test_bfloat16_is_finite(programs, tmp_path):
    programs.go_on(tmp_path / "run", "--config.dtype=bfloat16")
    losses = [row["loss"] for row in rows(tmp_path / "run") if "loss" in row]
    exact = [row["loss"] for row in rows(programs.trained) if "loss" in row]
    assert np.isfinite(losses).all() and losses[0] == pytest.approx(exact[0], rel=0.05)
    assert all(np.isfinite(array).all() for array in arrays(tmp_path / "run/checkpoints/6").values())


@pytest.mark.slow
def test_eight_images_are_learnt_by_heart(programs, tmp_path):
    """Data, matching, losses, boxes and evaluation fit together."""
    arguments = [
        "--config=configs/shapes.py:overfit",
        f"--workdir={tmp_path}/run",
        f"--config.data.dir={programs.data}",
    ]
    done = programs.run("train", *arguments, **OPTIMISED)
    assert done.returncode == 0, done.stderr
    assert evaluations(tmp_path / "run")[-1][0] >= 0.90
