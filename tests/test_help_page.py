"""``--help`` of every program and verb: one screen, with an example, and the flags that count there."""

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest
from absl import flags

from detr_jax import config_files
from detr_jax.__main__ import PROGRAMS
from detr_jax.config import Config, settings
from detr_jax.help_page import USUAL, help_page, is_asked, sentences_for
from tests.programs import REPOSITORY

VERBS = {
    "dataset": ("prepare", "check", "convert", "show", "stats", "shapes"),
    "analyze": ("errors", "compare", "curves", "run"),
    "benchmark": ("agree", "step", "fits", "infer", "match", "data", "eval"),
}
PAGES = [(program, "") for program in PROGRAMS] + [
    (program, verb) for program, verbs in VERBS.items() for verb in verbs
]


class Program(NamedTuple):
    doc: str
    flags: list[flags.Flag]
    verbs: dict[str, Callable]

    def page(self, *words: str) -> str:
        return help_page(self.doc, self.flags, self.verbs, words)


@pytest.fixture(scope="module")
def known() -> dict[str, Program]:
    """Every program with its flags."""
    found = {}
    for name in PROGRAMS:
        module = importlib.import_module(f"detr_jax.{name}")
        before = set(flags.FLAGS)
        module.define_flags()
        own = [one for one in flags.FLAGS if one not in before]
        found[name] = Program(module.__doc__, [flags.FLAGS[one] for one in own], getattr(module, "VERBS", {}))
        for one in own:
            delattr(flags.FLAGS, one)
    return found


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")


@pytest.mark.parametrize("program, verb", PAGES)
def test_a_page_is_one_screen_with_an_example(known, program, verb):
    page = known[program].page(f"--{program}", verb, "--help")
    lines = page.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) < 120
    assert re.search(rf"python -m detr_jax\.{program} {verb}", page)
    assert "``" not in page and "repeat this option" not in page


@pytest.mark.parametrize("program", VERBS)
def test_every_verb_has_a_page(known, program):
    assert set(known[program].verbs) == set(VERBS[program])
    for verb in VERBS[program]:
        assert f"detr_jax.{program} {verb}" in known[program].page("--help")


def test_every_flag_is_on_a_page(known):
    for name, program in known.items():
        pages = "\n".join(program.page(verb) for verb in VERBS.get(name, ("",)))
        for flag in program.flags:
            assert re.search(rf"^  --(no)?{flag.name}\b", pages, re.MULTILINE), (name, flag.name)


def test_a_verb_has_its_own_flags(known):
    page = known["dataset"].page("show", "--help")
    assert "--n=16" in page and "  --output=...            The picture to write (grid.png).\n" in page
    assert "--quick" not in page and "--root" not in page
    page = known["benchmark"].page("match", "--help")
    assert "--rounds=5" in page and "--config" not in page


def test_the_page_of_train_has_configurations_and_settings(known):
    page = known["train"].page("--help")
    for name in config_files.names():
        models, others = config_files.words_of(name)
        assert re.search(rf"^  {name}: +{', '.join(models)}; with it {', '.join(others)}$", page, re.MULTILINE)
    assert set(USUAL) <= {one.name for one in settings(Config())}
    assert all(f"  --config.{name}=..." in page for name in USUAL)


@pytest.mark.parametrize(
    "text, said",
    [
        ("for all: of them.", "For all: of them."),
        ("show: the picture.", "The picture."),
        ("show, stats: which split.", "Which split."),
        ("check, stats: which split.", ""),
        ("check: a. show: b: c.", "B: c."),
        ("All of it. show: b. check: c.", "All of it. B."),
    ],
)
def test_a_flag_speaks_to_its_verbs(text, said):
    verbs = {name: print for name in ("check", "show", "stats")}
    assert sentences_for(text, verbs, "show") == said
    assert sentences_for(text, {}, None) == text


def test_a_pager_may_be_left_early():
    with subprocess.Popen(
        [sys.executable, "-m", "detr_jax.convert", "--help"],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == ("", 0)


def test_who_asks():
    assert is_asked(["prepare", "--help"]) and is_asked(["-h"]) and is_asked(["-?"])
    assert not is_asked(["--", "--help"]) and not is_asked(["--helpfull"]) and not is_asked([])
