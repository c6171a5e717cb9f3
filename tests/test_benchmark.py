"""The benchmark program, at tiny sizes: it measures what it says. How fast this machine is is no test."""

import json

import pytest

from tests.programs import assert_one_sentence

TINY = [
    "--config=configs/shapes.py:smoke", "--config.model.backbone_width=8", "--config.model.hidden_dim=32",
    "--config.model.num_queries=100", "--config.data.buckets=((64,96,100),)", "--config.data.scales=(64,)",
    "--config.data.max_size=96", "--config.train.batch_size=2", "--rounds=2",
]  # fmt: skip


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
        (["step", TINY[0], "--config.data.buckets=((64,96,100),)"], "--config.data.max_size=96"),
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
