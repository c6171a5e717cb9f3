"""What to type with a trained detector: use it, judge it, go on with it."""

import shlex
from typing import NamedTuple

from detr_jax.config import Config
from detr_jax.config_forms import as_flags
from detr_jax.evaluation.run_files import RunFiles
from detr_jax.invocation import COMMAND, as_typed

SNIPPET = """import detr_jax

detector = detr_jax.load({workdir!r})
found = detector("photo.jpg").above({threshold:.2f})
for one in found:
    print(one.name, one.score, one.box_xyxy)  # corners in pixels of the image
found.draw("photo.jpg").save("found.png")
"""
USUAL_THRESHOLD = 0.5


class Usage(NamedTuple):
    """A command and what it is for."""

    purpose: str
    command: str


def list_commands(run: RunFiles, name: str, threshold: float | None) -> list[Usage]:
    """The commands for a run.

    Args:
      name: the workdir as it is to be typed.
      threshold: the best one for all classes.
    """
    workdir = shlex.quote(name)
    cut = USUAL_THRESHOLD if threshold is None else threshold
    program = "python -m detr_jax"
    commands = [
        Usage(
            "Find objects in photos, and draw them",
            f"{program}.predict --checkpoint={workdir} --input=photos/ --output=found --draw --threshold={cut:.2f}",
        ),
        Usage("Measure it again on the validation split", f"{program}.evaluate --workdir={workdir}"),
        Usage(
            "Find out why it is wrong: errors by type, doubtful annotations, a threshold for each class",
            f"{program}.analyze errors --workdir={workdir}",
        ),
        Usage("Write this report again", f"{program}.analyze run --workdir={workdir}"),
    ]
    commands = [one._replace(command=as_typed(one.command)) for one in commands]
    return [*commands, *_go_on(run, name)]


def python_snippet(name: str, threshold: float | None) -> str:
    """The same in Python."""
    return SNIPPET.format(workdir=name, threshold=USUAL_THRESHOLD if threshold is None else threshold)


def _go_on(run: RunFiles, name: str) -> list[Usage]:
    """How to continue a run that is not finished, or to train longer."""
    words = _split(run.sessions[-1].command) if run.sessions else []
    if not run.is_finished:
        return [Usage("Continue the training", shlex.join(words))] if words else []
    if not run.config or not _is_training(words):
        return []
    longer = _longer(run.config)
    if run.config.optim.schedule != "cosine":
        return [Usage("Train twice as long, from where it stands", _change(words, [longer]))]
    begin = as_flags(f"init_from={name}")
    return [
        Usage(
            "Train longer: a new run that begins with this detector, for the learning rate of this one has come down "
            "to its end",
            _change(words, [begin, f"--workdir={name.rstrip('/')}-longer"]),
        )
    ]


def _longer(config: Config) -> str:
    train = config.train
    return as_flags(f"train.steps={2 * train.steps}" if train.steps else f"train.epochs={2 * train.epochs}")


def _split(command: str) -> list[str]:
    """The words of a command line; none where it is cut off."""
    try:
        return shlex.split(command)
    except ValueError:
        return []


def _is_training(words: list[str]) -> bool:
    """Whether a command line is that of the training program, which takes flags."""
    by_module = any(word == "detr_jax.train" or word.endswith("detr_jax/train.py") for word in words)
    return by_module or any(word.endswith(COMMAND) for word in words[:2]) and "train" in words[1:3]


def _change(words: list[str], flags: list[str]) -> str:
    """The command line with these flags in place of those of the same names."""
    known = {flag.partition("=")[0] for flag in flags}
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
            continue
        flag, equals, _ = word.partition("=")
        if flag in known:
            skip = not equals  # its value is the next word
        else:
            kept.append(word)
    return shlex.join([*kept, *flags])
