"""Every configuration loads, locks and describes a network; every key of it is read; a wrong one is one sentence."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from detr_jax.inference import detector
from detr_jax import cli
from detr_jax.batches import augmentation
from detr_jax.batches.canvases import Bucket

REPOSITORY = Path(__file__).parents[1]
FILES = sorted(path.stem for path in (REPOSITORY / "configs").glob("*.py") if path.stem != "__init__")
WORDS = [(name, word) for name in FILES for word in importlib.import_module(f"configs.{name}").WORDS]


def get_config(name: str, *words: str) -> ConfigDict:
    return importlib.import_module(f"configs.{name}").get_config(*words)


def flat(config: dict, prefix: str = "") -> dict:
    rows = {}
    for key, value in config.items():
        rows |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return rows


@pytest.mark.parametrize("name, word", WORDS)
def test_every_word_builds_a_network(name, word):
    config = get_config(name, word)
    config.lock()
    with pytest.raises(AttributeError):
        config.model.hiden_dim = 3
    plain = cli.plain(config)
    network = detector.build_network(plain, 91)
    queries = network.shapes["anchor_decoder/contents" if plain["model"]["anchors"] else "query_positions"]
    assert queries.shape == (plain["model"]["num_queries"], plain["model"]["hidden_dim"])
    softmax = plain["model"]["class_scores"] == "softmax"
    assert network.shapes["class_head/kernel"].shape[-1] == 91 + softmax


@pytest.mark.parametrize("name", FILES)
def test_the_default_is_a_word(name):
    words = importlib.import_module(f"configs.{name}").WORDS
    assert any(flat(cli.plain(get_config(name))) == flat(cli.plain(get_config(name, word))) for word in words)


@pytest.mark.parametrize("name", FILES)
def test_an_unknown_word_lists_the_choices(name):
    with pytest.raises(ValueError, match="unknown word 'r5O'") as caught:
        get_config(name, "r5O")
    for word in importlib.import_module(f"configs.{name}").WORDS:
        assert word in str(caught.value)


def test_all_files_have_the_same_keys():
    base = flat(cli.plain(get_config("detr"))).keys()
    for name, word in WORDS:
        assert flat(cli.plain(get_config(name, word))).keys() == base


@pytest.mark.parametrize("name, word", WORDS)
def test_buckets_hold_the_largest_scale_without_shrinking(name, word):
    data = cli.plain(get_config(name, word))["data"]
    buckets = [Bucket(*bucket) for bucket in data["buckets"]]
    short, long = max(data["scales"]), data["max_size"]
    sides = ((short, min(long, round(short * 4 / 3))), (min(long, round(short * 4 / 3)), short))
    for height, width in sides:  # of photographs
        assert any(bucket.height >= height and bucket.width >= width for bucket in buckets), (height, width)


def keys_read() -> set[str]:
    """Every text constant of the package's code, and what is read through the fields of a record of settings."""
    texts = set(augmentation.Augmentation._fields)
    for path in (REPOSITORY / "detr_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                texts.add(node.slice.value)
    model = (REPOSITORY / "detr_jax/models/detr.py").read_text()
    for node in ast.walk(ast.parse(model)):
        if isinstance(node, ast.arguments):
            texts |= {argument.arg for argument in node.kwonlyargs}
    return texts


def test_no_key_is_dead():
    read = keys_read()
    assert [key for key in flat(cli.plain(get_config("detr"))) if key.split(".")[-1] not in read] == []


def run_train(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "detr_jax.train", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)


def assert_one_sentence(done: subprocess.CompletedProcess, *words: str) -> None:
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--config=configs/detr.py", "--config.model.hiden_dim=3"], ['"hidden_dim"', "hiden_dim"]),
        (["--config=configs/detr.py", "--config.model.hidden_dim=wide"], ["--config.model.hidden_dim", "wide"]),
        pytest.param(
            ["--config=configs/detr.py:r5O"], ["'r5O'", "r50_dc5"]
        ),  # ml_collections puts the traceback into the message
        pytest.param(["--config=configs/none.py"], ["configs/none.py"]),
    ],
)
def test_a_wrong_setting_is_one_sentence(tmp_path, arguments, words):
    assert_one_sentence(run_train(f"--workdir={tmp_path}/run", *arguments), *words)
    assert not (tmp_path / "run").exists()
