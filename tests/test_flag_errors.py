"""What is wrong with flags is one sentence of this package, not of its libraries."""

import pytest
from absl import flags

from detr_jax.errors import UserError
from detr_jax.flag_errors import describe_flag_error, describe_unknown_flag, refuse_unknown_settings

OWN = ["config", "debug", "draw", "workdir"]


@pytest.fixture
def values() -> flags.FlagValues:
    """The flags of a small program."""
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "", flag_values=values, required=True)
    flags.DEFINE_string("output", None, "", flag_values=values, required=True)
    flags.DEFINE_integer("n", 1, "", flag_values=values)
    return values


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--workdr=a"], "there is no flag --workdr; did you mean --workdir?"),
        ([], "--workdir and --output are missing; --help has an example"),
        (["--output=a"], "--workdir is missing; --help has an example"),
        (["--n=x"], "flag --n=x: invalid literal for int() with base 10: 'x'"),
    ],
)
def test_an_error_of_absl(values, arguments, sentence):
    with pytest.raises(flags.Error) as caught:
        values(["program", *arguments])
    assert describe_flag_error(caught.value, OWN) == sentence


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("DRAW", "there is no flag --DRAW; did you mean --draw?"),
        ("nodrw", "there is no flag --nodrw; did you mean --draw?"),
        ("zzz", "there is no flag --zzz; --help lists those that there are"),
        ("config.optim.lr", "--config.optim.lr changes a setting of --config=FILE, which is missing"),
    ],
)
def test_an_unknown_flag(name, sentence):
    assert describe_unknown_flag(name, OWN) == sentence


@pytest.mark.parametrize(
    "error, sentence",
    [
        (UserError("model.heads=3 is odd"), "model.heads=3 is odd"),
        (ValueError("flag --config=a.py: Traceback ...\n\nValueError: my own words"), "--config: my own words"),
        (KeyError("'one\n thing'"), "--config: one thing"),
        (
            RuntimeError("Found --config.a=1 in argv before a value for --config"),
            "write --config=FILE before --config.a",
        ),
    ],
)
def test_an_error_of_a_configuration(error, sentence):
    assert describe_flag_error(error, OWN) == sentence


def test_unknown_settings():
    refuse_unknown_settings(["--config=a.py", "--config.optim.lr=1", "-config.model={}", "--noconfig.model.anchors"])
    refuse_unknown_settings(["--configs.b=1", "--", "--config.b=1"])
    for word in ("--config.optim.lrr=1", "-config.optim.lrr", "--noconfig.optim.lrr"):
        with pytest.raises(UserError, match="optim.lrr; did you mean optim.lr"):
            refuse_unknown_settings([word])
