"""Every command that a script or a document names can be typed: its program, verb, flags, settings and words exist."""

import importlib
import re

import pytest
from absl import flags

from detr_jax import benchmark, dataset
from detr_jax.config import Config, settings
from tests.programs import REPOSITORY

PAGES = [REPOSITORY / "README.md", *REPOSITORY.glob("docs/**/*.md")]
KINDS = (".sh", ".sbatch", ".yml", ".py", "")  # the last is the Dockerfile
SCRIPTS = sorted(path for path in REPOSITORY.glob("scripts/**/*") if path.suffix in KINDS and path.is_file())
FILES = sorted([*PAGES, *SCRIPTS, *REPOSITORY.glob("configs/*.py")])
PROGRAMS = ("train", "evaluate", "predict", "convert", "dataset", "benchmark", "doctor")
VERBS = {"dataset": dataset.VERBS, "benchmark": benchmark.VERBS}
OWN = {"help", "helpfull", "debug"}  # of every program


def find_commands(text: str) -> list[tuple[str, str]]:
    """(program, what follows it) of each command in a text. Slurm's script gives its arguments to ``train``."""
    text = re.sub(r"\\\n\s*#?", " ", text).replace("scripts/slurm.sbatch --", "-m detr_jax.train --")
    # Of Python, of the image, of the installed command.
    start = rf"(?:(?:-m|detr_jax(?::cuda)?) detr_jax\.|(?<![\w./:-])detr_jax )({'|'.join(PROGRAMS)})\b"
    return re.findall(rf"{start}(.*?)(?=-m |[`|]|$)", text, re.MULTILINE)


@pytest.fixture(scope="module")
def known_flags() -> dict[str, set[str]]:
    """The flags of each program, as it defines them when it runs."""
    known = {}
    for program in PROGRAMS:
        before = set(flags.FLAGS)
        importlib.import_module(f"detr_jax.{program}").define_flags()
        new = set(flags.FLAGS) - before
        negated = {f"no{name}" for name in new if flags.FLAGS[name].boolean}
        known[program] = new | negated | OWN
        for name in new:
            delattr(flags.FLAGS, name)
    return known


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_commands_can_be_typed(path, known_flags):
    names = {one.name for one in settings(Config())}
    for program, rest in find_commands(path.read_text()):
        given = set(re.findall(r"(?<!\S)--([a-zA-Z][\w.]*)", rest))
        changes = {name.removeprefix("config.") for name in given if name.startswith("config.")} - {"a.b"}
        assert changes <= names, (program, changes - names)
        plain = {name for name in given if not name.startswith("config.")}
        assert plain <= known_flags[program], (program, plain - known_flags[program])
        assert not changes or "config" in known_flags[program], program
        if program in VERBS and (verb := re.match(r" ([a-z]+)", rest)):
            assert verb[1] in VERBS[program], (program, verb[1])


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_words_of_configurations_in_scripts(path, monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY))
    for name, words in re.findall(r"configs/(\w+)\.py:([a-z]\w*(?:,\w+)*)", path.read_text()):
        importlib.import_module(f"configs.{name}").get_config(words)


def test_commands_are_found():
    """The test above sees commands over several lines, in comments, after Slurm's script, and two in a line."""
    text = """
    #   python -m detr_jax.train --config=configs/detr.py:r50 \\
    #       --config.train.steps=3 --workdir=DIR
    sbatch --nodes=4 scripts/slurm.sbatch --workdir=DIR
    | a | `-m detr_jax.doctor --smoke`, then -m detr_jax.evaluate --workdir=A | --other |
    docker run --gpus=all detr_jax:cuda detr_jax.train --workdir=B
    detr_jax predict --draw
    """
    assert [(program, rest.split()) for program, rest in find_commands(text)] == [
        ("train", ["--config=configs/detr.py:r50", "--config.train.steps=3", "--workdir=DIR"]),
        ("train", ["--workdir=DIR"]),
        ("doctor", ["--smoke"]),
        ("evaluate", ["--workdir=A"]),
        ("train", ["--workdir=B"]),
        ("predict", ["--draw"]),
    ]
