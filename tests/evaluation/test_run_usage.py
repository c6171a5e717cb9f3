"""What a report tells to type can be typed."""

import ast
import dataclasses
import shlex

import pytest

from detr_jax.config import Config
from detr_jax.evaluation.run_files import RunFiles, Session
from detr_jax.evaluation.run_usage import list_commands, python_snippet

TRAIN = [
    "python",
    "-m",
    "detr_jax.train",
    "--config=configs/shapes.py",
    "--workdir",
    "my run",
    "--config.train.steps=300",
]


def last_command(folder, words=TRAIN, done=300, schedule="step", **train) -> list[str]:
    config = Config()
    config = dataclasses.replace(
        config,
        optim=dataclasses.replace(config.optim, schedule=schedule),
        train=dataclasses.replace(config.train, **({"steps": 300} | train)),
    )
    session = Session(0, 300, shlex.join(words), None, None, "", {})
    run = RunFiles(folder, config, [{"step": done}], [session], [], [])
    return shlex.split(list_commands(run, "my run", 0.4)[-1].command)


def test_a_run_that_is_not_finished_goes_on_with_its_own_command(tmp_path):
    assert last_command(tmp_path, done=299) == TRAIN


def test_a_finished_one_goes_on_for_as_long_again(tmp_path):
    assert last_command(tmp_path) == [*TRAIN[:-1], "--config.train.steps=600"]
    assert last_command(tmp_path, steps=0, epochs=7) == [*TRAIN, "--config.train.epochs=14"]


def test_after_a_cosine_a_new_run_begins_where_it_ended(tmp_path):
    begin = ["--config.init_from=my run", "--workdir=my run-longer"]
    assert last_command(tmp_path, schedule="cosine") == [*TRAIN[:4], TRAIN[-1], *begin]


@pytest.mark.parametrize("words", [["python", "my_script.py"], []])
def test_a_training_from_a_script_has_no_flags(tmp_path, words):
    assert last_command(tmp_path, words)[:3] == ["python", "-m", "detr_jax.analyze"]


def test_names_are_quoted(tmp_path):
    run = RunFiles(tmp_path, None, [], [], [], [])
    for name in ("runs/it's mine; rm -rf x", 'a "b" $(c)'):
        for one in list_commands(run, name, None):
            assert any(word.partition("=")[2] == name for word in shlex.split(one.command))
        assert name in {
            node.value for node in ast.walk(ast.parse(python_snippet(name, 0.5))) if isinstance(node, ast.Constant)
        }
