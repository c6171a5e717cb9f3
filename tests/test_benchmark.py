"""The benchmarks, at tiny sizes: that they measure what they say; how fast this machine is is no test."""

import json
import time

import numpy as np
import pytest
from programs import Programs, assert_one_sentence, of_session

from detr_jax.benchmarks import coco_like, evaluation, match, timing
from detr_jax.batches.canvases import COCO

TINY = [
    "--config=configs/shapes.py:smoke", "--config.model.backbone_width=8", "--config.model.hidden_dim=32",
    "--config.model.num_queries=100", "--config.data.buckets=((64,96,100),)", "--config.train.batch_size=2",
    "--rounds=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> Programs:
    return of_session(tmp_path_factory)


def test_in_turns_measures_seconds():
    order = []

    def sleeper(name, seconds):
        def call():
            order.append(name)
            time.sleep(seconds)

        return call

    taken = timing.in_turns({"a": sleeper("a", 0.02), "b": sleeper("b", 0.05)}, rounds=3, warm_up=1)
    assert order == ["a", "b"] * 4
    assert 0.02 <= taken["a"].least <= taken["a"].median <= taken["a"].most
    assert taken["b"].median > 1.5 * taken["a"].median


def test_made_up_images_are_like_coco():
    counts = coco_like.counts(100_000, np.random.default_rng(0))
    assert 4 <= np.median(counts) <= 5 and 7 < counts.mean() < 7.6 and counts.max() <= 93
    assert 38 < np.percentile(counts, 99) < 46 and 0.008 < (counts == 0).mean() < 0.012
    images = coco_like.Images(10_000)
    landscape = (images.sizes[:, 1] > images.sizes[:, 0]).mean()
    assert 0.7 < landscape < 0.77
    batch = coco_like.batch(COCO[0], 3, 80, np.random.default_rng(0))
    for image, (height, width) in zip(batch.images, batch.sizes, strict=True):
        assert image[:height, :width].any() and not image[height:].any() and not image[:, width:].any()


@pytest.mark.parametrize("kind", ["initial", "trained", "crowded"])
def test_problems_repeat_and_fit(kind):
    cost, counts = match.problems(kind, images=3, layers=2, slots=8, queries=20, seed=5)
    assert cost.shape == (6, 8, 20) and cost.dtype == np.float32 and np.isfinite(cost).all()
    assert (counts[:3] == counts[3:]).all() and counts.max() <= 8
    again, _ = match.problems(kind, images=3, layers=2, slots=8, queries=20, seed=5)
    np.testing.assert_array_equal(cost, again)


def test_a_trained_model_needs_no_search_and_a_fresh_one_does():
    trained, fresh = match.measure(images=4, layers=2, repeats=1, cases=(("trained", 64), ("initial", 64)))
    assert trained["turns"] <= 2 < fresh["turns"]
    for row in (trained, fresh):
        assert row["solver"] == "loop" and row["gap"] < 1e-5 and row["scipy_us"] > 0
        assert row["spread"][0] <= row["us_per_image_layer"] <= row["spread"][1]


def test_unknown_costs_name_the_choices():
    with pytest.raises(ValueError, match="'typical'.*initial, trained, crowded"):
        match.problems("typical", 1, 1, 8, 20, 0)


def test_evaluation_is_the_same_problem_for_both():
    result = evaluation.measure(images=30, detections=20)
    assert result["largest_difference"] < 1e-12
    truth, results = evaluation.problem(30, 20, 0)
    assert len(results) == 600
    assert 0.05 < evaluation.with_pycocotools(truth, results)[0] < 0.95  # neither trivial nor hopeless


def test_step_and_where_its_time_goes(programs, tmp_path):
    said = programs.run("benchmark", "step", *TINY, "--profile", f"--output={tmp_path}")
    assert said.returncode == 0, said.stderr
    figures = json.loads((tmp_path / "benchmark.json").read_text())["step"]
    (canvas,) = figures["canvases"]
    assert canvas["canvas"] == "64x96" and canvas["share"] == 1.0 and canvas["kept_gigabytes"] > 0
    least, most = canvas["step"][1:]
    total = sum(figures["by_file"].values())
    assert 0.3 * least < total < 3 * most  # the profile adds up to about a step
    assert {"resnet.py", "transformer.py", "matcher.py"} <= {name.split(" ")[0] for name in figures["by_file"]}
    assert "64x96" in said.stdout and "matcher.py" in said.stdout
    longest = figures["operations"]
    assert len(longest) == 10 and sum(row["ms"] for row in longest) < total * 1e3
    assert all(row["ms"] > 0 and "[" in row["result"] and row["operation"] in said.stdout for row in longest)


def test_infer(programs, tmp_path):
    said = programs.run("benchmark", "infer", *TINY, "--canvas=64,96", "--batch_sizes=1,3", f"--output={tmp_path}")
    assert said.returncode == 0, said.stderr
    rows = json.loads((tmp_path / "benchmark.json").read_text())["infer"]
    assert [row["batch_size"] for row in rows] == [1, 3]
    assert all(row["images_per_second"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "step, fits, infer"),
        (["speed"], "'speed'"),
        (["step"], "--config"),
        (["infer", TINY[0], "--canvas=64"], "height,width"),
        (["infer", TINY[0], "--batch_sizes=0,x"], "--batch_sizes=0,x"),
    ],
)
def test_mistakes(programs, arguments, says):
    assert_one_sentence(programs.run_all("benchmark", [arguments])[0], says)


def test_data(programs):
    arguments = ["data", "--config=configs/shapes.py:smoke", f"--config.data.dir={programs.data}", "--rounds=1"]
    arguments += ["--config.data.name=tiny", "--config.train.batch_size=4", "--threads=1"]
    commands = [[*arguments, f"--config.data.resize={resize}"] for resize in ("host", "device")]
    for done in programs.run_all("benchmark", commands):
        assert done.returncode == 0, done.stderr
        for word in ("read", "decode", "view", "canvas", "threads", "images_per_second", "waste: 0"):
            assert word in done.stdout, (word, done.stdout)
