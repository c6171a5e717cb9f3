"""Training on data that break: an image does not end a run of days, a damaged dataset does and says what to do."""

import json

import numpy as np
import pytest

from detr_jax.datasets import checksums
from detr_jax.datasets.folders import find_splits
from detr_jax.datasets.prepare import prepare_dataset
from detr_jax.datasets.split import open_split
from detr_jax.errors import UserError
from detr_jax.train import train
from tests.programs import BROKEN, assert_same_state, numbers, rows

pytestmark = pytest.mark.usefixtures("compile_once")
STEPS = {"train.steps": 12, "train.log_every": 1, "train.checkpoint_every": 6, "train.eval_every": 12}


def test_a_run_with_a_broken_image_goes_on_and_is_resumed_bit_for_bit(programs, tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    train(programs.config(STEPS | programs.broken), whole)
    (named,) = [json.loads(line) for line in (whole / "bad_images.jsonl").read_text().splitlines()]
    log = (whole / "train.log").read_text()
    assert named["image_id"] == BROKEN and "truncated" in named["reason"]
    assert log.count("left out: ") == 1 and f"left out: {named['reason']}" in log
    met = [row["broken_images"] for row in rows(whole) if "loss" in row]
    assert sum(met) == 2 and len(met) == 12  # once in each of two epochs
    assert all(np.isfinite(row["loss"]) for row in rows(whole) if "loss" in row)

    train(programs.config(STEPS | programs.broken | {"train.steps": 6}), halves)
    train(programs.config(STEPS | programs.broken), halves)
    assert_same_state(whole, halves, 12)
    assert (whole / "bad_images.jsonl").read_text() == (halves / "bad_images.jsonl").read_text()
    assert numbers(whole)[-4:] == numbers(halves)[-4:]


@pytest.mark.parametrize(
    "more, words", [({"data.strict": True}, "truncated"), ({"data.max_bad_images": 0.0}, "1 of 12 images")]
)
def test_a_broken_image_ends_the_run_where_it_shall(programs, tmp_path, more, words):
    with pytest.raises(UserError, match=words) as error:
        train(programs.config(STEPS | programs.broken | more), tmp_path)
    assert str(BROKEN) in str(error.value) and "\n" not in str(error.value)


def test_a_damaged_record_ends_the_run_with_one_sentence(programs, tmp_path, monkeypatch):
    """In a dataset so large that its shards are not compared when they are opened."""
    monkeypatch.setattr(checksums, "READ_AT_ONCE", 0)
    prepare_dataset(find_splits(programs.raw), tmp_path, "cells")
    image = open_split(tmp_path, "cells", "train")[4]
    (shard,) = (tmp_path / "cells/1.0.0").glob("cells-train.array_record*")
    content = bytearray(shard.read_bytes())
    content[content.index(image.image) + len(image.image) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match="make the dataset again with python -m detr_jax.dataset prepare") as error:
        train(programs.config(STEPS | {"data.name": "cells", "data.dir": str(tmp_path)}), tmp_path / "run")
    sentence = str(error.value)
    assert f"the record of image {image.image_id} is damaged" in sentence and "\n" not in sentence
    for word in (shard.name, "split train of the dataset cells", f"{tmp_path}/cells/1.0.0", f"--data_dir={tmp_path}"):
        assert word in sentence
