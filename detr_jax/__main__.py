"""The command ``detr_jax``, also ``python -m detr_jax``: it runs the program that its first word names.

It imports nothing but that program, and runs it as ``python -m detr_jax.NAME`` does.
"""

import runpy
import sys

from detr_jax import __version__, signals
from detr_jax.invocation import COMMAND
from detr_jax.spelling import choices

PROGRAMS = {
    "dataset": "prepare, check, convert, show and count the images and boxes to train on",
    "train": "train a detector, or go on with a run",
    "evaluate": "score a detector on a dataset by COCO's rules",
    "predict": "find objects in your images",
    "analyze": "see what a detector gets wrong, and compare detectors and runs",
    "convert": "write weights for another framework, or read its weights",
    "benchmark": "measure how fast this machine is",
    "doctor": "check the installation, the machine, a checkpoint or a dataset",
}


def list_programs() -> str:
    """The page of ``detr_jax --help``."""
    programs = [f"  {name:<10} {meaning}" for name, meaning in PROGRAMS.items()]
    return "\n".join(
        [
            f"DETR for JAX {__version__}: object detectors, trained on your own images.",
            "",
            *programs,
            "",
            f"{COMMAND} PROGRAM --help shows how to use one, for example:",
            "",
            f"  {COMMAND} train --help",
            f"  {COMMAND} dataset prepare --help",
        ]
    )


def main() -> None:
    """Runs the program that the command line names, and ends the process with its status."""
    signals.die_in_one_line()
    name = "".join(sys.argv[1:2])
    if name in ("", "help", "-h", "-help", "--help"):
        print(list_programs())
    elif name == "--version":
        print(__version__)
    elif name not in PROGRAMS:
        signals.leave(1, f"error: there is no program {name!r}; {choices(name, PROGRAMS)}")
    else:
        del sys.argv[1]
        runpy.run_module(f"detr_jax.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
