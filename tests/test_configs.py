"""Every configuration passes the check and describes a network; what is wrong is one sentence of the program."""

import importlib
import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from detr_jax.config import Config
from detr_jax.config_check import check
from detr_jax.config_forms import from_config_dict
from detr_jax.models import detr

REPOSITORY = Path(__file__).parents[1]
FILES = sorted(path.stem for path in (REPOSITORY / "configs").glob("*.py") if path.stem != "__init__")


def module(name: str):
    return importlib.import_module(f"configs.{name}")


def get_config(name: str, *words: str) -> Config:
    return from_config_dict(module(name).get_config(*words))


MODELS = [(name, word) for name in FILES for word in module(name).MODELS]
PAIRS = [(name, f"{model},{other}") for name, model in MODELS for other in module(name).OTHERS]


@pytest.mark.parametrize("name, words", MODELS + PAIRS)
def test_every_word_builds_a_network(name, words):
    config = get_config(name, words)
    check(config)
    network = detr.network(config.model, 91, dtype=config.dtype)
    queries = network.shapes["anchor_decoder/contents" if config.model.anchors else "query_positions"]
    assert queries.shape == (config.model.num_queries, config.model.hidden_dim)
    softmax = config.model.class_scores == "softmax"
    assert network.shapes["class_head/kernel"].shape[-1] == 91 + softmax


@pytest.mark.parametrize("name", FILES)
def test_the_default_is_a_word(name):
    assert any(get_config(name) == get_config(name, word) for word in module(name).MODELS)


@pytest.mark.parametrize("name", FILES)
def test_an_unknown_word_lists_the_choices(name):
    with pytest.raises(Exception, match="unknown word 'r5O'") as caught:
        get_config(name, "r5O")
    for word in [*module(name).MODELS, *module(name).OTHERS]:
        assert word in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_words_stand_in_any_order(name):
    for model, other in itertools.product(module(name).MODELS, module(name).OTHERS):
        assert get_config(name, f"{model},{other}") == get_config(name, f"{other},{model}")


@pytest.mark.parametrize("name", FILES)
def test_two_models_contradict_each_other(name):
    for first, second in itertools.combinations(module(name).MODELS, 2):
        with pytest.raises(Exception, match=f"{first} and {second}"):
            get_config(name, f"{first},{second}")


@pytest.mark.parametrize("name", FILES)
def test_every_word_is_explained(name):
    for word in [*module(name).MODELS, *module(name).OTHERS]:
        assert word in module(name).__doc__


@pytest.mark.parametrize("name, words", MODELS + PAIRS)
def test_buckets_hold_the_largest_scale_without_shrinking(name, words):
    data = get_config(name, words).data
    short, long = max(data.scales), data.max_size
    if not data.buckets:  # they are chosen from the images
        return
    sides = ((short, min(long, round(short * 4 / 3))), (min(long, round(short * 4 / 3)), short))
    for height, width in sides:  # of photographs
        assert any(bucket.height >= height and bucket.width >= width for bucket in data.buckets), (height, width)


def train(*arguments: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "detr_jax.train", *arguments]
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin", "JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--config=configs/detr.py", "--config.model.hiden_dim=3"], ["hiden_dim", "--config.model.hidden_dim?"]),
        (["--config=detr", "--config.optim.learning_rate=3"], ["optim.learning_rate", "--config.optim.lr?"]),
        (["--config=detr", "--config.trian.steps=3"], ["trian.steps", "--config.train.steps?"]),
        (["--config.optim.lr=3", "--config=detr"], ["write --config=FILE before --config.optim.lr"]),
        (["--config=configs/detr.py", "--config.model.hidden_dim=wide"], ["--config.model.hidden_dim", "wide"]),
        (["--config=configs/detr.py:r5O"], ["'r5O'", "r50_dc5"]),
        (["--config=configs/detr.py:r50,r101"], ["r50 and r101", "choose one"]),
        (["--config=configs/none.py"], ["configs/none.py", "detr, finetune, shapes"]),
        (["--config=configs/detr.py", "--config.freeze=('backbne',)"], ["--config.freeze=", "backbne", "class_head"]),
        (["--config=configs/detr.py", "--config.data.max_size=2000"], ["--config.data.buckets", "2000"]),
        (["--config=configs/detr.py", "--config.model.denoising=2"], ["--config.model.denoising=2", "anchors=True"]),
    ],
)
def test_a_wrong_setting_is_one_sentence(tmp_path, arguments, words):
    done = train(f"--workdir={tmp_path}/run", *arguments, "--config.data.dir=/none")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", [f"{REPOSITORY}/configs/detr.py", "configs/finetune.py:r18_c4", "shapes:smoke"])
def test_configurations_can_be_named_from_any_folder(tmp_path, name):
    arguments = [f"--config={name}", f"--workdir={tmp_path}/run", "--config.optim.lr=-1"]
    done = train(*arguments, cwd=tmp_path)
    assert "--config.optim.lr=-1" in done.stderr, done.stderr
