"""The step compiled for devices that are not here; the compilers of GPUs and TPUs are not part of the requirements."""

import json
import re

import pytest

from tests.programs import assert_one_sentence

TINY = [
    "--config=configs/shapes.py:smoke", "--config.model.backbone_width=8", "--config.model.hidden_dim=32",
    "--config.model.num_queries=100", "--config.data.buckets=((96,128,100),(64,96,100))", "--config.train.batch_size=2",
]  # fmt: skip


def test_here(programs, tmp_path):
    said = programs.run("benchmark", "fits", *TINY, "--canvases=1", f"--output={tmp_path}")
    assert said.returncode == 0, said.stderr
    (row,) = json.loads((tmp_path / "benchmark.json").read_text())["fits"]
    assert row["canvas"] == "96x128" and row["images_per_device"] == 2  # the largest
    assert row["gigabytes"] > row["kept_gigabytes"] > 0 and row["moved_gigabytes"] > row["gigabytes"]
    assert row["operations"] > 500 and row["collectives"] == "none"


@pytest.mark.slow
@pytest.mark.parametrize("words", ["smoke", "plain"])
def test_simulated_devices(programs, tmp_path, words):
    """No image leaves its device, and nothing is sent in a loop: only gradients and a few figures are summed."""
    tiny = [f"--config=configs/shapes.py:{words}", *TINY[1:-1], "--config.train.batch_size=8"]
    said = programs.run("benchmark", "fits", *tiny, "--canvases=1", "--device=cpu:8", f"--output={tmp_path}")
    assert said.returncode == 0, said.stderr
    (row,) = json.loads((tmp_path / "benchmark.json").read_text())["fits"]
    assert row["images_per_device"] == 1
    assert re.fullmatch(r"\d+ all-reduce", row["collectives"]) and row["collectives_in_loops"] == 0
    assert row["gradient_megabytes"] < row["collective_megabytes"] < 1.15 * row["gradient_megabytes"]


@pytest.mark.parametrize(
    ("device", "says"),
    [
        ("h100", "jax[cuda12]"),
        ("h100:none", "jax[cuda12]"),
        ("v5e:2x2", "jax[tpu]"),
        ("abacus", "here, cpu:8, a100"),
        ("cpu:0", "here, cpu:8, a100"),
    ],
)
def test_what_cannot_be_compiled_for(programs, device, says):
    said = programs.run("benchmark", "fits", *TINY, f"--device={device}")
    assert_one_sentence(said, says)
